import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import type { Etcd } from "../src/Etcd.ts"
import { makeSessionPool } from "../src/internal/session/SessionPool.ts"
import { makeWorld } from "./utils/world.ts"

/** A pool whose beats are noted by lease, by the millisecond at which they are sent. */
const makePool = Effect.gen(function*() {
  const { etcd } = yield* (yield* makeWorld).client
  const beats = new Map<bigint, Array<number>>()
  const counted: Etcd["Service"] = {
    ...etcd,
    leaseKeepAlive: (id) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        beats.set(id, [...beats.get(id) ?? [], now])
        return etcd.leaseKeepAlive(id)
      })
  }
  const pool = yield* makeSessionPool(counted, "/locks/")
  /** Of one name, each on a lease of its own. */
  const slot = (ttl: Duration.Input) =>
    pool.slot({ ttl: Duration.fromInputUnsafe(ttl), name: "one", key: (lease) => `/locks/one/${lease}` })
  return { beats, slot }
})

describe("SessionPool", () => {
  it.effect("leases beat together, and none later than a third of its TTL after its last beat", () =>
    Effect.gen(function*() {
      const { beats, slot } = yield* makePool
      for (let index = 0; index < 20; index++) {
        yield* slot("15 seconds")
        yield* TestClock.adjust("200 millis")
      }
      yield* TestClock.adjust("56 seconds")
      assert.strictEqual(beats.size, 20)
      for (const [index, times] of [...beats.values()].entries()) {
        for (const [at, time] of times.entries()) assert.isAtMost(time - (times[at - 1] ?? index * 200), 5000)
        assert.isAtLeast(times.at(-1) ?? 0, 55_000)
      }
      const rounds = new Set([...beats.values()].flat().filter((time) => time > 50_000))
      assert.isAtMost(rounds.size, 4)
    }))

  it.effect("a short lease beats in time beside long ones, also when they end", () =>
    Effect.gen(function*() {
      const { beats, slot } = yield* makePool
      const long = yield* Scope.make()
      yield* Scope.provide(slot("60 seconds"), long)
      yield* TestClock.adjust("1 second")
      yield* slot("3 seconds")
      yield* TestClock.adjust("4 seconds")
      yield* Scope.close(long, yield* Effect.exit(Effect.void))
      yield* TestClock.adjust("3 minutes")
      const [, short = []] = [...beats.entries()].toSorted(([, a], [, b]) => a.length - b.length).at(-1) ?? []
      assert.isAtLeast(short.length, 180)
      for (const [at, time] of short.entries()) assert.isAtMost(time - (short[at - 1] ?? 1000), 1000)
    }))
})
