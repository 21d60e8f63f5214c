import { assert, describe, it } from "@effect/vitest"
import { Compare, Operation } from "../src/Etcd.ts"
import { putCall, txnAnswer, txnCall, txnLease } from "../src/internal/etcd3/messages.ts"

describe("a transaction as a put", () => {
  const put = Operation.put("/k", "v")

  it("is one that does nothing else", () => {
    assert.strictEqual(putCall({ success: [put] }), put)
    assert.strictEqual(putCall({ compare: [], success: [put], failure: [] }), put)
  })

  it("is none that compares, does more, or is answered by more", () => {
    for (
      const request of [
        {},
        { success: [put, Operation.put("/l", "v")] },
        { success: [Operation.delete("/k")] },
        { success: [Operation.txn({ success: [put] })] },
        { failure: [put] },
        { success: [put], failure: [put] },
        { compare: [Compare.version("/k", "=", 0n)], success: [put] },
        { success: [Operation.put("/k", "v", { previousKv: true })] },
        { success: [Operation.put("/k", "v", { lease: 7n })] }
      ]
    ) assert.isUndefined(putCall(request))
  })
})

describe("a transaction that only compares", () => {
  const read = (key: string) => ({ failure: [Operation.range({ key, countOnly: true })] })

  it("reads the first key that it compares, and answers nothing of it", () => {
    for (
      const [range, key] of [
        [{ key: "/k" }, "/k"],
        [{ key: "/\udcff" }, "/\udcff"],
        [{ prefix: "/k/" }, "/k/"],
        [{ prefix: "" }, "\0"],
        [{ from: "/a", to: "/b" }, "/a"],
        [{ from: "", to: "/b" }, "\0"],
        [{ from: "", to: "" }, "\u0001"]
      ] as const
    ) {
      const request = { compare: [Compare.version(range, ">", 0n), Compare.version("/other", ">", 0n)] }
      assert.deepStrictEqual(txnCall(request), { ...request, ...read(key) })
      const result = { revision: 7n, succeeded: false }
      const responses = [{ _tag: "Range" as const, revision: 7n, kvs: [], count: 1, more: false }]
      assert.deepStrictEqual(txnAnswer(request, { ...result, responses }), { ...result, responses: [] })
    }
  })

  it("any other goes, and is answered, as it is", () => {
    for (
      const request of [{}, { success: [Operation.range("/k")] }, { compare: [], failure: [Operation.delete("/k")] }]
    ) {
      assert.strictEqual(txnCall(request), request)
    }
    const result = { revision: 7n, succeeded: true, responses: [{ _tag: "Put" as const, previous: undefined }] }
    assert.strictEqual(txnAnswer({ success: [Operation.put("/k", "v")] }, result), result)
  })
})

describe("the lease of a transaction", () => {
  it("is the first one, wherever it is", () => {
    const [a, b] = [Operation.put("/a", "", { lease: 1n }), Operation.put("/b", "", { lease: 2n })]
    assert.strictEqual(txnLease({ success: [Operation.put("/c", ""), a, b] }), 1n)
    assert.strictEqual(txnLease({ success: [Operation.txn({ failure: [b] })], failure: [a] }), 2n)
    assert.strictEqual(txnLease({ success: [Operation.delete("/a")] }), 0n)
  })
})
