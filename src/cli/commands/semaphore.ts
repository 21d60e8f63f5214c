/**
 * `coord semaphore`.
 */
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import { Semaphore } from "../../Semaphore.ts"
import { type LineInput, runHeld } from "../held.ts"
import { makeLabel } from "../label.ts"

interface Input extends LineInput {
  readonly permits: number
  readonly label: Option.Option<string>
}

export const semaphore = (input: Input) => {
  const { name, permits, ttl } = input
  const options = Effect.map(makeLabel(input.label), (label) => ({ permits, ttl, label }))
  return runHeld(input, {
    what: `a permit of semaphore ${JSON.stringify(name)}`,
    key: "COORD_SEMAPHORE_KEY",
    wait: Effect.gen(function*() {
      return yield* (yield* Semaphore).acquire(name, yield* options)
    }),
    try: Effect.gen(function*() {
      return yield* (yield* Semaphore).tryAcquire(name, yield* options)
    })
  })
}
