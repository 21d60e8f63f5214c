/**
 * Fibers of one process that want the same lock wait here, first come first served: only the first of them has an entry
 * in etcd. Their keys would be the same one otherwise, and a shared key excludes nobody.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

export interface LocalQueue {
  /** Waits for the turn, and has it until the scope closes. */
  readonly turn: (name: string) => Effect.Effect<void, never, Scope.Scope>
  /** Has the turn until the scope closes, if nobody has it. */
  readonly tryTurn: (name: string) => Effect.Effect<boolean, never, Scope.Scope>
}

export const makeLocalQueue = (): LocalQueue => {
  // A Set keeps the order of insertion, and whoever gives up leaves from the middle at no cost.
  const queues = new Map<string, Set<Deferred.Deferred<void>>>()

  const leave = (name: string, ticket: Deferred.Deferred<void>) => {
    const queue = queues.get(name)
    if (queue === undefined) return
    queue.delete(ticket)
    const [next] = queue
    if (next === undefined) queues.delete(name)
    else Deferred.doneUnsafe(next, Effect.void)
  }

  const enter = (name: string): Effect.Effect<Deferred.Deferred<void>, never, Scope.Scope> =>
    Effect.suspend(() => {
      const ticket = Deferred.makeUnsafe<void>()
      const queue = queues.get(name) ?? new Set()
      if (queue.size === 0) {
        queues.set(name, queue)
        Deferred.doneUnsafe(ticket, Effect.void)
      }
      queue.add(ticket)
      return Effect.as(Effect.addFinalizer(() => Effect.sync(() => leave(name, ticket))), ticket)
    })

  return {
    turn: (name) =>
      Effect.uninterruptibleMask((restore) => Effect.flatMap(enter(name), (ticket) => restore(Deferred.await(ticket)))),
    tryTurn: (name) =>
      Effect.uninterruptible(
        Effect.suspend(() => queues.has(name) ? Effect.succeed(false) : Effect.as(enter(name), true))
      )
  }
}
