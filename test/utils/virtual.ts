/** Virtual time, for tests on memory. */
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { TestClock } from "effect/testing"

/** Gives every fiber that can run its turn, without moving time. */
export const settle = TestClock.adjust(0)

/** The typed error that it ended with, if it did. */
export const failure = <A, E>(exit: Exit.Exit<A, E>): E | undefined =>
  Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined

/** Fails, instead of hanging, when an effect does not end within a virtual time. */
export const within = Effect.fnUntraced(function*<A, E, R>(time: Duration.Input, effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  yield* TestClock.adjust(time)
  const exit = fiber.pollUnsafe()
  if (exit === undefined) return yield* Effect.die(new Error(`it did not end within ${String(time)}`))
  return yield* exit
})
