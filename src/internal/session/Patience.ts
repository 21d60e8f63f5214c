/**
 * How long whoever gives something back waits for etcd: one request timeout in all, not one for each key and each lease, however
 * many are given up together in an outage.
 */
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Etcd } from "../../Etcd.ts"
import { durationNanos, sleepUntil } from "./LeaseClock.ts"

export interface Patience {
  /** Waits for the effect until a request timeout has passed since the first one that is still unanswered. */
  readonly within: <A, E, R, E2>(
    effect: Effect.Effect<A, E, R>,
    orElse: Effect.Effect<A, E2>
  ) => Effect.Effect<A, E | E2, R>
  /** etcd answers. */
  readonly answeredUnsafe: () => void
}

const makePatience = (timeout: Duration.Duration): Patience => {
  const limit = durationNanos(timeout)
  let since: bigint | undefined
  let last = 0n
  return {
    answeredUnsafe: () => {
      since = undefined
    },
    within: (effect, orElse) =>
      Effect.flatMap(Clock.Clock, (clock) => {
        const now = clock.monotonicTimeNanosUnsafe()
        // Of an outage that was so long ago nothing can be told.
        if (since === undefined || now - last > limit) since = now
        last = now
        return Effect.raceFirst(
          effect,
          Effect.andThen(
            sleepUntil(clock, since + limit),
            Effect.suspend(() => {
              last = clock.monotonicTimeNanosUnsafe()
              return orElse
            })
          )
        )
      })
  }
}

const known = new WeakMap<Etcd["Service"], Patience>()

/** Shared by all that is done on one etcd. */
export const patienceWith = (etcd: Etcd["Service"]): Patience => {
  const found = known.get(etcd) ?? makePatience(etcd.settings.timeout)
  known.set(etcd, found)
  return found
}
