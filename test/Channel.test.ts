import { assert, describe, it } from "@effect/vitest"
import * as grpc from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { Registry } from "../src/Registry.ts"
import { call, connected, Echo, startBackend, tally } from "./grpc/echo.ts"

describe("a channel", () => {
  it.live("spreads calls over the instances, and follows them", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      const [a, b, c] = yield* Effect.all([startBackend("a"), startBackend("b"), startBackend("c")])
      yield* registry.register(a.instance())
      const second = yield* registry.register(b.instance())
      const client = yield* registry.client(Echo, "echo")
      yield* connected(client, ["a", "b"])
      assert.deepStrictEqual(yield* tally(client, 30), { a: 15, b: 15 })
      yield* registry.register(c.instance())
      yield* connected(client, ["c"])
      assert.deepStrictEqual(yield* tally(client, 30), { a: 10, b: 10, c: 10 })
      yield* second.unregister
      yield* Effect.sleep(100)
      assert.deepStrictEqual(yield* tally(client, 30), { a: 15, c: 15 })
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))
  it.live("of a service that nobody is", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      const client = yield* registry.client(Echo, "echo")
      const error = yield* Effect.flip(call(client, { deadline: 5000 }))
      assert.strictEqual(error.code, grpc.status.UNAVAILABLE)
      assert.strictEqual(error.details, "no instance of \"echo\": 0 known")
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))
})
