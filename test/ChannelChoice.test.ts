/** Which instance serves a call, without a network. */
import { assert, describe, it } from "@effect/vitest"
import { Metadata } from "@grpc/grpc-js"
import { type Candidate, chooseBy, type Policy } from "../src/internal/grpc/choice.ts"
import { parseInstance } from "../src/internal/grpc/endpoint.ts"
import { makeRandom } from "../src/internal/grpc/hash.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"

const candidate = (id: number, metadata: Record<string, string> = {}): Candidate => {
  const { endpoint } = parseInstance(
    new ServiceInstance({ id: `${id}`, name: "echo", address: "10.0.0.1", port: 1000 + id, metadata })
  )
  if (endpoint === undefined) throw new Error("the address is good")
  return { endpoint, inFlight: 0 }
}

const many = (count: number): [Candidate, ...Array<Candidate>] => [
  candidate(0),
  ...Array.from({ length: count - 1 }, (_, index) => candidate(index + 1))
]

const chooser = (policy: Policy, candidates: readonly [Candidate, ...Array<Candidate>], seed = 7) => {
  const choose = chooseBy(policy)(candidates, { next: seed, random: makeRandom(seed) })
  return (headers: Record<string, string> = {}) => {
    const metadata = new Metadata()
    for (const [name, value] of Object.entries(headers)) metadata.set(name, value)
    return choose({ metadata, extraPickInfo: {} })
  }
}

const counts = (times: number, choose: () => Candidate) => {
  const found = new Map<number, number>()
  for (let index = 0; index < times; index++) {
    const port = Number(choose().endpoint.key.split(":")[1]) - 1000
    found.set(port, (found.get(port) ?? 0) + 1)
  }
  return [...found].sort(([a], [b]) => a - b).map(([, count]) => count)
}

describe("weighted", () => {
  const weights = (...weights: ReadonlyArray<string>) => {
    const [first = candidate(0), ...rest] = weights.map((weight, id) => candidate(id, { weight }))
    return chooser({ kind: "weighted" }, [first, ...rest])
  }

  it("5:3:2 gives 500, 300 and 200 of 1,000", () => {
    for (const [index, count] of counts(1000, weights("5", "3", "2")).entries()) {
      assert.closeTo(count, [500, 300, 200][index] ?? 0, 3)
    }
  })

  it("neighbours in time are spread: no run of the heavy one is long", () => {
    const choose = weights("5", "3", "2")
    let run = 0
    let longest = 0
    for (let index = 0; index < 1000; index++) {
      run = choose().endpoint.weight === 5 ? run + 1 : 0
      longest = Math.max(longest, run)
    }
    assert.isAtMost(longest, 3)
  })

  it("fractions, extremes, and none", () => {
    assert.deepStrictEqual(counts(100, weights("0.5", "0.5")), [50, 50])
    assert.deepStrictEqual(counts(100, weights("1", "0")), [100])
    assert.deepStrictEqual(counts(100, weights("0", "0")), [50, 50])
    assert.closeTo(counts(1000, weights("1e300", "1e299"))[0] ?? 0, 909, 3)
    assert.closeTo(counts(1000, weights("1e9", "1"))[0] ?? 0, 1000, 1)
  })

  it("what is no weight is 1, with a word about it", () => {
    for (const weight of ["", " ", "heavy", "-1", "NaN", "Infinity", "1,5"]) {
      const { endpoint, problem } = parseInstance(
        new ServiceInstance({ id: "a", name: "echo", address: "a", port: 1, metadata: { weight } })
      )
      assert.strictEqual(endpoint?.weight, 1, weight)
      assert.match(String(problem), /metadata\.weight/)
    }
  })
})

describe("zone", () => {
  const candidates = [
    candidate(0, { zone: "eu" }),
    candidate(1, { zone: "eu" }),
    candidate(2, { zone: "us" }),
    candidate(3)
  ] as const

  it("stays in the zone", () =>
    assert.deepStrictEqual(counts(100, chooser({ kind: "zone", zone: "eu", spillBelow: 1 }, candidates)), [50, 50]))
  it("spills over when the zone has too few", () =>
    assert.deepStrictEqual(
      counts(100, chooser({ kind: "zone", zone: "us", spillBelow: 2 }, candidates)),
      [25, 25, 25, 25]
    ))
  it("spills over when the zone has none", () =>
    assert.deepStrictEqual(
      counts(100, chooser({ kind: "zone", zone: "asia", spillBelow: 1 }, candidates)),
      [25, 25, 25, 25]
    ))
})

describe("least request", () => {
  it("the one of two with fewer calls", () => {
    const [a, b] = [candidate(0), candidate(1)]
    const choose = chooser({ kind: "least_request" }, [a, b])
    a.inFlight = 3
    assert.deepStrictEqual(counts(100, choose), [100])
    assert.strictEqual(choose(), b)
  })

  it("a slow one gets few of the calls, the others even shares", () => {
    const candidates = many(5)
    candidates[0].inFlight = 1000
    const found = counts(4000, chooser({ kind: "least_request" }, candidates))
    assert.strictEqual(found.length, 4)
    for (const count of found) assert.closeTo(count, 1000, 150)
  })

  it("one alone", () => assert.deepStrictEqual(counts(10, chooser({ kind: "least_request" }, many(1))), [10]))
})

describe("hash by header", () => {
  const policy = { kind: "hash", header: "x-user" } as const
  const users = Array.from({ length: 10_000 }, (_, index) => `user-${index}`)

  it("the same value goes to the same instance, from every client", () => {
    const [one, other] = [chooser(policy, many(10), 1), chooser(policy, many(10), 2)]
    for (const user of users.slice(0, 100)) {
      assert.strictEqual(one({ "x-user": user }).endpoint.key, other({ "X-User": user }).endpoint.key)
    }
  })

  it("values are spread evenly", () => {
    const next = users.values()
    const choose = chooser(policy, many(10))
    const found = counts(10_000, () => choose({ "x-user": String(next.next().value) }))
    assert.strictEqual(found.length, 10)
    for (const count of found) assert.closeTo(count, 1000, 150)
  })

  it("only the share of one that goes is moved", () => {
    const [first, second, ...rest] = many(10)
    if (second === undefined) throw new Error("there are ten")
    const [before, after] = [chooser(policy, [first, second, ...rest]), chooser(policy, [first, ...rest])]
    const moved = users.filter((user) =>
      before({ "x-user": user }).endpoint.key !== after({ "x-user": user }).endpoint.key
    )
    assert.isNotEmpty(moved)
    assert.deepStrictEqual(
      new Set(moved.map((user) => before({ "x-user": user }).endpoint.key)),
      new Set([second.endpoint.key])
    )
  })

  it("calls without the header are spread", () => {
    for (const count of counts(10_000, chooser(policy, many(10)))) assert.closeTo(count, 1000, 150)
  })
})

describe("round robin", () => {
  it("each in turn, wherever it begins", () => {
    assert.deepStrictEqual(counts(99, chooser({ kind: "round_robin" }, many(3), 12_345)), [33, 33, 33])
  })
})
