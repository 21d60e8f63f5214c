import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { ConfigCenter } from "../src/ConfigCenter.ts"
import { Compare, Etcd, Operation, type WatchItem } from "../src/Etcd.ts"
import { EtcdMemory, layerMemory } from "../src/EtcdMemory.ts"
import { makeLink } from "../src/internal/memory/link.ts"
import { makeTransport } from "../src/internal/memory/transport.ts"
import type { Transport } from "../src/internal/Transport.ts"
import { Lock } from "../src/Lock.ts"
import { reason, text } from "./contract/support.ts"

const timeout = Duration.seconds(5)

const makeClient = Effect.gen(function*() {
  const store = yield* EtcdMemory.make()
  const link = yield* makeLink(timeout)
  return { store, link, direct: makeTransport(store), client: makeTransport(store, link) }
})

const put = (transport: Transport, key: string, value = "", lease?: bigint) =>
  Effect.map(transport.txn({ success: [Operation.put(key, value, { lease })] }), ({ revision }) => revision)

const all = (transport: Transport) =>
  Effect.map(transport.range({ prefix: "" }), ({ kvs }) => kvs.map((kv) => `${kv.key}=${text(kv)}`))

const grant = (transport: Transport, id: bigint, seconds: number) => transport.leaseGrant(id, Duration.seconds(seconds))

const remaining = (transport: Transport, id: bigint) =>
  Effect.map(transport.leaseTimeToLive(id), (status) => Duration.toSeconds(status.remaining))

/** What a watch has told so far, and its end. */
const follow = Effect.fnUntraced(function*(transport: Transport, request: Parameters<Transport["watch"]>[0]) {
  const items: Array<WatchItem> = []
  const opened = yield* Deferred.make<void>()
  const fiber = yield* transport.watch(request).pipe(
    Stream.runForEach((item) =>
      Effect.sync(() => {
        items.push(item)
        Deferred.doneUnsafe(opened, Effect.void)
      })
    ),
    Effect.forkScoped
  )
  yield* Effect.raceFirst(Deferred.await(opened), Fiber.await(fiber))
  return { items, end: reason(Fiber.join(fiber)), fiber }
})

const revisions = (items: ReadonlyArray<WatchItem>) => items.map((item) => `${item._tag} ${item.revision}`)

describe("leases under virtual time", () => {
  it.effect("a lease that is not kept alive takes all its keys with it in one revision, to the nanosecond", () =>
    Effect.gen(function*() {
      const { direct } = yield* makeClient
      yield* grant(direct, 1n, 5)
      yield* put(direct, "b", "", 1n)
      yield* put(direct, "a", "", 1n)
      const watch = yield* follow(direct, { prefix: "", startRevision: 4n })
      yield* TestClock.adjust(Duration.nanos(4_999_999_999n))
      assert.deepStrictEqual(yield* all(direct), ["a=", "b="])
      yield* TestClock.adjust(Duration.nanos(1n))
      assert.deepStrictEqual(watch.items.at(-1), {
        _tag: "Batch",
        revision: 4n,
        events: [
          { _tag: "Delete", key: "a", modRevision: 4n, previous: undefined },
          { _tag: "Delete", key: "b", modRevision: 4n, previous: undefined }
        ]
      })
      assert.deepStrictEqual(yield* all(direct), [])
      assert.strictEqual((yield* reason(direct.leaseKeepAlive(1n)))._tag, "LeaseNotFound")
      assert.strictEqual((yield* reason(put(direct, "c", "", 1n)))._tag, "LeaseNotFound")
    }))

  it.effect("beats keep a lease, and its time is told in whole seconds", () =>
    Effect.gen(function*() {
      const { direct } = yield* makeClient
      yield* grant(direct, 1n, 6)
      yield* put(direct, "a", "", 1n)
      for (let i = 0; i < 10; i++) {
        yield* TestClock.adjust("2500 millis")
        assert.strictEqual(yield* remaining(direct, 1n), 3)
        assert.deepStrictEqual(yield* direct.leaseKeepAlive(1n), Duration.seconds(6))
        assert.strictEqual(yield* remaining(direct, 1n), 6)
      }
      yield* TestClock.adjust("6 seconds")
      assert.deepStrictEqual(yield* all(direct), [])
    }))

  it.effect("leases end in the order of their deadlines, a later and shorter one first", () =>
    Effect.gen(function*() {
      const { direct } = yield* makeClient
      const watch = yield* follow(direct, { prefix: "", startRevision: 5n })
      for (const [id, seconds] of [[1n, 100], [2n, 20], [3n, 50]] as const) {
        yield* grant(direct, id, seconds)
        yield* put(direct, `${id}`, "", id)
      }
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(yield* all(direct), ["1=", "3="])
      yield* TestClock.adjust("1000 seconds")
      assert.deepStrictEqual(
        watch.items.flatMap((item) => item._tag === "Batch" ? item.events : []).map((event) =>
          event._tag === "Delete" ? event.key : "put"
        ),
        ["2", "3", "1"]
      )
    }))

  it.effect("an id that is taken is told, and the lease left as it is", () =>
    Effect.gen(function*() {
      const { direct } = yield* makeClient
      yield* grant(direct, 1n, 10)
      assert.isTrue((yield* grant(direct, 1n, 99)).exists)
      yield* TestClock.adjust("10 seconds")
      assert.isFalse((yield* grant(direct, 1n, 99)).exists)
    }))
})

