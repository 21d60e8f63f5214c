/**
 * Values are bytes. How they, and their keys, are written for people and for programs.
 */
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { type Json, printable } from "../../Output.ts"

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** As text, where they are UTF-8. */
export const textOf = (bytes: Uint8Array): Option.Option<string> =>
  Result.getSuccess(Result.try(() => strict.decode(bytes)))

/** Text as it is, anything else as base64. */
export const jsonOf = (bytes: Uint8Array): Json =>
  Option.getOrElse(textOf(bytes), (): Json => ({ base64: Buffer.from(bytes).toString("base64") }))

/** Nothing in it that a terminal would obey, but for the ends of lines. */
export const shown = (bytes: Uint8Array): string =>
  Option.match(textOf(bytes), {
    onNone: () => shownBytes(bytes),
    onSome: (text) => text.split("\n").map((line) => line.split("\t").map(printable).join("\t")).join("\n")
  })

const shownBytes = (bytes: Uint8Array): string =>
  Array.from(
    bytes,
    (byte) => byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`
  ).join("")

const widest = 100

/** On one line, and no longer than people read. */
export const brief = (bytes: Uint8Array): string => {
  const line = Option.match(textOf(bytes), { onNone: () => shownBytes(bytes), onSome: printable })
  const chars = Array.from(line)
  return chars.length <= widest ? line : `${chars.slice(0, widest).join("")}… (${many(bytes.length, "byte")})`
}

/** A folder, with or without the `/` at its end; `/` alone is that of all. */
export const folderOf = (prefix: string): string => prefix.replace(/\/$/, "")

const codes = { red: 31, green: 32, yellow: 33, dim: 2 }

export const paint = (color: boolean, paint: keyof typeof codes, text: string): string =>
  color ? `\u001b[${codes[paint]}m${text}\u001b[0m` : text

export const many = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`
