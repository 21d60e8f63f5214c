import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Compare, Operation, type OperationResult } from "../../src/Etcd.ts"
import { type ContractTests, freshPrefix, get, keys, put, range, reason, remove, text, txn } from "./support.ts"

const holds = (...compare: ReadonlyArray<Compare>) => Effect.map(txn({ compare }), (answer) => answer.succeeded)

const texts = (result: OperationResult | undefined) => result?._tag === "Range" ? result.kvs.map(text) : undefined

export const txnContract = (it: ContractTests): void => {
  it.effect("compares each part of a key with each operator", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const key = `${prefix}k`
      const created = yield* put(key, "m")
      const modified = yield* put(key, "m")
      const parts = [["version", 2n], ["createRevision", created], ["modRevision", modified], ["lease", 0n]] as const
      for (const [target, actual] of parts) {
        for (const value of [actual - 1n, actual, actual + 1n]) {
          assert.strictEqual(yield* holds(Compare[target](key, "=", value)), actual === value, `${target} =`)
          assert.strictEqual(yield* holds(Compare[target](key, "!=", value)), actual !== value, `${target} !=`)
          assert.strictEqual(yield* holds(Compare[target](key, "<", value)), actual < value, `${target} <`)
          assert.strictEqual(yield* holds(Compare[target](key, ">", value)), actual > value, `${target} >`)
        }
      }
      for (const value of ["", "a", "l\udfff", "m", "m\u0000", "z"]) {
        assert.strictEqual(yield* holds(Compare.value(key, "=", value)), value === "m")
        assert.strictEqual(yield* holds(Compare.value(key, "!=", value)), value !== "m")
        assert.strictEqual(yield* holds(Compare.value(key, "<", value)), "m" < value)
        assert.strictEqual(yield* holds(Compare.value(key, ">", value)), "m" > value)
      }
      assert.isTrue(yield* holds())
      assert.isFalse(yield* holds(Compare.version(key, "=", 2n), Compare.version(key, "=", 1n)))
    }))

  it.effect("an absent key has zeros, and no value to compare", () =>
    Effect.gen(function*() {
      const key = `${freshPrefix()}absent`
      for (const target of ["version", "createRevision", "modRevision", "lease"] as const) {
        assert.isTrue(yield* holds(Compare[target](key, "=", 0n)))
        assert.isTrue(yield* holds(Compare[target](key, "<", 1n)))
        assert.isFalse(yield* holds(Compare[target](key, ">", 0n)))
      }
      for (const op of ["=", "!=", "<", ">"] as const) {
        assert.isFalse(yield* holds(Compare.value(key, op, "")), op)
        assert.isFalse(yield* holds(Compare.value(key, op, "x")), op)
      }
    }))

  it.effect("a compare over a range must hold for every key, and for zeros when there is none", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      assert.isTrue(yield* holds(Compare.createRevision({ prefix }, "=", 0n)))
      yield* put(`${prefix}a`, "x")
      const second = yield* put(`${prefix}b`, "y")
      assert.isFalse(yield* holds(Compare.createRevision({ prefix }, "=", 0n)))
      assert.isTrue(yield* holds(Compare.createRevision({ prefix }, "<", second + 1n)))
      assert.isFalse(yield* holds(Compare.createRevision({ prefix }, "<", second)))
      assert.isTrue(yield* holds(Compare.createRevision({ from: prefix, to: `${prefix}b` }, "<", second)))
      assert.isFalse(yield* holds(Compare.value({ prefix }, "=", "x")))
      assert.isTrue(yield* holds(Compare.value({ prefix }, ">", "a")))
    }))

  it.effect("runs one branch or the other, and answers in order", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const create = {
        compare: [Compare.createRevision(`${prefix}k`, "=", 0n)],
        success: [Operation.put(`${prefix}k`, "mine"), Operation.range(`${prefix}k`)],
        failure: [Operation.range(`${prefix}k`), Operation.delete({ prefix }, { previousKv: true })]
      }
      const first = yield* txn(create)
      assert.isTrue(first.succeeded)
      assert.deepStrictEqual(first.responses.map((response) => response._tag), ["Put", "Range"])
      assert.deepStrictEqual(texts(first.responses[1]), ["mine"])
      const created = yield* get(`${prefix}k`)
      assert.strictEqual(created.modRevision, first.revision)
      const second = yield* txn(create)
      assert.isFalse(second.succeeded)
      assert.deepStrictEqual(texts(second.responses[0]), ["mine"])
      assert.deepStrictEqual(second.responses[1], { _tag: "Delete", deleted: 1, previous: [created] })
    }))

  it.effect("answers what was replaced and deleted only when asked", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      yield* put(`${prefix}k`, "one")
      const one = yield* get(`${prefix}k`)
      const { responses: silent } = yield* txn({ success: [Operation.put(`${prefix}k`, "two")] })
      assert.deepStrictEqual(silent, [{ _tag: "Put", previous: undefined }])
      const two = yield* get(`${prefix}k`)
      const { responses: asked } = yield* txn({
        success: [
          Operation.put(`${prefix}k`, "three", { previousKv: true }),
          Operation.put(`${prefix}new`, "", { previousKv: true })
        ]
      })
      assert.deepStrictEqual(asked, [{ _tag: "Put", previous: two }, { _tag: "Put", previous: undefined }])
      assert.notDeepEqual(one, two)
      assert.deepStrictEqual((yield* txn({ success: [Operation.delete({ prefix })] })).responses, [
        { _tag: "Delete", deleted: 2, previous: [] }
      ])
      assert.deepStrictEqual(
        (yield* txn({ success: [Operation.delete({ prefix }, { previousKv: true })] })).responses,
        [
          { _tag: "Delete", deleted: 0, previous: [] }
        ]
      )
    }))

  it.effect("all writes of a transaction are one revision, and none when it writes nothing", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const base = yield* put(`${prefix}a`, "")
      const wrote = yield* txn({
        success: [Operation.put(`${prefix}b`, ""), Operation.delete(`${prefix}a`), Operation.put(`${prefix}c`, "")]
      })
      assert.strictEqual(wrote.revision, base + 1n)
      const { kvs } = yield* range({ prefix })
      assert.deepStrictEqual(kvs.map((kv) => kv.modRevision), [base + 1n, base + 1n])
      assert.strictEqual(yield* remove(`${prefix}absent`), base + 1n)
      assert.strictEqual((yield* txn({ success: [Operation.range({ prefix })] })).revision, base + 1n)
      assert.strictEqual((yield* txn({})).revision, base + 1n)
      assert.strictEqual((yield* range({ prefix })).revision, base + 1n)
    }))

  it.effect("ranges see the writes before them; compares, those of nested transactions too, see none", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const key = `${prefix}k`
      const base = yield* put(key, "old")
      const answer = yield* txn({
        success: [
          Operation.range(key),
          Operation.put(key, "new"),
          Operation.range(key),
          Operation.range({ key, atRevision: base }),
          Operation.txn({
            compare: [Compare.value(key, "=", "old")],
            success: [Operation.range(key), Operation.put(`${prefix}nested`, "")],
            failure: [Operation.put(`${prefix}wrong`, "")]
          }),
          Operation.range({ prefix })
        ]
      })
      const [before, , after, past, nested, all] = answer.responses
      assert.deepStrictEqual([texts(before), texts(after), texts(past)], [["old"], ["new"], ["old"]])
      assert.deepStrictEqual(
        [before, after, past, all].map((result) => result?._tag === "Range" && result.revision - base),
        [0n, 1n, 1n, 1n]
      )
      assert.isTrue(nested?._tag === "Txn" && nested.succeeded)
      assert.deepStrictEqual(nested?._tag === "Txn" ? texts(nested.responses[0]) : undefined, ["new"])
      assert.deepStrictEqual(texts(all), ["new", ""])
      assert.strictEqual(answer.revision, base + 1n)
      assert.deepStrictEqual(yield* keys({ prefix }), [key, `${prefix}nested`])
    }))

  it.effect("a key is written once in a transaction", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const key = `${prefix}k`
      const put_ = Operation.put(key, "x")
      const delete_ = Operation.delete({ prefix })
      const refused = [
        [put_, put_],
        [put_, delete_],
        [delete_, put_],
        [put_, Operation.txn({ success: [put_] })],
        [Operation.txn({ failure: [put_] }), put_],
        [delete_, Operation.txn({ success: [put_] })],
        [Operation.txn({ success: [put_] }), Operation.txn({ success: [put_] })],
        [Operation.txn({ success: [Operation.txn({ success: [put_, put_] })] })]
      ]
      for (const success of refused) {
        assert.strictEqual((yield* reason(txn({ success })))._tag, "InvalidArgument")
        assert.strictEqual(
          (yield* reason(txn({ failure: success })))._tag,
          "InvalidArgument",
          "in the other branch as well"
        )
      }
      assert.deepStrictEqual(yield* keys({ prefix }), [])
      yield* txn({ success: [Operation.txn({ success: [put_], failure: [put_] }), Operation.range(key)] })
      yield* txn({ success: [put_], failure: [put_] })
      assert.strictEqual((yield* get(key)).version, 2n)
      // Twice deleted is no conflict.
      const { responses } = yield* txn({ success: [delete_, delete_] })
      assert.deepStrictEqual(responses.map((response) => response._tag === "Delete" && response.deleted), [1, 0])
    }))

  it.effect("128 operations on a level, and on all levels together", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const ranges = (count: number) => Array.from({ length: count }, () => Operation.range(`${prefix}k`))
      const compares = (count: number) => Array.from({ length: count }, () => Compare.version(`${prefix}k`, "=", 0n))
      const nested = (outer: number, inner: number) => ({
        success: [...ranges(outer - 1), Operation.txn({ compare: compares(inner), success: ranges(inner) })]
      })
      assert.strictEqual((yield* txn({ success: ranges(128) })).responses.length, 128)
      assert.isTrue((yield* txn({ compare: compares(128), success: ranges(128), failure: ranges(128) })).succeeded)
      assert.strictEqual((yield* txn(nested(100, 28))).responses.length, 100)
      const tooMany = [
        { success: ranges(129) },
        { failure: ranges(129) },
        { compare: compares(129) },
        nested(100, 29),
        { failure: nested(128, 1).success }
      ]
      for (const request of tooMany) assert.strictEqual((yield* reason(txn(request)))._tag, "InvalidArgument")
    }))

  it.effect("one wrong part, and nothing of it happens", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      const fine = Operation.put(`${prefix}k`, "x")
      const { revision } = yield* range({ prefix })
      const future = Operation.range({ prefix, atRevision: revision + 10n })
      const missing = yield* reason(txn({ success: [fine, Operation.put(`${prefix}l`, "", { lease: 77n })] }))
      assert.deepStrictEqual([missing._tag, missing._tag === "LeaseNotFound" && missing.leaseId], [
        "LeaseNotFound",
        77n
      ])
      assert.strictEqual((yield* reason(txn({ success: [fine, future] })))._tag, "InvalidArgument")
      assert.strictEqual(
        (yield* reason(txn({ success: [fine, Operation.txn({ success: [future] })] })))._tag,
        "InvalidArgument"
      )
      assert.deepStrictEqual(yield* keys({ prefix }), [])
      // What the branch not taken would do is not looked at.
      yield* txn({ success: [fine], failure: [future, Operation.put(`${prefix}l`, "", { lease: 77n })] })
      assert.deepStrictEqual(yield* keys({ prefix }), [`${prefix}k`])
    }))

  it.effect("a request above 1.5 MiB is too large, one just below is not", () =>
    Effect.gen(function*() {
      const prefix = freshPrefix()
      assert.strictEqual((yield* reason(put(`${prefix}k`, new Uint8Array(1.5 * 1024 * 1024))))._tag, "TooLarge")
      assert.strictEqual((yield* reason(put(`${prefix}k`, new Uint8Array(3 * 1024 * 1024))))._tag, "TooLarge")
      assert.deepStrictEqual(yield* keys({ prefix }), [])
      yield* put(`${prefix}k`, new Uint8Array(1.5 * 1024 * 1024 - 1024))
      assert.strictEqual((yield* get(`${prefix}k`)).value.length, 1.5 * 1024 * 1024 - 1024)
    }))
}
