/**
 * Input is checked once, at the edge; the inside trusts it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { isIPv4 } from "node:net"
import { InvalidKey, InvalidOption } from "../Errors.ts"

// etcd refuses requests over 1.5 MiB; nobody means a key of even a page.
const maxKeyBytes = 4096

// oxlint-disable-next-line no-control-regex -- control characters are what it looks for
const control = /[\u0000-\u001f\u007f-\u009f]/

/** Most keys are, and have nothing that a rule is about. */
const plain = /^[\w-][\w.-]*(?:\/[\w-][\w.-]*)*$/

/** Why a `/`-separated key is not allowed, if it is not. */
export const keyRule = (key: string): string | undefined => {
  if (key.length <= maxKeyBytes && plain.test(key)) return undefined
  if (key === "") return "must not be empty"
  if (key.startsWith("/")) {
    return `must not start with "/" (Go's path.Join would strip it: write ${JSON.stringify(key.replace(/^\/+/, ""))})`
  }
  if (key.endsWith("/")) return "must not end with \"/\""
  if (control.test(key)) return "must not contain control characters"
  if (!key.isWellFormed()) return "must be well-formed Unicode (it has a lone surrogate)"
  for (const segment of key.split("/")) {
    if (segment === "") return "must not have an empty segment (\"//\")"
    if (segment === "." || segment === "..") return `must not have a segment "${segment}"`
  }
  if (Buffer.byteLength(key) > maxKeyBytes) return `must be at most ${maxKeyBytes} bytes long`
  return undefined
}

export const validateKey = (key: string): Effect.Effect<string, InvalidKey> => {
  const rule = keyRule(key)
  return rule === undefined ? Effect.succeed(key) : Effect.fail(new InvalidKey({ key, rule }))
}

/** One segment of a key: a service name or an instance id. */
export const segmentRule = (segment: string): string | undefined =>
  segment.includes("/") ? "must not contain \"/\"" : keyRule(segment)

/** The longest time to live that etcd accepts, in seconds (`lease.MaxLeaseTTL`). */
const maxTtlSeconds = 9_000_000_000

/** A time to live in whole seconds, rounded up. */
export const validateTtl = (
  input: Duration.Input,
  option = "ttl"
): Effect.Effect<Duration.Duration, InvalidOption> => {
  const duration = Option.getOrUndefined(Duration.fromInput(input))
  if (duration === undefined) return Effect.fail(new InvalidOption({ option, rule: "is not a duration" }))
  const millis = Duration.toMillis(duration)
  if (!Number.isFinite(millis)) return Effect.fail(new InvalidOption({ option, rule: "must be finite" }))
  if (millis < 1000) {
    return Effect.fail(new InvalidOption({ option, rule: `must be at least one second, got ${millis} ms` }))
  }
  const seconds = Math.ceil(millis / 1000)
  if (seconds > maxTtlSeconds) {
    return Effect.fail(new InvalidOption({ option, rule: `must be at most ${maxTtlSeconds} seconds, got ${seconds}` }))
  }
  return Effect.succeed(Duration.seconds(seconds))
}

/** What Node's timers can count. */
const longest = 2 ** 31 - 1

/** A duration that a timer can wait. */
export const validateDuration = (
  option: string,
  input: Duration.Input | undefined,
  fallback: Duration.Duration
): Effect.Effect<Duration.Duration, InvalidOption> => {
  const invalid = (rule: string) => Effect.fail(new InvalidOption({ option, rule }))
  if (input === undefined) return Effect.succeed(fallback)
  const duration = Option.getOrUndefined(Duration.fromInput(input))
  if (duration === undefined) return invalid("must be a duration, as \"5 seconds\"")
  const millis = Duration.toMillis(duration)
  if (!Number.isFinite(millis) || millis <= 0) return invalid("must be finite and greater than zero")
  return millis > longest ? invalid("must be at most 24 days") : Effect.succeed(duration)
}

const hostSyntax = /^(?!-)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?$/

/** A host name or an IPv4 address. What is only digits and dots was meant as an address. */
export const isHost = (host: string): boolean =>
  /^[\d.]+$/.test(host) ? isIPv4(host) : hostSyntax.test(host) && host.length <= 253

/**
 * A prefix as `/locks`: it starts with `/` and is otherwise a key, so that keys below it cannot escape.
 */
export const validatePrefix = (prefix: string, option: string): Effect.Effect<string, InvalidOption> => {
  const rule = prefix.startsWith("/") ? keyRule(prefix.slice(1)) : "must start with \"/\""
  return rule === undefined ? Effect.succeed(prefix) : Effect.fail(new InvalidOption({ option, rule }))
}
