import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"

/** Something did not become true in time. */
export class Never extends Data.TaggedError("Never")<{ readonly message: string }> {}

/** Asks until it holds; fails, with the words, when that takes too long. */
export const eventually = <E, R>(what: string, holds: Effect.Effect<boolean, E, R>, bound = 15_000) =>
  holds.pipe(
    Effect.filterOrFail((is) => is, () => "not yet"),
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout(bound),
    Effect.mapError(() => new Never({ message: `not within ${bound} ms: ${what}` })),
    Effect.asVoid
  )
