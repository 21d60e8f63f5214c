import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as fc from "fast-check"
import { ConfigCenter } from "../../src/ConfigCenter.ts"
import { EtcdMemory } from "../../src/EtcdMemory.ts"
import { makeHistory, recorded } from "./configHistory.ts"
import { type Call, checkLinearizable, type Operation, type Outcome, showVerdict } from "./linearizable.ts"
import { isLinearizable } from "./permutations.ts"

// -----------------------------------------------------------------------------
// Histories of a real register
// -----------------------------------------------------------------------------

interface Planned {
  readonly kind: "get" | "set" | "compareAndSet" | "update" | "delete"
  readonly value: number
  /** Which version a compare-and-set expects: that of the register, an older one, none. */
  readonly expects: "current" | "older" | "none"
  readonly fate: "answered" | "lost answer" | "lost request" | "refused"
  /** Written by others to other keys in between. */
  readonly gap: number
  readonly unversioned: boolean
  readonly early: number
  readonly late: number
}

const planned = (most: number, values: number, overlap: number): fc.Arbitrary<ReadonlyArray<Planned>> =>
  fc.array(
    fc.record({
      kind: fc.constantFrom("get", "get", "set", "compareAndSet", "compareAndSet", "update", "delete"),
      value: fc.nat(values),
      expects: fc.constantFrom("current", "current", "current", "older", "none"),
      fate: fc.constantFrom("answered", "answered", "answered", "answered", "lost answer", "lost request", "refused"),
      gap: fc.nat(2),
      unversioned: fc.boolean(),
      early: fc.nat(overlap),
      late: fc.nat(overlap)
    }),
    { minLength: most / 2, maxLength: most, size: "max" }
  )

/** Runs them one after the other at 10, 20, ..., and lets each begin before and return after its moment. */
const execute = (plan: ReadonlyArray<Planned>, key = "k"): ReadonlyArray<Operation> => {
  let now: { readonly value: number; readonly version: bigint } | undefined
  let older = 1n
  let revision = 1n
  return plan.map(({ early, expects, fate, gap, kind, late, unversioned, value }, i) => {
    const happens = fate === "answered" || fate === "lost answer"
    const expected = expects === "none" ? 0n : expects === "older" ? older : now?.version ?? 0n
    const call: Call = kind === "compareAndSet"
      ? { _tag: kind, expected, value }
      : kind === "set"
      ? { _tag: kind, value }
      : kind === "update"
      ? { _tag: kind, from: now?.value ?? -1, value }
      : { _tag: kind }
    const answer = (): Outcome => {
      if (kind === "get") {
        return now === undefined
          ? { _tag: "Absent" }
          : { _tag: "Found", ...now, ...unversioned && { version: undefined } }
      }
      if (kind === "compareAndSet" && expected !== (now?.version ?? 0n)) {
        return { _tag: "Conflict", actual: now?.version ?? 0n }
      }
      if ((kind === "delete" || kind === "update") && now === undefined) return { _tag: "Absent" }
      if (!happens) return { _tag: "Refused" }
      revision += BigInt(gap) + 1n
      older = now?.version ?? older
      now = kind === "delete" ? undefined : { value, version: revision }
      return kind === "delete" ? { _tag: "Deleted" } : { _tag: "Written", version: revision }
    }
    const told = answer()
    const moment = 10 * (i + 1)
    const invoked = moment - early
    return fate === "refused"
      ? { client: i, key, call, outcome: { _tag: "Refused" }, invoked, returned: moment + late }
      : fate === "answered"
      ? { client: i, key, call, outcome: told, invoked, returned: moment + late }
      // Its client may have given up before.
      : { client: i, key, call, outcome: { _tag: "Ambiguous" }, invoked, returned: invoked + late }
  })
}

const histories = planned(8, 2, 8).map((plan) => execute(plan))

