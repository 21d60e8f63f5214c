/**
 * A day of a cluster in a minute: everything that users do, while connections are cut, members die and history is compacted. At
 * the end each event, each answer and each holder is accounted for, by what etcd's own client saw.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { EtcdVersion } from "../utils/EtcdServer.ts"
import { type Account, isClean, sum, words } from "./accounting.ts"
import { makeBench, makeFaults } from "./bench.ts"
import { connect, until } from "./clients.ts"
import {
  type Hold,
  instancesOf,
  type Log,
  longLock,
  service,
  startLoad,
  type Update,
  Value,
  type Write
} from "./load.ts"
import { observeConfig, observePort, type Observer, observeRegistry } from "./observers.ts"
import { chance } from "./random.ts"
import { record } from "./report.ts"
import { recordTruth } from "./truth.ts"
import { type Fenced, isFinal, judgeLocks, judgeUpdates, judgeWrites, type Verdict } from "./verdicts.ts"

const run = Effect.fnUntraced(function*(version: EtcdVersion, seconds: number) {
  const random = chance(`chaos on ${version}`)
  const unhandled: Array<unknown> = []
  const listener = (error: unknown) => void unhandled.push(error)
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("unhandledRejection", listener)),
    () => Effect.sync(() => process.off("unhandledRejection", listener))
  )
  const bench = yield* makeBench(version, 3)
  const direct = yield* connect({ endpoints: bench.cluster.endpoints })
  const truth = yield* recordTruth(bench.cluster)

  const writes: Array<Write> = []
  const holds: Array<Hold> = []
  const fenced: Array<Fenced> = []
  const updates: Array<Update> = []
  const failures = new Map<string, number>()
  const log: Log = {
    write: (write) => void writes.push(write),
    hold: (hold) => void holds.push(hold),
    fenced: (one) => void fenced.push(one),
    update: (update) => void updates.push(update),
    failed: (operation, error) => {
      const name = `${operation}: ${error}`
      failures.set(name, (failures.get(name) ?? 0) + 1)
    }
  }
  const version0 = yield* direct.config.set("counter", Value, { id: "start", n: 0 })
  log.write({ id: "start", key: "counter", outcome: "acknowledged", version: version0 })
  yield* until("the truth begins", Effect.sync(() => truth.revision() >= version0), 10_000)

  const observers: Array<Observer> = []
  for (const { client, name } of bench.clients) {
    observers.push(
      yield* observePort(`port of ${name}`, client.etcd),
      yield* observeConfig(`configuration of ${name}`, client),
      yield* observeRegistry(`registry of ${name}`, client)
    )
  }
  const loads = yield* Effect.forEach(bench.clients, (behind) => startLoad(behind, random, log))
  const victim = () => holds.findLast(({ lock }) => lock === longLock)?.who
  const faults = yield* makeFaults(bench, random, { compactable: truth.revision, longest: 7000, victim })
  yield* Effect.sleep(seconds * 1000)
  yield* Effect.timeout(faults.stop, "60 seconds")
  yield* Effect.forEach(loads, ({ stop }) => Effect.timeout(stop, "60 seconds"), { concurrency: "unbounded" })

  // All registrations come back, what may still be applied is, and what was left of others goes with its lease.
  const registrations = loads.flatMap(({ registrations }) => registrations)
  const ids = bench.clients.flatMap(instancesOf).sort()
  const back = yield* until(
    "all registrations are back, and no other",
    Effect.gen(function*() {
      const found = yield* direct.registry.discover(service)
      const statuses = yield* Effect.forEach(registrations, ({ status }) => status.get)
      return statuses.every((status) => status === "Registered") && found.map(({ id }) => id).join() === ids.join()
    }),
    30_000,
    100
  )
  yield* Effect.sleep("3 seconds")
  const present = yield* direct.registry.discover(service)
  const version1 = yield* direct.config.set("end", Value, { id: "end", n: 0 })
  log.write({ id: "end", key: "end", outcome: "acknowledged", version: version1 })
  yield* until("the truth is told", Effect.sync(() => truth.revision() >= version1), 30_000)
  assert.isUndefined(truth.doubts())
  const lastOf = (prefix: string) => truth.facts.findLast(({ key }) => key.startsWith(prefix))?.revision ?? 0n
  yield* Effect.exit(
    until("all see the end", Effect.sync(() => observers.every(({ last, prefix }) => last() >= lastOf(prefix))), 20_000)
  )
  yield* Effect.sleep("500 millis")

  // ---------------------------------------------------------------------------
  // The account
  // ---------------------------------------------------------------------------

  const facts = [...truth.facts]
  const row = (what: string, bar: string, measured: string, ok: boolean) =>
    record({ what: `chaos: ${what}`, bar, measured, ok, version })
  row(`${seconds} s of faults, seed ${random.seed}`, "", faults.counts(), true)
  const problems: Array<string> = []

  const seen = observers.map((observer) => ({ observer, ...observer.check(facts) }))
  const watched = (what: string, some: typeof seen) => {
    const total: Account = sum(some.map(({ account }) => account))
    const gaps = some.reduce((sum, { gaps, resyncs }) => sum + gaps + resyncs, 0)
    const compacted = `; ${gaps} compactions told ${what.includes("port") ? "as such" : "as the difference"}`
    row(
      `events at ${what}`,
      "0 lost, 0 doubled, 0 out of order",
      `${words(total)} of ${total.expected}${compacted}`,
      isClean(total)
    )
    for (const { account, observer } of some) {
      if (observer.failure() !== undefined) problems.push(`${observer.name} failed: ${String(observer.failure())}`)
      if (!isClean(account)) problems.push(`${observer.name}: ${words(account)}`, ...account.examples)
    }
  }
  watched("watches of the port", seen.filter(({ observer }) => observer.prefix === "/"))
  watched("Registry and ConfigCenter", seen.filter(({ observer }) => observer.prefix !== "/"))

  const judged = (what: string, bar: string, verdict: Verdict) => {
    row(what, bar, verdict.words, verdict.wrong.length === 0)
    problems.push(...verdict.wrong.slice(0, 10))
  }
  judged("writes of ConfigCenter", "each once if acknowledged, never if refused", judgeWrites(facts, writes))
  const lost = failures.get("withLock: LockLost") ?? 0
  judged(
    `holders of locks, ${lost} of whom lost theirs`,
    "never two by the library, nothing committed without the lock",
    judgeLocks(facts, holds, fenced, faults.stops())
  )
  judged("registrations", "each acknowledged update written, none undone", judgeUpdates(facts, updates))
  for (const { id, metadata } of present) {
    const key = `/services/${service}/${id}`
    if (!isFinal(updates, key, Number(metadata["n"]))) problems.push(`${key} ended with ${metadata["n"]}`)
  }

  yield* Effect.forEach(loads, ({ unregister }) => unregister, { concurrency: "unbounded" })
  const gone = yield* until(
    "no entry of a lock or a registration is left",
    Effect.gen(function*() {
      const left = yield* Effect.forEach(["/locks/", "/services/"], (prefix) => direct.etcd.range({ prefix }))
      return left.every(({ count }) => count === 0)
    }),
    20_000,
    50
  )
  row(
    "registrations and locks at the end",
    "all back, then none left",
    `${ids.length} of ${ids.length} back after ${Math.round(back)} ms, none left after ${Math.round(gone)} ms`,
    true
  )
  row("what callers were told", "", [...failures].sort().map(([name, times]) => `${name} ${times}`).join(", "), true)
  assert.deepStrictEqual(problems, [], `seed ${random.seed}`)
  assert.deepStrictEqual(unhandled, [])
  // It was a load, and there were faults.
  assert.isAbove(writes.filter(({ outcome }) => outcome === "acknowledged").length, seconds * 10)
  assert.isAbove(holds.length, seconds)
  if (seconds >= 60) assert.isAbove(lost, 0)
})

const seconds = Number(process.env["CHAOS_SECONDS"] ?? 90)

describe("chaos: nothing is lost, doubled or held twice", () => {
  it.live(`on 3.5, ${seconds} s`, () => run("3.5", seconds), (seconds + 240) * 1000)
  it.live(`on 3.4, ${seconds / 3} s`, () => run("3.4", seconds / 3), (seconds + 240) * 1000)
})
