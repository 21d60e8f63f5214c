import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HashMap from "effect/HashMap"
import * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { type KeyValue, Operation } from "../src/Etcd.ts"
import { EtcdError, PermissionDenied } from "../src/EtcdError.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import { Hub } from "../src/internal/hub.ts"
import { makeLink } from "../src/internal/memory/link.ts"
import { Store } from "../src/internal/memory/Store.ts"
import { makeTransport } from "../src/internal/memory/transport.ts"
import { type Change, makeSharedWatch, type Snapshot } from "../src/internal/SharedWatch.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { consume, eventually, makeCountingPort } from "./utils/watching.ts"

const range = { prefix: "/a/" }
const timeout = Duration.seconds(5)

const makeSetup = Effect.gen(function*() {
  const store = new Store(yield* Clock.Clock)
  const link = yield* makeLink(timeout)
  const operator = yield* makeEtcd(makeTransport(store), { retry: Schedule.recurs(0), timeout, namespace: "" })
  const port = makeCountingPort(
    yield* makeEtcd(makeTransport(store, link), { retry: Schedule.recurs(2), timeout, namespace: "" })
  )
  const shared = yield* makeSharedWatch(port.etcd)
  return {
    store,
    link,
    port,
    shared,
    put: (key: string, value: string | Uint8Array = key) =>
      Effect.map(operator.txn({ success: [Operation.put(`/a/${key}`, value)] }), (answer) => answer.revision),
    remove: (key: string) =>
      Effect.map(operator.txn({ success: [Operation.delete(`/a/${key}`)] }), (answer) => answer.revision),
    txn: (...operations: ReadonlyArray<Operation>) => operator.txn({ success: operations }),
    compact: Effect.sync(() => Result.getOrThrow(store.compact(store.revision))),
    inStore: Effect.map(operator.range(range), (answer) => new Map(answer.kvs.map((kv) => [kv.key, kv.modRevision])))
  }
})

const keyOf = (kv: KeyValue | undefined) => kv === undefined ? "" : `${kv.key.slice(3)}@${kv.modRevision}`

/** `+key@revision<previous`, `-key<previous`, `=revision`. */
const short = (changes: ReadonlyArray<Change>): string =>
  changes.map((change) => {
    if (change._tag === "Synced") return `=${change.revision}`
    const previous = change.previous === undefined ? "" : `<${keyOf(change.previous)}`
    return change._tag === "Put"
      ? `+${keyOf(change.kv)}${previous}`
      : `-${change.key.slice(3)}@${change.modRevision}${previous}`
  }).join(" ")

const shorts = (seen: ReadonlyArray<ReadonlyArray<Change>>) => seen.map(short)

/** What a consumer knows after these; checks on the way that nothing comes twice, out of order or without its `previous`. */
const account = (seen: ReadonlyArray<ReadonlyArray<Change>>): Map<string, bigint> => {
  const known = new Map<string, bigint>()
  let revision = 0n
  let synced = false
  for (const changes of seen) {
    for (const change of changes) {
      if (change._tag === "Synced") {
        assert.isTrue(change.revision >= revision)
        revision = change.revision
        synced = true
        continue
      }
      const key = change._tag === "Put" ? change.kv.key : change.key
      const at = change._tag === "Put" ? change.kv.modRevision : change.modRevision
      assert.isTrue(!synced || at > revision, `${at} after ${revision}`)
      assert.strictEqual(change.previous?.modRevision, known.get(key))
      if (change._tag === "Put") known.set(key, at)
      else assert.isTrue(known.delete(key))
    }
    const last = changes.at(-1)
    if (last !== undefined) {
      revision = last._tag === "Synced"
        ? last.revision
        : last._tag === "Put"
        ? last.kv.modRevision
        : last.modRevision
    }
  }
  return known
}

const snapshotKeys = (snapshot: Snapshot | undefined) =>
  snapshot === undefined ? [] : [...HashMap.values(snapshot.kvs)].map(keyOf).sort()

