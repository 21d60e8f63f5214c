/**
 * Options of a channel into settings: checked once, here.
 */
import * as grpc from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import { InvalidOption } from "../../Errors.ts"
import type { CallRetry, ChannelOptions, Keepalive, LoadBalancing, TargetOptions } from "../../ServiceChannel.ts"
import type { ServiceInstance } from "../../ServiceInstance.ts"
import { validateDuration } from "../validate.ts"
import { policyName } from "./balancer.ts"
import type { Policy } from "./choice.ts"
import { policyName as pickFirstName } from "./pickFirst.ts"

/** Which of the instances that are known become endpoints. */
export interface DiscoverySettings {
  readonly filter: (instance: ServiceInstance) => boolean
  readonly keepLast: boolean
  readonly subset: number
}

export interface TargetSettings {
  readonly discovery: DiscoverySettings
  readonly options: grpc.ChannelOptions
}

export interface ChannelSettings extends TargetSettings {
  readonly credentials: grpc.ChannelCredentials
  /** Milliseconds. */
  readonly timeout: number
}

export const makeTargetSettings = Effect.fnUntraced(function*(
  options: TargetOptions
): Effect.fn.Return<TargetSettings, InvalidOption> {
  for (const name of ["credentials", "timeout"]) {
    if (Predicate.hasProperty(options, name) && options[name] !== undefined) {
      return yield* invalid(name, "must be given to the channel that is made from the target")
    }
  }
  return yield* parseTarget(options)
})

export const makeChannelSettings = Effect.fnUntraced(function*(
  options: ChannelOptions
): Effect.fn.Return<ChannelSettings, InvalidOption> {
  const { credentials = grpc.credentials.createInsecure() } = options
  if (!(credentials instanceof grpc.ChannelCredentials)) {
    return yield* invalid(
      "credentials",
      "must be ChannelCredentials of the copy of @grpc/grpc-js that effect-coord uses"
    )
  }
  const timeout = yield* validateDuration("timeout", options.timeout, Duration.infinity)
  return { ...yield* parseTarget(options), credentials, timeout: Duration.toMillis(timeout) }
})

const parseTarget = Effect.fnUntraced(function*(options: TargetOptions) {
  return {
    discovery: yield* parseDiscovery(options),
    options: {
      // A proxy of the environment would take a service name for a host.
      "grpc.enable_http_proxy": 0,
      // An instance that is back at its address is found soon; grpc-js would wait up to two minutes.
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 2000,
      ...yield* parseKeepalive(options.keepalive),
      ...options.channelOptions,
      "grpc.service_config": yield* parseServiceConfig(options)
    }
  }
})

const invalid = (option: string, rule: string): Effect.Effect<never, InvalidOption> =>
  Effect.fail(new InvalidOption({ option, rule }))

// -----------------------------------------------------------------------------
// Discovery
// -----------------------------------------------------------------------------

const parseDiscovery = Effect.fnUntraced(function*(
  { filter = () => true, onEmpty = "fail", subset = Infinity }: TargetOptions
): Effect.fn.Return<DiscoverySettings, InvalidOption> {
  if (typeof filter !== "function") return yield* invalid("filter", "must be a function of an instance")
  if (onEmpty !== "fail" && onEmpty !== "keepLast") {
    return yield* invalid("onEmpty", "must be \"fail\" or \"keepLast\"")
  }
  if (subset !== Infinity && (!Number.isSafeInteger(subset) || subset < 1)) {
    return yield* invalid("subset", "must be a whole number from 1")
  }
  return { filter, keepLast: onEmpty === "keepLast", subset }
})

// -----------------------------------------------------------------------------
// Load balancing
// -----------------------------------------------------------------------------

const names = ["round_robin", "pick_first", "weighted", "least_request"] as const

const headerSyntax = /^[0-9a-z_.-]+$/

const parsePolicy = Effect.fnUntraced(function*(
  input: LoadBalancing
): Effect.fn.Return<Policy | "pick_first", InvalidOption> {
  const name = names.find((name) => name === input)
  if (name !== undefined) return name === "pick_first" ? name : { kind: name }
  if (hasOnly(input, ["zone", "spillBelow"])) {
    const { spillBelow = 1, zone } = input
    if (typeof zone !== "string" || zone === "") {
      return yield* invalid("loadBalancing.zone", "must be a string that is not empty")
    }
    if (!Number.isSafeInteger(spillBelow) || Number(spillBelow) < 1) {
      return yield* invalid("loadBalancing.spillBelow", "must be a whole number from 1")
    }
    return { kind: "zone", zone, spillBelow: Number(spillBelow) }
  }
  if (hasOnly(input, ["hashHeader"])) {
    const header = String(input["hashHeader"]).toLowerCase()
    if (!headerSyntax.test(header) || header.endsWith("-bin")) {
      return yield* invalid("loadBalancing.hashHeader", "must be the name of a header of text, as \"x-user\"")
    }
    return { kind: "hash", header }
  }
  return yield* invalid(
    "loadBalancing",
    `must be ${names.map((name) => `"${name}"`).join(", ")}, { zone, spillBelow? } or { hashHeader }`
  )
})

