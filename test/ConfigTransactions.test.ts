import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { ConfigCenter } from "../src/ConfigCenter.ts"
import { ConfigChange } from "../src/ConfigChange.ts"
import { Etcd } from "../src/Etcd.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { configTransactionsContract } from "./contract/ConfigTransactionsContract.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { makeConfigClient, timeout } from "./utils/configClient.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"

configTransactionsContract("configuration transactions on memory", layerMemory())
configTransactionsContract("configuration transactions on etcd 3.5", layerServer("3.5"))
configTransactionsContract("configuration transactions on etcd 3.4", layerServer("3.4"))

const reasonOf = (error: { readonly _tag: string }): string =>
  "reason" in error ? (error.reason as { readonly _tag: string })._tag : error._tag

describe("bad input", () => {
  /** A port on which nothing may be asked. */
  const untouched = Layer.succeed(
    Etcd,
    new Proxy({} as Etcd["Service"], {
      get: (_, operation) => () => {
        throw new Error(`${String(operation)} was called`)
      }
    })
  )

  it.effect("is refused before anything is sent", () =>
    Effect.gen(function*() {
      const config = yield* ConfigCenter
      const twice = yield* Effect.flip(config.transact([
        ConfigChange.set("key", Schema.Int, 1),
        ConfigChange.delete("key")
      ]))
      assert.deepInclude(twice, { _tag: "InvalidKey", key: "key" })
      for (
        const change of [ConfigChange.check("/a", 0n), ConfigChange.delete("a/"), ConfigChange.set("", Schema.Int, 1)]
      ) {
        assert.strictEqual(
          (yield* Effect.flip(config.transact([ConfigChange.check("good", 0n), change])))._tag,
          "InvalidKey"
        )
      }
      const wrong = yield* Effect.flip(config.transact([
        ConfigChange.set("good", Schema.Int, 1),
        ConfigChange.set("bad", Schema.Int, 0.5)
      ]))
      assert.deepInclude(wrong, { _tag: "ConfigEncodeError", key: "bad" })
      assert.strictEqual((yield* Effect.flip(config.rollback("a//b", 1n)))._tag, "InvalidKey")
      assert.strictEqual((yield* Effect.flip(Stream.runDrain(config.history("/a", Schema.Int))))._tag, "InvalidKey")
    }).pipe(Effect.provide(ConfigCenter.layer().pipe(Layer.provide(untouched)))))
})

describe("a transaction whose answer was lost", () => {
  const makeWorld = Effect.gen(function*() {
    const store = yield* EtcdMemory.make()
    const client = yield* makeConfigClient(store)
    const other = yield* makeConfigClient(store)
    return { store, client, other, a: yield* other.put("a", "1"), b: yield* other.put("b", "1") }
  })
  type World = Effect.Success<typeof makeWorld>

  const lost = Effect.fnUntraced(function*(options: {
    readonly changes: (world: World) => ReadonlyArray<ConfigChange>
    /** How the request travels. */
    readonly request?: "10 seconds"
    /** After it was sent, while nobody answers. */
    readonly after?: (world: World) => Effect.Effect<unknown, unknown>
  }) {
    const world = yield* makeWorld
    const { client, other } = world
    yield* client.link.setFate((operation) => operation === "txn" ? { request: options.request, response: "lost" } : {})
    const fiber = yield* Effect.forkChild(Effect.flip(client.config.transact(options.changes(world))))
    yield* TestClock.adjust("1 second")
    yield* options.after?.(world) ?? Effect.void
    yield* TestClock.adjust(timeout)
    const error = yield* Fiber.join(fiber)
    yield* TestClock.adjust("1 minute")
    const entries = yield* other.config.entries("", Schema.Int)
    return { ...world, error, stored: entries.map(({ key, value }) => `${key}=${value}`) }
  })

  const both = ({ a, b }: World) => [
    ConfigChange.set("a", Schema.Int, 2, { expected: a }),
    ConfigChange.delete("b", { expected: b })
  ]

  it.effect("is ambiguous when it was applied, and when it may still be, which it then is", () =>
    Effect.gen(function*() {
      const applied = yield* lost({ changes: both })
      assert.strictEqual(reasonOf(applied.error), "Ambiguous")
      assert.deepStrictEqual(applied.stored, ["a=2"])
      const late = yield* lost({ changes: both, request: "10 seconds" })
      assert.strictEqual(reasonOf(late.error), "Ambiguous")
      assert.deepStrictEqual(late.stored, ["a=2"])
    }))

  it.effect("is a conflict that names the key that another one wrote first, and is not applied later", () =>
    Effect.gen(function*() {
      const { a, b, error, stored } = yield* lost({
        changes: both,
        request: "10 seconds",
        after: ({ other }) => other.put("a", "3")
      })
      assert.strictEqual(error._tag, "TransactionConflict")
      if (error._tag !== "TransactionConflict") return
      assert.deepStrictEqual(error.conflicts.map(({ actual, expected, key }) => [key, expected, actual]), [
        ["a", a, b + 1n]
      ])
      assert.deepStrictEqual(stored, ["a=3", "b=1"])
    }))

  it.effect("is a conflict when a key that it deletes was written first", () =>
    Effect.gen(function*() {
      const { b, error, stored } = yield* lost({
        changes: both,
        request: "10 seconds",
        after: ({ other }) => other.put("b", "3")
      })
      assert.deepInclude(error, { _tag: "TransactionConflict" })
      assert.include(error.message, `"b" has version ${b + 1n}, expected version ${b}`)
      assert.deepStrictEqual(stored, ["a=1", "b=3"])
    }))

  it.effect("is ambiguous when the same deletion came first: it may be its own", () =>
    Effect.gen(function*() {
      const { error } = yield* lost({
        changes: both,
        request: "10 seconds",
        after: ({ other }) => other.config.delete("b")
      })
      assert.strictEqual(reasonOf(error), "Ambiguous")
    }))

  it.effect("is ambiguous when a key that it only checks went on: it may have been applied before that, as it was", () =>
    Effect.gen(function*() {
      const { error, stored } = yield* lost({
        changes: ({ a }) => [ConfigChange.check("a", a), ConfigChange.set("b", Schema.Int, 2)],
        after: ({ other }) => other.put("a", "3")
      })
      assert.strictEqual(reasonOf(error), "Ambiguous")
      assert.deepStrictEqual(stored, ["a=3", "b=2"])
    }))

  it.effect("is asked again when it writes nothing", () =>
    Effect.gen(function*() {
      const { a, client } = yield* makeWorld
      let sent = 0
      yield* client.link.refuse
      const fiber = yield* Effect.forkChild(client.config.transact([ConfigChange.check("a", a)]))
      yield* TestClock.adjust("50 millis")
      yield* client.link.accept
      yield* client.link.setFate(() => (sent++, {}))
      yield* TestClock.adjust("1 minute")
      assert.isTrue((yield* Fiber.join(fiber)) >= a)
      assert.strictEqual(sent, 1)
    }))
})

