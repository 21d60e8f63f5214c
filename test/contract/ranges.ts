import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Operation } from "../../src/Etcd.ts"
import { Operator } from "./Operator.ts"
import { type ContractTests, freshPrefix, get, keys, put, range, reason, remove, text, txn } from "./support.ts"

export const rangeContract = (it: ContractTests): void => {
  it.effect("a key carries its value, its revisions and the number of its puts", () =>
    Effect.gen(function*() {
      const key = `${freshPrefix()}k`
      const created = yield* put(key, "one")
      const modified = yield* put(key, new Uint8Array([0, 255, 7]))
      assert.strictEqual(modified, created + 1n)
      assert.deepStrictEqual(yield* get(key), {
        key,
        value: new Uint8Array([0, 255, 7]),
        createRevision: created,
        modRevision: modified,
        version: 2n,
        lease: 0n
      })
      yield* remove(key)
      const again = yield* put(key, "")
      assert.deepStrictEqual(yield* get(key), {
        key,
        value: new Uint8Array(0),
        createRevision: again,
        modRevision: again,
        version: 1n,
        lease: 0n
      })
    }))

  it.effect("keys come in the order of their bytes, those above U+FFFF and those that are no UTF-8 too", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const ordered = [
        "",
        "\u0000",
        "a",
        "a\u0000",
        "a/b",
        "aa",
        "b",
        "\u007f",
        "\udc80",
        "\udcbf",
        "é",
        "\ud7ff",
        "\uffff",
        "😀",
        "\udcfe",
        "\udcff"
      ]
        .map((name) => prefix + name)
      for (const key of [...ordered].reverse()) yield* put(key, "")
      assert.deepStrictEqual(yield* keys({ prefix }), ordered)
      assert.deepStrictEqual(
        yield* keys({ prefix }, { sort: { by: "key", order: "descend" } }),
        [...ordered].reverse()
      )
      assert.deepStrictEqual(yield* keys({ key: `${prefix}\udcff` }), [`${prefix}\udcff`])
      assert.deepStrictEqual(yield* keys({ prefix: `${prefix}\udcfe` }), [`${prefix}\udcfe`])
    }))

  it.effect("one key, a prefix, and from one key up to another", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      for (const name of ["a", "a/1", "a/2", "a0", "b"]) yield* put(prefix + name, name)
      const names = Effect.map((found: ReadonlyArray<string>) => found.map((key) => key.slice(prefix.length)))
      assert.deepStrictEqual(yield* names(keys({ key: `${prefix}a` })), ["a"])
      assert.deepStrictEqual(yield* names(keys({ key: `${prefix}a/` })), [])
      assert.deepStrictEqual(yield* names(keys({ prefix: `${prefix}a/` })), ["a/1", "a/2"])
      assert.deepStrictEqual(yield* names(keys({ prefix: `${prefix}a` })), ["a", "a/1", "a/2", "a0"])
      assert.deepStrictEqual(yield* names(keys({ from: `${prefix}a/2`, to: `${prefix}b` })), ["a/2", "a0"])
      for (const to of [`${prefix}a`, "/", "", "\u0000"]) {
        assert.deepStrictEqual(yield* keys({ from: `${prefix}a`, to }), [])
      }
      assert.include(yield* keys({ prefix: "" }), `${prefix}a0`)
      assert.include(yield* keys({ from: "", to: `${prefix}b` }), `${prefix}a0`)
    }))

  it.effect("a limit says that there is more, and counts all", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      for (const name of ["a", "b", "c"]) yield* put(prefix + name, name)
      const two = yield* range({ prefix, limit: 2 })
      assert.deepStrictEqual([two.kvs.map(text), two.more, two.count], [["a", "b"], true, 3])
      const three = yield* range({ prefix, limit: 3 })
      assert.deepStrictEqual([three.kvs.length, three.more, three.count], [3, false, 3])
      const last = yield* range({ prefix, limit: 1, sort: { by: "mod", order: "descend" } })
      assert.deepStrictEqual([last.kvs.map(text), last.more, last.count], [["c"], true, 3])
    }))

  it.effect("by creation and by modification, both ways", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      for (const name of ["b", "c", "a", "b"]) yield* put(prefix + name, name)
      const order = (by: "create" | "mod", order: "ascend" | "descend") =>
        Effect.map(range({ prefix, sort: { by, order } }), ({ kvs }) => kvs.map(text).join(""))
      assert.strictEqual(yield* order("create", "ascend"), "bca")
      assert.strictEqual(yield* order("create", "descend"), "acb")
      assert.strictEqual(yield* order("mod", "ascend"), "cab")
      assert.strictEqual(yield* order("mod", "descend"), "bac")
    }))

  it.effect("keys alone, or the count alone", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const revision = yield* put(`${prefix}a`, "value")
      const { kvs } = yield* range({ prefix, keysOnly: true })
      assert.deepStrictEqual(kvs.map((kv) => [kv.key, kv.value.length, kv.modRevision]), [[`${prefix}a`, 0, revision]])
      const count = yield* range({ prefix, countOnly: true })
      assert.deepStrictEqual([count.kvs, count.count, count.more], [[], 1, false])
    }))

  it.effect("only keys that were created early enough, out of the count of all", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const created = yield* put(`${prefix}b`, "1")
      yield* put(`${prefix}a`, "2")
      yield* put(`${prefix}b`, "3")
      const early = yield* range({ prefix, maxCreateRevision: created })
      assert.deepStrictEqual([early.kvs.map(text), early.count, early.more], [["3"], 2, false])
      const newest = yield* range({
        prefix,
        maxCreateRevision: created - 1n,
        limit: 1,
        sort: { by: "create", order: "descend" }
      })
      assert.deepStrictEqual([newest.kvs, newest.more], [[], false])
    }))

  it.effect("the past is read until it is compacted; the future is refused", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const key = `${prefix}k`
      const one = yield* put(key, "one")
      const two = yield* put(key, "two")
      const gone = yield* remove(key)
      const now = yield* put(`${prefix}other`, "x")
      const at = (atRevision: bigint) =>
        Effect.map(range({ prefix, atRevision }), ({ count, kvs, revision }) => [kvs.map(text), count, revision])
      assert.deepStrictEqual(yield* at(one), [["one"], 1, now])
      assert.deepStrictEqual(yield* at(two), [["two"], 1, now])
      assert.deepStrictEqual(yield* at(gone), [[], 0, now])
      assert.strictEqual((yield* reason(at(now + 1n)))._tag, "InvalidArgument")

      const operator = yield* Operator
      assert.isTrue(yield* operator.compact(two))
      assert.deepStrictEqual(yield* at(two), [["two"], 1, now])
      assert.strictEqual((yield* reason(at(one)))._tag, "Compacted")
      assert.strictEqual(
        (yield* reason(txn({ success: [Operation.range({ key, atRevision: one })] })))._tag,
        "Compacted"
      )
      assert.isFalse(yield* operator.compact(two), "what is compacted is not compacted again")
      assert.isFalse(yield* operator.compact(now + 1n), "nor the future")
    }))

  it.effect("an empty key is refused, with its operation named", () =>
    Effect.gen(function*() {
      const refused = [
        yield* Effect.flip(range({ key: "" })),
        yield* Effect.flip(put("", "x")),
        yield* Effect.flip(remove("")),
        yield* Effect.flip(txn({ compare: [{ key: "", target: "version", op: "=", value: 0n }] }))
      ]
      assert.deepStrictEqual(refused.map((error) => error.reason._tag), Array(4).fill("InvalidArgument"))
      assert.deepStrictEqual(refused.map((error) => error.operation), ["range", "txn", "txn", "txn"])
    }))

  it.effect("what is read is the reader's own", () =>
    Effect.gen(function*() {
      const key = `${freshPrefix()}k`
      const written = new Uint8Array([1, 2, 3])
      yield* put(key, written)
      written.fill(9)
      ;(yield* get(key)).value.fill(8)
      assert.deepStrictEqual((yield* get(key)).value, new Uint8Array([1, 2, 3]))
    }))
}
