/**
 * Handing a lock over within a process: one transaction deletes the entry of the holder and puts that of the next in line here, on
 * another lease. Who is queued in other processes is before the new entry, as it would be before one that is put later.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type { TxnResult } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import type { SessionPool, SlotRequest } from "../session/SessionPool.ts"
import { mayBeApplied, type Slot, type Successor } from "../session/Slots.ts"
import { type Claimed, claimedBy, claimRequest, withdrawPatience } from "./entry.ts"
import type { LocalQueue, Place } from "./LocalQueue.ts"

/** The next in line would take over on this slot. */
export interface Offer {
  readonly slot: Slot
  readonly label: string
  /** The transaction may be on its way. */
  begun: boolean
  /** What it has put, if all of it was done. */
  readonly outcome: Deferred.Deferred<Claimed | undefined>
}

/** The turn has come. */
export interface Turn {
  readonly place: Place
  readonly prepared: Prepared | undefined
}

/** A slot that was taken before the turn came, and an entry on it if it was handed over. */
export interface Prepared {
  readonly slot: Slot
  /** Releases the slot. */
  readonly scope: Scope.Closeable
  readonly claimed: Claimed | undefined
}

const isUnknown = (exit: Exit.Failure<TxnResult, EtcdError>): boolean =>
  exit.cause.reasons.some((reason) => reason._tag !== "Fail" || mayBeApplied(reason.error))

/** To be asked in the step in which the key of the holder is deleted: from then on the next in line waits for the end of it. */
export const successorOf = (path: string, place: Place) => (): Successor | undefined => {
  const offer = place.next()?.offer
  if (offer === undefined || offer.begun) return undefined
  const { label, outcome, slot } = offer
  if (!slot.engage()) return undefined
  offer.begun = true
  return {
    request: claimRequest(path, slot, label),
    ended: (exit) => {
      let claimed: Claimed | undefined
      if (Exit.isSuccess(exit)) {
        if (exit.value.succeeded) claimed = claimedBy(path, slot, exit.value, 1)
      } else if (isUnknown(exit)) {
        slot.session.distrust(slot.key)
      }
      Deferred.doneUnsafe(outcome, Exit.succeed(claimed))
    }
  }
}

/** Before the slot is released: what is on its way would put a key that nobody owns. */
const withdraw = (place: Place, offer: Offer) =>
  Effect.suspend(() => {
    place.offer = undefined
    if (!offer.begun || Deferred.isDoneUnsafe(offer.outcome)) return Effect.void
    return Effect.flatMap(Effect.timeoutOption(Deferred.await(offer.outcome), withdrawPatience), (ended) =>
      Effect.sync(() => {
        if (Option.isNone(ended)) {
          offer.slot.session.distrust(offer.slot.key)
        }
      }))
  })

/**
 * Waits for the turn. The next in line has a slot ready meanwhile; without one, as in an outage, it waits all the same.
 */
export const awaitTurn = (
  queue: LocalQueue,
  pool: SessionPool,
  request: SlotRequest,
  label: string
): Effect.Effect<Turn, never, Scope.Scope> =>
  Effect.flatMap(
    queue.enter(request.name),
    (place) => place.isFirst() ? Effect.succeed({ place, prepared: undefined }) : awaitNext(place, pool, request, label)
  )

const awaitNext = Effect.fnUntraced(function*(
  place: Place,
  pool: SessionPool,
  request: SlotRequest,
  label: string
): Effect.fn.Return<Turn, never, Scope.Scope> {
  yield* place.near
  if (place.isFirst()) return { place, prepared: undefined }
  const scope = yield* Scope.fork(yield* Effect.scope)
  const slot = yield* Effect.option(Scope.provide(pool.slot(request), scope))
  if (Option.isNone(slot)) {
    yield* place.first
    return { place, prepared: undefined }
  }
  const offer: Offer = { slot: slot.value, label, begun: false, outcome: Deferred.makeUnsafe() }
  return yield* Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore): Effect.fn.Return<Turn> {
    yield* Scope.addFinalizer(scope, withdraw(place, offer))
    offer.slot.rest()
    place.offer = offer
    yield* restore(place.first)
    place.offer = undefined
    const claimed = offer.begun ? yield* restore(Deferred.await(offer.outcome)) : undefined
    const isGood = offer.begun ? offer.slot.lossUnsafe() === undefined : offer.slot.engage()
    if (isGood) return { place, prepared: { slot: offer.slot, scope, claimed } }
    yield* Scope.close(scope, Exit.void)
    return { place, prepared: undefined }
  }))
})
