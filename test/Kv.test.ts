import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Buffer } from "node:buffer"
import type { Compare, KeyValue, Operation, OperationResult, RangeRequest, TxnRequest } from "../src/Etcd.ts"
import * as Kv from "../src/internal/etcd3/kv.ts"
import { encodeKey } from "../src/internal/keys.ts"
import { generated, headerMessage, readMessage, resultMessage, txnMessage } from "./utils/etcdMessages.ts"
import { bytes, count, flag, int64, isRead, key, kv, optional, range, unknown, within } from "./utils/etcdValues.ts"

const value = fc.oneof(fc.string({ unit: "binary" }), bytes)
const read: fc.Arbitrary<RangeRequest> = fc.tuple(
  range,
  fc.record({
    limit: optional(count),
    sort: optional(
      fc.record({ by: fc.constantFrom("key", "create", "mod"), order: fc.constantFrom("ascend", "descend") })
    ),
    keysOnly: flag,
    countOnly: flag,
    serializable: flag,
    atRevision: optional(int64),
    maxCreateRevision: optional(int64)
  })
).map(([range, options]) => ({ ...range, ...options }))

const compare: fc.Arbitrary<Compare> = fc.tuple(
  range,
  fc.constantFrom("=", "!=", "<", ">"),
  fc.oneof(
    fc.record({ target: fc.constantFrom("version", "createRevision", "modRevision", "lease"), value: int64 }),
    fc.record({ target: fc.constant("value" as const), value })
  )
).map(([range, op, target]) => ({ ...range, op, ...target }))

const put = fc.record({ _tag: fc.constant("Put" as const), key, value, lease: optional(int64), previousKv: flag })

const request = fc.letrec<{ readonly txn: TxnRequest; readonly operation: Operation }>((tie) => {
  const operations = optional(fc.array(tie("operation"), { maxLength: 3 }))
  return {
    txn: fc.record({
      compare: optional(fc.array(compare, { maxLength: 3 })),
      success: operations,
      failure: operations
    }),
    operation: fc.oneof(
      { depthSize: "small" },
      put,
      fc.tuple(range, flag).map(([range, previousKv]) => ({ _tag: "Delete" as const, ...range, previousKv })),
      read.map((read) => ({ _tag: "Range" as const, ...read })),
      tie("txn").map((txn) => ({ _tag: "Txn" as const, ...txn }))
    )
  }
})

describe("the bytes of a request", () => {
  it("are those that etcd3 writes", () => {
    fc.assert(
      fc.property(request.txn, (request) => {
        const expected = generated.Txn.requestSerialize(txnMessage(request))
        assert.strictEqual(Kv.txn.requestSerialize(request).toString("hex"), expected.toString("hex"))
      }),
      { numRuns: 1000 }
    )
    fc.assert(fc.property(read, (request) => {
      const expected = generated.Range.requestSerialize(readMessage(request))
      assert.strictEqual(Kv.range.requestSerialize(request).toString("hex"), expected.toString("hex"))
    }))
    fc.assert(fc.property(key, value, (key, value) => {
      const expected = generated.Put.requestSerialize({ key: encodeKey(key), value: Buffer.from(value as string) })
      assert.strictEqual(
        Kv.put.requestSerialize({ _tag: "Put", key, value }).toString("hex"),
        expected.toString("hex")
      )
    }))
  })

  it("of one are not those of another, whatever their size, nor after one that cannot be written", () => {
    const puts = [1, 2, 100_000, 3, 4, 1_500_000, 5, 6].map((size) => ({
      _tag: "Put" as const,
      key: "/k",
      value: new Uint8Array(size).fill(size)
    }))
    const written = puts.map((put) => {
      assert.throws(() => Kv.put.requestSerialize({ ...put, key: undefined as never }))
      return Kv.put.requestSerialize(put)
    })
    for (const [i, { key, value }] of puts.entries()) {
      const expected = generated.Put.requestSerialize({ key: Buffer.from(key), value })
      assert.isTrue(expected.equals(written[i] as Buffer))
    }
  })

  it("a limit without an end is none", () => {
    for (const limit of [Infinity, Number.NaN]) {
      assert.deepStrictEqual(
        Kv.range.requestSerialize({ key: "k", limit }),
        Kv.range.requestSerialize({ key: "k", limit: 0 })
      )
    }
  })
})

const kvs = fc.array(kv, { maxLength: 3 })
const rangeResult = fc.record({ _tag: fc.constant("Range" as const), revision: int64, kvs, count, more: fc.boolean() })

