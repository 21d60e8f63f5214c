import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Operation } from "../src/Etcd.ts"
import { footprintOf, makeCompany } from "../src/internal/client/footprint.ts"

/** Few letters and short, so that they meet often. */
const text = fc.string({ unit: fc.constantFrom("a", "b", "/"), maxLength: 4 })

const touching = fc.record({
  puts: fc.array(text, { maxLength: 2 }),
  deletes: fc.array(text, { maxLength: 1 }),
  reads: fc.array(text, { maxLength: 2 }),
  counts: fc.array(text, { maxLength: 1 })
})

type Touching = typeof touching extends fc.Arbitrary<infer T> ? T : never

const footprint = ({ counts, deletes, puts, reads }: Touching) =>
  footprintOf({
    success: [
      ...puts.map((key) => Operation.put(key, "")),
      ...deletes.map((prefix) => Operation.delete({ prefix })),
      ...reads.map((key) => Operation.range(key)),
      ...counts.map((prefix) => Operation.range({ prefix, countOnly: true }))
    ]
  })

const isOver = (prefix: string, other: string) => other.startsWith(prefix)

/** Whether one writes what the other touches, by the definition alone. */
const conflict = (a: Touching, b: Touching): boolean => {
  const meets = (key: string, on: Touching) =>
    [...on.puts, ...on.reads].includes(key) || [...on.deletes, ...on.counts].some((prefix) => isOver(prefix, key))
  const meetsFolder = (prefix: string, on: Touching) =>
    [...on.puts, ...on.reads].some((key) => isOver(prefix, key)) ||
    [...on.deletes, ...on.counts].some((other) => isOver(prefix, other) || isOver(other, prefix))
  const writes = (one: Touching, on: Touching) =>
    one.puts.some((key) => meets(key, on)) || one.deletes.some((prefix) => meetsFolder(prefix, on))
  return writes(a, b) || writes(b, a)
}

describe("company", () => {
  it("is kept by those who touch nothing that another one writes", () => {
    let joined = 0
    let refused = 0
    fc.assert(
      fc.property(fc.array(touching, { minLength: 2, maxLength: 8 }), (all) => {
        const { join } = makeCompany()
        const there: Array<Touching> = []
        for (const one of all) {
          const print = footprint(one)
          if (print === undefined) return assert.fail("goes alone")
          const expected = !there.some((other) => conflict(one, other))
          assert.strictEqual(join(print), expected)
          if (expected) there.push(one)
          if (!expected) refused++
          else if (there.length > 1) joined++
        }
      }),
      { numRuns: 2000 }
    )
    assert.isAbove(Math.min(joined, refused), 500)
  })
})

describe("a size", () => {
  it("is no less than what is sent", () => {
    for (const value of ["", "a", "ä".repeat(128), "€".repeat(128), "€".repeat(129), "😀".repeat(64)]) {
      const size = footprintOf({ success: [Operation.put("/k", value)] })?.size ?? 0
      assert.isAtLeast(size, Buffer.byteLength(value) + 2)
    }
  })
})
