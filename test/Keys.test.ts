import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { compareBytes, decodeKey, encodeKey, encodeRange, prefixEnd } from "../src/internal/keys.ts"

const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 24 }),
  fc.string({ unit: "binary", maxLength: 12 }).map((text) => new TextEncoder().encode(text)),
  // Near misses: pieces of well-formed text between the lead bytes that make them malformed.
  fc.array(fc.constantFrom(0x61, 0x80, 0x9f, 0xa0, 0xbf, 0xc0, 0xc3, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff), {
    maxLength: 8
  })
    .map((all) => Uint8Array.from(all))
)

describe("keys", () => {
  it("every key of bytes survives the way to a string and back", () => {
    fc.assert(fc.property(bytes, (key) => assert.deepStrictEqual(encodeKey(decodeKey(key)), key)), { numRuns: 2000 })
  })

  it("a well-formed string is its UTF-8, a byte order mark and U+FFFD included", () => {
    for (const key of ["", "/a/b", "é", "\ufeffbom", "a\ufffdb", "😀", "\u0000"]) {
      assert.deepStrictEqual(encodeKey(key), new Uint8Array(Buffer.from(key)))
      assert.strictEqual(decodeKey(encodeKey(key)), key)
    }
  })

  it("bytes that are not UTF-8 become lone surrogates, one for each", () => {
    assert.strictEqual(decodeKey(Uint8Array.of(0x61, 0xff, 0x62)), "a\udcffb")
    assert.strictEqual(decodeKey(Uint8Array.of(0xed, 0xa0, 0x80)), "\udced\udca0\udc80")
    assert.strictEqual(decodeKey(Uint8Array.of(0xc3)), "\udcc3")
    assert.strictEqual(decodeKey(Uint8Array.of(0xc3, 0xc3, 0xa9)), "\udcc3é")
    assert.deepStrictEqual(encodeKey("a\udcffb"), Uint8Array.of(0x61, 0xff, 0x62))
  })

  it("a prefix ends before the first key that does not start with it", () => {
    assert.deepStrictEqual(prefixEnd(Uint8Array.of(1, 2)), Uint8Array.of(1, 3))
    assert.deepStrictEqual(prefixEnd(Uint8Array.of(1, 0xff, 0xff)), Uint8Array.of(2))
    assert.deepStrictEqual(prefixEnd(Uint8Array.of(0xff)), Uint8Array.of(0))
    assert.deepStrictEqual(prefixEnd(new Uint8Array(0)), Uint8Array.of(0))
    fc.assert(fc.property(bytes, bytes, (prefix, key) => {
      const end = prefixEnd(prefix)
      const noEnd = end.length === 1 && end[0] === 0
      const inside = compareBytes(key, prefix) >= 0 && (noEnd || compareBytes(key, end) < 0)
      const starts = key.length >= prefix.length && prefix.every((byte, i) => key[i] === byte)
      assert.strictEqual(inside, starts)
    }))
  })

  it("one key has no end: one that is sent empty would mean no end to etcd", () => {
    assert.deepStrictEqual(encodeRange({ key: "a" }), { key: Uint8Array.of(0x61) })
  })

  it("a range that ends before it starts reads nothing, not everything", () => {
    const start = Uint8Array.of(0x61)
    assert.deepStrictEqual(encodeRange({ from: "a", to: "" }), { key: start, rangeEnd: start })
    assert.deepStrictEqual(encodeRange({ from: "a", to: "\u0000" }), { key: start, rangeEnd: start })
    assert.deepStrictEqual(encodeRange({ from: "a", to: "a" }), { key: start, rangeEnd: start })
    const afterZero = Uint8Array.of(1)
    assert.deepStrictEqual(encodeRange({ from: "", to: "" }), { key: afterZero, rangeEnd: afterZero })
    assert.deepStrictEqual(encodeRange({ from: "\u0000", to: "\u0000" }), { key: afterZero, rangeEnd: afterZero })
    assert.deepStrictEqual(encodeRange({ from: "", to: "b" }), { key: Uint8Array.of(0), rangeEnd: Uint8Array.of(0x62) })
    assert.deepStrictEqual(encodeRange({ prefix: "" }), { key: Uint8Array.of(0), rangeEnd: Uint8Array.of(0) })
  })
})
