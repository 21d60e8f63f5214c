/**
 * Random faults, clients and ways to use a lock, on virtual time: at most one holder believes, and nothing is left behind.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import type { LockHandle } from "../src/Lock.ts"
import { makeWorld } from "./utils/world.ts"

/** Mulberry32: small, and the same everywhere. */
const randomOf = (seed: number) => {
  let state = seed
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  return {
    below: (n: number) => Math.floor(next() * n),
    chance: (p: number) => next() < p,
    pick: <A>(all: ReadonlyArray<A>): A => all[Math.floor(next() * all.length)] as A
  }
}

const keys = ["a", "b", "a/b"]

const run = Effect.fnUntraced(function*(seed: number) {
  const random = randomOf(seed)
  const world = yield* makeWorld
  const clients = yield* Effect.all(Array.from({ length: 4 }, () => world.client))
  const inside = new Map<string, bigint>()
  const lastToken = new Map<string, bigint>()
  const outcomes = new Map<string, number>()
  const wrong: Array<string> = []

  const critical = (key: string, handle: LockHandle, time: number) =>
    Effect.suspend(() => {
      const other = inside.get(key)
      if (other !== undefined) wrong.push(`${handle.fencingToken} entered ${key} while ${other} was inside`)
      const last = lastToken.get(key) ?? 0n
      if (handle.fencingToken <= last) wrong.push(`token ${handle.fencingToken} of ${key} came after ${last}`)
      inside.set(key, handle.fencingToken)
      lastToken.set(key, handle.fencingToken)
      return Effect.sleep(Duration.millis(time))
    }).pipe(Effect.ensuring(Effect.sync(() => {
      if (inside.get(key) === handle.fencingToken) inside.delete(key)
    })))

  const job = Effect.suspend((): Effect.Effect<void, { readonly _tag: string }> => {
    const { lock } = random.pick(clients)
    const key = random.pick(keys)
    const options = { ttl: Duration.seconds(random.pick([2, 3, 5, 12])) }
    const time = random.below(4000)
    const patience = Duration.millis(random.below(8000))
    switch (random.below(5)) {
      case 0:
        return Effect.scoped(
          Effect.flatMap(lock.tryAcquire(key, options), (handle) => handle.guard(critical(key, handle, time)))
        )
      case 1:
        return Effect.scoped(Effect.flatMap(
          Effect.timeout(lock.acquire(key, options), patience),
          (handle) => Effect.andThen(handle.guard(critical(key, handle, time)), handle.unlock)
        ))
      case 2:
        return Effect.timeout(lock.withLock(key, options)((handle) => critical(key, handle, time)), patience)
      default:
        return lock.withLock(key, options)((handle) => critical(key, handle, time))
    }
  }).pipe(
    Effect.exit,
    Effect.tap((exit) =>
      Effect.sync(() => {
        const tag = Exit.isSuccess(exit)
          ? "ok"
          : exit.cause.reasons.map((reason) => reason._tag === "Fail" ? reason.error._tag : reason._tag).join()
        if (tag.includes("Die")) wrong.push(String(exit))
        outcomes.set(tag, (outcomes.get(tag) ?? 0) + 1)
      })
    ),
    Effect.andThen(Effect.suspend(() => Effect.sleep(Duration.millis(random.below(2000)))))
  )

  const fault = Effect.suspend(() => {
    const { link } = random.pick(clients)
    const time = Effect.sleep(Duration.millis(random.below(random.chance(0.2) ? 15_000 : 2500)))
    const slow = () => Duration.millis(random.below(random.chance(0.1) ? 9000 : 700))
    switch (random.below(5)) {
      case 0:
        return Effect.all([link.partition, time, link.heal])
      case 1:
        return Effect.all([link.refuse, time, link.accept])
      case 2:
        return link.cut
      case 3:
        return Effect.all([
          link.setFate(() => ({
            request: random.chance(0.1) ? "lost" : slow(),
            response: random.chance(0.2) ? "lost" : slow()
          })),
          time,
          link.setFate(() => ({}))
        ])
      default:
        return time
    }
  })

  const scope = yield* Scope.fork(yield* Effect.scope)
  const workers = yield* Effect.forEach(
    Array.from({ length: 10 }),
    () => Effect.forkIn(Effect.repeat(job, { times: 24 }), scope)
  )
  const faults = yield* Effect.forkIn(Effect.forever(fault), scope)
  // In short steps, so that what happens at the same time is spread over turns.
  for (let i = 0; i < 60 && workers.some((fiber) => fiber.pollUnsafe() === undefined); i++) {
    yield* TestClock.adjust("5 seconds")
  }
  yield* Fiber.interrupt(faults)
  for (const { link } of clients) yield* Effect.all([link.setFate(() => ({})), link.accept, link.heal])
  yield* TestClock.adjust("10 minutes")
  assert.deepStrictEqual(
    workers.filter((fiber) => fiber.pollUnsafe() === undefined).length,
    0,
    "someone waits for ever"
  )
  assert.deepStrictEqual(wrong, [])
  assert.deepStrictEqual(yield* world.keys, [])
  assert.strictEqual(world.store.snapshot().leases.size, 0)
  for (const key of keys) yield* Effect.scoped((clients[0] ?? assert.fail()).lock.tryAcquire(key))
  return outcomes
})

describe("Lock under random faults", () => {
  for (const seed of (process.env["LOCK_SEEDS"]?.split(",").map(Number) ?? [1, 2, 3, 4, 5, 6, 7, 8])) {
    it.effect(
      `one holder at a time, greater tokens, nobody forgotten, nothing left (seed ${seed})`,
      () =>
        Effect.gen(function*() {
          const outcomes = yield* run(seed)
          assert.isAbove(outcomes.get("ok") ?? 0, 60)
        }),
      60_000
    )
  }
})
