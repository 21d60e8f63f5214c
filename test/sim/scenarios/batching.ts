/** Many fibers of a client ask at the same moment, so that what they ask for travels together: each gets what it would have got alone. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { Compare, type Etcd, Operation, type TxnRequest, type TxnResult } from "../../../src/Etcd.ts"
import type { EtcdError } from "../../../src/EtcdError.ts"
import { started } from "../../utils/started.ts"
import { makeHistory, outcomeOf } from "../configHistory.ts"
import { type Call, checkLinearizable, type Outcome, showVerdict } from "../linearizable.ts"
import { type Plan, planFaults, planManners, planRates } from "../plan.ts"
import type { Random } from "../random.ts"
import type { Scenario } from "../Scenario.ts"
import { describe, type World } from "../World.ts"
import { drive, hasFault, isCalm, outages, tagOf } from "./drive.ts"

export interface Member {
  /**
   * `pair`: puts both keys. `fenced`: compares and sets `key` if `other` exists. `expected`: as locks ask, compares and sets, or does nothing.
   * `leased`: puts with the lease of its action; `unleased`: with one that nobody has; `forbidden`: one of the keys is for nobody.
   */
  readonly how:
    | "get"
    | "put"
    | "pair"
    | "compareAndSet"
    | "expected"
    | "fenced"
    | "delete"
    | "leased"
    | "unleased"
    | "forbidden"
    | "peek"
  readonly key: string
  readonly other: string
  /** Is interrupted after so long, in milliseconds. */
  readonly patience?: number | undefined
}

/** All of them at once, again and again. Times in milliseconds. */
export interface BatchAction {
  readonly client: number
  readonly at: number
  readonly rounds: number
  readonly pace: number
  readonly members: ReadonlyArray<Member>
  /** Seconds, of a lease that nobody keeps alive. */
  readonly ttl?: number | undefined
}

const length = 4000
const forbidden = "forbidden"

const plan: Scenario<BatchAction>["plan"] = (random): Plan<BatchAction> => {
  const clients = random.between(1, 4)
  const keys = random.pick([1, 2, 4, 12])
  const key = () => `k${random.below(keys)}`
  const member = (): Member => ({
    how: random.pick([
      "get",
      "get",
      "put",
      "put",
      "pair",
      "compareAndSet",
      "expected",
      "fenced",
      "fenced",
      "delete",
      random.pick(["unleased", "forbidden", "peek"])
    ]),
    key: key(),
    other: key(),
    patience: random.chance(0.15) ? random.pick([0, random.between(1, 10), random.between(10, 3000)]) : undefined
  })
  // Close to each other, or to a fault.
  const moments = Array.from({ length: random.between(1, 4) }, () => random.between(0, length))
  const actions = Array.from({ length: random.between(2, 6) }, (): BatchAction => ({
    client: random.below(clients),
    at: (moments[random.below(moments.length)] ?? 0) + random.pick([0, 0, random.between(0, 10)]),
    rounds: random.between(1, 5),
    pace: random.pick([0, 0, 5, 100]),
    members: Array.from({ length: random.between(2, 8) }, member)
  }))
  const faults = planFaults(random, {
    clients,
    until: length,
    most: 5,
    kinds: [
      "partition",
      "refuse",
      "pause",
      "lose",
      "lose",
      "lose",
      "slow",
      "degrade",
      "late",
      "late",
      "cut",
      "cut",
      "flap",
      "crash",
      "expireToken",
      "freeze",
      "restart",
      "compact"
    ]
  })
  const whole: Plan<BatchAction> = {
    clients,
    rates: planRates(random, clients + 1),
    manners: planManners(random),
    faults: faults.map((fault) =>
      random.chance(0.5) ? { ...fault, at: Math.max(0, (moments[0] ?? 0) - random.below(20)) } : fault
    ),
    actions
  }
  const { actions: all, faults: some } = random.chance(0.4) ? withLeases(random, whole) : whole
  return { ...whole, faults: [...some].sort((a, b) => a.at - b.at), actions: [...all].sort((a, b) => a.at - b.at) }
}

/** Some puts are on leases, which end while others write; in half of these runs an operator interferes as well. */
const withLeases = (random: Random, plan: Plan<BatchAction>): Plan<BatchAction> => ({
  ...plan,
  actions: plan.actions.map((action) => ({
    ...action,
    ttl: random.pick([1, 1, 2, 3]),
    pace: action.pace === 100 ? 400 : action.pace,
    members: action.members.map((member) =>
      (member.how === "put" || member.how === "pair") && random.chance(0.6) ? { ...member, how: "leased" } : member
    )
  })),
  faults: random.chance(0.5) ? plan.faults : [
    ...plan.faults,
    ...planFaults(random, {
      clients: plan.clients,
      until: length,
      most: 4,
      kinds: ["revoke", "revoke", "delete", "delete", "restore"]
    })
  ]
})

