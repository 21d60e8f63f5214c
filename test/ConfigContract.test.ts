import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { ConfigCenter } from "../src/ConfigCenter.ts"
import { layerEtcdPort } from "../src/EtcdLive.ts"
import { configContract } from "./contract/ConfigContract.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"
import { makeProxy } from "./utils/Proxy.ts"

configContract("the configuration center on memory", layerMemory())
configContract("the configuration center on etcd 3.5", layerServer("3.5"))
configContract("the configuration center on etcd 3.4", layerServer("3.4"))

describe("the configuration center and etcdctl", () => {
  const Limits = Schema.Struct({ max: Schema.Int })

  const connect = (endpoint: string) =>
    Effect.map(
      Layer.build(
        ConfigCenter.layer().pipe(Layer.provide(layerEtcdPort({ endpoints: endpoint, timeout: "1 second" })))
      ),
      (context) => Context.get(context, ConfigCenter)
    )

  it.live("read what the other writes, and a restart in between loses no event", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const config = yield* connect(server.endpoint)
      yield* server.etcdctl("put", "/config/api/name", "bare text")
      yield* server.etcdctl("put", "/config/api/limits", "{\"max\": 1}")
      assert.strictEqual(yield* config.get("api/name", Schema.String), "bare text")
      const live = yield* config.live("api/limits", Limits)
      const watching = yield* Latch.make()
      const events = yield* config.watchPrefix("api", Schema.Unknown).pipe(
        Stream.tap((event) => event._tag === "Synced" ? watching.open : Effect.void),
        Stream.filter((event) => event._tag !== "Synced"),
        Stream.take(6),
        Stream.runCollect,
        Effect.forkChild
      )
      yield* watching.await
      yield* config.set("api/limits", Limits, { max: 2 })
      assert.strictEqual(
        yield* server.etcdctl("get", "--print-value-only", "/config/api/limits"),
        "{\"max\":2}\n"
      )
      yield* server.kill
      assert.isTrue((yield* live.get).max >= 1)
      yield* server.start
      yield* server.etcdctl("put", "/config/api/limits", "{\"max\": 3}")
      yield* server.etcdctl("put", "/config/api/limits", "{\"max\": 4}")
      yield* server.etcdctl("del", "/config/api/name")
      const seen = yield* Fiber.join(events).pipe(Effect.timeout("30 seconds"))
      assert.deepStrictEqual(
        seen.map((event) => event._tag === "Put" && event.key === "api/limits" ? event.value : event._tag),
        // The bare text is no JSON.
        ["Invalid", { max: 1 }, { max: 2 }, { max: 3 }, { max: 4 }, "Delete"]
      )
      yield* live.changes.pipe(
        Stream.filter((limits) => limits.max === 4),
        Stream.runHead,
        Effect.timeout("30 seconds")
      )
    }).pipe(Effect.scoped))

  it.live("a lost answer on the wire is ambiguous, whatever was done", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const proxy = yield* makeProxy({ port: server.port })
      const config = yield* connect(proxy.endpoint)
      const version = yield* config.set("key", Schema.Int, 1)
      yield* proxy.dropResponses
      const lost = yield* Effect.exit(config.compareAndSet("key", Schema.Int, 2, version))
      yield* proxy.passResponses
      yield* proxy.cut
      const error = Exit.isFailure(lost)
        ? lost.cause.reasons.map((reason) => JSON.stringify(reason, bigints)).join()
        : ""
      assert.include(error, "Ambiguous")
      // It was applied, as the history says.
      assert.strictEqual(yield* server.etcdctl("get", "--print-value-only", "/config/key"), "2\n")
      const stale = yield* Effect.flip(config.compareAndSet("key", Schema.Int, 3, version))
      assert.deepInclude(stale, { _tag: "VersionConflict", expected: version, actual: version + 1n })
    }).pipe(Effect.scoped))
})

const bigints = (_: string, value: unknown): unknown => typeof value === "bigint" ? String(value) : value
