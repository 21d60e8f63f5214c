/** What is left of channels that were closed: nothing. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Etcd } from "../src/Etcd.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { Registry } from "../src/Registry.ts"
import { call, Echo, startBackend } from "./grpc/echo.ts"
import { makeCountingPort } from "./utils/watching.ts"

const collectGarbage = Effect.sync(() => {
  setFlagsFromString("--expose-gc")
  const collect: unknown = runInNewContext("gc")
  if (typeof collect === "function") collect()
})

const heap = Effect.gen(function*() {
  // What is closed lets go over a few turns.
  for (let index = 0; index < 3; index++) {
    yield* Effect.sleep(20)
    yield* collectGarbage
  }
  return process.memoryUsage().heapUsed
})

const sockets = () => process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length

describe("1,000 channels, opened, called and closed", () => {
  it.live("leave no watch, no socket and no memory", () =>
    Effect.gen(function*() {
      const inner = yield* Effect.map(Layer.build(EtcdMemory.layer), Context.get(Etcd))
      const port = makeCountingPort(inner)
      const scope = yield* Scope.make()
      const registry = yield* Layer.build(Registry.layer().pipe(Layer.provide(Layer.succeed(Etcd, port.etcd)))).pipe(
        Effect.map(Context.get(Registry)),
        Scope.provide(scope)
      )
      const backend = yield* startBackend("a")
      yield* Scope.provide(registry.register(backend.instance()), scope)
      const cycle = Effect.scoped(Effect.gen(function*() {
        const client = yield* registry.client(Echo, "echo")
        yield* call(client)
      }))
      yield* Effect.replicateEffect(cycle, 200, { discard: true })
      const before = { heap: yield* heap, sockets: sockets() }
      yield* Effect.replicateEffect(cycle, 500, { discard: true })
      yield* Effect.replicateEffect(cycle, 500, { concurrency: 10, discard: true })
      const grown = (yield* heap) - before.heap
      assert.isAtMost(sockets(), before.sockets)
      // One that is kept is some 20 kB; what the runtime compiles and caches, and grpc-js with any channel, is noise beside that.
      assert.isBelow(grown, 4_000_000, `${grown} bytes for 1,000 channels`)
      // One for the registration, and one that all channels shared.
      assert.isAtMost(port.watches().total, 2)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(port.watches().open, 0)
      assert.strictEqual(sockets(), 0)
    }).pipe(Effect.scoped), 60_000)

  it.live("interrupted at whatever moment, they leave none either", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      const backend = yield* startBackend("a")
      yield* registry.register(backend.instance())
      const cycle = (index: number) =>
        Effect.scoped(Effect.gen(function*() {
          const client = yield* registry.client(Echo, `echo-${index % 3}`)
          yield* Effect.exit(call(client))
        })).pipe(
          Effect.timeoutOption(index % 7)
        )
      yield* Effect.forEach(Array.from({ length: 300 }, (_, index) => index), cycle, { concurrency: 20, discard: true })
      yield* Effect.sleep(50)
      assert.strictEqual(sockets(), 0)
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)), 60_000)
})