const decoder = new TextDecoder()

/** Smaller than any that is granted. */
const nobodysLease = 0xffn

interface Question {
  readonly calls: ReadonlyArray<readonly [key: string, call: Call]>
  readonly ask: (etcd: Etcd["Service"]) => Effect.Effect<ReadonlyArray<Outcome>, EtcdError>
}

/** An answer that cannot be of this question. */
class Wrong extends Error {}

type Response = TxnResult["responses"][number] | undefined

const found = (response: Response, key: string): Outcome => {
  if (response?._tag !== "Range" || response.kvs.some((kv) => kv.key !== key)) throw new Wrong(`no range of ${key}`)
  const [kv] = response.kvs
  return kv === undefined
    ? { _tag: "Absent" }
    : { _tag: "Found", value: Number(decoder.decode(kv.value)), version: kv.modRevision }
}

const compareAndSet = (key: string, value: number, expected: bigint): TxnRequest => ({
  compare: [Compare.modRevision(key, "=", expected)],
  success: [Operation.put(key, String(value))],
  failure: [Operation.range(key)]
})

const setOrNot = (
  { responses: [response], succeeded }: Pick<TxnResult, "succeeded" | "responses">,
  key: string,
  revision: bigint
): Outcome => {
  if (succeeded) {
    if (response?._tag !== "Put") throw new Wrong(`no put of ${key}`)
    return { _tag: "Written", version: revision }
  }
  const there = found(response, key)
  return { _tag: "Conflict", actual: there._tag === "Found" ? there.version ?? 0n : 0n }
}

const questionOf = ({ how, key, other }: Member, value: number, expected: bigint, lease: bigint): Question => {
  const set: Call = { _tag: "set", value }
  const txn = (
    calls: Question["calls"],
    request: TxnRequest,
    told: (result: TxnResult) => ReadonlyArray<Outcome>
  ): Question => ({ calls, ask: (etcd) => Effect.map(etcd.txn(request), told) })
  const puts = (keys: ReadonlyArray<string>, lease = 0n): Question =>
    txn(keys.map((key) => [key, set]), { success: keys.map((key) => Operation.put(key, String(value), { lease })) }, (
      { responses, revision }
    ) => {
      if (responses.length !== keys.length || responses.some(({ _tag }) => _tag !== "Put")) throw new Wrong("no puts")
      return keys.map(() => ({ _tag: "Written", version: revision }))
    })
  switch (how) {
    case "get":
    case "peek": {
      const read = how === "peek" ? forbidden : key
      return {
        calls: [[read, { _tag: "get" }]],
        ask: (etcd) => Effect.map(etcd.range({ key: read }), (range) => [found({ _tag: "Range", ...range }, read)])
      }
    }
    case "put":
      return puts([key])
    case "pair":
      return puts(key === other ? [key] : [key, other])
    case "leased":
      return puts([key], lease)
    case "unleased":
      return puts([key], nobodysLease)
    case "forbidden":
      return puts([key, forbidden])
    case "compareAndSet":
      return txn(
        [[key, { _tag: "compareAndSet", expected, value }]],
        compareAndSet(key, value, expected),
        (result) => [setOrNot(result, key, result.revision)]
      )
    case "expected": {
      const { compare, success } = compareAndSet(key, value, expected)
      return {
        calls: [[key, { _tag: "compareAndSet", expected, value }]],
        ask: (etcd) =>
          Effect.map(started(etcd, { compare, success }), (result) => [
            result.succeeded ? setOrNot(result, key, result.revision) : { _tag: "Refused" }
          ])
      }
    }
    case "fenced":
      return txn(
        [[other, { _tag: "get" }], [key, { _tag: "compareAndSet", expected, value }]],
        {
          compare: [Compare.createRevision(other, ">", 0n)],
          success: [Operation.range(other), Operation.txn(compareAndSet(key, value, expected))],
          failure: [Operation.range(other)]
        },
        ({ responses: [range, nested], revision, succeeded }) => {
          const there = found(range, other)
          if (succeeded !== (there._tag === "Found")) throw new Wrong(`${other}: compared and read two states`)
          if (!succeeded) return [there, { _tag: "Refused" }]
          if (nested?._tag !== "Txn") throw new Wrong("no nested transaction")
          return [there, setOrNot(nested, key, revision)]
        }
      )
    case "delete":
      return txn([[key, { _tag: "delete" }]], { success: [Operation.delete(key)] }, ({ responses: [response] }) => {
        if (response?._tag !== "Delete") throw new Wrong(`no delete of ${key}`)
        return [response.deleted > 0 ? { _tag: "Deleted" } : { _tag: "Absent" }]
      })
  }
}

/** How each may end when nothing goes wrong. */
const ends: { readonly [how in Member["how"]]?: ReadonlyArray<string> } = {
  leased: ["done", "EtcdError LeaseNotFound"],
  unleased: ["EtcdError LeaseNotFound"],
  forbidden: ["EtcdError PermissionDenied"],
  peek: ["EtcdError PermissionDenied"]
}