const answer = fc.letrec<{ readonly result: OperationResult }>((tie) => ({
  result: fc.oneof(
    { depthSize: "small" },
    fc.record({ _tag: fc.constant("Put" as const), previous: optional(kv) }),
    fc.record({ _tag: fc.constant("Delete" as const), deleted: count, previous: kvs }),
    rangeResult,
    fc.record({
      _tag: fc.constant("Txn" as const),
      succeeded: fc.boolean(),
      responses: fc.array(tie("result"), { maxLength: 3 })
    })
  )
}))
const responses = fc.array(answer.result, { maxLength: 4 })

const txnBytes = (revision: bigint, succeeded: boolean, responses: ReadonlyArray<OperationResult>): Buffer =>
  generated.Txn.responseSerialize({
    header: headerMessage(revision),
    succeeded,
    responses: responses.map(resultMessage)
  })

describe("what is read of an answer", () => {
  it("is what etcd3's own code writes into it", () => {
    fc.assert(
      fc.property(int64, fc.boolean(), responses, (revision, succeeded, responses) => {
        assert.deepStrictEqual(Kv.txn.responseDeserialize(txnBytes(revision, succeeded, responses)), {
          header: { raft_term: "7" },
          result: { revision, succeeded, responses }
        })
      }),
      { numRuns: 1000 }
    )
    fc.assert(fc.property(rangeResult, ({ _tag, ...result }) => {
      const message = {
        ...resultMessage({ _tag, ...result })["response_range"] as object,
        header: headerMessage(result.revision)
      }
      assert.deepStrictEqual(Kv.range.responseDeserialize(generated.Range.responseSerialize(message)), {
        header: { raft_term: "7" },
        result
      })
    }))
    assert.deepStrictEqual(Kv.put.responseDeserialize(generated.Put.responseSerialize({ header: headerMessage(9n) })), {
      header: { raft_term: "7" },
      result: { revision: 9n, succeeded: true, responses: [{ _tag: "Put", previous: undefined }] }
    })
  })

  it("keeps nothing of the answer in memory", () => {
    const kv: KeyValue = {
      key: "/k",
      value: Uint8Array.of(1, 2),
      createRevision: 1n,
      modRevision: 1n,
      version: 1n,
      lease: 0n
    }
    const read: OperationResult = { _tag: "Range", revision: 1n, kvs: [kv], count: 1, more: false }
    const [found] = Kv.txn.responseDeserialize(txnBytes(1n, true, [read])).result.responses
    assert.deepStrictEqual(found, read)
    assert.strictEqual(found?._tag === "Range" ? found.kvs[0]?.value.buffer.byteLength : 0, 2)
  })

  it("an answer without a header says nothing of a term", () => {
    assert.deepStrictEqual(Kv.txn.responseDeserialize(Buffer.alloc(0)), {
      header: undefined,
      result: { revision: 0n, succeeded: false, responses: [] }
    })
  })

  it("is not disturbed by fields that are not known", () => {
    const kv = within(2, unknown, Uint8Array.of(0x0a, 1, 0x6b), unknown)
    const read = within(1, unknown, kv, unknown)
    const head = within(1, unknown, Uint8Array.of(0x18, 5), unknown)
    const bytes = Buffer.concat([unknown, head, unknown, within(3, read), unknown])
    const { result } = Kv.txn.responseDeserialize(bytes)
    assert.strictEqual(result.revision, 5n)
    const [found] = result.responses
    assert.deepStrictEqual(found?._tag === "Range" ? found.kvs.map(({ key }) => key) : [], ["k"])
  })

  it("is refused where etcd3's own code refuses it: a cut answer, a length that reaches too far", () => {
    fc.assert(fc.property(responses, fc.nat(), (responses, cut) => {
      const whole = txnBytes(7n, true, responses)
      const bytes = whole.subarray(0, cut % (whole.length + 1))
      // Not the other way round: at the end it takes what is left of a long number for all of it.
      if (!isRead(() => Kv.txn.responseDeserialize(bytes))) return
      assert.isTrue(isRead(() => generated.Txn.responseDeserialize(bytes)))
    }))
    // A header, a key, and a field that is not known, each of 200 bytes in a message that has not as much.
    const [header, key] = [Uint8Array.of(0x0a, 200, 1), within(2, Uint8Array.of(0x0a, 200, 1))]
    for (const inner of [header, key, Uint8Array.of(0xfa, 0x07, 200, 1)]) {
      const bytes = Buffer.concat([within(3, within(1, inner)), new Uint8Array(300)])
      assert.throws(() => Kv.txn.responseDeserialize(bytes), RangeError)
    }
    assert.throws(() => Kv.txn.responseDeserialize(Buffer.from([0x10, 0x80])), RangeError)
    assert.throws(() => Kv.txn.responseDeserialize(Buffer.from([0x10, ...Array<number>(10).fill(0xff), 1])))
    assert.throws(() => Kv.txn.responseDeserialize(Buffer.from([0xf6, 0x07])))
  })
})
