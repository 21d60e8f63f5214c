import { assert, describe, it, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { Etcd } from "../src/Etcd.ts"
import type { EtcdError } from "../src/EtcdError.ts"
import { layerEtcdPort } from "../src/EtcdLive.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { StoreId } from "../src/internal/memory/Store.ts"
import { layerKeyValueStore, makeKeyValueStore } from "../src/KeyValueStore.ts"
import { keyValueStoreContract } from "./contract/KeyValueStoreContract.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { makeConfigClient } from "./utils/configClient.ts"
import { TestEtcd } from "./utils/EtcdServer.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"

const on = (port: Layer.Layer<Etcd, unknown>) =>
  layerKeyValueStore({ prefix: "/kv/contract" }).pipe(Layer.provide(port))

keyValueStoreContract("Effect's store in memory", KeyValueStore.layerMemory)
keyValueStoreContract("the store on memory", on(layerMemory()))
keyValueStoreContract("the store on etcd 3.5", on(layerServer("3.5")))
keyValueStoreContract("the store on etcd 3.4", on(layerServer("3.4")))
keyValueStoreContract(
  "the store on etcd 3.5, of entries that expire",
  layerKeyValueStore({ timeToLive: "1 hour" }).pipe(Layer.provide(layerServer("3.5")))
)

const makeClient = Effect.fnUntraced(function*(
  memory: Effect.Success<ReturnType<typeof EtcdMemory.make>>,
  timeToLive?: "10 seconds" | "100 seconds"
) {
  const client = yield* makeConfigClient(memory)
  const store = yield* makeKeyValueStore({ timeToLive }).pipe(Effect.provideService(Etcd, client.port.etcd))
  return { ...client, store, etcd: client.port.etcd }
})

const reasonOf = (error: KeyValueStore.KeyValueStoreError): string => (error.cause as EtcdError).reason._tag

describe("in etcd", () => {
  it.effect("text is stored as it is, bytes behind a mark, and what others have written is read", () =>
    Effect.gen(function*() {
      const { etcd, store } = yield* makeClient(yield* EtcdMemory.make())
      yield* store.set("text", "plain")
      yield* store.set("bytes", Uint8Array.of(0x68, 0x69))
      const { kvs } = yield* etcd.range({ prefix: "/kv/" })
      assert.deepStrictEqual(kvs.map(({ key, lease, value }) => [key, Buffer.from(value).toString("latin1"), lease]), [
        ["/kv/bytes", "\u00ffhi", 0n],
        ["/kv/text", "plain", 0n]
      ])
      yield* etcd.txn({ success: [{ _tag: "Put", key: "/kv/foreign", value: Uint8Array.of(0x80, 1) }] })
      assert.strictEqual(yield* store.get("foreign"), "gAE=")
      assert.deepStrictEqual(yield* store.getUint8Array("foreign"), Uint8Array.of(0x80, 1))
    }))

  it.effect("a store sees and clears what is below its prefix alone", () =>
    Effect.gen(function*() {
      const { etcd } = yield* makeClient(yield* EtcdMemory.make())
      const make = (prefix: string) => makeKeyValueStore({ prefix }).pipe(Effect.provideService(Etcd, etcd))
      const [one, other] = [yield* make("/kv/a"), yield* make("/kv/ab")]
      yield* one.set("key", "1")
      yield* other.set("key", "2")
      yield* one.clear
      assert.deepStrictEqual([yield* one.size, yield* other.size], [0, 1])
    }))

  it.effect("keys and values that are no Unicode are refused, by name, and never the value", () =>
    Effect.gen(function*() {
      const { etcd, store } = yield* makeClient(yield* EtcdMemory.make())
      for (const key of ["\ud800", "a\udfff", "\udcc3\udca9"]) {
        for (
          const call of [store.get(key), store.has(key), store.set(key, "x"), store.remove(key), store.clearPrefix(key)]
        ) {
          assert.deepInclude(yield* Effect.flip(Effect.asVoid(call)), { _tag: "KeyValueStoreError", key })
        }
      }
      const error = yield* Effect.flip(store.set("key", "hunter2\ud800"))
      assert.deepInclude(error, { method: "set", key: "key" })
      assert.notInclude(error.message, "hunter2")
      yield* store.set("key", "fine")
      assert.strictEqual((yield* Effect.flip(store.modify("key", () => "\ud800"))).method, "modify")
      assert.strictEqual((yield* etcd.range({ prefix: "" })).count, 1)
    }))

  it.effect("a prefix or a time to live that makes no sense fails the layer, by name", () =>
    Effect.gen(function*() {
      const failing = (options: Parameters<typeof makeKeyValueStore>[0]) => Effect.flip(makeKeyValueStore(options))
      assert.deepInclude(yield* failing({ prefix: "kv" }), { _tag: "InvalidOption", option: "prefix" })
      assert.deepInclude(yield* failing({ timeToLive: "10 millis" }), { _tag: "InvalidOption", option: "timeToLive" })
    }).pipe(Effect.provide(layerMemory())))
})

describe("entries that expire", () => {
  it.effect("are there for their time, begin it anew when they are written, and outlive who wrote them", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const reader = yield* makeClient(memory)
      yield* Effect.scoped(Effect.gen(function*() {
        const { store } = yield* makeClient(memory, "10 seconds")
        yield* store.set("once", "1")
        yield* store.set("again", "1")
        yield* TestClock.adjust("9 seconds")
        yield* store.modify("again", (text) => `${text}!`)
      }))
      assert.strictEqual(yield* reader.store.size, 2)
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(yield* reader.store.keys, ["again"])
      yield* TestClock.adjust("7 seconds")
      assert.strictEqual(yield* reader.store.get("again"), "1!")
      yield* TestClock.adjust("3 seconds")
      assert.isTrue(yield* reader.store.isEmpty)
    }))

  it.effect("share leases, and none goes before its time", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const { etcd, store } = yield* makeClient(memory, "100 seconds")
      const written = new Map<string, number>()
      for (let second = 0; second < 60; second++) {
        for (let i = 0; i < 2; i++) {
          yield* store.set(`${second}-${i}`, "x")
          written.set(`${second}-${i}`, second)
        }
        yield* TestClock.adjust("1 second")
      }
      const { kvs } = yield* etcd.range({ prefix: "/kv/" })
      assert.strictEqual(new Set(kvs.map(({ lease }) => lease)).size, 6)
      for (let second = 60; second < 180; second++) {
        const keys = new Set(yield* store.keys)
        for (const [key, at] of written) {
          if (second < at + 100) assert.isTrue(keys.has(key), `${key} is gone at ${second}`)
          if (second > at + 112) assert.isFalse(keys.has(key), `${key} is still there at ${second}`)
        }
        yield* TestClock.adjust("1 second")
      }
      assert.isTrue(yield* store.isEmpty)
    }))

  it.effect("are never too many on one lease, and written at once they ask for no more leases than that", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const { etcd, link, store } = yield* makeClient(memory, "100 seconds")
      const keys = Array.from({ length: 600 }, (_, index) => String(index))
      yield* link.setFate(() => ({ response: "100 millis" }))
      const writing = yield* Effect.forkChild(
        Effect.forEach(keys, (key) => store.set(key, key), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(writing)
      assert.strictEqual(memory[StoreId].snapshot().leases.size, 3)
      yield* link.setFate(() => ({}))
      const { kvs } = yield* etcd.range({ prefix: "/kv/" })
      const counts = new Map<bigint, number>()
      for (const { lease } of kvs) counts.set(lease, (counts.get(lease) ?? 0) + 1)
      assert.deepStrictEqual([...counts.values()].toSorted((a, b) => b - a), [256, 256, 88])
    }))

  it.effect("are written on another lease when theirs was revoked, and go alone with it", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const { etcd, store } = yield* makeClient(memory, "100 seconds")
      yield* store.set("a", "1")
      const { kvs: [kv] } = yield* etcd.range({ key: "/kv/a" })
      yield* memory.revokeLease(kv?.lease ?? 0n)
      assert.isFalse(yield* store.has("a"))
      const writing = yield* Effect.forkChild(
        Effect.forEach(["b", "c"], (key) => store.set(key, key), { concurrency: 2 })
      )
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(writing)
      assert.strictEqual(yield* store.size, 2)
    }))

  it.effect(
    "interrupted at any step, it leaves a store that works",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const memory = yield* EtcdMemory.make()
            const client = yield* makeClient(memory, "10 seconds")
            yield* client.link.setFate(() => ({ request: "100 millis", response: "100 millis" }))
            return { ...client, memory }
          }),
          run: ({ store }) => Effect.andThen(store.set("a", "1"), store.modify("a", (text) => `${text}2`)),
          check: ({ link, memory, store }, exit) =>
            Effect.gen(function*() {
              yield* link.setFate(() => ({}))
              // What was on its way arrives.
              yield* TestClock.adjust("1 second")
              const a = yield* store.get("a")
              assert.include(Exit.isSuccess(exit) ? ["12"] : [undefined, "1", "12"], a)
              yield* store.set("b", "3")
              assert.strictEqual(yield* store.get("b"), "3")
              yield* TestClock.adjust("1 minute")
              assert.isTrue(yield* store.isEmpty)
              assert.strictEqual(memory[StoreId].snapshot().leases.size, 0)
            })
        })
        assert.isAbove(steps, 50)
      }),
    120_000
  )
})

