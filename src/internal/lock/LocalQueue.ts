/**
 * Fibers of one process that want the same lock wait here, first come first served: only the first of them has an entry
 * in etcd. Their keys would be the same one otherwise, and a shared key excludes nobody.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Offer } from "./Offer.ts"

/** In a queue, until it is left or its scope closes. The first has the turn. */
export interface Place {
  readonly isFirst: () => boolean
  /** Waits for the turn. */
  readonly first: Effect.Effect<void>
  /** Waits until at most one is before it. */
  readonly near: Effect.Effect<void>
  /** Gives the turn to the next in line; again it does nothing. */
  readonly leave: () => void
  /** What the first could do for this one. */
  offer: Offer | undefined
  /** The next in line, if this is the first. */
  readonly next: () => Place | undefined
}

export interface LocalQueue {
  readonly enter: (name: string) => Effect.Effect<Place, never, Scope.Scope>
  /** Waits for the turn. */
  readonly turn: (name: string) => Effect.Effect<Place, never, Scope.Scope>
  /** The turn, if nobody has it. */
  readonly tryTurn: (name: string) => Effect.Effect<Place | undefined, never, Scope.Scope>
}

interface Waiting extends Place {
  readonly isNear: Deferred.Deferred<void>
  readonly called: Deferred.Deferred<void>
}

export const makeLocalQueue = (): LocalQueue => {
  // A Set keeps the order of insertion, and whoever gives up leaves from the middle at no cost.
  const queues = new Map<string, Set<Waiting>>()

  /** The next is told first, so that it is prepared when the first is through. */
  const tell = (queue: Set<Waiting>) => {
    const [first, next] = queue
    if (next !== undefined) Deferred.doneUnsafe(next.isNear, Effect.void)
    if (first === undefined) return
    Deferred.doneUnsafe(first.isNear, Effect.void)
    Deferred.doneUnsafe(first.called, Effect.void)
  }

  const enterUnsafe = (name: string): Place => {
    const queue = queues.get(name) ?? new Set()
    const isNear = Deferred.makeUnsafe<void>()
    const called = Deferred.makeUnsafe<void>()
    const isFirst = () => {
      const [first] = queue
      return first === place
    }
    const place: Waiting = {
      isNear,
      called,
      isFirst,
      // Not at once: who wakes it goes on first, as Effect runs a fiber inside of what wakes it, and this may be one of a long line.
      first: Effect.suspend(() =>
        Deferred.isDoneUnsafe(called) ? Effect.void : Effect.andThen(Deferred.await(called), Effect.yieldNow)
      ),
      near: Deferred.await(isNear),
      leave: () => {
        if (!queue.delete(place)) return
        if (queue.size === 0) queues.delete(name)
        tell(queue)
      },
      offer: undefined,
      next: () => {
        const [first, next] = queue
        return first === place ? next : undefined
      }
    }
    queue.add(place)
    queues.set(name, queue)
    if (queue.size <= 2) tell(queue)
    return place
  }

  const enter: LocalQueue["enter"] = (name) =>
    Effect.suspend(() => {
      const place = enterUnsafe(name)
      return Effect.as(Effect.addFinalizer(() => Effect.sync(place.leave)), place)
    }).pipe(Effect.uninterruptible)

  return {
    enter,
    turn: (name) => Effect.tap(enter(name), ({ first }) => first),
    tryTurn: (name) =>
      Effect.suspend(() => queues.has(name) ? Effect.undefined : enter(name)).pipe(Effect.uninterruptible)
  }
}