describe("SharedWatch", () => {
  it.effect("one listing and one watch serve all consumers of a range", () =>
    Effect.gen(function*() {
      const { port, put, shared } = yield* makeSetup
      yield* put("x")
      const many = yield* Effect.forEach(Array.from({ length: 40 }), () => consume(shared.changes(range)))
      const snapshots = yield* Effect.forEach(Array.from({ length: 40 }), () => consume(shared.snapshots(range)))
      const current = yield* shared.current({ ...range })
      yield* eventually(() =>
        many.every((one) => one.seen.length === 1) && snapshots.every((one) => one.seen.length === 1)
      )
      yield* put("y")
      yield* eventually(() =>
        many.every((one) => one.seen.length === 2) && snapshots.every((one) => one.seen.length === 2)
      )
      for (const one of many) assert.deepStrictEqual(shorts(one.seen), ["+x@2 =2", "+y@3"])
      for (const one of snapshots) assert.deepStrictEqual(snapshotKeys(one.seen[1]), ["x@2", "y@3"])
      assert.deepStrictEqual(snapshotKeys(yield* current), ["x@2", "y@3"])
      assert.deepStrictEqual(port.watches(), { open: 1, total: 1 })
      assert.strictEqual(port.ranges(), 1)
    }))

  it.effect("an empty range is synced at once", () =>
    Effect.gen(function*() {
      const { shared } = yield* makeSetup
      const consumer = yield* consume(shared.changes(range))
      yield* eventually(() => consumer.seen.length === 1)
      assert.deepStrictEqual(shorts(consumer.seen), ["=1"])
    }))

  it.effect("all changes of one revision arrive together, with what was known before; deletions of unknown keys do not", () =>
    Effect.gen(function*() {
      const { put, shared, txn } = yield* makeSetup
      yield* put("x")
      const consumer = yield* consume(shared.changes(range))
      yield* eventually(() => consumer.seen.length === 1)
      yield* txn(Operation.delete("/a/x"), Operation.put("/a/y", ""), Operation.put("/b", ""))
      yield* txn(Operation.put("/b", ""))
      yield* put("y")
      yield* eventually(() => consumer.seen.length === 3)
      assert.deepStrictEqual(shorts(consumer.seen), ["+x@2 =2", "-x@3<x@2 +y@3", "+y@5<y@3"])
    }))

  it.effect("whenever a consumer joins, it sees every revision once and in order", () =>
    Effect.gen(function*() {
      const { inStore, port, put, remove, shared } = yield* makeSetup
      const writer = (name: number) =>
        Effect.gen(function*() {
          for (let i = 0; i < 150; i++) {
            const key = `k${yield* Random.nextIntBetween(0, 12)}`
            yield* (yield* Random.nextBoolean) || i % 10 === name ? put(key) : remove(key)
            for (let n = yield* Random.nextIntBetween(0, 6); n > 0; n--) yield* Effect.yieldNow
          }
        })
      const reader = Effect.gen(function*() {
        for (let n = yield* Random.nextIntBetween(0, 400); n > 0; n--) yield* Effect.yieldNow
        return yield* consume(shared.changes(range), () => Effect.yieldNow)
      })
      const [consumers] = yield* Effect.all([
        Effect.forEach(Array.from({ length: 30 }), () => reader, { concurrency: "unbounded" }),
        Effect.forEach([1, 2, 3, 4], writer, { concurrency: "unbounded" })
      ], { concurrency: "unbounded" })
      const last = yield* put("last")
      yield* eventually(
        () => consumers.every(({ seen }) => short(seen.at(-1) ?? []).startsWith(`+last@${last}`)),
        "last"
      )
      const expected = yield* inStore
      for (const { seen } of consumers) assert.deepStrictEqual(account(seen), expected)
      assert.isAbove(new Set(consumers.map(({ seen }) => short(seen[0] ?? []))).size, 5)
      assert.strictEqual(port.watches().total, 1)
    }))

  it.effect("a slow consumer of snapshots sees the latest and skips what lies between", () =>
    Effect.gen(function*() {
      const { put, shared } = yield* makeSetup
      const gate = yield* Latch.make()
      const fast = yield* consume(shared.snapshots(range))
      const slow = yield* consume(shared.snapshots(range), () => gate.await)
      yield* eventually(() => slow.seen.length === 1 && fast.seen.length === 1)
      for (let i = 0; i < 50; i++) yield* put(`${i}`)
      yield* eventually(() => snapshotKeys(fast.seen.at(-1)).length === 50)
      yield* gate.open
      yield* eventually(() => slow.seen.length === 2)
      assert.strictEqual(snapshotKeys(slow.seen[1]).length, 50)
    }))

  it.effect("big ranges are listed in pages of one revision", () =>
    Effect.gen(function*() {
      const { port, put, remove, shared, txn } = yield* makeSetup
      for (let i = 0; i < 25; i++) {
        yield* txn(
          ...Array.from({ length: 100 }, (_, n) => Operation.put(`/a/${String(i * 100 + n).padStart(4, "0")}`, ""))
        )
      }
      yield* txn(Operation.put("/b", ""))
      let pages = 0
      port.beforeRange(() => {
        pages++
        return pages === 2 ? Effect.andThen(Effect.orDie(put("2400")), Effect.orDie(remove("1500"))) : Effect.void
      })
      const consumer = yield* consume(shared.changes(range))
      yield* eventually(() => consumer.seen.length === 3)
      assert.strictEqual(pages, 3)
      assert.strictEqual(consumer.seen[0]?.length, 2501)
      assert.deepStrictEqual(shorts(consumer.seen.slice(1)), ["+2400@28<2400@26", "-1500@29<1500@17"])
    }))
})