/** One answer, value or time is another one: still a history, but perhaps of no register. */
const mutated = fc.record({
  history: histories,
  at: fc.nat(),
  how: fc.constantFrom("value", "value", "version", "version", "absent", "refused", "twice", "sooner", "later"),
  by: fc.constantFrom(-2, -1, 1, 2)
}).map(({ at, by, history, how }) => {
  const i = at % Math.max(1, history.length)
  return history.flatMap((operation, j): ReadonlyArray<Operation> => {
    const { call, invoked, outcome, returned } = operation
    if (j !== i) return [operation]
    const otherwise = (outcome: Outcome): ReadonlyArray<Operation> => [{ ...operation, outcome }]
    switch (how) {
      case "value":
        return outcome._tag === "Found"
          ? otherwise({ ...outcome, value: (Number(outcome.value) + by) % 3 })
          : "value" in call
          ? [{ ...operation, call: { ...call, value: (Number(call.value) + by) % 3 } }]
          : [operation]
      case "version":
        return outcome._tag === "Written" || (outcome._tag === "Found" && outcome.version !== undefined)
          ? otherwise({ ...outcome, version: (outcome.version ?? 0n) + BigInt(by) })
          : [operation]
      case "absent":
        return call._tag === "get" ? otherwise({ _tag: "Absent" }) : [operation]
      case "refused":
        return call._tag === "get" ? [operation] : otherwise({ _tag: "Refused" })
      case "twice":
        return [operation, { ...operation, invoked: returned + 1, returned: returned + 2 }]
      case "sooner":
        return [{ ...operation, returned: invoked + 1 }]
      case "later":
        return [{ ...operation, invoked: Math.max(invoked, returned - 1) }]
    }
  })
})

const verdict = (history: ReadonlyArray<Operation>): string => checkLinearizable(history)._tag

const numRuns = Number(process.env["LINEARIZABLE_RUNS"] ?? 2_000)

describe("linearizable", () => {
  it("accepts every history of a register", () => {
    fc.assert(
      fc.property(planned(60, 3, 40), (plan) => {
        const found = checkLinearizable(execute(plan))
        assert.strictEqual(found._tag, "Linearizable", showVerdict(found))
      }),
      { numRuns }
    )
  })

  it("judges changed histories as trying every order does", () => {
    let refused = 0
    fc.assert(
      fc.property(fc.oneof({ weight: 4, arbitrary: mutated }, { weight: 1, arbitrary: histories }), (history) => {
        const expected = isLinearizable(history)
        if (!expected) refused++
        assert.strictEqual(verdict(history), expected ? "Linearizable" : "NotLinearizable")
      }),
      { numRuns }
    )
    assert.isAbove(refused, numRuns / 20)
    assert.isBelow(refused, numRuns * 9 / 10)
  })

  it("looks at each key alone, and names the one that is wrong", () => {
    const wrong = [...sequence("b", [set(1, 3n), get(1, 4n)])]
    assert.strictEqual(
      verdict([...sequence("a", [set(1, 3n)]), ...sequence("b", [set(1, 3n), get(1, 3n)])]),
      "Linearizable"
    )
    const found = checkLinearizable([...sequence("a", [set(1, 3n)]), ...wrong])
    assert.deepStrictEqual(found, {
      _tag: "NotLinearizable",
      key: "b",
      order: wrong.slice(0, 1),
      stuck: wrong.slice(1)
    })
    assert.include(showVerdict(found), "b is not linearizable")
  })

  it("gives up rather than to answer by guess", () => {
    assert.strictEqual(
      checkLinearizable(sequence("k", [set(1, 3n), set(2, 4n), get(1, 3n)]), { maxSteps: 1 })._tag,
      "Undecided"
    )
  })

  it("is not slowed down by many writes of unknown fate", () => {
    const lost = Array.from({ length: 80 }, (_, i) => ambiguous({ _tag: "set", value: i }))
    const good = sequence("k", [...lost, ...lost.flatMap((_, i) => [get(79 - i), set(1_000 + i, 10n + BigInt(i))])])
    const found = checkLinearizable(good)
    assert.strictEqual(found._tag, "Linearizable", showVerdict(found))
    const bad = checkLinearizable([...good, ...sequence("k", [get(7)], 10_000)])
    assert.strictEqual(bad._tag, "NotLinearizable")
  })
})

