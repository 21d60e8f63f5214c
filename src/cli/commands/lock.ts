/**
 * `coord lock`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Lock } from "../../Lock.ts"
import { Connection } from "../Connection.ts"
import { asRunner, Exit, ExitCode, silently } from "../Exit.ts"
import { graceOf, runWhile } from "../held.ts"
import { makeLabel } from "../label.ts"
import { live } from "../services.ts"

interface Input {
  readonly name: string
  readonly ttl: Duration.Duration
  readonly wait: Option.Option<Duration.Duration>
  readonly try: boolean
  readonly label: Option.Option<string>
  readonly grace: Option.Option<Duration.Duration>
  readonly foreground: boolean
  readonly command: ReadonlyArray<string>
}

const acquire = Effect.fnUntraced(function*(input: Input) {
  const lock = yield* Lock
  const options = { ttl: input.ttl, label: yield* makeLabel(input.label) }
  if (input.try) return yield* lock.tryAcquire(input.name, options)
  if (Option.isNone(input.wait)) return yield* lock.acquire(input.name, options)
  const wait = input.wait.value
  return yield* lock.acquire(input.name, options).pipe(
    Effect.timeoutOrElse({
      duration: wait,
      orElse: () =>
        Effect.fail(
          new Exit({
            code: ExitCode.notInTime,
            message: `lock ${JSON.stringify(input.name)} could not be had within ${
              Duration.format(wait)
            } (\`coord locks ${input.name}\` shows who holds it)`
          })
        )
    })
  )
})

export const lock = Effect.fnUntraced(
  function*(input: Input) {
    const grace = yield* graceOf(input.grace, input.ttl)
    const { namespace = "" } = yield* Effect.flatMap(Connection, ({ options }) => options)
    const handle = yield* acquire(input)
    const outcome = yield* runWhile(handle, {
      command: input.command,
      env: {
        COORD_LOCK_KEY: `${namespace}${handle.entryKey}`,
        COORD_FENCING_TOKEN: String(handle.fencingToken)
      },
      foreground: input.foreground,
      grace
    })
    if (outcome._tag === "Ended") return yield* silently(outcome.code)
    return yield* new Exit({ code: ExitCode.lost, message: `${outcome.why}; the command was stopped` })
  },
  Effect.scoped,
  Effect.provide(live),
  asRunner
)
