/**
 * Leases for entries that expire. One for each entry would cost etcd another write and a timer of its own: entries that are written at
 * about the same time share one, which lives as much longer.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type { Etcd } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"

/** With authentication, a put costs etcd a check of every key of its lease. */
const maxKeys = 256

interface Shared {
  readonly id: bigint
  /** From then on it would end too early for a new entry. */
  readonly until: bigint
  keys: number
}

export const makeLeases = (etcd: Etcd["Service"], timeToLive: Duration.Duration) => {
  const window = Duration.seconds(Math.ceil(Duration.toSeconds(timeToLive) / 10))
  const granting = Semaphore.makeUnsafe(1)
  let shared: Shared | undefined
  /** Of the last grant that failed. */
  let failure: EtcdError | undefined

  // Nobody revokes them: an entry outlives the process that wrote it.
  const grant = Effect.gen(function*() {
    const { deadline, id } = yield* Effect.tapError(
      etcd.leaseGrant(Duration.sum(timeToLive, window)),
      (error) =>
        Effect.sync(() => {
          failure = error
        })
    )
    shared = { id, until: deadline - Duration.toNanosUnsafe(timeToLive), keys: 0 }
    return shared
  })

  const next = (now: bigint, before: EtcdError | undefined): Effect.Effect<Shared, EtcdError> => {
    if (shared !== undefined && now < shared.until && shared.keys < maxKeys) return Effect.succeed(shared)
    // Whoever has waited for a grant that failed has waited for as long as one takes.
    return failure === undefined || failure === before ? grant : Effect.fail(failure)
  }

  const take = Effect.suspend(() => {
    const before = failure
    return granting.withPermits(1)(
      Effect.flatMap(Clock.monotonicTimeNanos, (now) =>
        Effect.map(next(now, before), (lease) => {
          lease.keys++
          return lease
        }))
    )
  })

  return {
    /** Again with another lease when an operator has revoked it: then nothing was written. */
    use: <A>(put: (lease: bigint) => Effect.Effect<A, EtcdError>): Effect.Effect<A, EtcdError> =>
      Effect.flatMap(take, (lease) =>
        Effect.tapError(put(lease.id), (error) =>
          Effect.sync(() => {
            if (error.reason._tag === "LeaseNotFound" && shared === lease) shared = undefined
          }))).pipe(
          Effect.retry({
            schedule: etcd.settings.retry,
            while: (error) => error.reason._tag === "LeaseNotFound"
          })
        )
  }
}
