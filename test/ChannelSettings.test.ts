import { assert, describe, it } from "@effect/vitest"
import * as grpc from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { register } from "../src/internal/grpc/resolver.ts"
import { makeChannelSettings } from "../src/internal/grpc/settings.ts"
import { Registry } from "../src/Registry.ts"
import type { ChannelOptions } from "../src/ServiceChannel.ts"

// What callers without types may pass.
const settings = (options: unknown) => makeChannelSettings(options as ChannelOptions)

const configOf = (options: ChannelOptions) =>
  Effect.map(
    makeChannelSettings(options),
    (settings) => JSON.parse(String(settings.options["grpc.service_config"]))
  )

describe("the options of a channel", () => {
  for (
    const [option, value, names] of [
      ["loadBalancing", "round-robin", "loadBalancing"],
      ["loadBalancing", "grpclb", "loadBalancing"],
      ["loadBalancing", "", "loadBalancing"],
      ["loadBalancing", null, "loadBalancing"],
      ["loadBalancing", {}, "loadBalancing"],
      ["loadBalancing", { zone: "a", hashHeader: "b" }, "loadBalancing"],
      ["loadBalancing", { zone: "a", spilBelow: 2 }, "loadBalancing"],
      ["loadBalancing", { zone: "" }, "loadBalancing.zone"],
      ["loadBalancing", { zone: 1 }, "loadBalancing.zone"],
      ["loadBalancing", { zone: "a", spillBelow: 0 }, "loadBalancing.spillBelow"],
      ["loadBalancing", { hashHeader: "x user" }, "loadBalancing.hashHeader"],
      ["loadBalancing", { hashHeader: "key-bin" }, "loadBalancing.hashHeader"],
      ["credentials", {}, "credentials"],
      ["timeout", "soon", "timeout"],
      ["timeout", 0, "timeout"],
      ["timeout", "30 days", "timeout"],
      ["filter", "zone", "filter"],
      ["onEmpty", "wait", "onEmpty"],
      ["subset", 0, "subset"],
      ["subset", 1.5, "subset"],
      ["retry", { maxAttempts: 1 }, "retry.maxAttempts"],
      ["retry", { maxAttempts: 6 }, "retry.maxAttempts"],
      ["retry", { multiplier: 0.5 }, "retry.multiplier"],
      ["retry", { initialDelay: "2 seconds" }, "retry.initialDelay"],
      ["retry", { maxDelay: "never" }, "retry.maxDelay"],
      ["keepalive", {}, "keepalive.time"],
      ["keepalive", { time: -1 }, "keepalive.time"],
      ["keepalive", { time: 1000, timeout: 0 }, "keepalive.timeout"],
      ["channelOptions", { "grpc.service_config": "{" }, "channelOptions.grpc.service_config"],
      ["channelOptions", { "grpc.service_config": "[]" }, "channelOptions.grpc.service_config"],
      ["channelOptions", { "grpc.service_config": "{\"methodConfig\":{}}" }, "channelOptions.grpc.service_config"],
      [
        "channelOptions",
        { "grpc.service_config": "{\"loadBalancingPolicy\":\"round_robin\"}" },
        "channelOptions.grpc.service_config"
      ]
    ] as const
  ) {
    it.effect(`${option} ${JSON.stringify(value)} is refused`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(settings({ [option]: value }))
        assert.deepStrictEqual([error._tag, error.option], ["InvalidOption", names])
      }))
  }

  it.effect("every kind of load balancing is one that grpc-js knows", () =>
    Effect.gen(function*() {
      register()
      for (
        const loadBalancing of [
          "round_robin",
          "pick_first",
          "weighted",
          "least_request",
          { zone: "eu-1" },
          { hashHeader: "X-User" }
        ] as const
      ) {
        const { loadBalancingConfig } = yield* configOf({ loadBalancing })
        const parsed = grpc.experimental.parseLoadBalancingConfig(loadBalancingConfig[0])
        assert.match(parsed.getLoadBalancerName(), /^effect_coord/)
        assert.deepStrictEqual(parsed.toJsonObject(), loadBalancingConfig[0])
      }
    }))

  it.effect("without options: round robin, no retry, no deadline, no proxy", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* configOf({}), {
        loadBalancingConfig: [{ effect_coord: { kind: "round_robin" } }],
        methodConfig: []
      })
      const settings = yield* makeChannelSettings({})
      assert.strictEqual(settings.timeout, Infinity)
      assert.strictEqual(settings.options["grpc.enable_http_proxy"], 0)
    }))

  it.effect("retry joins what the given service config says of methods", () =>
    Effect.gen(function*() {
      const named = { name: [{ service: "test.Echo" }], timeout: "1s" }
      const config = yield* configOf({
        retry: { initialDelay: "10 millis" },
        channelOptions: { "grpc.service_config": JSON.stringify({ methodConfig: [named] }) }
      })
      assert.deepStrictEqual(config.methodConfig, [named, {
        name: [{}],
        retryPolicy: {
          maxAttempts: 3,
          initialBackoff: "0.010000000s",
          maxBackoff: "1.000000000s",
          backoffMultiplier: 2,
          retryableStatusCodes: ["UNAVAILABLE"]
        }
      }])
    }))

  it.effect("what grpc-js itself refuses is a typed error too, of channels and of targets", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      const channelOptions = { "grpc.service_config": "{\"methodConfig\":[{}]}" }
      for (
        const error of [
          yield* Effect.flip(registry.channel("echo", { channelOptions })),
          yield* Effect.flip(registry.target("echo", { channelOptions }))
        ]
      ) {
        assert.deepStrictEqual(error._tag === "InvalidOption" && error.option, "channelOptions")
      }
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))

  it.effect("names and classes that are none, and what is no option of a target", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      assert.strictEqual((yield* Effect.flip(registry.channel(""))).message, "invalid key \"\": must not be empty")
      assert.strictEqual((yield* Effect.flip(registry.channel("a/b")))._tag, "InvalidKey")
      const wrong = yield* Effect.flip(registry.client((() => {}) as never, "echo"))
      assert.deepStrictEqual(wrong._tag === "InvalidOption" && wrong.option, "constructor")
      for (const options of [{ timeout: 1000 }, { credentials: grpc.credentials.createInsecure() }]) {
        assert.strictEqual((yield* Effect.flip(registry.target("echo", options as never)))._tag, "InvalidOption")
      }
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))
})
