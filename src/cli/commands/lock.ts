/**
 * `coord lock`.
 */
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import { Lock } from "../../Lock.ts"
import { type LineInput, runHeld } from "../held.ts"
import { makeLabel } from "../label.ts"

interface Input extends LineInput {
  readonly label: Option.Option<string>
}

export const lock = (input: Input) => {
  const options = Effect.map(makeLabel(input.label), (label) => ({ ttl: input.ttl, label }))
  return runHeld(input, {
    what: `lock ${JSON.stringify(input.name)}`,
    see: `coord locks ${input.name}`,
    key: "COORD_LOCK_KEY",
    wait: Effect.gen(function*() {
      return yield* (yield* Lock).acquire(input.name, yield* options)
    }),
    try: Effect.gen(function*() {
      return yield* (yield* Lock).tryAcquire(input.name, yield* options)
    })
  })
}