describe("what operators and accidents do", () => {
  it.effect("a restart cuts every watch and starts every lease anew", () =>
    Effect.gen(function*() {
      const { direct, store } = yield* makeClient
      yield* grant(direct, 1n, 10)
      yield* put(direct, "a", "", 1n)
      const one = yield* follow(direct, { key: "a", startRevision: 2n })
      const now = yield* follow(direct, { prefix: "" })
      yield* TestClock.adjust("9 seconds")
      yield* store.restart
      for (const watch of [one, now]) {
        const why = yield* watch.end
        assert.isTrue(why._tag === "Unavailable" && why.sent)
      }
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(yield* remaining(direct, 1n), 1)
      const again = yield* follow(direct, { key: "a", startRevision: 2n })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(revisions(again.items), ["Opened 2", "Batch 2", "Batch 3"])
    }))

  it.effect("an older state comes back whole, with its revisions and leases, and is not changed by what follows", () =>
    Effect.gen(function*() {
      const { direct, store } = yield* makeClient
      yield* grant(direct, 1n, 10)
      yield* put(direct, "a", "old", 1n)
      const snapshot = yield* store.snapshot
      const watch = yield* follow(direct, { prefix: "", startRevision: 3n })
      for (let time = 0; time < 2; time++) {
        yield* put(direct, "a", "new")
        yield* put(direct, "b", "new")
        yield* direct.leaseRevoke(1n)
        yield* TestClock.adjust("1 hour")
        yield* store.restore(snapshot)
        assert.strictEqual(yield* store.revision, 2n)
        assert.deepStrictEqual(yield* all(direct), ["a=old"])
        assert.strictEqual(yield* remaining(direct, 1n), 10)
      }
      assert.strictEqual((yield* watch.end)._tag, "Unavailable")
      assert.strictEqual(yield* put(direct, "c"), 3n)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* all(direct), ["c="])
    }))

  it.effect("an operator deletes a key, revokes a lease, compacts", () =>
    Effect.gen(function*() {
      const { direct, store } = yield* makeClient
      yield* grant(direct, 1n, 10)
      yield* put(direct, "a", "", 1n)
      yield* put(direct, "b", "", 1n)
      yield* store.deleteKey("a")
      assert.deepStrictEqual((yield* direct.leaseTimeToLive(1n)).keys, ["b"])
      yield* store.revokeLease(1n)
      assert.deepStrictEqual(yield* all(direct), [])
      assert.strictEqual((yield* reason(store.revokeLease(1n)))._tag, "LeaseNotFound")
      assert.strictEqual((yield* reason(store.compact(6n)))._tag, "InvalidArgument")
      yield* store.compact(5n)
      assert.strictEqual((yield* reason(store.compact(5n)))._tag, "Compacted")
      assert.strictEqual((yield* reason(direct.range({ key: "a", atRevision: 4n })))._tag, "Compacted")
    }))
})

