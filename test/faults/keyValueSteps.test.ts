/**
 * The leases of entries that expire are lost in every state that their store can be in: at each step of writing they are revoked, or the store
 * is cut off, or its answers, for longer than they live.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { TestClock } from "effect/testing"
import { Etcd } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import { makeKeyValueStore } from "../../src/KeyValueStore.ts"
import { actAtEveryRequest } from "../utils/actAtEveryRequest.ts"
import { makeEtcdServer } from "../utils/EtcdServer.ts"
import { actAtEveryStep } from "../utils/interruptAtEveryStep.ts"
import { connect } from "../utils/live.ts"
import { failure, within } from "../utils/virtual.ts"
import { makeWorld } from "../utils/world.ts"

const timeToLive = 4000
/** How long a lease lives at most that is shared by those who write within a second. */
const lifetime = timeToLive + 1000

const makeScenario = Effect.gen(function*() {
  const world = yield* makeWorld
  const clock = yield* Clock.Clock
  const { etcd, link } = yield* world.client
  const store = yield* Effect.provideService(makeKeyValueStore({ timeToLive }), Etcd, etcd)
  const now = () => Number(clock.monotonicTimeNanosUnsafe() / 1_000_000n)
  let disturbed: { readonly at: number; readonly lost: "request" | "response" } | undefined
  yield* link.setFate(() =>
    disturbed === undefined || now() > disturbed.at + 1.5 * lifetime
      ? { request: "30 millis", response: "30 millis" }
      : { [disturbed.lost]: "lost" }
  )
  const scenario = { world, store, now, lost: false }
  const disturb = (lost: "request" | "response") => () => {
    disturbed = { at: now(), lost }
    scenario.lost = true
  }
  const loss = {
    "revoked": () => {
      for (const id of world.store.snapshot().leases.keys()) world.store.leaseRevoke(id)
      scenario.lost = true
    },
    "cut off": disturb("request"),
    "without answers": disturb("response")
  }
  return Object.assign(scenario, { loss })
})

type Scenario = Effect.Success<typeof makeScenario>

/** Writes an entry and, some time later, looks whether it is there as long as it was to be. */
const write = Effect.fnUntraced(function*(scenario: Scenario, key: string) {
  const { lost, now, store } = scenario
  const from = now()
  const exit = yield* Effect.exit(store.set(key, key))
  return { key, from, exit, /** Whatever happens, it happened before. */ certain: lost }
})

describe("entries that expire, in a store whose leases are, at any step,", () => {
  for (const how of ["revoked", "cut off", "without answers"] as const) {
    it.effect(
      `${how}: are there for their time, or were never told as written, and nothing stays`,
      () =>
        Effect.gen(function*() {
          const ends = { written: 0, failed: 0 }
          const steps = yield* actAtEveryStep({
            setup: makeScenario,
            act: ({ loss }) => loss[how](),
            run: (scenario) =>
              Effect.gen(function*() {
                const first = yield* write(scenario, "a")
                const both = yield* Effect.all([write(scenario, "b"), write(scenario, "c")], { concurrency: 2 })
                const lost = scenario.lost
                const modified = yield* Effect.exit(scenario.store.modify("a", (text) => `${text}!`))
                return { writes: [first, ...both], modified, lost }
              }),
            tick: "100 millis",
            check: ({ now, store, world }, exit, step) =>
              Effect.gen(function*() {
                const at = `${how}, step ${step}`
                const { lost, modified, writes } = yield* exit
                const there = new Set(yield* world.keys)
                for (const { certain, exit, from, key } of writes) {
                  if (Exit.isSuccess(exit)) {
                    ends.written++
                    const revoked = how === "revoked" && !certain
                    if (!revoked && now() < from + timeToLive) assert.isTrue(there.has(`/kv/${key}`), `${at}: ${key}`)
                    continue
                  }
                  ends.failed++
                  assert.notStrictEqual(how, "revoked", at)
                  const cause = failure(exit)?.cause as EtcdError | undefined
                  assert.include(["Timeout", "Ambiguous"], cause?.reason._tag, at)
                }
                if (Exit.isFailure(modified)) assert.notStrictEqual(how, "revoked", at)
                else if (lost && how === "revoked") assert.include(["a!", undefined], modified.value, at)
                // It goes on as if nothing had been, and what was on its way arrives.
                yield* TestClock.adjust(2 * lifetime)
                yield* within("1 second", store.set("d", "d"))
                yield* TestClock.adjust(timeToLive - 1100)
                assert.strictEqual(yield* within("1 second", store.get("d")), "d", at)
                yield* TestClock.adjust(2 * lifetime)
                assert.deepStrictEqual(yield* world.keys, [], at)
                assert.strictEqual(world.store.snapshot().leases.size, 0, at)
              })
          })
          assert.isAbove(steps, 100)
          assert.isAbove(ends.written, 0)
          if (how !== "revoked") assert.isAbove(ends.failed, 0)
        }),
      120_000
    )
  }
})

for (const version of ["3.5", "3.4"] as const) {
  describe(`entries that expire on etcd ${version}`, () => {
    it.live(
      "around whichever of its requests all leases are revoked, each write succeeds",
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const etcd = yield* connect({ endpoints: server.endpoint })
          let revoked = false
          const revokeAll = Effect.gen(function*() {
            const list = yield* server.etcdctl("lease", "list")
            for (const id of list.split("\n").slice(1).filter((line) => line !== "")) {
              yield* server.etcdctl("lease", "revoke", id)
            }
            revoked = true
          }).pipe(Effect.orDie)
          const places = yield* actAtEveryRequest(etcd, revokeAll, (port, place) =>
            Effect.gen(function*() {
              revoked = false
              const prefix = `/kv/${place}`
              const store = yield* Effect.provideService(
                makeKeyValueStore({ prefix, timeToLive: "1 hour" }),
                Etcd,
                port
              )
              const certain = new Set<string>()
              for (const key of ["a", "b", "c"]) {
                const after = revoked
                yield* store.set(key, key)
                // Whose put was answered when it happened is gone with it.
                if (after || !revoked) certain.add(key)
                if (!after && revoked) certain.clear()
              }
              const before = revoked
              assert.include(["b!", undefined], yield* store.modify("b", (text) => `${text}!`))
              if (revoked && !before) certain.clear()
              const { kvs } = yield* etcd.range({ prefix: `${prefix}/` })
              const there = new Set(kvs.map(({ key }) => key.slice(prefix.length + 1)))
              for (const key of certain) assert.isTrue(there.has(key), `place ${place}: ${key}`)
              for (const { lease } of kvs) {
                assert.isAbove(Duration.toSeconds((yield* etcd.leaseTimeToLive(lease)).remaining), 3500)
              }
            }))
          assert.isAbove(places, 8)
        }),
      120_000
    )
  })
}