// -----------------------------------------------------------------------------
// Known violations
// -----------------------------------------------------------------------------

type Step = Pick<Operation, "call" | "outcome">

/** One after the other. */
const sequence = (key: string, steps: ReadonlyArray<Step>, from = 0): ReadonlyArray<Operation> =>
  steps.map((step, i) => ({ ...step, key, client: i, invoked: from + 2 * i, returned: from + 2 * i + 1 }))

/** All at the same time. */
const together = (steps: ReadonlyArray<Step>): ReadonlyArray<Operation> =>
  steps.map((step, i) => ({ ...step, key: "k", client: i, invoked: 0, returned: 1 }))

const get = (value: number, version?: bigint): Step => ({
  call: { _tag: "get" },
  outcome: { _tag: "Found", value, version }
})
const absent: Step = { call: { _tag: "get" }, outcome: { _tag: "Absent" } }
const set = (value: number, version: bigint): Step => ({
  call: { _tag: "set", value },
  outcome: { _tag: "Written", version }
})
const cas = (expected: bigint, value: number): Call => ({ _tag: "compareAndSet", expected, value })
const ambiguous = (call: Call): Step => ({ call, outcome: { _tag: "Ambiguous" } })
const deletes: Step = { call: { _tag: "delete" }, outcome: { _tag: "Deleted" } }
const update = (from: number, value: number, version: bigint): Step => ({
  call: { _tag: "update", from, value },
  outcome: { _tag: "Written", version }
})

