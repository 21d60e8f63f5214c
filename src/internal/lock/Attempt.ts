/**
 * One that wants an entry in the queue of a lock: a turn among the fibers of this process, a place on a lease, an entry. Whatever it has of
 * these by then is given back when it ends.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { EtcdError } from "../../EtcdError.ts"
import type { SessionPool, SlotRequest } from "../session/SessionPool.ts"
import type { Slot } from "../session/Slots.ts"
import { type Claimed, EntryLost } from "./entry.ts"
import type { Place } from "./LocalQueue.ts"
import { awaitHandover, heirsOf } from "./Offer.ts"

/** An entry that is there, and what it entitles to begins now. */
export interface Taken {
  readonly slot: Slot
  /** Its create revision. */
  readonly token: bigint
}

export interface AttemptRequest<E> {
  readonly pool: SessionPool
  readonly slot: SlotRequest
  readonly place: Place
  /** What its entry says. */
  readonly label: string
  /** Puts an entry. Without it, all that there is to do is done by `enter`. */
  readonly claim:
    | ((slot: Slot, name: string, label: string) => Effect.Effect<Claimed, EtcdError | EntryLost>)
    | undefined
  /** Waits until the entry is the first one. */
  readonly enter: (
    slot: Slot,
    name: string,
    label: string,
    claimed: Claimed | undefined
  ) => Effect.Effect<bigint | EntryLost, E | EtcdError>
  /** What it says in logs. */
  readonly annotations: Readonly<Record<string, string>>
}

type Restore = <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>

/** All that happens without waiting for others is done by the fiber of the caller; for the rest there is another one, which can be ended. */
export class Attempt<E> {
  readonly #request: AttemptRequest<E>
  #slot: Slot | undefined
  #claimed: Claimed | undefined
  #waiting: Fiber.Fiber<Taken, E | EtcdError> | undefined
  #isOver = false
  #atEnd: ((context: Context.Context<never>) => void) | undefined

  constructor(request: AttemptRequest<E>) {
    this.#request = request
  }

  /** Runs when it ends, before anything is given back. */
  onEnd(run: (context: Context.Context<never>) => void): void {
    this.#atEnd = run
  }

  /** To be run once, in an uninterruptible region. */
  taken(restore: Restore): Effect.Effect<Taken, E | EtcdError> {
    const { claim, label, place, pool, slot: request } = this.#request
    const slot = claim !== undefined && place.isFirst() ? pool.takeNow(request) : undefined
    if (claim === undefined || slot === undefined) return this.#wait(restore)
    this.#slot = slot
    return Effect.matchEffect(restore(claim(slot, request.name, label)), {
      onFailure: (error) =>
        error === EntryLost ? Effect.andThen(this.#giveBack, this.#wait(restore)) : Effect.fail(error),
      onSuccess: (claimed) => {
        this.#claimed = claimed
        return claimed.position?._tag === "First" && !slot.session.suspectedUnsafe() && slot.lossUnsafe() === undefined
          ? this.#through({ slot, token: claimed.token })
          : this.#wait(restore)
      }
    })
  }

  #through(taken: Taken): Effect.Effect<Taken> {
    if (this.#isOver) return Effect.interrupt
    const { place, slot: { name } } = this.#request
    // Whoever lost it can take it again, and so can others here, though its scope is open.
    taken.slot.onLoss(() => place.leave())
    taken.slot.onRelease(heirsOf(name, place))
    return Effect.succeed(taken)
  }

  #wait(restore: Restore): Effect.Effect<Taken, E | EtcdError> {
    const waiting = Effect.contextWith((context: Context.Context<never>) =>
      Effect.callback<Taken, E | EtcdError>((resume) => {
        // Whoever ends it from here on finds the fiber.
        if (this.#isOver) return resume(Effect.interrupt)
        const fiber = this.#waiting = Effect.runForkWith(context)(this.#patiently)
        fiber.addObserver((exit) => {
          this.#waiting = undefined
          resume(exit)
        })
        return Fiber.interrupt(fiber)
      })
    )
    return Effect.flatMap(restore(waiting), (taken) => this.#through(taken))
  }

  get #patiently(): Effect.Effect<Taken, E | EtcdError> {
    const { annotations, enter, label, slot: { name } } = this.#request
    return Effect.gen({ self: this }, function*(): Effect.fn.Return<Taken, E | EtcdError> {
      if (this.#slot === undefined) yield* this.#turn
      while (true) {
        const slot = this.#slot ?? (yield* this.#take)
        const token = yield* enter(slot, name, label, this.#claimed)
        // Enter only if the deadline has not passed, whatever the answer was.
        if (token !== EntryLost && (yield* slot.loss) === undefined) return { slot, token }
        yield* Effect.logDebug("the entry was lost while it waited: queueing again")
        yield* this.#giveBack
      }
    }).pipe(Effect.annotateLogs(annotations))
  }

  /** The next in line has a slot ready meanwhile; without one, as in an outage, it waits all the same. */
  get #turn(): Effect.Effect<void> {
    const { label, place } = this.#request
    return Effect.gen({ self: this }, function*() {
      yield* place.near
      if (place.isFirst()) return
      const slot = yield* Effect.option(this.#take)
      if (slot._tag === "None") return yield* place.first
      const claimed = yield* awaitHandover(place, slot.value, label)
      if (claimed === false) yield* this.#giveBack
      else this.#claimed = claimed
    })
  }

  get #take(): Effect.Effect<Slot, EtcdError> {
    const { pool, slot: request } = this.#request
    return pool.take(request, (slot) => {
      this.#slot = slot
    })
  }

  get #giveBack(): Effect.Effect<void> {
    return Effect.uninterruptible(Effect.suspend(() => this.#givenBack()))
  }

  #givenBack(): Effect.Effect<void> {
    const slot = this.#slot
    this.#slot = this.#claimed = undefined
    return slot === undefined ? Effect.void : slot.giveBack
  }

  /** For the scope that it is in: nobody waits any more when it has closed, and nothing is left behind. */
  get end(): Effect.Effect<void> {
    return Effect.contextWith((context: Context.Context<never>) => {
      const { place } = this.#request
      this.#isOver = true
      this.#atEnd?.(context)
      place.offer = undefined
      const leave = (): undefined => {
        place.leave()
      }
      // Finalizers are not interrupted.
      return this.#waiting === undefined
        ? Effect.onExitPrimitive(this.#givenBack(), leave)
        : Effect.onExitPrimitive(Effect.andThen(Fiber.interrupt(this.#waiting), this.#giveBack), leave)
    })
  }
}

/**
 * Runs an attempt in a scope of its own, which is closed where that fails: so nothing is left in a scope that lives on. What it took is handed
 * over without a step in between at which it could be forgotten. To be run in an uninterruptible region.
 */
export const takeIn = <E, H>(
  scope: Scope.Closeable,
  restore: Restore,
  request: AttemptRequest<E>,
  handOver: (taken: Taken, attempt: Attempt<E>) => Effect.Effect<H>
): Effect.Effect<H, E | EtcdError> => {
  const attempt = new Attempt(request)
  if (scope.state._tag === "Closed") return Effect.andThen(attempt.end, Effect.interrupt)
  return Effect.matchCauseEffect(
    Effect.andThen(Scope.addFinalizer(scope, attempt.end), Effect.suspend(() => attempt.taken(restore))),
    {
      onFailure: (cause) => Effect.andThen(Scope.close(scope, Exit.failCause(cause)), Effect.failCause(cause)),
      onSuccess: (taken) => handOver(taken, attempt)
    }
  )
}
