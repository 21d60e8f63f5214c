/**
 * JSON that is byte for byte what Go's `encoding/json` writes.
 */
import * as Order from "effect/Order"
import * as Result from "effect/Result"
import { parseJson } from "../json.ts"
import { compareBytes } from "../keys.ts"

const encoder = new TextEncoder()

// What Go escapes and JSON.stringify does not; otherwise they agree since Go 1.22 (which writes \b and \f in short).
const goEscapes = /[<>&\u2028\u2029]/g

export const quote = (text: string): string =>
  JSON.stringify(text).replace(goEscapes, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`)

const byBytes = Order.make<string>((a, b) => {
  const difference = compareBytes(encoder.encode(a), encoder.encode(b))
  return difference < 0 ? -1 : difference > 0 ? 1 : 0
})

/** A Go map of strings. */
export const quoteRecord = (record: Readonly<Record<string, string>>): string => {
  const entries = Object.entries(record).sort(([a], [b]) => byBytes(a, b))
  return `{${entries.map(([key, value]) => `${quote(key)}:${quote(value)}`).join(",")}}`
}

const decoder = new TextDecoder("utf-8", { fatal: true })

/** Fails with what is said of an entry. */
export const readText = (value: Uint8Array): Result.Result<string, string> =>
  Result.try({ try: () => decoder.decode(value), catch: () => "it is not UTF-8" })

export const readJson = (value: Uint8Array): Result.Result<unknown, string> =>
  Result.try({ try: () => parseJson(decoder.decode(value)), catch: () => "it is not JSON" })
