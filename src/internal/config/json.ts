/**
 * JSON text without silent loss: integers keep every digit or fail, `-0` stays `-0`.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { parseJson, rawJSON, type Reviver } from "../json.ts"
import { formatPath } from "./issue.ts"

/** Only text that matches can hold a number that a double does not: the slow way is for it alone. */
const suspicious = /\d{16}|\d[eE]\+?\d{3}/
const integer = /^-?\d+$/

const isLost = (value: unknown, source: string | undefined): boolean =>
  typeof value === "number" && (
    !Number.isFinite(value) || source !== undefined && integer.test(source) && BigInt(source) !== BigInt(value)
  )

/** Fails with what is wrong, in which nothing of the text appears but the names on the path. */
export const parse = (text: string): Effect.Effect<unknown, string> => {
  let lost: { holder: object; readonly path: Array<string | number> } | undefined
  // Bottom up: once a lost number is found, each of its parents adds its own key in front.
  const findLost: Reviver = function(key, value, context) {
    if (lost === undefined ? isLost(value, context.source) : lost.holder === value) {
      lost = { holder: this, path: [Array.isArray(this) ? Number(key) : key, ...lost?.path ?? []] }
    }
    return value
  }
  const parsed = Result.try({
    try: () => parseJson(text, suspicious.test(text) ? findLost : undefined),
    // The message of a SyntaxError quotes the text.
    catch: (error) => error instanceof SyntaxError ? "Expected JSON" : "Expected JSON that is not nested as deeply"
  })
  if (lost === undefined || Result.isFailure(parsed)) return Effect.fromResult(parsed)
  // The first key is that of the root in its artificial holder.
  const path = formatPath(lost.path.slice(1))
  return Effect.fail(
    "Expected a number that a double holds (a larger integer is a string in JSON, as Schema.BigInt reads it)" +
      (path === "" ? "" : ` at ${path}`)
  )
}

/**
 * `JSON.stringify`, but numbers are written so that they are read as the same number, by readers of 64-bit integers too.
 * Fails for what has no JSON form.
 */
export const stringify = (json: unknown): Effect.Effect<string, string> => {
  const text = Result.try(() => JSON.stringify(json, writeNumber) as string | undefined)
  return Result.isFailure(text) || text.success === undefined
    ? Effect.fail("Expected a value that has a JSON form")
    : Effect.succeed(text.success)
}

const writeNumber = (_: string, value: unknown): unknown => {
  if (typeof value !== "number") return value
  if (Object.is(value, -0)) return rawJSON("-0")
  // JSON.stringify pads the shortest digits with zeros here: another integer than the number is.
  return Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < 1e21
    ? rawJSON(BigInt(value).toString())
    : value
}

const isWhitespace = (code: number): boolean => code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09

// Not by a regular expression: `[ ]+$` takes quadratic time on a long run of spaces.
const trim = (text: string): string => {
  let start = 0
  let end = text.length
  while (start < end && isWhitespace(text.charCodeAt(start))) start++
  while (end > start && isWhitespace(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

const parseLiteral = Option.liftThrowable((literal: string): string => JSON.parse(literal))

/** The value of a JSON string literal, white space around it allowed. */
export const stringLiteral = (text: string): Option.Option<string> => {
  const trimmed = trim(text)
  return trimmed.startsWith("\"") ? parseLiteral(trimmed) : Option.none()
}

export const isNull = (text: string): boolean => trim(text) === "null"