describe("SharedWatch, amid an event that is being handed out", () => {
  it.effect("who joins has it in his state and is not told again; who leaves disturbs nobody", () =>
    Effect.gen(function*() {
      const { port, put, shared } = yield* makeSetup
      const scope = yield* Effect.scope
      const joined: Array<Array<ReadonlyArray<Change>>> = []
      const join = Effect.suspend(() => {
        const seen: Array<ReadonlyArray<Change>> = []
        joined.push(seen)
        return Effect.forkIn(
          Stream.runForEach(shared.changes(range), (changes) => Effect.sync(() => seen.push(changes))),
          scope,
          { startImmediately: true }
        )
      })
      const isEvent = (changes: ReadonlyArray<Change>, key: string) => short(changes).startsWith(`+${key}`)
      const leavers: Array<Effect.Effect<void>> = []
      const leave = Effect.suspend(() => Effect.all(leavers, { discard: true }))
      const consumers = yield* Effect.forEach(
        Array.from({ length: 8 }, (_, index) => index),
        (index) =>
          consume(
            shared.changes(range),
            (changes) =>
              index === 3 && isEvent(changes, "y") ? join : index === 4 && isEvent(changes, "z") ? leave : Effect.void
          )
      )
      const last = yield* consume(shared.changes(range), (changes) => isEvent(changes, "y") ? join : Effect.void)
      // One that has heard of it by then, and one that has not.
      leavers.push(...[1, 6].map((index) => consumers[index]?.stop ?? Effect.void))
      yield* eventually(() => last.seen.length === 1)
      yield* put("y")
      yield* eventually(() => joined.length === 2 && joined.every((seen) => seen.length === 1))
      yield* put("z")
      yield* put("w")
      yield* eventually(() => last.seen.length === 4)
      for (const seen of joined) assert.deepStrictEqual(shorts(seen), ["+y@2 =2", "+z@3", "+w@4"])
      for (const [index, { exit, seen }] of consumers.entries()) {
        const left = index === 1 || index === 6
        assert.strictEqual(exit() !== undefined, left)
        const expected = ["=1", "+y@2", "+z@3", "+w@4"]
        assert.deepStrictEqual(shorts(seen), left ? expected.slice(0, seen.length) : expected, `${index}`)
        if (left) assert.isAtMost(seen.length, 3)
      }
      assert.strictEqual(port.watches().total, 1)
    }))

  it.effect("the last one leaves and another comes: the watch is the same one, and nothing is missed", () =>
    Effect.gen(function*() {
      const { port, put, shared } = yield* makeSetup
      let current = yield* consume(shared.changes(range))
      yield* eventually(() => current.seen.length === 1)
      for (let i = 0; i < 20; i++) {
        const revision = yield* put("x")
        const stopping = yield* Effect.forkChild(current.stop, { startImmediately: i % 2 === 0 })
        const next = yield* consume(shared.changes(range))
        yield* eventually(() => shorts(next.seen).some((seen) => seen.includes(`+x@${revision}`)))
        account(next.seen)
        yield* Fiber.join(stopping)
        current = next
      }
      assert.deepStrictEqual(port.watches(), { open: 1, total: 1 })
    }))

  it.effect("the layer closes: everybody ends, with or without the event", () =>
    Effect.gen(function*() {
      const { port, put } = yield* makeSetup
      const scope = yield* Scope.make()
      const shared = yield* Scope.provide(makeSharedWatch(port.etcd), scope)
      const close = Effect.forkDetach(Scope.close(scope, Exit.void), { startImmediately: true })
      const consumers = yield* Effect.forEach(
        Array.from({ length: 9 }, (_, index) => index),
        (index) =>
          consume(shared.changes(range), (changes) => index === 4 && changes.length === 1 ? close : Effect.void)
      )
      yield* eventually(() => consumers.every(({ exit }) => exit() !== undefined || port.watches().open === 1))
      yield* put("y")
      yield* eventually(() => consumers.every(({ exit }) => exit() !== undefined))
      for (const { error, seen } of consumers) {
        assert.strictEqual(error()?.reason._tag, "Closed")
        account(seen)
      }
      assert.strictEqual(port.watches().open, 0)
    }))
})

