import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Buffer } from "node:buffer"
import type { WatchEvent, WatchRequest } from "../src/Etcd.ts"
import { watch, type WatchResponse } from "../src/internal/etcd3/watchMessages.ts"
import { createMessage, eventMessage, generated, headerMessage } from "./utils/etcdMessages.ts"
import { flag, int64, isRead, key, kv, optional, range, unknown, within } from "./utils/etcdValues.ts"

const request: fc.Arbitrary<WatchRequest> = fc.tuple(
  range,
  fc.record({
    startRevision: optional(int64),
    previousKv: flag,
    without: optional(fc.constantFrom("Put" as const, "Delete" as const))
  }, { requiredKeys: [] })
).map(([range, options]) => ({ ...range, ...options }))

describe("the bytes of a watch's request", () => {
  it("are those that etcd3 writes", () => {
    fc.assert(
      fc.property(request, (request) => {
        const expected = generated.Watch.requestSerialize(createMessage(request))
        const written = watch.requestSerialize({ _tag: "Create", request })
        assert.strictEqual(written.toString("hex"), expected.toString("hex"))
      }),
      { numRuns: 1000 }
    )
    assert.deepStrictEqual(
      watch.requestSerialize({ _tag: "Progress" }),
      generated.Watch.requestSerialize({ progress_request: {} })
    )
  })
})

const previous = optional(kv)
const event: fc.Arbitrary<WatchEvent> = fc.oneof(
  fc.record({ _tag: fc.constant("Put" as const), kv, previous }),
  fc.record({ _tag: fc.constant("Delete" as const), key, modRevision: int64, previous })
)
const response: fc.Arbitrary<WatchResponse> = fc.record({
  revision: int64,
  created: fc.boolean(),
  canceled: fc.boolean(),
  compactRevision: int64,
  cancelReason: fc.string({ unit: "grapheme" }),
  fragment: fc.boolean(),
  events: fc.array(event, { maxLength: 4 })
})

const bytesOf = (response: WatchResponse, watchId = "0"): Buffer =>
  generated.Watch.responseSerialize({
    header: headerMessage(response.revision),
    watch_id: watchId,
    created: response.created,
    canceled: response.canceled,
    compact_revision: String(response.compactRevision),
    cancel_reason: response.cancelReason,
    fragment: response.fragment,
    events: response.events.map(eventMessage)
  })

/** Of which nothing is said. */
const nothing: WatchResponse = {
  revision: 0n,
  created: false,
  canceled: false,
  compactRevision: 0n,
  cancelReason: "",
  fragment: false,
  events: []
}

const put = (value: Uint8Array): WatchEvent => ({
  _tag: "Put",
  kv: { key: "/k", value, createRevision: 1n, modRevision: 2n, version: 2n, lease: 0n },
  previous: { key: "/k", value, createRevision: 1n, modRevision: 1n, version: 1n, lease: 0n }
})

describe("what is read of a watch's response", () => {
  it("is what etcd3's own code writes into it", () => {
    fc.assert(
      fc.property(response, int64, (response, watchId) => {
        assert.deepStrictEqual(watch.responseDeserialize(bytesOf(response, String(watchId))), response)
      }),
      { numRuns: 1000 }
    )
  })

  it("is what etcd3's own code reads in it, where the reason is no UTF-8, too", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 50 }), (reason) => {
      const bytes = within(6, reason)
      const expected = generated.Watch.responseDeserialize(bytes) as { readonly cancel_reason: string }
      assert.strictEqual(watch.responseDeserialize(bytes).cancelReason, expected.cancel_reason)
    }))
  })

  it("says of a removal its key and revision, whichever comes first, its kind or the key value", () => {
    const kv = within(2, Uint8Array.of(0x0a, 1, 0x6b, 0x18, 9))
    const expected: WatchResponse = {
      ...nothing,
      events: [{ _tag: "Delete", key: "k", modRevision: 9n, previous: undefined }]
    }
    assert.deepStrictEqual(watch.responseDeserialize(within(11, kv, Uint8Array.of(8, 1))), expected)
    assert.deepStrictEqual(watch.responseDeserialize(within(11, Uint8Array.of(8, 1), kv)), expected)
  })

  it("keeps nothing of the response in memory", () => {
    const response = { ...nothing, events: [put(Uint8Array.of(1, 2))] }
    const [found] = watch.responseDeserialize(bytesOf(response)).events
    assert.strictEqual(found?._tag === "Put" ? found.kv.value.buffer.byteLength : 0, 2)
    assert.strictEqual(found?.previous?.value.buffer.byteLength, 2)
  })

  it("is the defaults where nothing is said", () => {
    assert.deepStrictEqual(watch.responseDeserialize(Buffer.alloc(0)), nothing)
    assert.deepStrictEqual(watch.responseDeserialize(within(1)), nothing)
    const kv = { key: "", value: new Uint8Array(), createRevision: 0n, modRevision: 0n, version: 0n, lease: 0n }
    for (const event of [within(11), within(11, within(2))]) {
      assert.deepStrictEqual(watch.responseDeserialize(event), {
        ...nothing,
        events: [{ _tag: "Put", kv, previous: undefined }]
      })
    }
  })

  it("is not disturbed by fields that are not known", () => {
    const kv = within(2, unknown, Uint8Array.of(0x0a, 1, 0x6b), unknown)
    const event = within(11, unknown, kv, unknown)
    const head = within(1, unknown, Uint8Array.of(0x18, 5), unknown)
    const { events, revision } = watch.responseDeserialize(Buffer.concat([unknown, head, unknown, event, unknown]))
    assert.strictEqual(revision, 5n)
    assert.deepStrictEqual(events.map((event) => event._tag === "Put" ? event.kv.key : undefined), ["k"])
  })

  it("is refused where etcd3's own code refuses it: a cut response, a length that reaches too far", () => {
    fc.assert(fc.property(response, fc.nat(), (response, cut) => {
      const whole = bytesOf(response)
      const bytes = whole.subarray(0, cut % (whole.length + 1))
      // Not the other way round: at the end it takes what is left of a text, or of a long number, for all of it.
      if (!isRead(() => watch.responseDeserialize(bytes))) return
      assert.isTrue(isRead(() => generated.Watch.responseDeserialize(bytes)))
    }))
    for (const bytes of [[0x32, 5, 0x61], [0x28, 0x80, 0x80, 0x80]]) {
      assert.throws(() => watch.responseDeserialize(Buffer.from(bytes)), RangeError)
    }
    // Key values, and a field that is not known, each of 200 bytes in an event that has not as much.
    for (const inner of [Uint8Array.of(0x12, 200, 1), Uint8Array.of(0x1a, 200, 1), Uint8Array.of(0xfa, 0x07, 200, 1)]) {
      const bytes = Buffer.concat([within(11, inner), new Uint8Array(300)])
      assert.throws(() => watch.responseDeserialize(bytes), RangeError)
    }
  })
})