const play = (world: World, plan: Plan<BatchAction>): void => {
  const history = makeHistory()
  const calm = isCalm(plan)
  /** How often each value was written, by key, and who was told that it was not. */
  const written = new Map<string, number>()
  const refused = new Map<string, string>()
  const versions = new Map<string, bigint>()
  world.server.forbids = (key) => key === forbidden
  world.server.onCommit = ({ events, who }) => {
    for (const event of events) {
      if (event._tag !== "Put") {
        // What a lease took along, or an operator, is a deletion as any other.
        if (!who.startsWith("c")) history.invoke(who, event.key, { _tag: "delete" })({ _tag: "Deleted" })
        continue
      }
      const write = `${event.kv.key}=${decoder.decode(event.kv.value)}`
      const times = (written.get(write) ?? 0) + 1
      written.set(write, times)
      if (times > 1) world.violate("nothing is applied twice", write)
      const teller = refused.get(write)
      if (teller !== undefined) world.violate("what is refused is not applied", `${write}, ${teller}`)
    }
  }

  const ended = (name: string, member: Member, exit: Exit.Exit<unknown, EtcdError>): void => {
    const tag = tagOf(exit)
    world.record(name, member.how, `${member.key} ${tag}`)
    if (tag === "interrupted" && member.patience !== undefined) return
    if ((ends[member.how] ?? ["done"]).includes(tag) || (!calm && outages.includes(tag))) return
    world.violate("each has its own answer", `${name} ${member.how}: ${describe(exit)}`)
  }

  /** One call, and what its caller was told. */
  const once = (etcd: Etcd["Service"], name: string, member: Member, value: number, lease: bigint) =>
    Effect.suspend(() => {
      const { ask, calls } = questionOf(member, value, versions.get(member.key) ?? 0n, lease)
      const told = calls.map(([key, call]) => history.invoke(name, key, call))
      return Effect.onExit(ask(etcd), (exit) =>
        Effect.sync(() => {
          ended(name, member, exit)
          told.forEach((tell, index) => {
            const outcome = exit._tag === "Success" ? exit.value[index] : outcomeOf(exit)
            const [key = ""] = calls[index] ?? []
            if (outcome === undefined) return
            tell(outcome)
            if (outcome._tag === "Written" || outcome._tag === "Found") versions.set(key, outcome.version ?? 0n)
            if (outcome._tag === "Absent" || outcome._tag === "Deleted") versions.set(key, 0n)
            if (outcome._tag === "Conflict") versions.set(key, outcome.actual)
            const write = `${key}=${value}`
            if (outcome._tag === "Refused" || outcome._tag === "Conflict") {
              refused.set(write, `${name} was told ${outcome._tag}`)
              if (written.has(write)) world.violate("what is refused is not applied", `${write}, ${name}`)
            }
          })
        })).pipe(Effect.exit, Effect.asVoid)
    }).pipe((call) => member.patience === undefined ? call : Effect.asVoid(Effect.timeoutOption(call, member.patience)))

  const course = drive<BatchAction, never>(world, plan, {
    layer: Layer.empty,
    length: length + 10,
    run: ({ etcd, process }, action, number) =>
      Effect.gen(function*() {
        const lease = action.ttl === undefined ? nobodysLease : yield* leaseOf(etcd, action.ttl)
        for (let round = 0; round < action.rounds; round++) {
          yield* Effect.forEach(action.members, (member, index) =>
            once(etcd, `${process.name}.${number}.${index}`, member, number * 10_000 + round * 100 + index, lease), {
            concurrency: "unbounded",
            discard: true
          })
          if (action.pace > 0) {
            yield* Effect.sleep(action.pace)
          }
        }
      }),
    ended: (action, number, exit) => {
      if (exit._tag === "Success") return
      world.violate("no unexpected failure", `c${action.client}.${number}: ${describe(exit)}`)
    }
  })
  course.wait(60_000, () => !course.isOpen())
  for (const number of course.open()) world.violate("every call ends", `c${plan.actions[number]?.client}.${number}`)
  // What was sent and given up may still be applied.
  course.wait(5000)
  // An older state contradicts what had been told before it.
  if (!hasFault(plan, "restore")) {
    const verdict = checkLinearizable(history.operations)
    if (verdict._tag !== "Linearizable") world.violate("what travels together is linearizable", showVerdict(verdict))
  }
  world.finish(course.clients)
}

/** In an outage, one that nobody has. */
const leaseOf = (etcd: Etcd["Service"], ttl: number): Effect.Effect<bigint> =>
  Effect.orElseSucceed(Effect.map(etcd.leaseGrant(Duration.seconds(ttl)), ({ id }) => id), () => nobodysLease)

export const batching: Scenario<BatchAction> = { name: "batching", plan, play }