describe("SharedWatch, resuming", () => {
  it.effect("from a revision: what came after it, without the state", () =>
    Effect.gen(function*() {
      const { port, put, remove, shared } = yield* makeSetup
      yield* put("x")
      const from = yield* put("y")
      yield* put("x")
      yield* remove("y")
      const consumer = yield* consume(shared.changes(range, { from }))
      yield* eventually(() => consumer.seen.length === 2)
      yield* put("z")
      yield* eventually(() => consumer.seen.length === 3)
      assert.deepStrictEqual(shorts(consumer.seen), ["+x@4<x@2", "-y@5<y@3", "+z@6"])
      const all = yield* consume(shared.changes(range, { from: 0n }))
      yield* eventually(() => all.seen.length === 5)
      assert.deepStrictEqual(shorts(all.seen), ["+x@2", "+y@3", "+x@4<x@2", "-y@5<y@3", "+z@6"])
      yield* consumer.stop
      yield* all.stop
      assert.strictEqual(port.watches().open, 0)
    }))

  it.effect("from a revision that is gone fails with Compacted", () =>
    Effect.gen(function*() {
      const { compact, put, shared } = yield* makeSetup
      const from = yield* put("x")
      yield* put("x")
      yield* compact
      const consumer = yield* consume(shared.changes(range, { from }))
      yield* eventually(() => consumer.exit() !== undefined)
      assert.strictEqual(consumer.error()?.reason._tag, "Compacted")
    }))
})

