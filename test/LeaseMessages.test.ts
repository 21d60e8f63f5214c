import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Buffer } from "node:buffer"
import { leaseGrant, leaseKeepAlive, leaseRevoke, leaseTimeToLive } from "../src/internal/etcd3/leaseMessages.ts"
import { encodeKey } from "../src/internal/keys.ts"
import { generated, headerMessage } from "./utils/etcdMessages.ts"
import { count, int64, isRead, key, unknown, within } from "./utils/etcdValues.ts"

const hex = (bytes: Buffer) => bytes.toString("hex")

describe("the bytes of a request for a lease", () => {
  it("are those that etcd3 writes", () => {
    fc.assert(fc.property(int64, count, (id, ttl) => {
      const ID = String(id)
      assert.strictEqual(
        hex(leaseGrant.requestSerialize({ id, ttl })),
        hex(generated.LeaseGrant.requestSerialize({ ID, TTL: String(ttl) }))
      )
      assert.strictEqual(hex(leaseRevoke.requestSerialize(id)), hex(generated.LeaseRevoke.requestSerialize({ ID })))
      assert.strictEqual(
        hex(leaseTimeToLive.requestSerialize(id)),
        hex(generated.LeaseTimeToLive.requestSerialize({ ID, keys: true }))
      )
      assert.strictEqual(
        hex(leaseKeepAlive.requestSerialize(id)),
        hex(generated.LeaseKeepAlive.requestSerialize({ ID }))
      )
    }))
  })
})

const methods = [
  [leaseGrant, generated.LeaseGrant],
  [leaseRevoke, generated.LeaseRevoke],
  [leaseTimeToLive, generated.LeaseTimeToLive],
  [leaseKeepAlive, generated.LeaseKeepAlive]
] as const

describe("what is read of an answer about a lease", () => {
  const header = { raft_term: "7" }

  it("is what etcd3's own code writes into it", () => {
    fc.assert(fc.property(int64, int64, count, count, fc.array(key), (revision, id, ttl, granted, keys) => {
      const head = { header: headerMessage(revision), ID: String(id) }
      const message = { ...head, TTL: String(ttl) }
      assert.deepStrictEqual(
        leaseGrant.responseDeserialize(generated.LeaseGrant.responseSerialize({ ...message, error: "none" })),
        { header, result: ttl }
      )
      assert.deepStrictEqual(leaseRevoke.responseDeserialize(generated.LeaseRevoke.responseSerialize(head)), {
        header,
        result: undefined
      })
      const state = { ...message, grantedTTL: String(granted), keys: keys.map(encodeKey) }
      assert.deepStrictEqual(
        leaseTimeToLive.responseDeserialize(generated.LeaseTimeToLive.responseSerialize(state)),
        { header, result: { ttl, keys, revision } }
      )
      assert.deepStrictEqual(
        leaseKeepAlive.responseDeserialize(generated.LeaseKeepAlive.responseSerialize(message)),
        { id, ttl }
      )
    }))
  })

  it("is the same number of seconds, however many, as of etcd3's text", () => {
    fc.assert(fc.property(int64, (ttl) => {
      const bytes = generated.LeaseKeepAlive.responseSerialize({ TTL: String(ttl) })
      assert.strictEqual(leaseKeepAlive.responseDeserialize(bytes).ttl, Number(ttl))
    }))
  })

  it("is the defaults where nothing is said, or only of fields that are not known", () => {
    for (const bytes of [Buffer.alloc(0), unknown]) {
      assert.deepStrictEqual(leaseGrant.responseDeserialize(bytes), { header: undefined, result: 0 })
      assert.deepStrictEqual(leaseRevoke.responseDeserialize(bytes), { header: undefined, result: undefined })
      const state = { ttl: 0, keys: [], revision: 0n }
      assert.deepStrictEqual(leaseTimeToLive.responseDeserialize(bytes), { header: undefined, result: state })
      assert.deepStrictEqual(leaseKeepAlive.responseDeserialize(bytes), { id: 0n, ttl: 0 })
    }
    const ttl = Uint8Array.of(0x18, 5)
    assert.strictEqual(leaseGrant.responseDeserialize(Buffer.concat([unknown, ttl, unknown])).result, 5)
    assert.strictEqual(leaseKeepAlive.responseDeserialize(Buffer.concat([unknown, ttl, unknown])).ttl, 5)
  })

  it("is refused where etcd3's own code refuses it: a cut answer, a length that reaches too far", () => {
    fc.assert(fc.property(int64, fc.nat({ max: 2 ** 20 }), fc.nat(), (id, ttl, cut) => {
      const message = { header: headerMessage(7n), ID: String(id), TTL: String(ttl), keys: [Buffer.from("key")] }
      for (const [method, expected] of methods) {
        const whole = expected.responseSerialize(message)
        const bytes = whole.subarray(0, cut % (whole.length + 1))
        // Not the other way round: at the end it takes what is left of a long number for all of it.
        if (isRead(() => method.responseDeserialize(bytes))) {
          assert.isTrue(isRead(() => expected.responseDeserialize(bytes)))
        }
      }
    }))
    for (const [method] of methods) {
      for (const bytes of [[0x0a, 5, 8], [0x42, 5, 8], [0x18, 0x80]]) {
        assert.throws(() => method.responseDeserialize(Buffer.from(bytes)), RangeError)
      }
    }
    // A field of 200 bytes in a header that has not as much. Of a beat the header is not looked at.
    const bytes = Buffer.concat([within(1, Uint8Array.of(0xfa, 0x07, 200, 1)), new Uint8Array(300)])
    for (const method of [leaseGrant, leaseRevoke, leaseTimeToLive]) {
      assert.throws(() => method.responseDeserialize(bytes), RangeError)
    }
  })
})
