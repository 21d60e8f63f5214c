/**
 * Handing a lock over within a process: one transaction deletes the entry of the holder and puts that of the next in line here, on
 * another lease. Who is queued in other processes is before the new entry, as it would be before one that is put later.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { TxnResult } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { type Heirs, mayBeApplied, type Slot, type Successor } from "../session/Slots.ts"
import { type Claimed, claimedBy, claimRequest } from "./entry.ts"
import type { Place } from "./LocalQueue.ts"

/** The next in line would take over on this slot. */
export interface Offer {
  readonly slot: Slot
  readonly label: string
  /** The transaction may be on its way. */
  begun: boolean
  /** What it has put, if all of it was done. */
  readonly outcome: Deferred.Deferred<Claimed | undefined>
}

const isUnknown = (exit: Exit.Failure<TxnResult, EtcdError>): boolean =>
  exit.cause.reasons.some((reason) => reason._tag !== "Fail" || mayBeApplied(reason.error))

export const heirsOf = (path: string, place: Place): Heirs => ({
  areThere: () => place.next() !== undefined,
  choose: () => successorOf(path, place)
})

/** From now on the next in line waits for the end of the transaction. */
const successorOf = (path: string, place: Place): Successor | undefined => {
  const offer = place.next()?.offer
  if (offer === undefined || offer.begun) return undefined
  const { label, outcome, slot } = offer
  if (!slot.engage()) return undefined
  offer.begun = true
  slot.pending = { settled: Deferred.await(outcome), cancel: Effect.void }
  return {
    request: claimRequest(path, slot, label),
    ended: (exit) => {
      let claimed: Claimed | undefined
      if (Exit.isSuccess(exit)) {
        if (exit.value.succeeded) claimed = claimedBy(path, slot, exit.value, 1)
      } else if (isUnknown(exit)) {
        slot.session.distrust(slot.key)
      }
      slot.pending = undefined
      Deferred.doneUnsafe(outcome, Exit.succeed(claimed))
    }
  }
}

/**
 * Waits for the turn with a slot that is ready meanwhile. Answers the entry on it, if it was handed over; `false`: the slot is of no use.
 */
export const awaitHandover = (
  place: Place,
  slot: Slot,
  label: string
): Effect.Effect<Claimed | undefined | false> =>
  Effect.suspend(() => {
    const offer: Offer = { slot, label, begun: false, outcome: Deferred.makeUnsafe() }
    slot.rest()
    place.offer = offer
    return Effect.flatMap(place.first, () => {
      place.offer = undefined
      if (!offer.begun) return Effect.succeed(slot.engage() ? undefined : false)
      return Effect.map(
        Deferred.await(offer.outcome),
        (claimed) => slot.lossUnsafe() === undefined ? claimed : false
      )
    })
  })
