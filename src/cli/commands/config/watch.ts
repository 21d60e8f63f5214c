/**
 * `coord config watch`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Os from "node:os"
import { ConfigCenter, type ConfigEvent, RawBytes } from "../../../ConfigCenter.ts"
import { passOn, spawn } from "../../Child.ts"
import { asRunner, complain, type Exit, silently } from "../../Exit.ts"
import { type Json, Output, printable, toLine } from "../../Output.ts"
import { live } from "../../services.ts"
import * as Signals from "../../Signals.ts"
import { brief, folderOf, jsonOf, paint } from "./text.ts"

type Event = ConfigEvent<Uint8Array>

interface Input {
  readonly key: string
  readonly from: Option.Option<bigint>
  readonly keepGoing: boolean
  readonly command: ReadonlyArray<string>
}

const nameOf = (event: Event): string => event._tag.toLowerCase()

const toJson = (event: Event): Json => {
  const { version } = event
  switch (event._tag) {
    case "Put":
    case "Delete":
      return {
        event: nameOf(event),
        key: event.key,
        ...event._tag === "Put" && { value: jsonOf(event.value) },
        version,
        ...event.previous !== undefined && { previous: jsonOf(event.previous) }
      }
    case "Invalid":
      return { event: nameOf(event), key: event.key, version, error: event.error.issue }
    case "Synced":
      return { event: nameOf(event), version }
  }
}

const toText = (event: Event, color: boolean): string => {
  const version = `version ${event.version}`
  switch (event._tag) {
    case "Put":
      return `${paint(color, "green", "put   ")} ${printable(event.key)} = ${brief(event.value)} (${version})`
    case "Delete":
      return `${paint(color, "red", "delete")} ${printable(event.key)} (${version})`
    case "Invalid":
      return `${paint(color, "red", "invalid")} ${printable(event.key)} (${version}): ${printable(event.error.issue)}`
    case "Synced":
      return paint(color, "dim", `synced (${version})`)
  }
}

/** Between SIGTERM and SIGKILL, where this process has to end and the command does not. */
const grace = Duration.seconds(5)

/** Its exit code. A signal that ends a process goes to the command, and ends the watch once the command has ended. */
const runFor = (command: ReadonlyArray<string>, event: Event): Effect.Effect<number, Exit> =>
  Effect.suspend(() => {
    let ending: NodeJS.Signals | undefined
    const child = spawn({
      command,
      env: {
        COORD_EVENT: nameOf(event),
        COORD_VERSION: String(event.version),
        COORD_KEY: "key" in event ? event.key : ""
      },
      foreground: false,
      grace,
      input: `${toLine(toJson(event))}\n`,
      onSignal: (signal, child) => {
        if (Signals.ending.has(signal)) ending ??= signal
        passOn(false)(signal, child)
      }
    })
    // Signals are received until the scope has closed.
    return Effect.flatMap(
      Effect.scoped(Effect.flatMap(child, ({ ended }) => ended)),
      (code) => ending === undefined ? Effect.succeed(code) : Effect.fail(silently(128 + Os.constants.signals[ending]))
    )
  })

const runEach = ({ command, keepGoing }: Input) => (event: Event): Effect.Effect<void, Exit> =>
  Effect.flatMap(runFor(command, event), (code) => {
    if (code === 0) return Effect.void
    if (!keepGoing) return Effect.fail(silently(code))
    const of = "key" in event ? ` of ${JSON.stringify(event.key)}` : ""
    return Effect.sync(() =>
      complain(`the command ended with ${code} (${nameOf(event)}${of}, version ${event.version})`)
    )
  })

export const watch = Effect.fnUntraced(
  function*(input: Input) {
    const output = yield* Output
    const config = yield* ConfigCenter
    const options = { from: Option.getOrUndefined(input.from) }
    const events = input.key.endsWith("/")
      ? config.watchPrefix(folderOf(input.key), RawBytes, options)
      : config.watch(input.key, RawBytes, options)
    const print = (event: Event) =>
      output.json ? output.object(toJson(event)) : output.text(`${toText(event, output.color)}\n`)
    yield* Stream.runForEach(events, input.command.length > 0 ? runEach(input) : print)
  },
  Effect.provide(live),
  asRunner
)
