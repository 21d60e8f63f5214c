/**
 * The lease of one runner: a new one whenever the last one is lost. All that the runner has in etcd is on it, and so goes at once.
 */
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { Etcd } from "../../Etcd.ts"
import { Closed, EtcdError } from "../../EtcdError.ts"
import { type LeaseSession, makeLeaseSession } from "../session/LeaseSession.ts"

export interface RunnerLease {
  /** Grants a lease where there is none, or none any more. */
  readonly session: Effect.Effect<LeaseSession, EtcdError>
  /** The one that there is, if it is not lost, judged by the clock now. */
  readonly liveUnsafe: () => LeaseSession | undefined
  /** Revokes leases that are lost: nobody relies on what is on them any more. Does not wait. */
  readonly endLost: Effect.Effect<void>
}

interface Held {
  readonly session: LeaseSession
  readonly scope: Scope.Closeable
}

export const makeRunnerLease = (options: {
  readonly etcd: Etcd["Service"]
  readonly ttl: Duration.Duration
  /** Below it only slots of the session put keys on the lease. */
  readonly slots: string
  readonly scope: Scope.Scope
  /** Leases outlive the calls that cause them, and are not under their annotations. */
  readonly context: Context.Context<never>
}): RunnerLease => {
  const { context, etcd, scope, slots, ttl } = options
  const opening = Semaphore.makeUnsafe(1)
  let held: Held | undefined
  let lost: ReadonlyArray<Held> = []

  const liveUnsafe = () => held?.session.lossUnsafe() === undefined ? held?.session : undefined

  const open = Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore): Effect.fn.Return<
    LeaseSession,
    EtcdError
  > {
    const live = liveUnsafe()
    if (live !== undefined) return live
    if (scope.state._tag === "Closed") return yield* new EtcdError({ operation: "session", reason: new Closed() })
    // Not revoked yet: its runner may not know of the loss.
    if (held !== undefined) lost = [...lost, held]
    held = undefined
    const child = yield* Scope.fork(scope)
    const session = yield* restore(Scope.provide(makeLeaseSession(etcd, ttl, { prefix: slots }), child)).pipe(
      Effect.onError(() => Scope.close(child, Exit.void))
    )
    held = { session, scope: child }
    return session
  }))

  return {
    session: Effect.suspend(() => {
      const live = liveUnsafe()
      return live === undefined
        ? Effect.setContext(opening.withPermit(open), context)
        : Effect.succeed(live)
    }),
    liveUnsafe,
    endLost: Effect.suspend(() => {
      const ended = lost
      lost = []
      return Effect.forEach(ended, (one) => Effect.forkIn(Scope.close(one.scope, Exit.void), scope), { discard: true })
    })
  }
}
