import * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"

interface RetryOptions<E> {
  readonly schedule: Schedule.Schedule<unknown>
  readonly while: (error: E) => boolean | Effect.Effect<boolean>
}

/** As `Effect.retry` of an attempt that has failed once so far. */
export const retryAfter = <A, E, R>(
  first: E,
  attempt: Effect.Effect<A, E, R>,
  options: RetryOptions<E>
): Effect.Effect<A, E, R> => {
  let failed: boolean = true
  return Effect.retry(
    Effect.suspend((): Effect.Effect<A, E, R> => {
      if (!failed) return attempt
      failed = false
      return Effect.fail(first)
    }),
    options
  )
}

/** As `Effect.retry`, but the schedule is set up only when the first attempt has failed: of many thousand hardly one does. */
export const retryFailed = <E>(options: RetryOptions<E>) => <A, R>(attempt: Effect.Effect<A, E, R>) =>
  Effect.catch(attempt, (first) => retryAfter(first, attempt, options))
