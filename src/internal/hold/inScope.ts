/**
 * How something that is held comes into the scope of its user: whole, or not at all.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { Taken } from "../lock/Attempt.ts"
import { EntryLost } from "../lock/entry.ts"
import { type End, unless } from "../unless.ts"

/** Tries again, each time with a scope of its own, until an entry has been taken by a lease that is still good. */
export const untilTaken = Effect.fnUntraced(function*<T extends Taken, E>(
  attempt: Effect.Effect<T | EntryLost, E, Scope.Scope>
): Effect.fn.Return<T, E, Scope.Scope> {
  const scope = yield* Effect.scope
  while (true) {
    const entryScope = yield* Scope.fork(scope)
    const taken = yield* Scope.provide(attempt, entryScope)
    // Enter only if the deadline has not passed, whatever the answer was.
    if (taken !== EntryLost && (yield* taken.slot.loss) === undefined) return taken
    yield* Effect.logDebug("the entry was lost while it waited: queueing again")
    yield* Scope.close(entryScope, Exit.void)
  }
})

/**
 * Runs an attempt in a scope of its own below that of the user, so that one that fails or is interrupted leaves nothing in a scope that
 * lives on. What it took is handed over without a step in between at which it could be forgotten.
 */
export const inScope = <A, E, H>(
  attempt: Effect.Effect<A, E, Scope.Scope>,
  handOver: (taken: A, scope: Scope.Closeable) => Effect.Effect<H>
): Effect.Effect<H, E, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.scope, (parent) => {
      const scope = Scope.forkUnsafe(parent)
      if (scope.state._tag === "Closed") return Effect.interrupt
      const resources = Scope.forkUnsafe(scope)
      // A scope that closes under an attempt ends it first: it would queue again otherwise, with nobody to clean up.
      let closing = false
      let close = () => {}
      const ended = Deferred.makeUnsafe<void>()
      const attempted = restore(unless(attempt, (end: End<never, never>) => {
        close = () => end(Exit.interrupt())
        if (closing) close()
        return () => {}
      })).pipe(Scope.provide(resources), Effect.exit)
      const end = Effect.suspend(() => {
        closing = true
        close()
        return Deferred.isDoneUnsafe(ended) ? Effect.void : Deferred.await(ended)
      })
      return Effect.flatMap(Effect.andThen(Scope.addFinalizer(scope, end), attempted), (exit) => {
        Deferred.doneUnsafe(ended, Effect.void)
        return Exit.isSuccess(exit)
          ? handOver(exit.value, scope)
          : Effect.andThen(Scope.close(scope, exit), Effect.failCause(exit.cause))
      })
    })
  )
