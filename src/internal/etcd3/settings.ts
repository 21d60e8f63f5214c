/**
 * Options into settings: checked once, here.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import { X509Certificate } from "node:crypto"
import { readFile } from "node:fs/promises"
import { isIPv6 } from "node:net"
import { createSecureContext } from "node:tls"
import { InvalidOption } from "../../Errors.ts"
import type { EtcdOptions, RetryOptions, TlsOptions } from "../../EtcdOptions.ts"
import type { ClientSettings } from "../client/Client.ts"
import { validatePlace } from "../registry/place.ts"
import { isHost, validateDuration, validatePrefix } from "../validate.ts"
import type { TlsSettings } from "./channel.ts"
import type { ConnectionSettings } from "./connection.ts"

export interface Settings extends ClientSettings, ConnectionSettings {}

export const makeSettings = Effect.fnUntraced(function*(
  options: EtcdOptions
): Effect.fn.Return<Settings, InvalidOption> {
  const { endpoints, secure } = yield* parseEndpoints(options.endpoints)
  yield* validatePrefixes(options)
  const credentials = yield* parseCredentials(options)
  const tls = yield* parseTls(options.tls, secure)
  // A certificate can stand for a user, too.
  const mayBeUser = credentials !== undefined || tls?.cert !== undefined
  return {
    endpoints,
    tls,
    credentials,
    batching: options.batching === false ? "off" : mayBeUser ? "reads" : "all",
    timeout: yield* validateDuration("timeout", options.timeout, defaultTimeout),
    dialTimeout: yield* validateDuration("dialTimeout", options.dialTimeout, defaultTimeout),
    retry: yield* parseRetry(options.retry ?? {}),
    namespace: yield* parseNamespace(options.namespace ?? "")
  }
})

const defaultTimeout = Duration.seconds(5)

const invalid = (option: string, rule: string): Effect.Effect<never, InvalidOption> =>
  Effect.fail(new InvalidOption({ option, rule }))

// -----------------------------------------------------------------------------
// Endpoints
// -----------------------------------------------------------------------------

interface Endpoint {
  readonly scheme: string | undefined
  readonly host: string
  readonly port: number
}

const endpointSyntax = /^(?:(https?):\/\/)?(\[[^\]]*\]|[^:/]*):(\d+)\/?$/

const parseEndpoints = Effect.fnUntraced(function*(input: EtcdOptions["endpoints"] = "127.0.0.1:2379") {
  const texts = typeof input === "string" ? input.split(",") : input
  if (texts.length === 0) return yield* invalid("endpoints", "must have at least one endpoint")
  const endpoints = yield* Effect.forEach(texts, (text) => parseEndpoint(text.trim()))
  const schemes = new Set(endpoints.map(({ scheme }) => scheme))
  if (schemes.size > 1) {
    return yield* invalid(
      "endpoints",
      "must have the same scheme on all, https:// or http:// or none: TLS is for all or for none"
    )
  }
  const unique = new Map(endpoints.map(({ host, port }) => [`${host} ${port}`, { host, port }]))
  return {
    endpoints: [...unique.values()],
    secure: schemes.has("https") ? true : schemes.has("http") ? false : undefined
  }
})

const parseEndpoint = (text: string): Effect.Effect<Endpoint, InvalidOption> => {
  // It may be followed by a password.
  if (text.includes("@")) return invalid("endpoints", "must not name a user: use the options username and password")
  const found = (rule: string) => invalid("endpoints", `${rule}, got ${JSON.stringify(text)}`)
  if (text === "") return found("must not have an empty endpoint")
  const [, scheme, host = "", digits] = endpointSyntax.exec(text) ?? []
  if (digits === undefined) {
    return found(
      "must be host:port with an optional http:// or https://, the port written out and an IPv6 address in brackets"
    )
  }
  const port = Number(digits)
  if (port < 1 || port > 65535) return found("must have a port from 1 to 65535")
  if (host.startsWith("[")) {
    const address = host.slice(1, -1)
    return isIPv6(address)
      ? Effect.succeed({ scheme, host: address, port })
      : found("must have an IPv6 address in the brackets")
  }
  return isHost(host) ? Effect.succeed({ scheme, host, port }) : found("must have a host name or an IP address")
}

// -----------------------------------------------------------------------------
// Credentials and TLS
// -----------------------------------------------------------------------------

const parseCredentials = ({ password, username }: EtcdOptions) => {
  if (username === undefined && password === undefined) return Effect.undefined
  if (username === undefined) return invalid("username", "must be given with password")
  if (password === undefined) return invalid("password", "must be given with username")
  if (username === "") return invalid("username", "must not be empty")
  if (Redacted.value(password) === "") return invalid("password", "must not be empty")
  return Effect.succeed({ username, password })
}

const parseTls = Effect.fnUntraced(function*(
  options: TlsOptions | undefined,
  secure: boolean | undefined
): Effect.fn.Return<TlsSettings | undefined, InvalidOption> {
  if (options === undefined && secure !== true) return undefined
  const { ca, cert, key, serverName } = options ?? {}
  if (secure === false) return yield* invalid("tls", "must not be given with http:// endpoints: write https://")
  if ((cert === undefined) !== (key === undefined)) {
    return yield* invalid(
      cert === undefined ? "tls.cert" : "tls.key",
      `must be given with tls.${cert === undefined ? "key" : "cert"}`
    )
  }
  if (serverName === "") return yield* invalid("tls.serverName", "must not be empty")
  const settings = {
    ca: yield* readPem("tls.ca", ca),
    cert: yield* readPem("tls.cert", cert),
    key: yield* readPem("tls.key", Redacted.isRedacted(key) ? Redacted.value(key) : key),
    serverName
  }
  // Node takes an authority that it cannot read for none at all.
  yield* Effect.try({
    try: () => settings.ca === undefined ? undefined : new X509Certificate(settings.ca),
    catch: (cause) => new InvalidOption({ option: "tls.ca", rule: `must be a certificate in PEM: ${messageOf(cause)}` })
  })
  yield* Effect.try({
    try: () => createSecureContext(settings),
    catch: (cause) =>
      new InvalidOption({
        option: "tls",
        rule: `must be PEM, and key and cert must belong together: ${messageOf(cause)}`
      })
  })
  return settings
})

const readPem = (option: string, input: string | undefined): Effect.Effect<Buffer | undefined, InvalidOption> => {
  if (input === undefined) return Effect.undefined
  if (input === "") return invalid(option, "must not be empty")
  if (input.includes("-----BEGIN")) return Effect.succeed(Buffer.from(input))
  return Effect.tryPromise({
    try: () => readFile(input),
    // Not the path: what was meant as the text of a key might stand there.
    catch: (cause) =>
      new InvalidOption({
        option,
        rule: `must be PEM text or the path of a readable file (${isCoded(cause) ? cause.code : "not readable"})`
      })
  })
}

const isCoded = (cause: unknown): cause is { readonly code: string } =>
  cause instanceof Error && "code" in cause && typeof cause.code === "string"

const messageOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

// -----------------------------------------------------------------------------
// Times
// -----------------------------------------------------------------------------

const parseRetry = Effect.fnUntraced(function*(
  options: RetryOptions | Schedule.Schedule<unknown>
): Effect.fn.Return<Schedule.Schedule<unknown>, InvalidOption> {
  if (Schedule.isSchedule(options)) return options
  const { maxAttempts = 8, multiplier = 2 } = options
  if (!Number.isSafeInteger(maxAttempts) || maxAttempts < 1) {
    return yield* invalid("retry.maxAttempts", "must be a whole number from 1")
  }
  if (!Number.isFinite(multiplier) || multiplier < 1) {
    return yield* invalid("retry.multiplier", "must be finite and at least 1")
  }
  const initialDelay = yield* validateDuration("retry.initialDelay", options.initialDelay, Duration.millis(50))
  const maxDelay = yield* validateDuration("retry.maxDelay", options.maxDelay, Duration.seconds(1))
  if (Duration.isGreaterThan(initialDelay, maxDelay)) {
    return yield* invalid("retry.initialDelay", "must not be greater than retry.maxDelay")
  }
  return Schedule.min([Schedule.exponential(initialDelay, multiplier), Schedule.spaced(maxDelay)]).pipe(
    Schedule.jittered,
    Schedule.upTo({ times: maxAttempts - 1 })
  )
})

// -----------------------------------------------------------------------------
// Keys
// -----------------------------------------------------------------------------

const parseNamespace = (namespace: string): Effect.Effect<string, InvalidOption> => {
  if (!namespace.isWellFormed()) return invalid("namespace", "must be well-formed Unicode (it has a lone surrogate)")
  // oxlint-disable-next-line no-control-regex -- control characters are what it looks for
  if (/[\u0000-\u001f\u007f-\u009f]/.test(namespace)) return invalid("namespace", "must not contain control characters")
  if (Buffer.byteLength(namespace) > 1024) return invalid("namespace", "must be at most 1024 bytes long")
  return Effect.succeed(namespace)
}

/** One below another would show the keys of one service to the other. */
const validatePrefixes = Effect.fnUntraced(function*(options: EtcdOptions) {
  const services = yield* validatePlace({ prefix: options.registryPrefix, layout: options.registryLayout })
  const prefixes = [
    ["lockPrefix", yield* validatePrefix(options.lockPrefix ?? "/locks", "lockPrefix")],
    ["electionPrefix", yield* validatePrefix(options.electionPrefix ?? "/elections", "electionPrefix")],
    ["allocatorPrefix", yield* validatePrefix(options.allocatorPrefix ?? "/allocators", "allocatorPrefix")],
    ["semaphorePrefix", yield* validatePrefix(options.semaphorePrefix ?? "/semaphores", "semaphorePrefix")],
    ["readWriteLockPrefix", yield* validatePrefix(options.readWriteLockPrefix ?? "/rwlocks", "readWriteLockPrefix")],
    ["registryPrefix", services.prefix],
    ["configPrefix", yield* validatePrefix(options.configPrefix ?? "/config", "configPrefix")]
  ] as const
  for (const [option, prefix] of prefixes) {
    // Without any prefix, keys of services start with a name, and so never with the "/" of the others.
    const other = prefixes.find(([name, above]) =>
      name !== option && above !== "" && `${prefix}/`.startsWith(`${above}/`)
    )
    if (other !== undefined) return yield* invalid(option, `must not be ${other[0]} or lie below it`)
  }
})
