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
  readonly isBusy: (name: string) => boolean
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

  return {
    isBusy: (name) => queues.has(name),
    turn: (name) =>
      Effect.uninterruptibleMask((restore) => {
        const ticket = Deferred.makeUnsafe<void>()
        const queue = queues.get(name) ?? new Set()
        if (queue.size === 0) {
          queues.set(name, queue)
          Deferred.doneUnsafe(ticket, Effect.void)
        }
        queue.add(ticket)
        return Effect.andThen(
          Effect.addFinalizer(() => Effect.sync(() => leave(name, ticket))),
          restore(Deferred.await(ticket))
        )
      })
  }
}