describe("SharedWatch, slow consumers", () => {
  it.effect("who falls behind by 1,024 revisions goes on alone, misses nothing and delays nobody", () =>
    Effect.gen(function*() {
      const { inStore, port, put, remove, shared } = yield* makeSetup
      const gate = yield* Latch.make()
      const slow = yield* consume(shared.changes(range), () => gate.await)
      const fast = yield* consume(shared.changes(range))
      yield* eventually(() => slow.seen.length === 1 && fast.seen.length === 1)
      for (let i = 0; i < 3000; i++) yield* i % 7 === 6 ? remove(`k${(i - 1) % 5}`) : put(`k${i % 5}`)
      const expected = yield* inStore
      yield* eventually(() => fast.seen.length === 3001)
      assert.strictEqual(slow.seen.length, 1)
      assert.deepStrictEqual(port.watches(), { open: 1, total: 1 })
      yield* gate.open
      yield* eventually(() => slow.seen.length === 3001)
      assert.deepStrictEqual(shorts(slow.seen), shorts(fast.seen))
      assert.deepStrictEqual(account(slow.seen), expected)
      assert.deepStrictEqual(port.watches(), { open: 2, total: 2 })
      // At most the bounded buffer and what it held in hand came from the shared watch.
      const start = port.lastWatch()?.startRevision ?? 0n
      assert.isTrue(start > 1000n && start < 1100n, `${start}`)
      yield* put("after")
      yield* eventually(() => slow.seen.length === 3002 && fast.seen.length === 3002)
      yield* slow.stop
      assert.deepStrictEqual(port.watches(), { open: 1, total: 2 })
    }))

  it.effect("big values count: at most 8 MiB wait for one consumer", () =>
    Effect.gen(function*() {
      const { port, put, shared } = yield* makeSetup
      const gate = yield* Latch.make()
      const slow = yield* consume(shared.changes(range), () => gate.await)
      const fast = yield* consume(shared.changes(range))
      yield* eventually(() => slow.seen.length === 1 && fast.seen.length === 1)
      for (let i = 0; i < 20; i++) {
        yield* put("x", new Uint8Array(1_000_000))
        yield* eventually(() => fast.seen.length === i + 2)
      }
      yield* gate.open
      yield* eventually(() => slow.seen.length === 21)
      assert.deepStrictEqual(shorts(slow.seen), shorts(fast.seen))
      assert.strictEqual(port.watches().total, 2)
      assert.strictEqual(port.lastWatch()?.startRevision, 10n)
    }))

  it.effect("who joins, and begins to read after thousands of revisions, misses nothing either", () =>
    Effect.gen(function*() {
      const { inStore, port, put, shared } = yield* makeSetup
      yield* put("x")
      const fast = yield* consume(shared.changes(range))
      yield* eventually(() => fast.seen.length === 1)
      const pull = yield* Stream.toPull(shared.changes(range))
      for (let i = 0; i < 1500; i++) yield* put(`k${i % 5}`)
      yield* eventually(() => fast.seen.length === 1501)
      const seen: Array<ReadonlyArray<Change>> = []
      while (seen.length < 1501) seen.push(...yield* pull)
      assert.deepStrictEqual(shorts(seen), shorts(fast.seen))
      assert.deepStrictEqual(account(seen), yield* inStore)
      assert.strictEqual(port.watches().total, 2)
    }))

  it.effect("a compaction past a consumer that is behind gives it the difference", () =>
    Effect.gen(function*() {
      const { compact, inStore, put, remove, shared } = yield* makeSetup
      const gate = yield* Latch.make()
      yield* put("gone")
      yield* put("kept")
      const slow = yield* consume(shared.changes(range), () => gate.await)
      const fast = yield* consume(shared.changes(range))
      yield* eventually(() => slow.seen.length === 1 && fast.seen.length === 1)
      for (let i = 0; i < 2000; i++) yield* put(`k${i % 5}`)
      yield* remove("gone")
      yield* eventually(() => short(fast.seen.at(-1) ?? []) === "-gone@2004<gone@2")
      yield* compact
      const expected = yield* inStore
      yield* gate.open
      yield* TestClock.adjust("1 second")
      yield* eventually(() => short(slow.seen.at(-1) ?? []).endsWith("=2004"))
      assert.match(short(slow.seen.at(-1) ?? []), /-gone@2004<gone@2 =2004$/)
      assert.deepStrictEqual(account(slow.seen), expected)
      assert.isBelow(slow.seen.length, 1100)
    }))
})

