/**
 * What is printed: tables for people on a terminal, one JSON object a line for programs.
 */
import * as CliOutput from "effect/cli/CliOutput"
import { TerminalCapabilities } from "effect/cli/TerminalCapabilities"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import Process from "node:process"

/** Something that JSON has a form for; numbers of etcd that may not fit into a double are strings. */
export type Json = string | number | boolean | null | bigint | ReadonlyArray<Json> | {
  readonly [key: string]: Json | undefined
}

export interface Column<A> {
  readonly title: string
  readonly of: (row: A) => string
}

/** How standard output is written to. */
export class Output extends Context.Service<Output, {
  /** For programs: one object a line. Otherwise for people. */
  readonly json: boolean
  readonly color: boolean
  /** What changes can be drawn over what was there. */
  readonly animate: boolean
  /** One object, on a line of its own. */
  readonly object: (value: Json) => Effect.Effect<void>
  /** Text as it is. */
  readonly text: (text: string) => Effect.Effect<void>
  /** Bytes as they are, whatever standard output is. */
  readonly bytes: (bytes: Uint8Array) => Effect.Effect<void>
  /** A line for people beside what is printed: on standard error. */
  readonly aside: (text: string) => Effect.Effect<void>
  /** Rows for people; for programs each as an object. */
  readonly rows: <A>(
    rows: ReadonlyArray<A>,
    columns: ReadonlyArray<Column<A>>,
    toJson: (row: A) => Json,
    none: string
  ) => Effect.Effect<void>
}>()("effect-coord/cli/Output") {
  /** `json` as the flag says, or whenever standard output is no terminal. */
  static readonly layer = (json: Option.Option<boolean>): Layer.Layer<Output> =>
    Layer.effect(Output, Effect.map(TerminalCapabilities, (terminal) => make(json, terminal)))
}

/** On one line, without sequences that a terminal would obey: keys and values are somebody else's. */
export const printable = (text: string): string =>
  text.replaceAll(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`)

export const toLine = (value: Json): string =>
  JSON.stringify(value, (_, part: unknown) => typeof part === "bigint" ? part.toString() : part)

const bold = (text: string): string => `\u001b[1m${text}\u001b[0m`

/** Columns as wide as their widest cell. */
export const table = <A>(rows: ReadonlyArray<A>, columns: ReadonlyArray<Column<A>>, color: boolean): string => {
  const cells = rows.map((row) => columns.map((column) => printable(column.of(row))))
  const widths = columns.map((column, index) =>
    Math.max(...[column.title, ...cells.map((row) => row[index] ?? "")].map(CliOutput.displayWidth))
  )
  const line = (texts: ReadonlyArray<string>) =>
    texts.map((text, index) => text + " ".repeat(Math.max(0, (widths[index] ?? 0) - CliOutput.displayWidth(text))))
      .join("  ").trimEnd()
  const head = line(columns.map(({ title }) => title))
  return [color ? bold(head) : head, ...cells.map(line)].join("\n")
}

const make = (flag: Option.Option<boolean>, terminal: TerminalCapabilities): Output["Service"] => {
  const json = Option.getOrElse(flag, () => Process.stdout.isTTY !== true)
  const color = !json && terminal.canColor
  const animate = !json && terminal.canAnimate
  const bytes = (bytes: string | Uint8Array) => Effect.sync(() => void Process.stdout.write(bytes))
  const text = (text: string) => bytes(text)
  const object = (value: Json) => text(`${toLine(value)}\n`)
  return {
    json,
    color,
    animate,
    object,
    text,
    bytes,
    aside: (text) => Effect.sync(() => void Process.stderr.write(`coord: ${text}\n`)),
    rows: (rows, columns, toJson, none) =>
      json
        ? Effect.forEach(rows, (row) => object(toJson(row)), { discard: true })
        : rows.length === 0
        ? text(`${none}\n`)
        : text(`${table(rows, columns, color)}\n`)
  }
}
