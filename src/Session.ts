/**
 * A lease that is kept alive for the length of a scope, and that knows by itself when it is over.
 *
 * Locks and registrations share sessions without being told; use one directly to put keys of your own on a lease.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { SessionLost } from "./internal/session/LeaseClock.ts"
import { makeLeaseSession } from "./internal/session/LeaseSession.ts"
import { validateTtl } from "./internal/validate.ts"

export {
  /**
   * @category errors
   * @since 0.1.0
   */
  SessionLost
}

/**
 * A lease under a local deadline: the time at which the last answered beat was sent, plus the TTL, less a margin of a fiftieth of the
 * TTL (at least 100 ms). It is lost from that moment on, whatever the server thinks: so the loss is known before the server
 * deletes the keys of the lease. Beats are sent every third of the TTL.
 *
 * @category models
 * @since 0.1.0
 */
export interface Session {
  readonly leaseId: bigint
  /** Fails when the lease is lost; a lost session never comes back. */
  readonly lost: Effect.Effect<never, SessionLost>
  /** Until the local deadline. */
  readonly remaining: Effect.Effect<Duration.Duration, SessionLost>
  /** Judged by the clock now, so that it is also right after the event loop was blocked. */
  readonly isAlive: Effect.Effect<boolean>
}

/**
 * Grants a lease and keeps it alive until the scope closes, which revokes it and so deletes its keys.
 *
 * @param ttl at least one second; whole seconds, rounded up. etcd may grant more (its minimum is about 1.5 election timeouts).
 * @category constructors
 * @since 0.1.0
 */
export const makeSession = Effect.fn("Session.make")(function*(
  ttl: Duration.Input
): Effect.fn.Return<Session, InvalidOption | EtcdError, Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const session = yield* makeLeaseSession(etcd, yield* validateTtl(ttl))
  return {
    leaseId: session.leaseId,
    lost: session.lost,
    remaining: Effect.suspend(() => {
      const lost = session.lossUnsafe()
      return lost === undefined ? Effect.succeed(session.remainingUnsafe()) : Effect.fail(lost)
    }),
    isAlive: Effect.match(session.check, { onSuccess: () => true, onFailure: () => false })
  }
})