describe("SharedWatch, when etcd cannot tell what happened", () => {
  const started = Effect.gen(function*() {
    const setup = yield* makeSetup
    yield* setup.put("same")
    yield* setup.put("changed")
    yield* setup.put("removed")
    const changes = yield* consume(setup.shared.changes(range))
    const snapshots = yield* consume(setup.shared.snapshots(range))
    const current = yield* setup.shared.current(range)
    yield* eventually(() => changes.seen.length === 1 && snapshots.seen.length === 1)
    return { ...setup, changes, snapshots, current }
  })

  it.effect("a compaction while cut off: the difference, then Synced, then what follows", () =>
    Effect.gen(function*() {
      const { changes, compact, current, link, port, put, remove, snapshots } = yield* started
      yield* link.refuse
      yield* put("changed")
      yield* remove("removed")
      yield* put("passing")
      yield* remove("passing")
      yield* put("new")
      yield* compact
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(changes.seen.length, 1)
      yield* link.accept
      yield* TestClock.adjust("10 seconds")
      yield* eventually(() => changes.seen.length === 2)
      yield* put("new")
      yield* eventually(() => changes.seen.length === 3)
      assert.deepStrictEqual(shorts(changes.seen.slice(1)), [
        "+changed@5<changed@3 +new@9 -removed@9<removed@4 =9",
        "+new@10<new@9"
      ])
      yield* eventually(() => snapshots.seen.length === 3)
      assert.deepStrictEqual(snapshotKeys(snapshots.seen[1]), ["changed@5", "new@9", "same@2"])
      assert.deepStrictEqual(snapshotKeys(yield* current), ["changed@5", "new@10", "same@2"])
      assert.strictEqual(port.watches().open, 1)
    }))

  it.effect("a restored snapshot: back to what is true now, also where a revision is another write", () =>
    Effect.gen(function*() {
      const { changes, current, put, remove, store } = yield* started
      const backup = store.snapshot()
      yield* put("new")
      yield* put("changed")
      yield* remove("removed")
      yield* eventually(() => changes.seen.length === 4)
      store.restore(backup)
      yield* put("other")
      yield* TestClock.adjust("10 seconds")
      yield* eventually(() => changes.seen.length === 5)
      assert.deepStrictEqual(
        short(changes.seen[4] ?? []),
        "+changed@3<changed@6 +removed@4 +other@5 -new@5<new@5 =5"
      )
      yield* put("changed")
      yield* eventually(() => changes.seen.length === 6)
      assert.deepStrictEqual(short(changes.seen[5] ?? []), "+changed@6<changed@3")
      assert.deepStrictEqual(snapshotKeys(yield* current), ["changed@6", "other@5", "removed@4", "same@2"])
    }))

  it.effect("it goes on trying to list again for as long as etcd is away", () =>
    Effect.gen(function*() {
      const { changes, compact, link, port, put } = yield* started
      yield* link.refuse
      yield* put("new")
      yield* put("changed")
      yield* compact
      let failed = 0
      port.beforeRange(() => {
        failed++
        return link.refuse
      })
      yield* link.accept
      for (let i = 0; i < 120 && failed < 6; i++) {
        yield* TestClock.adjust("10 seconds")
        yield* link.accept
      }
      assert.isAtLeast(failed, 6)
      assert.isUndefined(changes.exit())
      port.beforeRange(() => Effect.void)
      yield* link.accept
      yield* TestClock.adjust("10 seconds")
      yield* eventually(() => changes.seen.length === 2)
      assert.strictEqual(short(changes.seen[1] ?? []), "+new@5 +changed@6<changed@3 =6")
    }))

  it.effect("a compaction between two pages of a listing starts the listing anew", () =>
    Effect.gen(function*() {
      const { compact, port, put, shared, txn } = yield* makeSetup
      for (let i = 0; i < 15; i++) {
        yield* txn(...Array.from({ length: 100 }, (_, n) => Operation.put(`/a/${i}-${n}`, "")))
      }
      let pages = 0
      port.beforeRange(() => ++pages === 2 ? Effect.orDie(Effect.andThen(put("0-0"), compact)) : Effect.void)
      const consumer = yield* consume(shared.changes(range))
      yield* eventually(() => consumer.seen.length === 1)
      assert.strictEqual(pages, 4)
      assert.strictEqual(consumer.seen[0]?.length, 1501)
      assert.isTrue(shorts(consumer.seen).join().includes("+0-0@17 =17"))
    }))

  it.effect("a restored snapshot between two pages of a listing starts the listing anew", () =>
    Effect.gen(function*() {
      const { port, put, shared, store, txn } = yield* makeSetup
      for (let i = 0; i < 15; i++) {
        yield* txn(...Array.from({ length: 100 }, (_, n) => Operation.put(`/a/${i}-${n}`, "")))
      }
      const backup = store.snapshot()
      yield* put("late")
      let pages = 0
      port.beforeRange(() => ++pages === 2 ? Effect.sync(() => store.restore(backup)) : Effect.void)
      const consumer = yield* consume(shared.changes(range))
      yield* eventually(() => consumer.seen.length === 1)
      assert.strictEqual(consumer.seen[0]?.length, 1501)
      assert.isTrue(shorts(consumer.seen).join().endsWith("=16"))
    }))
})

