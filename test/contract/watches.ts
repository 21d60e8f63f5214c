import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { Operation } from "../../src/Etcd.ts"
import { Operator } from "./Operator.ts"
import {
  batches,
  type ContractTests,
  freshPrefix,
  get,
  put,
  range,
  reason,
  remove,
  shortBatch,
  text,
  txn,
  watch
} from "./support.ts"

export const watchContract = (it: ContractTests): void => {
  it.effect("a watch opens first, then tells each revision once, whole and in order", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const start = yield* put(`${prefix}a`, "1")
      yield* put(`${prefix}b`, "2")
      yield* txn({
        success: [Operation.put(`${prefix}c`, "3"), Operation.delete(`${prefix}a`), Operation.put(`${prefix}b`, "4")]
      })
      const { revision } = yield* range({ prefix })
      const items = yield* watch({ prefix, startRevision: start }).pipe(
        Stream.take(4),
        Stream.runCollect,
        Effect.timeout("20 seconds")
      )
      assert.deepStrictEqual(items[0], { _tag: "Opened", revision })
      assert.deepStrictEqual(
        items.flatMap((item) => item._tag === "Batch" ? [shortBatch(start)(item)] : []),
        [`0: +${prefix}a=1`, `1: +${prefix}b=2`, `2: +${prefix}c=3 -${prefix}a +${prefix}b=4`]
      )
    }))

  it.effect("the past and what comes, without a gap between them", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const start = yield* put(`${prefix}0`, "")
      for (let i = 1; i < 100; i++) yield* put(`${prefix}${i}`, "")
      const all = yield* Effect.forkChild(batches({ prefix, startRevision: start }, 200))
      for (let i = 100; i < 200; i++) yield* put(`${prefix}${i}`, "")
      const seen = yield* Fiber.join(all)
      assert.deepStrictEqual(
        seen.map((batch) => batch.revision - start),
        Array.from({ length: 200 }, (_, i) => BigInt(i))
      )
    }))

  it.effect("an event carries the key as it was written, and as it was before when asked for", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const key = `${prefix}k`
      const start = yield* put(key, "one")
      const one = yield* get(key)
      yield* put(key, "two")
      const two = yield* get(key)
      const deleted = yield* remove(key)
      assert.deepStrictEqual(
        (yield* batches({ key, startRevision: start, previousKv: true }, 3)).flatMap((batch) => batch.events),
        [
          { _tag: "Put", kv: one, previous: undefined },
          { _tag: "Put", kv: two, previous: one },
          { _tag: "Delete", key, modRevision: deleted, previous: two }
        ]
      )
      assert.deepStrictEqual(
        (yield* batches({ key, startRevision: start }, 3)).flatMap((batch) =>
          batch.events.map((event) => event.previous)
        ),
        [undefined, undefined, undefined]
      )
    }))

  it.effect("events of a kind that is left out are not told, nor are revisions of nothing else", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const key = `${prefix}k`
      const start = yield* put(key, "one")
      const deleted = yield* remove(key)
      yield* put(key, "two")
      const both = yield* txn({ success: [Operation.delete(key), Operation.put(`${prefix}other`, "")] })
      const last = yield* put(key, "three")
      const end = yield* remove(key)
      const seen = (request: Parameters<typeof batches>[0], count: number) =>
        Effect.map(
          batches({ ...request, startRevision: start }, count),
          (all) => all.map((batch) => [batch.revision - start, batch.events.map(({ _tag }) => _tag).join()])
        )
      assert.deepStrictEqual(yield* seen({ prefix, without: "Put" }, 3), [
        [deleted - start, "Delete"],
        [both.revision - start, "Delete"],
        [end - start, "Delete"]
      ])
      assert.deepStrictEqual(yield* seen({ prefix, without: "Delete" }, 4), [
        [0n, "Put"],
        [deleted + 1n - start, "Put"],
        [both.revision - start, "Put"],
        [last - start, "Put"]
      ])
      // Also of those who are there when it happens.
      const opened = yield* Deferred.make<void>()
      const live = yield* Effect.forkChild(
        watch({ key, without: "Put" }).pipe(
          Stream.tap((item) => item._tag === "Opened" ? Deferred.succeed(opened, undefined) : Effect.void),
          Stream.filter((item) => item._tag === "Batch"),
          Stream.take(1),
          Stream.runCollect
        )
      )
      yield* Deferred.await(opened)
      yield* put(key, "four")
      const gone = yield* remove(key)
      assert.deepStrictEqual((yield* Fiber.join(live)).map(({ revision }) => revision), [gone])
    }))

  it.effect("one key, a prefix and a range see their own keys only", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const start = yield* put(`${prefix}a`, "1")
      for (const name of ["aa", "b", "b/x", "c", "\udcff"]) yield* put(prefix + name, "")
      const end = yield* put(`${prefix}end`, "")
      // All of them end with what they were not asked for: it is their last revision that says how much they saw.
      yield* txn({ success: ["a", "b/x", "\udcff"].map((name) => Operation.put(prefix + name, "end")) })
      const seen = (request: Parameters<typeof batches>[0], count: number) =>
        Effect.map(batches({ ...request, startRevision: start }, count), (all) =>
          all.flatMap((batch) =>
            batch.events.map((event) =>
              event._tag === "Put" ? event.kv.key.slice(prefix.length) : "deleted"
            )
          ))
      assert.deepStrictEqual(yield* seen({ key: `${prefix}a` }, 2), ["a", "a"])
      assert.deepStrictEqual(yield* seen({ prefix: `${prefix}b` }, 3), ["b", "b/x", "b/x"])
      assert.deepStrictEqual(yield* seen({ from: `${prefix}aa`, to: `${prefix}c` }, 4), ["aa", "b", "b/x", "b/x"])
      assert.deepStrictEqual(yield* seen({ key: `${prefix}\udcff` }, 2), ["\udcff", "\udcff"])
      assert.isAbove(Number(end), Number(start))
    }))

  it.effect("a watch without a start tells what happens after it has opened", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      yield* put(`${prefix}before`, "")
      const opened = yield* Deferred.make<void>()
      const first = yield* watch({ prefix }).pipe(
        Stream.tap((item) => item._tag === "Opened" ? Deferred.succeed(opened, undefined) : Effect.void),
        Stream.take(2),
        Stream.runCollect,
        Effect.timeout("20 seconds"),
        Effect.forkChild
      )
      yield* Deferred.await(opened)
      const revision = yield* put(`${prefix}after`, "x")
      const [, batch] = yield* Fiber.join(first)
      assert.isTrue(batch?._tag === "Batch" && batch.revision === revision)
    }))

  it.effect("a watch of the next revision waits for it", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const now = yield* put(`${prefix}k`, "0")
      const opened = yield* Deferred.make<void>()
      const next = yield* watch({ prefix, startRevision: now + 1n }).pipe(
        Stream.tap((item) => item._tag === "Opened" ? Deferred.succeed(opened, undefined) : Effect.void),
        Stream.filter((item) => item._tag === "Batch"),
        Stream.take(2),
        Stream.runCollect,
        Effect.timeout("20 seconds"),
        Effect.forkChild
      )
      yield* Deferred.await(opened)
      for (const value of ["1", "2"]) yield* put(`${prefix}k`, value)
      const seen = yield* Fiber.join(next)
      assert.deepStrictEqual(seen.map(shortBatch(now)), [`1: +${prefix}k=1`, `2: +${prefix}k=2`])
    }))

  it.effect("a start that the store has not come to yet means that it went back", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const actual = yield* put(`${prefix}k`, "0")
      const why = yield* reason(Stream.runDrain(watch({ prefix, startRevision: actual + 3n })))
      assert.deepStrictEqual(
        [why._tag, why._tag === "HistoryLost" && [why.expected, why.actual]],
        ["HistoryLost", [actual + 2n, actual]]
      )
    }))

  it.effect("a start that is compacted is said so, with the oldest revision that can be read", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const operator = yield* Operator
      const start = yield* put(`${prefix}k`, "0")
      for (const value of ["1", "2", "3"]) yield* put(`${prefix}k`, value)
      yield* operator.compact(start + 2n)
      // Of the compacted revision itself, old servers have forgotten the deletions.
      for (const from of [start, start + 2n]) {
        const why = yield* reason(Stream.runDrain(watch({ prefix, startRevision: from })))
        assert.deepStrictEqual(
          [why._tag, why._tag === "Compacted" && why.compactRevision],
          ["Compacted", start + 2n]
        )
      }
      const left = yield* batches({ prefix, startRevision: start + 3n, previousKv: true }, 1)
      assert.deepStrictEqual(left.map(shortBatch(start)), [`3: +${prefix}k=3`])
      assert.deepStrictEqual(left.map(({ events: [event] }) => text(event?.previous)), ["2"])
    }))

  it.effect("a range that ends before it starts cannot be watched", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      for (const to of [prefix, "/", "", "\u0000"]) {
        assert.strictEqual(
          (yield* reason(Stream.runDrain(watch({ from: prefix, to, startRevision: 1n }))))._tag,
          "InvalidArgument"
        )
      }
    }))

  it.effect("a consumer that takes its time misses nothing and holds up nobody", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const value = new Uint8Array(20_000)
      const start = yield* put(`${prefix}k`, value)
      const goOn = yield* Deferred.make<void>()
      const slow = yield* watch({ prefix, startRevision: start }).pipe(
        Stream.filter((item) => item._tag === "Batch"),
        Stream.tap(() => Deferred.await(goOn)),
        Stream.take(500),
        Stream.runCollect,
        Effect.timeout("30 seconds"),
        Effect.forkChild
      )
      for (let i = 1; i < 500; i++) yield* put(`${prefix}k`, value)
      assert.strictEqual((yield* batches({ prefix, startRevision: start }, 500)).length, 500)
      yield* Deferred.succeed(goOn, undefined)
      const seen = yield* Fiber.join(slow)
      assert.deepStrictEqual(
        seen.map((batch) => batch.revision - start),
        Array.from({ length: 500 }, (_, i) => BigInt(i))
      )
    }))

  it.effect("a transaction of a megabyte is one batch", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const puts = Array.from({ length: 100 }, (_, i) => Operation.put(`${prefix}${i}`, new Uint8Array(10_000)))
      const { revision } = yield* txn({ success: puts })
      for (let i = 0; i < 5; i++) yield* txn({ success: puts })
      const seen = yield* batches({ prefix, startRevision: revision }, 6)
      assert.deepStrictEqual(
        seen.map((batch) => [batch.revision - revision, batch.events.length]),
        Array.from({ length: 6 }, (_, i) => [BigInt(i), 100])
      )
    }))
}
