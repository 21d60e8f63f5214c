import { assert, describe, it } from "@effect/vitest"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Etcd, Operation } from "../src/Etcd.ts"
import { EtcdConfigProvider } from "../src/EtcdConfigProvider.ts"
import { layerEtcdPort } from "../src/EtcdLive.ts"
import { EtcdMemory, layerMemory as layerStore } from "../src/EtcdMemory.ts"
import * as CoordTesting from "../src/testing.ts"
import { configProviderContract } from "./contract/ConfigProviderContract.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { makeConfigClient } from "./utils/configClient.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { within } from "./utils/virtual.ts"

configProviderContract("Effect's configuration on memory", layerMemory())
configProviderContract("Effect's configuration on etcd 3.5", layerServer("3.5"))
configProviderContract("Effect's configuration on etcd 3.4", layerServer("3.4"))

const fallback = ConfigProvider.fromUnknown({ PORT: "1" })

const makeProgram = Effect.gen(function*() {
  const client = yield* makeConfigClient(yield* EtcdMemory.make())
  yield* client.put("PORT", "8080")
  const provided = EtcdConfigProvider.layer({ fallback }).pipe(Layer.provide(Layer.succeed(Etcd, client.port.etcd)))
  return { ...client, provided }
})

describe("an outage", () => {
  it.effect("is an error of the source, whatever defaults and fallbacks there are", () =>
    Effect.gen(function*() {
      const { link, provided } = yield* makeProgram
      const port = Config.Port("PORT")
      const read = Effect.all({
        plain: Effect.result(port),
        withDefault: Effect.result(port.pipe(Config.withDefault(2))),
        optional: Effect.result(Config.option(port))
      }).pipe(Effect.provide(provided))
      for (const trouble of ["refuse", "lose"] as const) {
        yield* trouble === "refuse" ? link.refuse : link.setFate(() => ({ response: "lost" }))
        const reading = yield* Effect.forkChild(read)
        yield* TestClock.adjust("5 minutes")
        const results = yield* Fiber.join(reading)
        for (const [name, result] of Object.entries(results)) {
          assert.strictEqual(result._tag, "Failure", name)
          if (result._tag !== "Failure") continue
          const { cause } = result.failure
          assert.strictEqual(cause._tag, "SourceError")
          assert.include(cause.message, "/config/PORT")
          assert.deepInclude((cause as ConfigProvider.SourceError).cause, { _tag: "EtcdError" })
        }
        yield* link.accept
      }
    }))

  it.effect("that ends while it is asked costs only time", () =>
    Effect.gen(function*() {
      const { link, provided } = yield* makeProgram
      yield* link.refuse
      const reading = yield* Effect.forkChild(Effect.provide(Config.Port("PORT"), provided))
      yield* TestClock.adjust("150 millis")
      yield* link.accept
      yield* TestClock.adjust("150 millis")
      assert.strictEqual(yield* Fiber.join(reading), 8080)
    }))

  it.effect("does not hold back who is interrupted", () =>
    Effect.gen(function*() {
      const { link, provided } = yield* makeProgram
      yield* link.partition
      const reading = yield* Effect.forkChild(Effect.provide(Config.Port("PORT"), provided), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      // No time passes.
      yield* Fiber.interrupt(reading)
    }))

  it.effect("is none for the others of the process, wherever one of them is interrupted", () =>
    Effect.gen(function*() {
      const steps = yield* interruptAtEveryStep({
        setup: Effect.gen(function*() {
          const program = yield* makeProgram
          yield* program.link.setFate(() => ({ request: "100 millis", response: "100 millis" }))
          const context = yield* Layer.build(program.provided)
          const read = Effect.provideContext(Config.Port("PORT"), context)
          // At the same time: the two may share a call.
          return { read, beside: yield* Effect.forkScoped(read) }
        }),
        run: ({ read }) => read,
        check: ({ beside, read }) =>
          Effect.gen(function*() {
            assert.strictEqual(yield* within("1 second", Fiber.join(beside)), 8080)
            assert.strictEqual(yield* within("1 second", read), 8080)
          })
      })
      assert.isAbove(steps, 20)
    }))

  it.live("of a real server is one, and reading works again with the server", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      yield* server.etcdctl("put", "/config/orders/PORT", "8080")
      yield* Effect.gen(function*() {
        const port = Config.Port("PORT").pipe(Config.withDefault(2))
        assert.strictEqual(yield* port, 8080)
        yield* server.kill
        assert.strictEqual((yield* Effect.flip(port)).cause._tag, "SourceError")
        yield* server.start
        assert.strictEqual(yield* port, 8080)
      }).pipe(
        Effect.provide(
          EtcdConfigProvider.layer({ prefix: "/config/orders" }).pipe(
            Layer.provide(
              layerEtcdPort({ endpoints: server.endpoint, retry: { maxAttempts: 20, maxDelay: "500 millis" } })
            )
          )
        )
      )
    }).pipe(Effect.scoped), 60_000)

  it.effect("the end of the client is one too", () =>
    Effect.gen(function*() {
      const store = yield* EtcdMemory.make()
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        EtcdConfigProvider.layer().pipe(Layer.provide(layerStore(store))),
        scope
      )
      yield* Scope.close(scope, Exit.void)
      const error = yield* Effect.flip(Effect.provideContext(Config.option(Config.Port("PORT")), context))
      assert.strictEqual(error.cause._tag, "SourceError")
    }))
})