describe("SharedWatch, failing", () => {
  it.effect("a first listing fails to its consumer when the retries are used up; the next one is tried anew", () =>
    Effect.gen(function*() {
      const { link, put, shared } = yield* makeSetup
      yield* put("x")
      yield* link.refuse
      const both = yield* Effect.forEach([1, 2], () => consume(shared.changes(range)))
      const current = yield* Effect.exit(Effect.scoped(shared.current(range)))
      yield* eventually(() => both.every((one) => one.exit() !== undefined))
      for (const one of both) assert.strictEqual(one.error()?.reason._tag, "Unavailable")
      assert.isTrue(Exit.isFailure(current))
      yield* link.accept
      const consumer = yield* consume(shared.changes(range))
      yield* eventually(() => consumer.seen.length === 1)
      assert.deepStrictEqual(shorts(consumer.seen), ["+x@2 =2"])
    }))

  it.effect("what no retry mends fails all consumers; the next one starts anew; a current state is kept and heals", () =>
    Effect.gen(function*() {
      const { port, put, shared } = yield* makeSetup
      yield* put("x")
      const changes = yield* consume(shared.changes(range))
      const snapshots = yield* consume(shared.snapshots(range))
      const current = yield* shared.current(range)
      yield* eventually(() => changes.seen.length === 1 && snapshots.seen.length === 1 && port.watches().open === 1)
      const denied = new PermissionDenied()
      yield* port.failWatches(denied)
      yield* eventually(() => changes.exit() !== undefined && snapshots.exit() !== undefined)
      assert.strictEqual(changes.error()?.reason._tag, "PermissionDenied")
      assert.strictEqual(snapshots.error()?.reason._tag, "PermissionDenied")
      assert.strictEqual(port.watches().open, 0)
      port.beforeRange(() => Effect.fail(new EtcdError({ operation: "range", reason: denied })))
      yield* put("y")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(snapshotKeys(yield* current), ["x@2"])
      port.beforeRange(() => Effect.void)
      const next = yield* consume(shared.changes(range))
      yield* eventually(() => next.seen.length === 1)
      assert.deepStrictEqual(shorts(next.seen), ["+x@2 +y@3 =3"])
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(snapshotKeys(yield* current), ["x@2", "y@3"])
      assert.strictEqual(port.watches().open, 1)
    }))

  it.effect("closing the layer ends its consumers with Closed", () =>
    Effect.gen(function*() {
      const { port, put } = yield* makeSetup
      yield* put("x")
      const scope = yield* Scope.make()
      const shared = yield* Scope.provide(makeSharedWatch(port.etcd), scope)
      const changes = yield* consume(shared.changes(range))
      const snapshots = yield* consume(shared.snapshots(range))
      yield* eventually(() => changes.seen.length === 1 && snapshots.seen.length === 1)
      yield* Scope.close(scope, Exit.void)
      yield* eventually(() => changes.exit() !== undefined && snapshots.exit() !== undefined)
      assert.strictEqual(changes.error()?.reason._tag, "Closed")
      assert.strictEqual(snapshots.error()?.reason._tag, "Closed")
      assert.strictEqual(port.watches().open, 0)
      const late = yield* Effect.flip(Stream.runDrain(shared.changes(range)))
      assert.strictEqual(late.reason._tag, "Closed")
    }))

  it.effect("closing the layer amid the first listing does the same", () =>
    Effect.gen(function*() {
      const { link, port } = yield* makeSetup
      const scope = yield* Scope.make()
      const shared = yield* Scope.provide(makeSharedWatch(port.etcd), scope)
      yield* link.partition
      const consumers = [yield* consume(shared.changes(range)), yield* consume(shared.snapshots(range))] as const
      yield* eventually(() => port.ranges() === 1)
      yield* Scope.close(scope, Exit.void)
      yield* eventually(() => consumers.every((consumer) => consumer.exit() !== undefined))
      for (const consumer of consumers) assert.strictEqual(consumer.error()?.reason._tag, "Closed")
    }))
})

