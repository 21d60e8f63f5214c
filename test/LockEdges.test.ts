import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Etcd, Operation } from "../src/Etcd.ts"
import { Lock, type LockLost } from "../src/Lock.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { failure, settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

describe("Lock at its edges", () => {
  it.effect("a layer that closes before its handles, its waiters and its releases: all of them end", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const other = yield* world.client
      for (const partition of [false, true]) {
        const { etcd, link } = yield* world.client
        const scope = yield* Scope.make()
        const context = yield* Layer.buildWithScope(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, etcd))), scope)
        const lock = yield* Effect.provideContext(Lock, context)
        yield* Effect.scoped(Effect.gen(function*() {
          yield* other.lock.acquire("taken", { ttl: "60 seconds" })
          const handles = yield* Scope.make()
          const handle = yield* Scope.provide(lock.acquire("held"), handles)
          const waiting = yield* Effect.forkChild(Effect.exit(Effect.scoped(lock.acquire("taken"))))
          const local = yield* Effect.forkChild(Effect.exit(Effect.scoped(lock.acquire("held"))))
          const body = yield* Effect.forkChild(Effect.exit(lock.withLock("body")(Effect.never)))
          yield* settle
          if (partition) yield* link.partition
          const unlocking = yield* Effect.forkChild(Effect.exit(handle.unlock))
          const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
          yield* TestClock.adjust("7 seconds")
          yield* within("1 second", Fiber.join(closing))
          yield* within("1 second", Scope.close(handles, Exit.void))
          yield* within("1 second", Fiber.join(unlocking))
          assert.strictEqual((failure(yield* within("1 second", Fiber.join(body))) as LockLost).why, "Closed")
          const error = failure(yield* within("1 second", Fiber.join(waiting)))
          assert.strictEqual(error?._tag === "EtcdError" && error.reason._tag, "Closed")
          // It had the lock for a moment when the release was faster than the end.
          const late = yield* within("1 second", Fiber.join(local))
          assert.strictEqual(Exit.isSuccess(late) || failure(late)?._tag === "EtcdError", true)
        }))
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual(yield* world.keys, [])
      }
    }))

  it.effect("six hundred different locks at once cost three leases, and leave nothing", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const keys = Array.from({ length: 600 }, (_, i) => `job/${i}`)
      yield* Effect.scoped(Effect.gen(function*() {
        const handles = yield* Effect.forEach(keys, (key) => lock.acquire(key), { concurrency: "unbounded" })
        assert.strictEqual(new Set(handles.map((handle) => handle.fencingToken)).size, 600)
        assert.strictEqual(world.store.snapshot().leases.size, 3)
        for (const lease of world.store.snapshot().leases.values()) assert.isAtMost(lease.keys.size, 256)
      }))
      assert.deepStrictEqual(yield* world.keys, [])
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(world.store.snapshot().leases.size, 0)
    }))

  it.effect("a body that has unlocked goes on, also when etcd does not answer and the lease ends", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const fiber = yield* Effect.forkChild(
        lock.withLock("job", { ttl: "20 seconds" })((handle) =>
          link.partition.pipe(
            Effect.andThen(Effect.exit(handle.unlock)),
            Effect.andThen(Effect.sleep("60 seconds")),
            Effect.as("done")
          )
        )
      )
      yield* TestClock.adjust("70 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "done")
    }))

  it.effect("a copy of a release that is applied late leaves the next entry of the same name on the same lease alone", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      yield* lock.acquire("bystander", { ttl: "60 seconds" })
      const scope = yield* Scope.make()
      const first = yield* Scope.provide(lock.acquire("job", { ttl: "60 seconds" }), scope)
      let delayed = false
      yield* link.setFate((operation) => {
        if (operation !== "txn" || delayed) return {}
        delayed = true
        return { request: "12 seconds" }
      })
      yield* within("6 seconds", Scope.close(scope, Exit.void))
      assert.strictEqual((yield* world.keys).length, 1)
      const next = yield* lock.acquire("job", { ttl: "60 seconds" })
      assert.isAbove(Number(next.fencingToken), Number(first.fencingToken))
      assert.strictEqual(world.store.snapshot().leases.size, 1)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* lock.waiters("job"))[0]?.fencingToken, next.fencingToken)
    }))

  it.effect("an answer that a stopped process reads after its lease has ended is not taken for the lock", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const clock = yield* skewedClock
      yield* link.setFate((operation) => operation === "txn" ? { response: "1 second" } : {})
      const attempt = yield* Effect.forkChild(
        Effect.provideService(lock.acquire("job", { ttl: "10 seconds" }), Clock.Clock, clock.clock)
      )
      yield* settle
      const [entry] = (yield* world.operator.range({ prefix: "/locks/job/" })).kvs
      clock.skip(Duration.seconds(11))
      yield* world.operator.leaseRevoke(entry?.lease ?? 0n)
      yield* link.setFate(() => ({}))
      yield* TestClock.adjust("1 second")
      const handle = yield* Fiber.join(attempt)
      yield* handle.assertHeld
      const found = yield* world.operator.range({ prefix: "/locks/job/" })
      assert.deepStrictEqual(found.kvs.map((kv) => kv.createRevision), [handle.fencingToken])
    }))

  it.effect("a lease on which a write may still be applied takes no new entries", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      yield* lock.acquire("bystander")
      let lost = false
      yield* link.setFate((operation) => {
        if (operation !== "txn" || lost) return {}
        lost = true
        return { response: "lost" }
      })
      yield* within("6 seconds", lock.acquire("job"))
      yield* lock.acquire("another")
      const leaseOf = (key: string) => Effect.map(lock.waiters(key), (entries) => entries[0]?.leaseId)
      assert.strictEqual(yield* leaseOf("job"), yield* leaseOf("bystander"))
      assert.notStrictEqual(yield* leaseOf("another"), yield* leaseOf("bystander"))
    }))

  it.effect("a handle whose scope has closed refuses everything", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const handle = yield* Effect.scoped(lock.acquire("job"))
      const refusals = [
        yield* Effect.flip(handle.assertHeld),
        yield* Effect.flip(handle.ttl),
        yield* Effect.flip(handle.guard(Effect.die("ran"))),
        yield* Effect.flip(handle.fenced({ success: [Operation.put("ledger", "stale")] }))
      ]
      for (const refusal of refusals) assert.strictEqual(refusal._tag === "LockLost" && refusal.why, "Released")
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("a waiter whose entry an operator deletes does not enter when its turn comes: it queues again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other, third] = yield* Effect.all([world.client, world.client, world.client])
      const holding = yield* Scope.make()
      yield* Scope.provide(one.lock.acquire("job"), holding)
      const waiting = yield* Effect.forkChild(other.lock.acquire("job"))
      yield* settle
      const behind = yield* Effect.forkChild(Effect.scoped(Effect.andThen(third.lock.acquire("job"), Effect.never)))
      yield* settle
      const deleted = (yield* one.lock.waiters("job"))[1]
      yield* world.operator.txn({ success: [Operation.delete(deleted?.entryKey ?? "")] })
      yield* Scope.close(holding, Exit.void)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(waiting.pollUnsafe(), undefined)
      assert.strictEqual((yield* one.lock.waiters("job")).length, 2)
      yield* Fiber.interrupt(behind)
      yield* TestClock.adjust("1 second")
      const handle = yield* Fiber.join(waiting)
      yield* handle.assertHeld
      assert.strictEqual((yield* one.lock.waiters("job"))[0]?.fencingToken, handle.fencingToken)
    }))

  it.effect("a list of a lease's keys that lags behind is no loss", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* world.client
      const lagging: Etcd["Service"] = {
        ...etcd,
        leaseTimeToLive: (id) => Effect.map(etcd.leaseTimeToLive(id), (status) => ({ ...status, keys: [] }))
      }
      const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, lagging))))
      const lock = yield* Effect.provideContext(Lock, context)
      const handle = yield* lock.acquire("job")
      yield* TestClock.adjust("1 minute")
      yield* handle.assertHeld
      assert.strictEqual((yield* lock.waiters("job"))[0]?.fencingToken, handle.fencingToken)
    }))

  it.effect("a holder that came before many newer locks below its own is still waited for", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other, third] = yield* Effect.all([world.client, world.client, world.client])
      const holding = yield* Scope.make()
      yield* Scope.provide(one.lock.acquire("x"), holding)
      for (let i = 0; i < 30; i++) yield* other.lock.acquire(`x/${i}`)
      const waiting = yield* Effect.forkChild(third.lock.acquire("x"))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(waiting.pollUnsafe(), undefined)
      for (let i = 30; i < 60; i++) yield* other.lock.acquire(`x/${i}`)
      yield* Scope.close(holding, Exit.void)
      yield* settle
      yield* Fiber.join(waiting)
    }))

  it.effect("a turn that comes before the watch for it is open is not missed", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      const holding = yield* Scope.make()
      yield* Scope.provide(one.lock.acquire("job"), holding)
      yield* other.link.setFate((operation) => operation === "watch" ? { request: "1 second" } : {})
      const waiting = yield* Effect.forkChild(other.lock.acquire("job"))
      yield* TestClock.adjust("500 millis")
      yield* Scope.close(holding, Exit.void)
      yield* TestClock.adjust("500 millis")
      yield* Fiber.join(waiting)
    }))

  it.effect("a release wakes the next in line alone", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const clients = yield* Effect.all([world.client, world.client, world.client, world.client])
      const requests = clients.map(() => 0)
      const scopes = yield* Effect.all(clients.map(() => Scope.make()))
      for (const [index, { link, lock }] of clients.entries()) {
        yield* link.setFate(() => {
          requests[index] = (requests[index] ?? 0) + 1
          return {}
        })
        yield* Effect.forkChild(Scope.provide(lock.acquire("job"), scopes[index] ?? assert.fail()))
        yield* settle
      }
      requests.fill(0)
      yield* Scope.close(scopes[0] ?? assert.fail(), Exit.void)
      yield* settle
      // One delete, one look.
      assert.deepStrictEqual(requests, [1, 1, 0, 0])
    }))

  it.effect("a lock that somebody takes between the two looks of tryAcquire is held", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      yield* other.lock.acquire("z/1")
      let tries = 0
      yield* one.link.setFate((operation) => operation === "txn" && ++tries === 2 ? { request: "1 second" } : {})
      const attempt = yield* Effect.forkChild(Effect.flip(one.lock.tryAcquire("z")))
      yield* settle
      const handle = yield* other.lock.acquire("z")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(attempt))._tag, "LockHeld")
      yield* handle.assertHeld
      assert.strictEqual((yield* other.lock.waiters("z")).length, 1)
    }))

  it.effect("an unlock lets the next fiber of the process in, while the scope of the handle lives on", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const handle = yield* lock.acquire("job")
      const next = yield* Effect.forkChild(lock.acquire("job"))
      yield* settle
      yield* Effect.all([handle.unlock, handle.unlock], { concurrency: "unbounded" })
      yield* (yield* within("1 second", Fiber.join(next))).assertHeld
    }))

  it.effect("a lease that etcd has forgotten costs one more try, at once", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      for (const attempt of [lock.acquire("job"), lock.tryAcquire("another")]) {
        yield* Effect.scoped(lock.acquire("warm"))
        const [leaseId] = world.store.snapshot().leases.keys()
        yield* world.operator.leaseRevoke(leaseId ?? 0n)
        yield* (yield* within(0, attempt)).assertHeld
        yield* TestClock.adjust("1 minute")
      }
    }))

  it.effect("a key that somebody put under the own name is not taken for the lock", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      yield* lock.acquire("bystander")
      const [leaseId = 0n] = world.store.snapshot().leases.keys()
      const forged = `/locks/job/${leaseId.toString(16)}`
      yield* world.operator.txn({ success: [Operation.put(forged, "")] })
      const held = yield* within(0, Effect.flip(lock.tryAcquire("job")))
      assert.strictEqual(held._tag === "LockHeld" && held.holder?.leaseId, 0n)
      const waiting = yield* Effect.forkChild(lock.acquire("job"))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(waiting.pollUnsafe(), undefined)
      yield* world.operator.txn({ success: [Operation.delete(forged)] })
      yield* settle
      yield* (yield* Fiber.join(waiting)).assertHeld
    }))

  it.effect(
    "interrupted at any step of tryAcquire, hold and unlock, it leaves no key and the lock free",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const world = yield* makeWorld
            return { world, one: yield* world.client, other: yield* world.client }
          }),
          run: ({ one }) =>
            Effect.scoped(Effect.flatMap(one.lock.tryAcquire("job", { ttl: "3 seconds" }), (handle) =>
              Effect.andThen(Effect.sleep("100 millis"), handle.unlock))),
          check: ({ other, world }) =>
            Effect.gen(function*() {
              assert.deepStrictEqual(yield* world.keys, [])
              yield* Effect.scoped(other.lock.tryAcquire("job"))
            })
        }).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, 7))
        assert.isAbove(steps, 100)
      }),
    120_000
  )

  it.effect(
    "interrupted at any step while answers take their time, it leaves no key and the lock free",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const world = yield* makeWorld
            const clients = { world, one: yield* world.client, other: yield* world.client }
            yield* clients.one.link.setFate(() => ({ request: "200 millis", response: "200 millis" }))
            return clients
          }),
          run: ({ one }) => one.lock.withLock("job", { ttl: "10 seconds" })(Effect.sleep("100 millis")),
          check: ({ one, other, world }) =>
            Effect.gen(function*() {
              assert.deepStrictEqual(yield* world.keys, [])
              yield* Effect.scoped(other.lock.tryAcquire("job"))
              yield* one.link.setFate(() => ({}))
            })
        })
        assert.isAbove(steps, 100)
      }),
    120_000
  )
})
