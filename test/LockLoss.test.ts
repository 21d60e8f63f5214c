/** What is known of a loss is known to everybody at once, and a release does not hide it. */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { EtcdError } from "../src/EtcdError.ts"
import type { LockLost } from "../src/Lock.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { failure, settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

const ttl = "10 seconds"

describe("a lease that ends with several locks on it", () => {
  for (const end of ["expires", "is revoked"] as const) {
    it.effect(`and ${end}: whoever is told of one of them finds the others lost, too`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        const handles = yield* Effect.forEach(["a", "b", "c"], (key) => lock.acquire(key, { ttl }))
        const stillHeld: Array<string> = []
        for (const told of handles) {
          yield* Effect.forkChild(Effect.gen(function*() {
            yield* Effect.exit(told.lost)
            for (const { assertHeld, guard, key } of handles) {
              if (Exit.isSuccess(yield* Effect.exit(assertHeld))) stillHeld.push(key)
              yield* Effect.exit(guard(Effect.sync(() => stillHeld.push(key))))
            }
          }))
        }
        if (end === "expires") yield* link.partition
        else yield* world.operator.leaseRevoke([...world.store.snapshot().leases.keys()][0] ?? 0n)
        yield* TestClock.adjust(ttl)
        assert.deepStrictEqual(stillHeld, [])
      }))
  }

  it.effect("a release that ends with it lets its caller begin nothing under another one", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const released = yield* lock.acquire("a", { ttl })
      const other = yield* lock.acquire("b", { ttl })
      yield* link.partition
      const step = yield* Effect.forkChild(
        Effect.andThen(Effect.exit(released.unlock), Effect.exit(other.guard(Effect.succeed("begun")))).pipe(
          Effect.delay("8 seconds")
        )
      )
      yield* TestClock.adjust(ttl)
      const exit = yield* Fiber.join(step)
      assert.strictEqual((failure(exit) as LockLost | undefined)?.why, "Expired")
    }))
})

describe("a process that was stopped for longer than its lease", () => {
  it.effect("and then unlocks is told by withLock that the lock was lost", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const clock = yield* skewedClock
      const exit = yield* lock.withLock("job", { ttl })((handle) =>
        Effect.gen(function*() {
          clock.skip(Duration.seconds(11))
          yield* handle.unlock
          return "done"
        })
      ).pipe(Effect.provideService(Clock.Clock, clock.clock), Effect.exit)
      assert.strictEqual((failure(exit) as LockLost | undefined)?.why, "Expired")
    }))

  for (const state of ["answers", "is cut off"] as const) {
    it.effect(`as its machine was suspended, and unlocks while etcd ${state}, asks first`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        const clock = yield* skewedClock
        const unlocked = yield* Deferred.make<Exit.Exit<void, EtcdError>>()
        const holding = yield* Effect.forkChild(
          lock.withLock("job", { ttl: "60 seconds" })((handle) =>
            Effect.gen(function*() {
              const [entry] = yield* lock.waiters("job")
              // For etcd the time has passed.
              yield* world.operator.leaseRevoke(entry?.leaseId ?? 0n)
              clock.suspend(Duration.seconds(120))
              if (state === "is cut off") yield* link.partition
              yield* Deferred.succeed(unlocked, yield* Effect.exit(handle.unlock))
            })
          ).pipe(Effect.provideService(Clock.Clock, clock.clock))
        )
        if (state === "is cut off") {
          // A request timeout for the question, and one for the release.
          assert.instanceOf(failure(yield* within("10 seconds", Deferred.await(unlocked))), EtcdError)
          return
        }
        const exit = yield* within(0, Fiber.await(holding))
        assert.strictEqual((failure(exit) as LockLost | undefined)?.why, "Revoked")
      }))
  }

  it.effect("and then closes the scope of its lock: what is guarded by it elsewhere is told, too", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const clock = yield* skewedClock
      const scope = yield* Scope.make()
      const handle = yield* lock.acquire("job", { ttl }).pipe(
        Scope.provide(scope),
        Effect.provideService(Clock.Clock, clock.clock)
      )
      const guarded = yield* Effect.forkChild(handle.guard(Effect.sleep("1 second")))
      yield* settle
      clock.skip(Duration.seconds(11))
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("2 seconds")
      const exit = yield* Fiber.await(guarded)
      assert.strictEqual((failure(exit) as LockLost | undefined)?.why, "Expired")
    }))
})