/** An object that has the first of these properties, and no others than these. */
const hasOnly = (input: unknown, keys: ReadonlyArray<string>): input is Record<string, unknown> =>
  Predicate.isObject(input) && Object.keys(input).every((key) => keys.includes(key)) &&
  Object.keys(input).includes(keys[0] ?? "")

// -----------------------------------------------------------------------------
// Service config
// -----------------------------------------------------------------------------

const parseServiceConfig = Effect.fnUntraced(function*(options: TargetOptions) {
  const { loadBalancing = "round_robin" } = options
  const policy = yield* parsePolicy(loadBalancing)
  const given = yield* parseGivenConfig(options.channelOptions?.["grpc.service_config"])
  const methodConfig: ReadonlyArray<unknown> = Array.isArray(given["methodConfig"]) ? given["methodConfig"] : []
  const retry = options.retry === undefined ? [] : [{ name: [{}], retryPolicy: yield* parseRetry(options.retry) }]
  return JSON.stringify({
    ...given,
    loadBalancingConfig: [policy === "pick_first" ? { [pickFirstName]: {} } : { [policyName]: policy }],
    methodConfig: [...methodConfig, ...retry]
  })
})

const parseGivenConfig = (config: unknown): Effect.Effect<Record<string, unknown>, InvalidOption> => {
  const option = "channelOptions.grpc.service_config"
  if (config === undefined) return Effect.succeed({})
  const json = Result.try((): unknown => JSON.parse(String(config)))
  if (Result.isFailure(json) || !Predicate.isObject(json.success) || Array.isArray(json.success)) {
    return invalid(option, "must be a JSON object")
  }
  const given: Record<string, unknown> = { ...json.success }
  if ("loadBalancingConfig" in given || "loadBalancingPolicy" in given) {
    return invalid(option, "must not have load balancing: use the option loadBalancing")
  }
  // grpc-js would leave it out without a word.
  return "methodConfig" in given && !Array.isArray(given["methodConfig"])
    ? invalid(option, "must have an array as methodConfig")
    : Effect.succeed(given)
}

const parseRetry = Effect.fnUntraced(function*(retry: CallRetry) {
  const { maxAttempts = 3, multiplier = 2 } = retry
  if (!Number.isSafeInteger(maxAttempts) || maxAttempts < 2 || maxAttempts > 5) {
    return yield* invalid("retry.maxAttempts", "must be a whole number from 2 to 5")
  }
  if (!Number.isFinite(multiplier) || multiplier < 1) {
    return yield* invalid("retry.multiplier", "must be finite and at least 1")
  }
  const initialDelay = yield* validateDuration("retry.initialDelay", retry.initialDelay, Duration.millis(50))
  const maxDelay = yield* validateDuration("retry.maxDelay", retry.maxDelay, Duration.seconds(1))
  if (Duration.isGreaterThan(initialDelay, maxDelay)) {
    return yield* invalid("retry.initialDelay", "must not be greater than retry.maxDelay")
  }
  return {
    maxAttempts,
    initialBackoff: secondsOf(initialDelay),
    maxBackoff: secondsOf(maxDelay),
    backoffMultiplier: multiplier,
    retryableStatusCodes: ["UNAVAILABLE"]
  }
})

/** As protobuf writes a duration in JSON. */
const secondsOf = (duration: Duration.Duration): string => `${(Duration.toMillis(duration) / 1000).toFixed(9)}s`

const parseKeepalive = Effect.fnUntraced(function*(keepalive: Keepalive | undefined) {
  if (keepalive === undefined) return {}
  const time = yield* validateDuration("keepalive.time", keepalive.time, Duration.infinity)
  const timeout = yield* validateDuration("keepalive.timeout", keepalive.timeout, Duration.seconds(20))
  if (!Duration.isFinite(time)) return yield* invalid("keepalive.time", "must be given")
  return {
    "grpc.keepalive_time_ms": Math.ceil(Duration.toMillis(time)),
    "grpc.keepalive_timeout_ms": Math.ceil(Duration.toMillis(timeout)),
    "grpc.keepalive_permit_without_calls": keepalive.withoutCalls === false ? 0 : 1
  }
})
