/** What etcd's messages are made of, as arbitraries and as bytes. */
import * as fc from "fast-check"
import * as assert from "node:assert"
import { Buffer } from "node:buffer"
import type { KeyRange, KeyValue } from "../../src/Etcd.ts"

export const optional = <A>(arbitrary: fc.Arbitrary<A>) => fc.option(arbitrary, { nil: undefined })

/** Those that etcd can have: other lone surrogates stand for no bytes. */
export const key = fc.oneof(
  fc.string({ unit: fc.constantFrom("a", "/", "\0", "\u007f", "é", "\uffff", "😀", "\udc80", "\udcff") }),
  fc.string({ unit: "binary" }),
  fc.constantFrom("a".repeat(128), "a".repeat(129), `${"a".repeat(126)}é`, "é".repeat(200))
)
export const int64 = fc.oneof(
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.nat({ max: 62 }).map((bits) => 2n ** BigInt(bits)),
  fc.constantFrom(0n, -1n, 127n, 128n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n))
)
export const count = fc.oneof(fc.nat(), fc.maxSafeInteger(), fc.constantFrom(0, 127, 128, 2 ** 32 - 1, 2 ** 32, -1))
export const bytes = fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.constant(new Uint8Array(70_000)))
export const range: fc.Arbitrary<KeyRange> = fc.oneof(
  fc.record({ key }),
  fc.record({ prefix: key }),
  fc.record({ from: key, to: key })
)
export const flag = optional(fc.boolean())

export const kv: fc.Arbitrary<KeyValue> = fc.record({
  key,
  value: bytes,
  createRevision: int64,
  modRevision: int64,
  version: int64,
  lease: int64
})

/** Another tag than one byte, of each type, as of fields that came later. */
export const unknown = Buffer.from([
  [0xf8, 0x07, 0xff, 0x01],
  [0xf9, 0x07, 1, 2, 3, 4, 5, 6, 7, 8],
  [0xfa, 0x07, 3, 1, 2, 3],
  [0xfd, 0x07, 1, 2, 3, 4]
].flat())

export const within = (field: number, ...parts: ReadonlyArray<Uint8Array>): Buffer => {
  const content = Buffer.concat(parts)
  assert.ok(content.length < 128)
  return Buffer.concat([Uint8Array.of(field << 3 | 2, content.length), content])
}

export const isRead = (read: () => unknown): boolean => {
  try {
    read()
    return true
  } catch {
    return false
  }
}
