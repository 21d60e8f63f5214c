import { assert, describe, it } from "@effect/vitest"
import { Compare, Operation } from "../src/Etcd.ts"
import { putCall } from "../src/internal/etcd3/messages.ts"

describe("a transaction as a put", () => {
  const put = Operation.put("/k", "v")

  it("is one that does nothing else", () => {
    const message = { key: Buffer.from("/k"), value: Buffer.from("v") }
    assert.deepStrictEqual(putCall({ success: [put] }), message)
    assert.deepStrictEqual(putCall({ compare: [], success: [put], failure: [] }), message)
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