describe("history and rollback under faults", () => {
  it.effect("another history in the middle of one is told", () =>
    Effect.gen(function*() {
      for (const rewritten of ["other", "key"]) {
        const store = yield* EtcdMemory.make()
        const { config, put } = yield* makeConfigClient(store)
        yield* put("other", "1")
        const snapshot = yield* store.snapshot
        for (const value of ["1", "2", "3"]) yield* put("key", value)
        const told: Array<string> = []
        const error = yield* config.history("key", Schema.Int).pipe(
          Stream.runForEach((entry) =>
            Effect.gen(function*() {
              told.push(entry._tag)
              yield* store.restore(snapshot)
              yield* put("other", "2")
              for (let i = 0; i < 5; i++) yield* put(rewritten, "9")
            })
          ),
          Effect.flip
        )
        assert.strictEqual(reasonOf(error), "HistoryLost")
        assert.deepStrictEqual(told, ["Put"])
      }
    }))

  it.effect("an outage fails a rollback before it writes, and a lost answer is ambiguous", () =>
    Effect.gen(function*() {
      const { config, link, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      const first = yield* put("key", "1")
      yield* put("key", "2")
      yield* link.refuse
      const refused = yield* Effect.forkChild(Effect.flip(config.rollback("key", first)))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(reasonOf(yield* Fiber.join(refused)), "Unavailable")
      yield* link.accept
      yield* link.setFate((operation) => operation === "txn" ? { response: "lost" } : {})
      const lost = yield* Effect.forkChild(Effect.flip(config.rollback("key", first)))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(reasonOf(yield* Fiber.join(lost)), "Ambiguous")
      assert.strictEqual(yield* config.get("key", Schema.Int), 1)
    }))

  it.effect("somebody who writes between its read and its write is not overwritten", () =>
    Effect.gen(function*() {
      const store = yield* EtcdMemory.make()
      const { config, link, put } = yield* makeConfigClient(store)
      const other = yield* makeConfigClient(store)
      const first = yield* put("key", "1")
      yield* put("key", "2")
      yield* link.setFate((operation) => operation === "txn" ? { request: "1 second" } : {})
      const rollback = yield* Effect.forkChild(Effect.flip(config.rollback("key", first)))
      yield* TestClock.adjust("500 millis")
      yield* other.put("key", "3")
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* Fiber.join(rollback), { _tag: "VersionConflict", key: "key" })
      assert.strictEqual(yield* other.config.get("key", Schema.Int), 3)
    }))
})

describe("interrupted at any step", () => {
  it.effect(
    "a transaction is there as a whole or not at all, and so is a rollback",
    () =>
      Effect.gen(function*() {
        let complete = 0
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const store = yield* EtcdMemory.make()
            const client = yield* makeConfigClient(store)
            const first = yield* client.put("a", "1")
            yield* client.put("a", "2")
            yield* client.link.setFate(() => ({ request: "200 millis", response: "200 millis" }))
            return { client, other: yield* makeConfigClient(store), first }
          }),
          run: ({ client: { config }, first }) =>
            Effect.gen(function*() {
              const expected = yield* config.rollback("a", first)
              yield* config.transact([
                ConfigChange.set("a", Schema.Int, 3, { expected }),
                ConfigChange.set("b", Schema.Int, 3, { expected: 0n })
              ])
            }),
          check: ({ other }, exit) =>
            Effect.gen(function*() {
              yield* TestClock.adjust("1 minute")
              const entries = (yield* other.config.entries("", Schema.Int)).map(({ key, value }) => `${key}=${value}`)
              const at = ["a=2", "a=1", "a=3,b=3"].indexOf(entries.join())
              assert.isAtLeast(at, Exit.isSuccess(exit) ? 2 : 0, entries.join())
              complete += at === 2 ? 1 : 0
            })
        })
        assert.isAbove(steps, 50)
        assert.isAbove(complete, 1)
      }),
    120_000
  )
})