describe("under faults", () => {
  it.effect("an outage is an error that names key and method, with the cause", () =>
    Effect.gen(function*() {
      const { link, store } = yield* makeClient(yield* EtcdMemory.make())
      yield* link.refuse
      const calls = {
        get: store.get("key"),
        getUint8Array: store.getUint8Array("key"),
        has: store.has("key"),
        set: store.set("key", "hunter2"),
        remove: store.remove("key"),
        modify: store.modify("key", (text) => text),
        modifyUint8Array: store.modifyUint8Array("key", (bytes) => bytes),
        clear: store.clear,
        clearPrefix: store.clearPrefix("k"),
        size: store.size,
        keys: store.keys
      }
      for (const [method, call] of Object.entries<Effect.Effect<unknown, KeyValueStore.KeyValueStoreError>>(calls)) {
        const failing = yield* Effect.forkChild(Effect.flip(call))
        yield* TestClock.adjust("1 minute")
        const error = yield* Fiber.join(failing)
        assert.strictEqual(error.method, method)
        assert.strictEqual(reasonOf(error), "Unavailable")
        assert.notInclude(error.message, "hunter2")
      }
    }))

  it.effect("in an outage all who write entries that expire are told in the time of one, and the next one tries again", () =>
    Effect.gen(function*() {
      const { link, store } = yield* makeClient(yield* EtcdMemory.make(), "100 seconds")
      yield* link.setFate((operation) => operation === "leaseGrant" ? { request: "lost" } : {})
      const writers = yield* Effect.forEach(
        ["a", "b", "c", "d"],
        (key) => Effect.forkChild(Effect.flip(store.set(key, "x")), { startImmediately: true })
      )
      yield* TestClock.adjust("11 seconds")
      for (const writer of writers) {
        const exit = writer.pollUnsafe()
        assert.isDefined(exit)
        assert.strictEqual(reasonOf(yield* exit ?? Effect.die("it waits")), "Timeout")
      }
      const late = yield* Effect.forkChild(store.set("e", "x"), { startImmediately: true })
      yield* TestClock.adjust("4 seconds")
      yield* link.setFate(() => ({}))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(late)
      assert.strictEqual(yield* store.get("e"), "x")
    }))

  it.effect("a lost answer to a write is ambiguous, and nothing is written twice", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const { link, store } = yield* makeClient(memory)
      const other = yield* makeClient(memory)
      yield* store.set("key", "1")
      let applied = 0
      yield* link.setFate((operation) => operation === "txn" ? { response: "lost" } : {})
      const modifying = yield* Effect.forkChild(Effect.flip(store.modify("key", (text) => {
        applied++
        return `${text}!`
      })))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(reasonOf(yield* Fiber.join(modifying)), "Ambiguous")
      assert.strictEqual(applied, 1)
      assert.strictEqual(yield* other.store.get("key"), "1!")
    }))

  it.effect("modify overwrites nobody: it begins again, and gives up when others are always faster", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const { link, store } = yield* makeClient(memory)
      const other = yield* makeClient(memory)
      yield* store.set("key", "0")
      yield* link.setFate((operation) => operation === "txn" ? { request: "1 second" } : {})
      for (const meddling of [1, 80]) {
        const seen: Array<string> = []
        const modifying = yield* Effect.forkChild(Effect.result(store.modify("key", (text) => {
          seen.push(text)
          return `${text}!`
        })))
        for (let i = 0; i < meddling; i++) {
          // At least once between each read and its write.
          yield* TestClock.adjust("500 millis")
          yield* other.store.set("key", `${meddling}-${i}`)
        }
        yield* TestClock.adjust("1 minute")
        const result = yield* Fiber.join(modifying)
        if (meddling === 1) {
          assert.deepInclude(result, { _tag: "Success", success: "1-0!" })
          assert.deepStrictEqual(seen, ["0", "1-0"])
        } else {
          assert.strictEqual(result._tag, "Failure")
          assert.strictEqual(seen.length, 31)
          assert.strictEqual(yield* other.store.get("key"), "80-79")
        }
      }
    }))

  it.effect("fibers that modify one entry are all counted, and soon", () =>
    Effect.gen(function*() {
      const memory = yield* EtcdMemory.make()
      const { link, store } = yield* makeClient(memory)
      yield* store.set("counter", "0")
      yield* link.setFate(() => ({ request: "1 millis", response: "1 millis" }))
      const increment = store.modify("counter", (text) => String(Number(text) + 1))
      const counting = yield* Effect.forkChild(
        Effect.all(Array.from({ length: 10 }, () => increment), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(new Set(yield* Fiber.join(counting)).size, 10)
      const reading = yield* Effect.forkChild(store.get("counter"))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(reading), "10")
    }))
})

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("on a real etcd", (it) => {
  it.effect("an entry expires, and its lease with it", () =>
    Effect.gen(function*() {
      const server = yield* TestEtcd
      yield* Effect.gen(function*() {
        const etcd = yield* Etcd
        const store = yield* makeKeyValueStore({ timeToLive: "1 second" })
        const start = (yield* etcd.range({ key: "/" })).revision
        yield* Effect.forEach(["a", "b", "c"], (key) => store.set(key, key), { concurrency: 3 })
        assert.strictEqual(yield* store.size, 3)
        const deleted = yield* etcd.watch({ prefix: "/kv/", startRevision: start + 1n }).pipe(
          Stream.map((item) => item._tag === "Batch" ? item.events : []),
          Stream.flattenIterable,
          Stream.filter((event) => event._tag === "Delete"),
          Stream.take(3),
          Stream.runCollect,
          Effect.timeout("30 seconds")
        )
        assert.strictEqual(deleted.length, 3)
        assert.isTrue(yield* store.isEmpty)
        assert.strictEqual((yield* server.etcdctl("lease", "list")).trim(), "found 0 leases")
      }).pipe(Effect.provide(layerEtcdPort({ endpoints: server.endpoint })))
    }), 60_000)
})
