import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { InvalidKey } from "../src/Errors.ts"
import { Compare, Operation } from "../src/Etcd.ts"
import { type Lock, type LockHandle, LockHeld, LockLost } from "../src/Lock.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { failure, settle } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

/** Holds a lock until told to let go. */
const hold = Effect.fnUntraced(
  function*(lock: Lock["Service"], key: string, options?: Parameters<typeof lock.acquire>[1]) {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const handle = yield* Scope.provide(lock.acquire(key, options), scope)
    return { handle, release: Scope.close(scope, Exit.void) }
  }
)

describe("Lock", () => {
  it.effect("says what its entry is, and for how long it is held without another renewal", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const handle = yield* lock.acquire("a/b", { ttl: "30 seconds" })
      assert.deepStrictEqual(yield* world.keys, [handle.entryKey])
      // The margin, a fiftieth, is not counted on.
      assert.strictEqual(Duration.toMillis(yield* handle.remaining), 29_400)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(Duration.toMillis(yield* handle.remaining), 20_400)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(Duration.toMillis(yield* handle.remaining), 29_400)
      yield* handle.unlock
      assert.instanceOf(yield* Effect.flip(handle.remaining), LockLost)
    }))

  it.effect("what a handle can do may be taken out of it, and is of that handle", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const handle = yield* lock.acquire("job", { ttl: "30 seconds" })
      const { assertHeld, entryKey, fenced, fencingToken, guard, lost, remaining, ttl, unlock } = handle
      const losing = yield* Effect.forkChild(lost)
      yield* assertHeld
      assert.strictEqual(Duration.toSeconds(yield* ttl), 30)
      assert.strictEqual(Duration.toMillis(yield* remaining), 29_400)
      assert.strictEqual(yield* guard(Effect.succeed(1)), 1)
      const compare = [Compare.createRevision(entryKey, "=", fencingToken)]
      assert.isTrue((yield* fenced({ compare, success: [Operation.put("config", "v")] })).succeeded)
      yield* unlock
      yield* settle
      // A release is no loss, and who asks is told that it was one.
      assert.isUndefined(losing.pollUnsafe())
      for (const refused of [assertHeld, ttl, remaining, guard(Effect.void), fenced({}), handle.assertHeld]) {
        const error = failure(yield* Effect.exit(refused))
        assert.isTrue(error instanceof LockLost && error.why === "Released")
      }
      assert.deepStrictEqual(Object.keys({ ...handle }).sort(), ["entryKey", "fencingToken", "key"])
      yield* Fiber.interrupt(losing)
    }))

  describe("taking turns", () => {
    it.effect("lets one holder in at a time, in the order in which they came, with growing tokens", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const clients = yield* Effect.all([world.client, world.client, world.client])
        const log: Array<string> = []
        const tokens: Array<bigint> = []
        let inside = 0
        const work = (name: string, lock: Lock["Service"]) =>
          lock.withLock("job")((handle) =>
            Effect.gen(function*() {
              assert.strictEqual(++inside, 1)
              log.push(name)
              tokens.push(handle.fencingToken)
              yield* Effect.sleep("1 second")
              inside--
            })
          )
        const fibers: Array<Fiber.Fiber<void, unknown>> = []
        for (let round = 0; round < 3; round++) {
          for (const [index, client] of clients.entries()) {
            fibers.push(yield* Effect.forkChild(work(`${index}`, client.lock)))
            yield* settle
          }
        }
        yield* TestClock.adjust("20 seconds")
        yield* Fiber.joinAll(fibers)
        // Each process queues in etcd with one entry at a time: nobody is passed over.
        assert.deepStrictEqual(log, ["0", "1", "2", "0", "1", "2", "0", "1", "2"])
        assert.deepStrictEqual(tokens, [...tokens].sort((a, b) => Number(a - b)))
        assert.deepStrictEqual(yield* world.keys, [])
      }))

    it.effect("serves the fibers of one process first come, first served, with one entry in etcd", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const order: Array<number> = []
        const fibers = []
        for (let i = 0; i < 20; i++) {
          fibers.push(
            yield* Effect.forkChild(
              lock.withLock("job")(Effect.gen(function*() {
                order.push(i)
                assert.strictEqual((yield* world.keys).length, 1)
                yield* Effect.sleep("10 millis")
              }))
            )
          )
          yield* settle
        }
        yield* TestClock.adjust("1 second")
        yield* Fiber.joinAll(fibers)
        assert.deepStrictEqual(order, Array.from({ length: 20 }, (_, i) => i))
      }))

    it.effect("keeps locks apart whose keys begin alike, also when one is a folder of the other", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        for (const key of ["a/b", "a", "ab", "a/b/c"]) yield* one.lock.acquire(key)
        for (const key of ["x/1", "x/2", "x/3", "x/4", "x/5", "x/6", "x/7", "x/8", "x/9", "x/10"]) {
          yield* one.lock.acquire(key)
        }
        assert.strictEqual((yield* other.lock.acquire("x")).key, "x")
        assert.strictEqual((yield* one.lock.tryAcquire("x/1").pipe(Effect.flip))._tag, "LockHeld")
        assert.strictEqual((yield* one.lock.tryAcquire("y")).key, "y")
        yield* one.lock.acquire("z/1")
        assert.strictEqual((yield* other.lock.tryAcquire("z")).key, "z")
      }))

    it.effect("waits for the next in line when a waiter in the middle gives up", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [first, second, third] = yield* Effect.all([world.client, world.client, world.client])
        const holder = yield* hold(first.lock, "job")
        const middle = yield* Effect.forkChild(Effect.scoped(second.lock.acquire("job")))
        yield* settle
        const last = yield* Effect.forkChild(hold(third.lock, "job"))
        yield* settle
        yield* Fiber.interrupt(middle)
        yield* settle
        assert.strictEqual(last.pollUnsafe(), undefined)
        yield* holder.release
        yield* settle
        assert.strictEqual((yield* Fiber.join(last)).handle.key, "job")
      }))

    it.effect("tells who holds it and who waits", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const { handle } = yield* hold(one.lock, "job", { label: "worker 1" })
        yield* Effect.forkChild(Effect.scoped(other.lock.acquire("job", { label: "worker 2" })))
        yield* settle
        const entries = yield* one.lock.waiters("job")
        assert.deepStrictEqual(entries.map((entry) => entry.label), ["worker 1", "worker 2"])
        assert.strictEqual(entries[0]?.fencingToken, handle.fencingToken)
        const held = yield* Effect.flip(other.lock.tryAcquire("job"))
        assert.instanceOf(held, LockHeld)
        assert.strictEqual(held._tag === "LockHeld" && held.holder?.label, "worker 1")
        assert.deepStrictEqual(yield* one.lock.waiters("nobody"), [])
      }))

    it.effect("names a key without a lease that blocks it, and goes on when somebody deletes it", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        yield* world.operator.txn({ success: [Operation.put("/locks/job/1234", "by hand")] })
        const held = yield* Effect.flip(lock.tryAcquire("job"))
        assert.strictEqual(held._tag === "LockHeld" && held.holder?.leaseId, 0n)
        const waiting = yield* Effect.forkChild(lock.acquire("job"))
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(waiting.pollUnsafe(), undefined)
        yield* world.operator.txn({ success: [Operation.delete("/locks/job/1234")] })
        yield* settle
        yield* Fiber.join(waiting)
      }))
  })

  describe("bad input", () => {
    it.effect("is refused by name and rule before anything is sent", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const before = (yield* world.operator.range({ prefix: "" })).revision
        for (const key of ["", "/a", "a/", "a//b", ".", "a/../b", "a\u0000b", "a\nb", "\ud800", "x".repeat(5000)]) {
          for (
            const attempt of [
              lock.acquire(key),
              lock.tryAcquire(key),
              lock.withLock(key)(Effect.void),
              lock.waiters(key)
            ]
          ) {
            const error = yield* Effect.flip(
              Effect.scoped(attempt as Effect.Effect<unknown, { _tag: string }, Scope.Scope>)
            )
            assert.instanceOf(error, InvalidKey)
            assert.include(String((error as InvalidKey).message), "must")
          }
        }
        for (const ttl of ["999 millis", 0, -1, Duration.infinity, Number.NaN, "1000000 weeks"] as const) {
          const error = yield* Effect.flip(Effect.scoped(lock.acquire("a", { ttl: ttl as Duration.Input })))
          assert.strictEqual(error._tag, "InvalidOption")
        }
        assert.strictEqual((yield* world.operator.range({ prefix: "" })).revision, before)
        assert.strictEqual(world.store.nextExpiry(), undefined)
      }))

    it.effect("a TTL is rounded up to whole seconds", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const handle = yield* lock.acquire("a", { ttl: "4200 millis" })
        assert.strictEqual(Duration.toSeconds(yield* handle.ttl), 5)
      }))
  })

  describe("leaving", () => {
    it.effect("a timed-out acquire in a scope that lives on leaves no entry", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        yield* one.lock.acquire("job")
        const waiting = yield* Effect.forkChild(Effect.timeoutOption(other.lock.acquire("job"), "3 seconds"))
        yield* settle
        assert.strictEqual((yield* world.keys).length, 2)
        yield* TestClock.adjust("3 seconds")
        assert.isTrue(Option.isNone(yield* Fiber.join(waiting)))
        assert.strictEqual((yield* world.keys).length, 1)
      }))

    for (const lease of ["the lease of another lock", "a lease of its own"] as const) {
      it.effect(
        `interrupted at any step of acquire, hold and release, on ${lease}, it leaves no key and the lock free`,
        () =>
          Effect.gen(function*() {
            const ttl = "3 seconds"
            const steps = yield* interruptAtEveryStep({
              setup: Effect.gen(function*() {
                const world = yield* makeWorld
                const one = yield* world.client
                if (lease === "the lease of another lock") yield* one.lock.withLock("other", { ttl })(Effect.void)
                return { world, one, other: yield* world.client }
              }),
              run: ({ one }) => one.lock.withLock("job", { ttl })(Effect.sleep("100 millis")),
              check: ({ one, other, world }) =>
                Effect.gen(function*() {
                  assert.deepStrictEqual(yield* world.keys, [])
                  yield* Effect.scoped(other.lock.tryAcquire("job"))
                  yield* Effect.scoped(one.lock.tryAcquire("job"))
                })
            })
            assert.isAbove(steps, 60)
          }),
        120_000
      )
    }

    it.effect(
      "interrupted at any step of waiting, it leaves no key and the others in line",
      () =>
        Effect.gen(function*() {
          const steps = yield* interruptAtEveryStep({
            setup: Effect.gen(function*() {
              const world = yield* makeWorld
              const clients = { world, one: yield* world.client, other: yield* world.client }
              const holder = yield* hold(clients.one.lock, "job")
              yield* Effect.forkScoped(Effect.andThen(Effect.sleep("1 second"), holder.release))
              return clients
            }),
            run: ({ other }) => Effect.scoped(Effect.asVoid(other.lock.acquire("job", { ttl: "3 seconds" }))),
            check: ({ one, other, world }) =>
              Effect.gen(function*() {
                yield* TestClock.adjust("2 seconds")
                assert.deepStrictEqual(yield* world.keys, [])
                yield* Effect.scoped(other.lock.tryAcquire("job"))
                yield* Effect.scoped(one.lock.tryAcquire("job"))
              })
          })
          assert.isAbove(steps, 100)
        }),
      120_000
    )

    it.effect("ten thousand cycles leave no key and one lease", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        for (let i = 0; i < 10_000; i++) yield* lock.withLock(`job/${i % 10}`)(Effect.void)
        assert.deepStrictEqual(yield* world.keys, [])
        assert.strictEqual(world.store.snapshot().leases.size, 1)
      }), 60_000)

    it.effect("closing the layer revokes the shared leases", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        yield* Effect.scoped(Effect.gen(function*() {
          const { lock } = yield* world.client
          yield* lock.withLock("job")(Effect.void)
          assert.strictEqual(world.store.snapshot().leases.size, 1)
        }))
        assert.strictEqual(world.store.snapshot().leases.size, 0)
      }))

    it.effect("unlocking twice, or after the scope has closed, does nothing", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const { handle, release } = yield* hold(one.lock, "job")
        yield* handle.unlock
        const next = yield* other.lock.acquire("job")
        yield* handle.unlock
        yield* release
        yield* handle.unlock
        yield* next.assertHeld
        assert.strictEqual((yield* world.keys).length, 1)
        const refused = yield* Effect.flip(handle.assertHeld)
        assert.strictEqual(refused.why, "Released")
        assert.strictEqual((yield* Effect.flip(handle.guard(Effect.die("ran")))).why, "Released")
      }))

    it.effect("a lock released inside withLock is no loss", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const result = yield* lock.withLock("job")((handle) => Effect.as(handle.unlock, "done"))
        assert.strictEqual(result, "done")
      }))
  })

  describe("withLock", () => {
    it.effect("never masks the error of its body", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        const body = Effect.andThen(link.partition, Effect.fail("mine" as const))
        const fiber = yield* Effect.forkChild(Effect.flip(lock.withLock("job")(body)))
        yield* TestClock.adjust("6 seconds")
        assert.strictEqual(yield* Fiber.join(fiber), "mine")
      }))

    it.effect("returns the result of its body when the release gets no answer, and repeats the release", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        const fiber = yield* Effect.forkChild(
          lock.withLock("job", { ttl: "60 seconds" })(Effect.as(link.partition, 42))
        )
        yield* TestClock.adjust("6 seconds")
        assert.strictEqual(yield* Fiber.join(fiber), 42)
        yield* link.heal
        yield* TestClock.adjust("6 seconds")
        assert.deepStrictEqual(yield* world.keys, [])
      }))

    it.effect("gives the resources of its body to the scope of the caller", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const closed = yield* Ref.make(false)
        yield* Effect.scoped(Effect.gen(function*() {
          yield* lock.withLock("job")(Effect.addFinalizer(() => Ref.set(closed, true)))
          assert.isFalse(yield* Ref.get(closed))
        }))
        assert.isTrue(yield* Ref.get(closed))
      }))
  })

  describe("loss", () => {
    it.effect("by a partition is known before the server gives the lock away", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const interrupted = yield* Ref.make(false)
        const holding = yield* Deferred.make<void>()
        const fiber = yield* Effect.forkChild(
          one.lock.withLock("job", { ttl: "10 seconds" })(
            Effect.andThen(Deferred.succeed(holding, undefined), Effect.never).pipe(
              Effect.onInterrupt(() => Ref.set(interrupted, true))
            )
          )
        )
        yield* Deferred.await(holding)
        const next = yield* Effect.forkChild(other.lock.acquire("job"))
        yield* TestClock.adjust("5 seconds")
        yield* one.link.partition
        // The last answered beat was sent at 3.33 s: the lease ends at 13.33 s, the local deadline is 200 ms before.
        yield* TestClock.adjust("8130 millis")
        assert.isFalse(yield* Ref.get(interrupted))
        yield* TestClock.adjust("20 millis")
        assert.isTrue(yield* Ref.get(interrupted))
        assert.strictEqual(next.pollUnsafe(), undefined)
        const lost = failure(yield* Fiber.await(fiber))
        assert.instanceOf(lost, LockLost)
        assert.strictEqual((lost as LockLost).why, "Expired")
        yield* TestClock.adjust("200 millis")
        yield* Fiber.join(next)
      }))

    it.effect("by a revoked lease is noticed within a third of the TTL, and nothing fenced is committed in between", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const { handle } = yield* hold(lock, "job", { ttl: "9 seconds" })
        const lost = yield* Effect.forkChild(Effect.flip(handle.lost))
        const [entry] = yield* lock.waiters("job")
        yield* world.operator.leaseRevoke(entry?.leaseId ?? 0n)
        const refused = yield* Effect.flip(handle.fenced({ success: [Operation.put("ledger", "stale")] }))
        assert.strictEqual(refused._tag, "LockLost")
        yield* TestClock.adjust("3001 millis")
        assert.include(["Revoked", "Deleted"], (yield* Fiber.join(lost)).why)
        assert.deepStrictEqual(yield* world.keys, [])
      }))

    it.effect("of one key that an operator deleted leaves the other locks on the lease alone", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const { handle } = yield* hold(lock, "job", { ttl: "9 seconds" })
        const bystander = yield* hold(lock, "bystander", { ttl: "9 seconds" })
        const [entry] = yield* lock.waiters("job")
        yield* world.operator.txn({ success: [Operation.delete(entry?.entryKey ?? "")] })
        yield* TestClock.adjust("3001 millis")
        assert.strictEqual((yield* Effect.flip(handle.assertHeld)).why, "Deleted")
        yield* bystander.handle.assertHeld
      }))

    it.effect("is seen by assertHeld and guard in the first instruction after the process was stopped", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const clock = yield* skewedClock
        const { handle } = yield* hold(lock, "job", { ttl: "10 seconds" }).pipe(
          Effect.provideService(Clock.Clock, clock.clock)
        )
        // The clock goes on, and no timer has fired: a stopped process that has just been continued.
        const stepped = yield* handle.guard(Effect.sync(() => clock.skip(Duration.seconds(11)))).pipe(Effect.exit)
        assert.strictEqual((failure(stepped) as LockLost).why, "Expired")
        assert.strictEqual((yield* Effect.flip(handle.assertHeld)).why, "Expired")
        assert.strictEqual((yield* Effect.flip(handle.guard(Effect.die("ran")))).why, "Expired")
      }))

    it.effect("of a machine that was suspended is found by asking the server", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const clock = yield* skewedClock
        const { handle } = yield* hold(lock, "job", { ttl: "10 seconds" }).pipe(
          Effect.provideService(Clock.Clock, clock.clock)
        )
        clock.suspend(Duration.seconds(60))
        yield* handle.assertHeld
        clock.suspend(Duration.seconds(60))
        const [entry] = yield* lock.waiters("job")
        yield* world.operator.leaseRevoke(entry?.leaseId ?? 0n)
        assert.strictEqual((yield* Effect.flip(handle.assertHeld)).why, "Revoked")
      }))

    it.effect("does not free the lock of the next holder when the loser releases", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const first = yield* hold(one.lock, "job", { ttl: "2 seconds" })
        yield* one.link.partition
        yield* TestClock.adjust("3 seconds")
        const next = yield* other.lock.acquire("job")
        yield* one.link.heal
        yield* first.release
        yield* next.assertHeld
        assert.strictEqual((yield* other.lock.waiters("job")).length, 1)
      }))

    it.effect("of a waiter's session makes it queue again, under a new lease", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const holder = yield* hold(one.lock, "job", { ttl: "60 seconds" })
        const waiting = yield* Effect.forkChild(hold(other.lock, "job", { ttl: "3 seconds" }))
        yield* settle
        const before = (yield* one.lock.waiters("job"))[1]
        yield* world.operator.leaseRevoke(before?.leaseId ?? 0n)
        yield* TestClock.adjust("1100 millis")
        const after = (yield* one.lock.waiters("job"))[1]
        assert.notStrictEqual(after?.leaseId, before?.leaseId)
        yield* holder.release
        yield* settle
        const { handle } = yield* Fiber.join(waiting)
        assert.strictEqual(handle.fencingToken, after?.fencingToken)
        yield* handle.assertHeld
      }))

    it.effect("of a waiter whose lease ran out in a partition: it never enters with the dead one", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const holder = yield* hold(one.lock, "job", { ttl: "60 seconds" })
        const waiting = yield* Effect.forkChild(hold(other.lock, "job", { ttl: "3 seconds" }))
        yield* settle
        yield* other.link.partition
        yield* TestClock.adjust("4 seconds")
        yield* holder.release
        const next = yield* hold(one.lock, "job", { ttl: "60 seconds" })
        yield* other.link.heal
        yield* TestClock.adjust("20 seconds")
        assert.strictEqual(waiting.pollUnsafe(), undefined)
        yield* next.handle.assertHeld
        yield* next.release
        yield* TestClock.adjust("1 second")
        assert.isAbove(Number((yield* Fiber.join(waiting)).handle.fencingToken), Number(next.handle.fencingToken))
      }))

    it.effect("is an answer to the user's compare, not a loss, when fenced", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { lock } = yield* world.client
        const { handle } = yield* hold(lock, "job")
        const committed = yield* handle.fenced({ success: [Operation.put("ledger", "1")] })
        assert.isTrue(committed.succeeded)
        const refused = yield* handle.fenced({
          compare: [Compare.createRevision("ledger", "=", 0n)],
          success: [Operation.put("ledger", "2")],
          failure: [Operation.range("ledger")]
        })
        assert.isFalse(refused.succeeded)
        assert.strictEqual(refused.responses[0]?._tag, "Range")
        for (
          const write of [
            Operation.put("/locks/other/1", ""),
            Operation.delete({ prefix: "/lo" }),
            Operation.delete({ prefix: "/locks/a" }),
            Operation.delete({ from: "/a", to: "/z" }),
            Operation.txn({ failure: [Operation.delete("/locks/job/1")] })
          ]
        ) {
          const error = yield* Effect.flip(handle.fenced({ success: [write] }))
          assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "InvalidArgument")
        }
        yield* handle.fenced({
          success: [Operation.delete({ from: "/lockt", to: "/z" }), Operation.range({ prefix: "/locks/" })]
        })
        yield* handle.assertHeld
      }))
  })

  describe("lost answers", () => {
    const loseFirst = (
      link: { setFate: (fate: (operation: string) => { response?: "lost" }) => Effect.Effect<void> },
      what: string
    ) =>
      Effect.suspend(() => {
        let lost = false
        return link.setFate((operation) => {
          if (operation !== what || lost) return {}
          lost = true
          return { response: "lost" }
        })
      })

    it.effect("to a claim: it is sent again, and there is one entry", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        yield* loseFirst(link, "txn")
        const waiting = yield* Effect.forkChild(hold(lock, "job", { ttl: "60 seconds" }))
        yield* TestClock.adjust("6 seconds")
        const { handle, release } = yield* Fiber.join(waiting)
        assert.strictEqual((yield* world.keys).length, 1)
        yield* handle.assertHeld
        yield* release
        assert.deepStrictEqual(yield* world.keys, [])
      }))

    it.effect("to tryAcquire: the entry that was made is the lock", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        yield* loseFirst(link, "txn")
        const waiting = yield* Effect.forkChild(lock.tryAcquire("job", { ttl: "60 seconds" }))
        yield* TestClock.adjust("6 seconds")
        yield* (yield* Fiber.join(waiting)).assertHeld
        assert.strictEqual((yield* world.keys).length, 1)
      }))

    it.effect("to a lease grant: one lease", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        yield* loseFirst(link, "leaseGrant")
        const waiting = yield* Effect.forkChild(lock.acquire("job", { ttl: "60 seconds" }))
        yield* TestClock.adjust("6 seconds")
        yield* Fiber.join(waiting)
        assert.strictEqual(world.store.snapshot().leases.size, 1)
      }))

    it.effect("a claim that is applied after its caller gave up does not keep the lock", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        // Somebody else keeps the shared lease alive, so that it does not end with the attempt.
        yield* lock.acquire("bystander", { ttl: "30 seconds" })
        yield* link.setFate((operation) => operation === "txn" ? { request: "8 seconds" } : {})
        const attempt = yield* Effect.forkChild(
          Effect.scoped(Effect.timeoutOption(lock.acquire("job", { ttl: "30 seconds" }), "2 seconds"))
        )
        yield* TestClock.adjust("4 seconds")
        assert.isTrue(Option.isNone(yield* Fiber.join(attempt)))
        yield* link.setFate(() => ({}))
        yield* TestClock.adjust("4100 millis")
        assert.strictEqual((yield* world.keys).filter((key) => key.startsWith("/locks/job/")).length, 1)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* world.keys).filter((key) => key.startsWith("/locks/job/")).length, 0)
      }))

    it.effect("a second copy of a claim that is applied after the release does not keep the lock", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        yield* lock.acquire("bystander", { ttl: "30 seconds" })
        let first = true
        yield* link.setFate((operation) => {
          if (operation !== "txn" || !first) return {}
          first = false
          return { request: "12 seconds" }
        })
        const attempt = yield* Effect.forkChild(lock.withLock("job", { ttl: "30 seconds" })(Effect.void))
        yield* TestClock.adjust("11900 millis")
        yield* Fiber.join(attempt)
        assert.strictEqual((yield* world.keys).length, 1)
        yield* TestClock.adjust("200 millis")
        assert.strictEqual((yield* world.keys).length, 2)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* world.keys).length, 1)
      }))

    it.effect("a release that is applied late never takes the key of a later holder of the same process", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        yield* lock.acquire("bystander", { ttl: "60 seconds" })
        const { release } = yield* hold(lock, "job", { ttl: "60 seconds" })
        yield* link.setFate((operation) => operation === "txn" ? { request: "12 seconds" } : {})
        const releasing = yield* Effect.forkChild(release)
        yield* TestClock.adjust("6 seconds")
        yield* Fiber.join(releasing)
        yield* link.setFate(() => ({}))
        const next = yield* Effect.forkChild(lock.acquire("job", { ttl: "60 seconds" }))
        yield* TestClock.adjust("30 seconds")
        yield* (yield* Fiber.join(next)).assertHeld
        assert.strictEqual((yield* lock.waiters("job")).length, 1)
      }))
  })

  describe("a connection that fails", () => {
    it.effect("while waiting: the turn comes all the same", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const holder = yield* hold(one.lock, "job", { ttl: "60 seconds" })
        const waiting = yield* Effect.forkChild(hold(other.lock, "job", { ttl: "60 seconds" }))
        yield* settle
        for (let i = 0; i < 5; i++) {
          yield* other.link.cut
          yield* TestClock.adjust("300 millis")
        }
        yield* other.link.refuse
        yield* TestClock.adjust("5 seconds")
        yield* holder.release
        yield* other.link.accept
        yield* TestClock.adjust("3 seconds")
        yield* Fiber.join(waiting)
      }))

    it.effect("before anything was queued: acquire fails when the retry schedule is used up, and leaves nothing", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        yield* link.refuse
        const attempt = yield* Effect.forkChild(Effect.flip(lock.acquire("job")))
        yield* TestClock.adjust("10 seconds")
        const error = yield* Fiber.join(attempt)
        assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "Unavailable")
        yield* link.accept
        yield* (yield* lock.acquire("job")).assertHeld
      }))
  })

  it.effect("a handle of a closed layer is lost, and a new acquire says so", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const scope = yield* Scope.make()
      const { lock } = yield* Scope.provide(world.client, scope)
      const handle: LockHandle = yield* lock.acquire("job")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Effect.flip(handle.assertHeld)).why, "Closed")
      const error = yield* Effect.flip(lock.acquire("another"))
      assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "Closed")
    }))
})
