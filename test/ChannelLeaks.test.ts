/** What is left of channels that were closed: nothing. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Etcd } from "../src/Etcd.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { Registry } from "../src/Registry.ts"
import { call, connected, Echo, startBackend } from "./grpc/echo.ts"
import { settle } from "./utils/virtual.ts"
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

describe("instances that have left", () => {
  it.live("are not connected to any more, while the channel is open", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      const stays = yield* startBackend("stays")
      yield* registry.register(stays.instance())
      const client = yield* registry.client(Echo, "echo")
      yield* connected(client, ["stays"])
      const before = sockets()
      const left = yield* Effect.forEach(Array.from({ length: 10 }, (_, index) => index), (index) =>
        Effect.gen(function*() {
          const backend = yield* startBackend(`leaves-${index}`)
          const registration = yield* registry.register(backend.instance())
          yield* connected(client, [backend.id])
          yield* registration.unregister
          return backend
        }))
      assert.isAbove(sockets(), before)
      assert.strictEqual(left.length, 10)
      // grpc-js closes what nobody uses every ten seconds, and whenever a channel is closed.
      const look = Effect.gen(function*() {
        yield* Effect.scoped(registry.client(Echo, "echo"))
        yield* Effect.sleep(10)
        return sockets()
      })
      yield* Effect.repeat(look, {
        until: (count) =>
          count <= before
      }).pipe(Effect.timeout("5 seconds"))
      assert.strictEqual(yield* call(client), "stays")
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))
})

describe("a scope that lives on", () => {
  it.effect("keeps nothing of a channel that failed or was interrupted", () =>
    Effect.gen(function*() {
      const port = makeCountingPort(yield* Effect.map(Layer.build(EtcdMemory.layer), Context.get(Etcd)))
      const registry = yield* Layer.build(Registry.layer().pipe(Layer.provide(Layer.succeed(Etcd, port.etcd)))).pipe(
        Effect.map(Context.get(Registry))
      )
      const channelOptions = { "grpc.service_config": "{\"methodConfig\":[{}]}" }
      assert.strictEqual((yield* Effect.flip(registry.channel("echo", { channelOptions })))._tag, "InvalidOption")
      assert.strictEqual((yield* Effect.flip(registry.target("echo", { channelOptions })))._tag, "InvalidOption")
      assert.strictEqual((yield* Effect.flip(registry.client((() => {}) as never, "echo")))._tag, "InvalidOption")
      yield* settle
      assert.strictEqual(port.watches().open, 1)
      // For as long as a watch outlives its last consumer.
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(port.watches().open, 0)

      port.beforeRange(() => Effect.never)
      const fiber = yield* Effect.forkChild(registry.channel("echo"))
      yield* settle
      yield* Fiber.interrupt(fiber)
      port.beforeRange(() => Effect.void)
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(port.watches().open, 0)
    }).pipe(Effect.scoped))
})
