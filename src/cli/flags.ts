/**
 * Flags and arguments that several commands have.
 */
import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

const units = {
  ms: Duration.millis,
  s: Duration.seconds,
  m: Duration.minutes,
  h: Duration.hours,
  d: Duration.days
}

/** As in a shell: `500ms`, `30s`, `5m`, `2h`, `1d`; a bare number is in seconds. */
export const parseDuration = (text: string): Option.Option<Duration.Duration> => {
  const [, number = "", unit = "s"] = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$/.exec(text.trim()) ?? []
  return number === "" ? Option.none() : Option.some(units[unit as keyof typeof units](Number(number)))
}

export const duration = (name: string) =>
  Flag.String(name).pipe(
    Flag.withMetavar("DURATION"),
    Flag.filterMap(parseDuration, () => "a duration such as 500ms, 30s, 5m or 2h")
  )

/** All that is behind `--`. */
export const command = Argument.String("command").pipe(
  Argument.withMetavar("-- COMMAND ..."),
  Argument.withDescription("The program to run, and its arguments")
)

/** A command that cannot be left out. */
export const requiredCommand = command.pipe(Argument.variadic({ min: 1 }))