describe("watches", () => {
  it.effect("of the future wait for their revision", () =>
    Effect.gen(function*() {
      const { direct } = yield* makeClient
      const watch = yield* follow(direct, { prefix: "", startRevision: 4n })
      for (const key of ["2", "3", "4", "5"]) yield* put(direct, key)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(revisions(watch.items), ["Opened 1", "Batch 4", "Batch 5"])
    }))

  it.effect("that keep up do not mind a compaction; one that lags too far is told what is left", () =>
    Effect.gen(function*() {
      const { direct, store } = yield* makeClient
      const resume = yield* Deferred.make<void>()
      const lagging = Effect.fnUntraced(function*() {
        const items: Array<WatchItem> = []
        const opened = yield* Deferred.make<void>()
        const fiber = yield* direct.watch({ prefix: "", startRevision: 2n }).pipe(
          Stream.runForEach((item) => {
            items.push(item)
            Deferred.doneUnsafe(opened, Effect.void)
            return Deferred.await(resume)
          }),
          Effect.forkScoped
        )
        yield* Deferred.await(opened)
        return { items, fiber }
      })
      const little = yield* lagging()
      for (let i = 2; i <= 100; i++) yield* put(direct, "k")
      yield* store.compact(100n)
      yield* put(direct, "k")
      yield* store.compact(101n)
      const far = yield* follow(direct, { prefix: "", startRevision: 102n })
      const tooFar = yield* lagging().pipe(Effect.timeout("1 second"), Effect.forkChild)
      yield* Deferred.succeed(resume, undefined)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(little.items.length, 101)
      assert.deepStrictEqual(revisions(far.items), ["Opened 101"])
      const late = yield* Fiber.join(tooFar)
      const why = yield* reason(Fiber.join(late.fiber))
      assert.isTrue(why._tag === "Compacted" && why.compactRevision === 101n)
    }))

  it.effect("cost the store nothing once they are closed", () =>
    Effect.gen(function*() {
      const { direct } = yield* makeClient
      const watch = yield* follow(direct, { key: "a" })
      yield* Fiber.interrupt(watch.fiber)
      yield* put(direct, "a")
      assert.deepStrictEqual(revisions(watch.items), ["Opened 1"])
    }))
})

describe("retention", () => {
  it.effect("the store forgets what is older than about that many revisions", () =>
    Effect.gen(function*() {
      const store = yield* EtcdMemory.make({ retention: 100 })
      const transport = makeTransport(store)
      for (let i = 0; i < 1000; i++) {
        const revision = yield* put(transport, `k${i}`)
        yield* transport.txn({ success: [Operation.delete(`k${i}`)] })
        assert.strictEqual((yield* transport.range({ key: `k${i}`, atRevision: revision })).count, 1)
      }
      const now = yield* store.revision
      assert.strictEqual((yield* transport.range({ key: "k", atRevision: now - 100n })).count, 0)
      assert.strictEqual((yield* reason(transport.range({ key: "k", atRevision: now - 130n })))._tag, "Compacted")
    }))
})

