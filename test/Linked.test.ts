import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Link, Linked } from "../src/internal/Linked.ts"

class Guest extends Link<Guest> {
  readonly name: string

  constructor(name: string) {
    super()
    this.name = name
  }
}

const guests = (...names: ReadonlyArray<string>) => names.map((name) => new Guest(name))

const party = (...members: ReadonlyArray<Guest>) => {
  const set = new Linked<Guest>()
  for (const member of members) set.add(member)
  return set
}

const namesOf = (set: Linked<Guest>): string => set.all().map(({ name }) => name).join("")

const refersToNobody = ({ after, before, of }: Guest): boolean =>
  after === undefined && before === undefined && of === undefined

/** By the definition alone. */
const agrees = (set: Linked<Guest>, model: ReadonlySet<Guest>, all: ReadonlyArray<Guest>) => {
  const members = [...model]
  assert.strictEqual(set.size, members.length)
  assert.strictEqual(set.first, members[0])
  assert.strictEqual(namesOf(set), members.map(({ name }) => name).join(""))
  for (const guest of all) assert.strictEqual(set.has(guest), model.has(guest))
}

describe("a linked set", () => {
  it("has nobody at first", () => {
    const set = party()
    assert.deepStrictEqual(set.all(), [])
    assert.strictEqual(set.size, 0)
    assert.isUndefined(set.first)
  })

  it("has its members in the order in which they came, each of them once", () => {
    const [a, b, c] = guests("a", "b", "c")
    if (a === undefined || b === undefined || c === undefined) return assert.fail("nobody came")
    const set = party(b, a, b, c, b)
    assert.strictEqual(set.size, 3)
    assert.strictEqual(namesOf(set), "bac")
    assert.strictEqual(set.first, b)
  })

  it("says of who leaves whether he was there, and forgets him, wherever he was", () => {
    for (const [leaves, left] of [["a", "bc"], ["b", "ac"], ["c", "ab"]] as const) {
      const all = guests("a", "b", "c")
      const set = party(...all)
      const one = all.find(({ name }) => name === leaves) ?? new Guest("nobody")
      assert.isTrue(set.delete(one))
      assert.isFalse(set.has(one))
      assert.isFalse(set.delete(one))
      assert.strictEqual(namesOf(set), left)
      assert.strictEqual(set.size, 2)
      assert.strictEqual(set.first?.name, left[0])
    }
  })

  it("is not changed by the leaving of a stranger, nor of a member of another one", () => {
    const [a, b, c, d] = guests("a", "b", "c", "d")
    if (a === undefined || b === undefined || c === undefined || d === undefined) return assert.fail("nobody came")
    const set = party(a, b)
    const other = party(c, d)
    assert.isFalse(set.delete(new Guest("x")))
    for (const member of [c, d]) {
      assert.isFalse(set.has(member))
      assert.isFalse(set.delete(member))
    }
    assert.deepStrictEqual([namesOf(set), namesOf(other)], ["ab", "cd"])
    assert.deepStrictEqual([set.size, other.size], [2, 2])
  })

  it("takes nobody away from another one, until he has left it", () => {
    const [a, b] = guests("a", "b")
    if (a === undefined || b === undefined) return assert.fail("nobody came")
    const set = party(a, b)
    const other = party(a)
    assert.deepStrictEqual([namesOf(set), namesOf(other), other.size], ["ab", "", 0])
    set.delete(a)
    other.add(a)
    assert.deepStrictEqual([namesOf(set), namesOf(other)], ["b", "a"])
  })

  it("puts who comes again behind all others", () => {
    const all = guests("a", "b", "c")
    const set = party(...all)
    for (const member of all) {
      set.delete(member)
      set.add(member)
      assert.strictEqual(set.all().at(-1), member)
    }
    assert.strictEqual(namesOf(set), "abc")
    // Also the only one.
    const [alone] = guests("x")
    if (alone === undefined) return assert.fail("nobody came")
    const one = party(alone)
    one.delete(alone)
    one.add(alone)
    assert.strictEqual(namesOf(one), "x")
  })

  it("tells who is there now, whoever comes or leaves while they are looked at", () => {
    const all = guests("a", "b", "c")
    const set = party(...all)
    const late = new Guest("d")
    const seen: Array<string> = []
    for (const member of set.all()) {
      seen.push(member.name)
      for (const each of all) set.delete(each)
      set.add(late)
    }
    assert.deepStrictEqual(seen, ["a", "b", "c"])
    assert.strictEqual(namesOf(set), "d")
  })

  it("is emptied from its first member on, also of those who come meanwhile", () => {
    const set = party(...guests("a", "b"))
    const seen: Array<string> = []
    for (let member = set.first; member !== undefined && seen.length < 4; member = set.first) {
      set.delete(member)
      seen.push(member.name)
      if (member.name === "a") set.add(new Guest("c"))
    }
    assert.deepStrictEqual(seen, ["a", "b", "c"])
    assert.strictEqual(set.size, 0)
  })

  it("is referred to by nobody who has left, and he refers to no other member", () => {
    // In each order in which three can leave.
    for (const order of ["abc", "acb", "bac", "bca", "cab", "cba"]) {
      const all = guests("a", "b", "c")
      const set = party(...all)
      for (const name of order) {
        const one = all.find((guest) => guest.name === name) ?? new Guest("nobody")
        set.delete(one)
        assert.isTrue(refersToNobody(one), `${name} of ${order}`)
        // Nor does anybody who is still there refer to him.
        for (const { after, before } of set.all()) assert.notInclude([after, before], one)
      }
      assert.isUndefined(set.first)
    }
  })

  it("is a set in the order of coming, whatever happens", () => {
    let refused = 0
    let left = 0
    const step = fc.record({
      does: fc.constantFrom("add", "delete"),
      guest: fc.nat({ max: 5 }),
      set: fc.nat({ max: 1 })
    })
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 40 }), (steps) => {
        const all = guests("a", "b", "c", "d", "e", "f")
        const sets = [0, 1].map(() => ({ linked: new Linked<Guest>(), model: new Set<Guest>() }))
        for (const { does, guest, set } of steps) {
          const [one, here, there] = [all[guest], sets[set], sets[1 - set]]
          if (one === undefined || here === undefined || there === undefined) return assert.fail("no such")
          if (does === "delete") {
            const was = here.model.delete(one)
            assert.strictEqual(here.linked.delete(one), was)
            if (was) left++
          } else {
            here.linked.add(one)
            // Each of them is in one set only.
            if (there.model.has(one)) refused++
            else here.model.add(one)
          }
          for (const { linked, model } of sets) agrees(linked, model, all)
          for (const each of all) {
            assert.strictEqual(refersToNobody(each), !sets.some(({ model }) => model.has(each)))
          }
        }
      }),
      { numRuns: 300 }
    )
    assert.isAbove(Math.min(refused, left), 500)
  })
})