describe("what is linearizable", () => {
  const accepted: Record<string, ReadonlyArray<Operation>> = {
    "nothing": [],
    "a lost write that shows later": sequence("k", [
      ambiguous({ _tag: "set", value: 2 }),
      set(1, 3n),
      get(1, 3n),
      get(2, 5n)
    ]),
    "a lost write that never shows": sequence("k", [
      ambiguous({ _tag: "set", value: 2 }),
      set(1, 3n),
      get(1),
      set(3, 4n)
    ]),
    "a lost delete between two reads": sequence("k", [set(1, 3n), ambiguous({ _tag: "delete" }), get(1), absent]),
    "a lost delete that lets a lost create happen": sequence("k", [
      set(1, 3n),
      ambiguous({ _tag: "delete" }),
      ambiguous(cas(0n, 2)),
      get(2, 5n)
    ]),
    "a compare-and-set with a version that only a conflict told": sequence("k", [
      set(1, 3n),
      ambiguous({ _tag: "set", value: 2 }),
      { call: cas(3n, 9), outcome: { _tag: "Conflict", actual: 5n } },
      { call: cas(5n, 4), outcome: { _tag: "Written", version: 6n } }
    ]),
    "two reads of one write while it is under way": [
      ...sequence("k", [absent, get(1, 3n)], 1),
      { key: "k", client: 9, ...set(1, 3n), invoked: 0, returned: 9 }
    ]
  }
  const rejected: Record<string, ReadonlyArray<Operation>> = {
    "a stale read": sequence("k", [set(1, 3n), set(2, 4n), get(1, 3n)]),
    "a stale read without a version": sequence("k", [set(1, 3n), set(2, 4n), get(1)]),
    "a lost update": sequence("k", [set(1, 3n), update(1, 2, 4n), update(1, 2, 5n)]),
    "a lost update, at once": [...sequence("k", [set(1, 3n)], -2), ...together([update(1, 2, 4n), update(1, 2, 5n)])],
    "two compare-and-sets that expected the same": [
      ...sequence("k", [set(1, 3n)], -2),
      ...together([
        { call: cas(3n, 5), outcome: { _tag: "Written", version: 4n } },
        { call: cas(3n, 6), outcome: { _tag: "Written", version: 5n } }
      ])
    ],
    "two creations": together([
      { call: cas(0n, 5), outcome: { _tag: "Written", version: 4n } },
      { call: cas(0n, 6), outcome: { _tag: "Written", version: 5n } }
    ]),
    "the effect of a refused write": sequence("k", [
      set(1, 3n),
      { call: { _tag: "set", value: 2 }, outcome: { _tag: "Refused" } },
      get(2)
    ]),
    "the effect of a refused delete": sequence("k", [set(1, 3n), {
      call: { _tag: "delete" },
      outcome: { _tag: "Refused" }
    }, absent]),
    "the effect of a conflict": sequence("k", [
      set(1, 3n),
      set(2, 4n),
      { call: cas(3n, 9), outcome: { _tag: "Conflict", actual: 4n } },
      get(9)
    ]),
    "a conflict with what was expected": sequence("k", [
      set(1, 3n),
      { call: cas(3n, 9), outcome: { _tag: "Conflict", actual: 3n } }
    ]),
    "a lost write that happens twice": sequence("k", [
      ambiguous({ _tag: "set", value: 2 }),
      get(2, 3n),
      set(1, 4n),
      get(2, 5n)
    ]),
    "a lost write that shows before it was sent": sequence("k", [get(2, 3n), ambiguous({ _tag: "set", value: 2 })]),
    "a lost compare-and-set that was too late": sequence("k", [
      set(1, 3n),
      set(2, 4n),
      ambiguous(cas(3n, 9)),
      get(9)
    ]),
    "versions that fall": sequence("k", [set(1, 5n), set(2, 4n)]),
    "one version for two writes": together([set(1, 5n), set(2, 5n)]),
    "a delete of nothing": sequence("k", [deletes]),
    "a value that comes back": sequence("k", [set(1, 3n), deletes, get(1)]),
    "a read that goes back": sequence("k", [
      set(1, 3n),
      ambiguous({ _tag: "set", value: 2 }),
      get(2),
      get(1)
    ]),
    "a value that nobody wrote": sequence("k", [set(1, 3n), get(7)])
  }
  for (const [name, history] of Object.entries(accepted)) {
    it(`yes: ${name}`, () => {
      assert.isTrue(isLinearizable(history))
      assert.strictEqual(verdict(history), "Linearizable")
    })
  }
  for (const [name, history] of Object.entries(rejected)) {
    it(`no: ${name}`, () => {
      assert.isFalse(isLinearizable(history))
      assert.strictEqual(verdict(history), "NotLinearizable")
    })
  }
})

describe("a recorded history", () => {
  it.effect("of two clients of a configuration center", () =>
    Effect.gen(function*() {
      const history = makeHistory()
      const config = yield* ConfigCenter
      const [one, two] = [1, 2].map((client) => recorded(history, client, config, Schema.Int))
      assert.isDefined(one)
      assert.isDefined(two)
      yield* Effect.flip(one.get("k"))
      const version = yield* one.set("k", 1)
      yield* Effect.flip(two.compareAndSet("k", 2, version + 7n))
      yield* Effect.all([
        two.compareAndSet("k", 2, version),
        Effect.result(one.compareAndSet("k", 3, version)),
        one.getVersioned("k")
      ], { concurrency: "unbounded" })
      yield* two.delete("k")
      yield* Effect.flip(two.delete("k"))
      yield* Effect.flip(one.set("/", 1))
      history.invoke(3, "k", { _tag: "set", value: 9 })

      assert.deepStrictEqual(
        history.operations.map(({ call, outcome }) => `${call._tag} ${outcome._tag}`),
        [
          "get Absent",
          "set Written",
          "compareAndSet Conflict",
          "compareAndSet Written",
          "compareAndSet Conflict",
          "get Found",
          "delete Deleted",
          "delete Absent",
          "set Refused",
          "set Ambiguous"
        ]
      )
      const found = checkLinearizable(history.operations)
      assert.strictEqual(found._tag, "Linearizable", showVerdict(found))
    }).pipe(Effect.provide(Layer.provide(ConfigCenter.layer(), EtcdMemory.layer))))
})