describe("the layer", () => {
  it.effect("falls back to the provider that was there, and below it to no other one", () =>
    Effect.gen(function*() {
      const read = Config.option(Config.Port("PORT"))
      const inner = Effect.provide(read, EtcdConfigProvider.layer())
      assert.deepInclude(yield* inner.pipe(Effect.provide(ConfigProvider.layer(fallback))), { value: 1 })
      const none = Effect.provide(read, EtcdConfigProvider.layer({ fallback: ConfigProvider.fromUnknown({}) }))
      assert.deepInclude(yield* none.pipe(Effect.provide(ConfigProvider.layer(fallback))), { _tag: "None" })
    }).pipe(Effect.provide(CoordTesting.layer())))

  it.effect("is for one who would rather have the environment first, too: the provider alone", () =>
    Effect.gen(function*() {
      const { port, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* put("PORT", "8080")
      yield* put("HOST", "etcd")
      const layer = ConfigProvider.layerAdd(EtcdConfigProvider.make()).pipe(
        Layer.provide(Layer.merge(ConfigProvider.layer(fallback), Layer.succeed(Etcd, port.etcd)))
      )
      assert.deepStrictEqual(
        yield* Config.all([Config.Port("PORT"), Config.String("HOST")]).pipe(Effect.provide(layer)),
        [1, "etcd"]
      )
    }))

  it.effect("refuses a prefix that is none", () =>
    Effect.gen(function*() {
      for (const prefix of ["config", "/config/", "/", "/a//b"]) {
        const error = yield* Effect.flip(Effect.provide(Effect.void, EtcdConfigProvider.layer({ prefix })))
        assert.deepInclude(error, { _tag: "InvalidOption", option: "prefix" })
      }
    }).pipe(Effect.provide(CoordTesting.layer())))

  it.effect("reads a key and its folder at one revision: who moves from one to the other is seen in one of them", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const [{ link, port }, other] = [yield* makeConfigClient(memory), yield* makeConfigClient(memory)]
      yield* other.put("DB", "db-1")
      const layer = EtcdConfigProvider.layer({ fallback: ConfigProvider.fromUnknown({}) }).pipe(
        Layer.provide(Layer.succeed(Etcd, port.etcd))
      )
      yield* link.setFate(() => ({ request: "100 millis" }))
      const reading = yield* Effect.forkChild(Effect.provide(Config.option(Config.String("DB")), layer))
      yield* TestClock.adjust("150 millis")
      yield* other.port.etcd.txn({
        success: [Operation.delete("/config/DB"), Operation.put("/config/DB/HOST", "db-1")]
      })
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* Fiber.join(reading), { value: "db-1" })
    }))

  it.effect("says no value in its errors", () =>
    Effect.gen(function*() {
      const { port, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* put("secret", "hunter2")
      const layer = EtcdConfigProvider.layer().pipe(Layer.provide(Layer.succeed(Etcd, port.etcd)))
      yield* port.etcd.txn({ success: [Operation.put("/config/bytes", Buffer.from("hunter2\u00ff", "latin1"))] })
      for (const read of [Effect.asVoid(Config.Port("secret")), Effect.asVoid(Config.String("bytes"))]) {
        const error = yield* Effect.flip(Effect.provide(read, layer))
        assert.notInclude(`${error.message} ${String(error.cause)}`, "hunter2")
      }
    }))
})