describe("a link that fails", () => {
  it.effect("a lost request is not applied, a lost answer is; both time out", () =>
    Effect.gen(function*() {
      const { client, direct, link } = yield* makeClient
      for (const lost of ["request", "response"] as const) {
        yield* link.setFate((operation) => operation === "txn" ? { [lost]: "lost" } : {})
        const failed = yield* Effect.forkChild(reason(put(client, lost)))
        yield* TestClock.adjust("4999 millis")
        assert.isUndefined(failed.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        assert.strictEqual((yield* Fiber.join(failed))._tag, "Timeout")
      }
      assert.deepStrictEqual(yield* all(direct), ["response="])
      assert.strictEqual((yield* client.range({ prefix: "" })).count, 1, "only transactions are lost")
    }))

  it.effect("what is under way is applied although its client gave up", () =>
    Effect.gen(function*() {
      const { client, direct, link } = yield* makeClient
      yield* link.setFate(() => ({ request: "7 seconds" }))
      const failed = yield* Effect.forkChild(reason(put(client, "timed out")))
      const interrupted = yield* Effect.forkChild(put(client, "interrupted"), { startImmediately: true })
      yield* Fiber.interrupt(interrupted)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(failed))._tag, "Timeout")
      assert.deepStrictEqual(yield* all(direct), [])
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* all(direct), ["interrupted=", "timed out="])
    }))

  it.effect("takes its time both ways", () =>
    Effect.gen(function*() {
      const { client, direct, link } = yield* makeClient
      yield* link.setFate(() => ({ request: "1 second", response: "2 seconds" }))
      const answer = yield* Effect.forkChild(put(client, "a"))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* all(direct), ["a="])
      yield* TestClock.adjust("1999 millis")
      assert.isUndefined(answer.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(answer), 2n)
    }))

  it.effect("a cut fails what waits for an answer, and the watches; the next connection works", () =>
    Effect.gen(function*() {
      const { client, direct, link } = yield* makeClient
      const watch = yield* follow(client, { prefix: "" })
      yield* link.setFate(() => ({ response: "1 second" }))
      const waiting = yield* Effect.forkChild(reason(put(client, "a")), { startImmediately: true })
      yield* link.cut
      for (const why of [yield* Fiber.join(waiting), yield* watch.end]) {
        assert.isTrue(why._tag === "Unavailable" && why.sent)
      }
      assert.deepStrictEqual(yield* all(direct), ["a="])
      yield* link.setFate(() => ({}))
      assert.strictEqual(yield* put(client, "b"), 3n)
      assert.deepStrictEqual((yield* follow(client, { prefix: "" })).items, [{ _tag: "Opened", revision: 3n }])
    }))

  it.effect("a refused request has certainly not been sent", () =>
    Effect.gen(function*() {
      const { client, direct, link } = yield* makeClient
      const watch = yield* follow(client, { prefix: "" })
      yield* link.refuse
      const why = yield* reason(put(client, "a"))
      assert.isTrue(why._tag === "Unavailable" && !why.sent)
      assert.strictEqual((yield* watch.end)._tag, "Unavailable")
      assert.strictEqual((yield* (yield* follow(client, { prefix: "" })).end)._tag, "Unavailable")
      assert.deepStrictEqual(yield* all(direct), [])
      yield* link.accept
      yield* put(client, "a")
    }))

  it.effect("a short partition delays, a long one ends the connection", () =>
    Effect.gen(function*() {
      const { client, direct, link } = yield* makeClient
      const watch = yield* follow(client, { prefix: "", startRevision: 2n })
      yield* link.partition
      yield* put(direct, "a")
      const waiting = yield* Effect.forkChild(put(client, "b"))
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(revisions(watch.items), ["Opened 1"])
      assert.deepStrictEqual(yield* all(direct), ["a="])
      yield* link.heal
      assert.strictEqual(yield* Fiber.join(waiting), 3n)
      yield* TestClock.adjust("7 seconds")
      assert.deepStrictEqual(revisions(watch.items), ["Opened 1", "Batch 2", "Batch 3"])

      yield* link.partition
      yield* TestClock.adjust("9 seconds")
      assert.isUndefined(watch.fiber.pollUnsafe())
      yield* TestClock.adjust("1 seconds")
      assert.strictEqual((yield* watch.end)._tag, "Unavailable")
    }))
})

describe("layers", () => {
  it.effect("all services on a store of their own", () =>
    Effect.gen(function*() {
      const lock = yield* Lock
      const config = yield* ConfigCenter
      const etcd = yield* Etcd
      yield* lock.withLock("a")(Effect.gen(function*() {
        assert.strictEqual((yield* lock.waiters("a")).length, 1)
      }))
      assert.deepStrictEqual(yield* config.list(""), [])
      assert.strictEqual((yield* etcd.range({ prefix: "/locks/" })).count, 0)
    }).pipe(Effect.provide(EtcdMemory.layer)))

  it.effect("clients of one store see each other, each with its own options", () =>
    Effect.gen(function*() {
      const store = yield* EtcdMemory.make()
      const port = (options: Parameters<typeof layerMemory>[1]) =>
        Effect.map(Layer.build(Layer.fresh(layerMemory(store, options))), Context.get(Etcd))
      const one = yield* port({})
      const two = yield* port({ namespace: "/two" })
      const created = yield* one.txn({ success: [Operation.put("/two/a", "x")] })
      const answer = yield* two.txn({
        compare: [Compare.createRevision("/a", "=", created.revision)],
        success: [Operation.put("/b", "y"), Operation.range({ prefix: "/" })]
      })
      assert.isTrue(answer.succeeded)
      assert.deepStrictEqual(yield* all(makeTransport(store)), ["/two/a=x", "/two/b=y"])
      const [, read] = answer.responses
      assert.deepStrictEqual(read?._tag === "Range" ? read.kvs.map((kv) => kv.key) : [], ["/a", "/b"])

      const locks = yield* Effect.map(
        Layer.build(Layer.fresh(layerMemory(store, { lockPrefix: "/other" }))),
        Context.get(Lock)
      )
      yield* locks.acquire("k")
      assert.strictEqual((yield* one.range({ prefix: "/other/k/" })).count, 1)
    }))

  it.effect("an option that makes no sense is refused by name", () =>
    Effect.gen(function*() {
      const store = yield* EtcdMemory.make()
      const failed = yield* Effect.flip(Layer.build(layerMemory(store, { retry: { maxAttempts: 0 } })))
      assert.deepStrictEqual([failed._tag, failed.option], ["InvalidOption", "retry.maxAttempts"])
    }))
})