describe("SharedWatch, lifetime", () => {
  it.effect("the watch outlives its last consumer for 5 seconds", () =>
    Effect.gen(function*() {
      const { port, put, shared } = yield* makeSetup
      const first = yield* consume(shared.changes(range))
      yield* eventually(() => first.seen.length === 1)
      yield* first.stop
      yield* TestClock.adjust("4 seconds")
      yield* put("x")
      const second = yield* consume(shared.changes(range))
      yield* eventually(() => second.seen.length > 0 && shorts(second.seen).join().includes("+x@2"))
      assert.deepStrictEqual(port.watches(), { open: 1, total: 1 })
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(port.watches().open, 1)
      yield* second.stop
      yield* TestClock.adjust("4999 millis")
      assert.strictEqual(port.watches().open, 1)
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(port.watches(), { open: 0, total: 1 })
    }))

  it.effect("what comes amid the interruption of a pull waits for the next one", () =>
    Effect.gen(function*() {
      for (const steps of [2, 3, 4, 2048]) {
        const state: Snapshot = { revision: 1n, kvs: HashMap.empty() }
        const hub = new Hub(state)
        const reader = hub.joinUnsafe()
        const waiting = yield* reader.pull.pipe(
          Effect.provideService(Scheduler.MaxOpsBeforeYield, steps),
          Effect.forkChild
        )
        for (let i = 0; i < 20; i++) yield* Effect.yieldNow
        assert.isUndefined(waiting.pollUnsafe())
        waiting.interruptUnsafe()
        const changes: ReadonlyArray<Change> = [{ _tag: "Synced", revision: 2n }]
        hub.publishUnsafe({ changes, state: { ...state, revision: 2n }, bytes: 0 })
        yield* Fiber.await(waiting)
        hub.publishUnsafe({ changes, state: { ...state, revision: 3n }, bytes: 0 })
        assert.strictEqual((yield* reader.pull).length, 2, `${steps}`)
      }
    }))

  it.effect("a consumer that lives on keeps nothing of what it began with", () =>
    Effect.gen(function*() {
      const { put, shared } = yield* makeSetup
      setFlagsFromString("--expose-gc")
      const collect = runInNewContext("gc") as () => void
      yield* put("x")
      // Two, as the watch itself keeps the state that it began with.
      const first = yield* consume(shared.changes(range))
      yield* eventually(() => first.seen.length === 1)
      yield* put("x", "second")
      yield* eventually(() => first.seen.length === 2)
      const second = yield* consume(shared.changes(range))
      yield* eventually(() => second.seen.length === 1)
      const begun = new WeakRef(second.seen.splice(0)[0] ?? [])
      yield* put("x", "third")
      yield* eventually(() => second.seen.length === 1)
      for (let i = 0; i < 5 && begun.deref() !== undefined; i++) {
        yield* Effect.promise(() => new Promise((resume) => setImmediate(resume)))
        collect()
      }
      assert.isUndefined(begun.deref())
    }))

  it.effect(
    "a consumer that is interrupted at any step leaves no watch behind, and the others whole",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const setup = yield* makeSetup
            yield* setup.put("x")
            const other = yield* consume(setup.shared.changes(range))
            return { ...setup, other }
          }),
          run: ({ put, shared }) =>
            Effect.scoped(Effect.gen(function*() {
              const done = yield* Deferred.make<void>()
              yield* Effect.forkScoped(
                shared.changes(range).pipe(
                  Stream.tap((changes) =>
                    short(changes).includes("+z") ? Deferred.succeed(done, undefined) : Effect.void
                  ),
                  Stream.runDrain
                )
              )
              yield* yield* shared.current({ key: "/a/x" })
              yield* put("z")
              yield* Deferred.await(done)
              yield* Stream.runHead(shared.changes(range, { from: 1n }))
            })),
          check: ({ other, port, put }) =>
            Effect.gen(function*() {
              const revision = yield* put("last")
              yield* eventually(
                () => shorts(other.seen).join().includes(`+last@${revision}`),
                "the others see the rest"
              )
              account(other.seen)
              yield* other.stop
              yield* TestClock.adjust("6 seconds")
              assert.strictEqual(port.watches().open, 0)
            })
        })
        assert.isAbove(steps, 100)
      }),
    120_000
  )
})
