/**
 * Fibers of one process that want the same lock wait here, first come first served: only the first of them has an entry
 * in etcd. Their keys would be the same one otherwise, and a shared key excludes nobody.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** Gives the turn to the next in line; again it does nothing. */
export type Turn = () => void

export interface LocalQueue {
  /** Waits for the turn, and has it until the scope closes or the turn is given up. */
  readonly turn: (name: string) => Effect.Effect<Turn, never, Scope.Scope>
  /** The turn, if nobody has it. */
  readonly tryTurn: (name: string) => Effect.Effect<Turn | undefined, never, Scope.Scope>
}

interface Ticket {
  readonly called: Effect.Effect<void>
  readonly giveUp: Turn
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

  const enter = (name: string): Effect.Effect<Ticket, never, Scope.Scope> =>
    Effect.suspend(() => {
      const ticket = Deferred.makeUnsafe<void>()
      const queue = queues.get(name) ?? new Set()
      if (queue.size === 0) {
        queues.set(name, queue)
        Deferred.doneUnsafe(ticket, Effect.void)
      }
      queue.add(ticket)
      const giveUp = () => leave(name, ticket)
      return Effect.as(Effect.addFinalizer(() => Effect.sync(giveUp)), { called: Deferred.await(ticket), giveUp })
    })

  return {
    turn: (name) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(enter(name), ({ called, giveUp }) => Effect.as(restore(called), giveUp))
      ),
    tryTurn: (name) =>
      Effect.uninterruptible(
        Effect.suspend(() => queues.has(name) ? Effect.undefined : Effect.map(enter(name), ({ giveUp }) => giveUp))
      )
  }
}
