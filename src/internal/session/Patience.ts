/**
 * How long whoever gives something back waits for etcd: one request timeout in all, not one for each key and each lease, however
 * many are given up together in an outage.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type { Etcd } from "../../Etcd.ts"
import type { EtcdError, EtcdErrorReason } from "../../EtcdError.ts"
import { unless } from "../unless.ts"
import { durationNanos, sleepUntil } from "./LeaseClock.ts"

export interface Patience {
  /**
   * Waits for the effect until a request timeout has passed since the first one that is still unanswered.
   */
  readonly within: <A, E, R, E2>(
    effect: Effect.Effect<A, E, R>,
    orElse: Effect.Effect<A, E2>
  ) => Effect.Effect<A, E | E2, R>
  /** Until when whoever begins to wait now does so. */
  readonly beginUnsafe: (now: bigint) => bigint
  /** Somebody has waited for as long as that. */
  readonly ranOutUnsafe: (now: bigint) => void
  /** Told of each end of what was asked of etcd: an answer ends the outage, and a refusal is one as well. */
  readonly heardUnsafe: (exit: Exit.Exit<unknown, EtcdError>) => void
}

/** The request may succeed later as it stands. */
export const isTransient = (error: EtcdError): boolean => {
  const tag = error.reason._tag
  return tag === "Unavailable" || tag === "Timeout" || tag === "Ambiguous"
}

const refusals: ReadonlySet<string> = new Set<EtcdErrorReason["_tag"]>([
  // Of a write it says that it was not sent.
  "Unavailable",
  "LeaseNotFound",
  "PermissionDenied",
  "Unauthenticated",
  "InvalidArgument"
])

/** A write that ended so was applied, or may still be: etcd says `NoSpace`, for one, also of what it applies while it fills up. */
export const mayBeApplied = (error: EtcdError): boolean => !refusals.has(error.reason._tag)

const makePatience = (timeout: Duration.Duration): Patience => {
  const limit = durationNanos(timeout)
  let since: bigint | undefined
  let last = 0n
  const beginUnsafe = (now: bigint): bigint => {
    // Of an outage that was so long ago nothing can be told.
    if (since === undefined || now - last > limit) since = now
    last = now
    return since + limit
  }
  const ranOutUnsafe = (now: bigint): void => {
    last = now
  }
  return {
    beginUnsafe,
    ranOutUnsafe,
    heardUnsafe: (exit) => {
      const error = Option.getOrUndefined(Exit.findErrorOption(exit))
      if (Exit.isSuccess(exit) || (error !== undefined && !isTransient(error))) since = undefined
    },
    within: (effect, orElse) =>
      Effect.contextWith((context) => {
        const clock = Context.get(context, Clock.Clock)
        const until = beginUnsafe(clock.monotonicTimeNanosUnsafe())
        return unless(effect, (end) => {
          const timer = Effect.runForkWith(context)(
            Effect.andThen(
              sleepUntil(clock, until),
              Effect.suspend(() => {
                ranOutUnsafe(clock.monotonicTimeNanosUnsafe())
                return Effect.exit(orElse)
              })
            )
          )
          timer.addObserver((exit) => Exit.isSuccess(exit) && end(exit.value))
          return () => timer.interruptUnsafe()
        })
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
