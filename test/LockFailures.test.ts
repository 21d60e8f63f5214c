import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Compare, Etcd, Operation } from "../src/Etcd.ts"
import { EtcdError, PermissionDenied } from "../src/EtcdError.ts"
import { makeSessionPool } from "../src/internal/session/SessionPool.ts"
import { Lock, LockLost } from "../src/Lock.ts"
import { actAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { failure, settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

/** Gives many turns to fibers that yield often. */
const turns = Effect.promise(() => new Promise((resume) => setTimeout(resume, 5)))

describe("Lock, when something fails beside it", () => {
  it.effect("an acquire whose scope closes while it waits leaves no entry, and the lock free", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      const holding = yield* Scope.make()
      yield* Scope.provide(one.lock.acquire("job"), holding)
      const scope = yield* Scope.make()
      const waiting = yield* Effect.forkChild(Scope.provide(other.lock.acquire("job"), scope))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      yield* settle
      yield* Scope.close(holding, Exit.void)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* world.keys, [])
      yield* Effect.scoped(one.lock.tryAcquire("job"))
      yield* Fiber.interrupt(waiting)
    }))

  it.effect("an acquire into a scope that has closed leaves no entry, and the lock free", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      // Others keep the shared lease in use.
      yield* one.lock.acquire("bystander")
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      yield* within("10 seconds", Effect.exit(Scope.provide(one.lock.acquire("job"), scope)))
      yield* TestClock.adjust("60 seconds")
      assert.deepStrictEqual((yield* world.keys).filter((key) => key.includes("/job/")), [])
      yield* Effect.scoped(other.lock.tryAcquire("job"))
    }))

  it.effect("a release that etcd denied once does not keep the lock, and the next token is greater", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* world.client
      const other = yield* world.client
      let denied = false
      const deny: Etcd["Service"] = {
        ...etcd,
        txn: (request) =>
          !denied && request.success?.[0]?._tag === "Delete"
            ? Effect.suspend(() => {
              denied = true
              return Effect.fail(new EtcdError({ operation: "txn", reason: new PermissionDenied({}) }))
            })
            : etcd.txn(request)
      }
      const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, deny))))
      const lock = yield* Effect.provideContext(Lock, context)
      yield* lock.acquire("bystander")
      const scope = yield* Scope.make()
      const first = yield* Scope.provide(lock.acquire("job"), scope)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(denied)
      const second = yield* within("20 seconds", Effect.scoped(lock.acquire("job")))
      assert.isAbove(Number(second.fencingToken), Number(first.fencingToken))
      yield* TestClock.adjust("60 seconds")
      yield* Effect.scoped(other.lock.tryAcquire("job"))
    }))

  it.effect("a claim that finds its own entry there and may not read it leaves the lock free", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* world.client
      const other = yield* world.client
      const deny: Etcd["Service"] = {
        ...etcd,
        range: (request) =>
          "key" in request && request.key.includes("/job/")
            ? Effect.fail(new EtcdError({ operation: "range", reason: new PermissionDenied({}) }))
            : etcd.range(request)
      }
      const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, deny))))
      const lock = yield* Effect.provideContext(Lock, context)
      // Where others are, a claim is refused, and then looks.
      const deeper = "/locks/job/deeper/1"
      yield* world.operator.txn({ success: [Operation.put(deeper, "")] })
      yield* Effect.scoped(lock.acquire("before"))
      const before = yield* Effect.scoped(lock.acquire("job"))
      const lease = BigInt(`0x${before.entryKey.split("/").at(-1) ?? ""}`)
      // As a restored snapshot would.
      yield* world.operator.txn({ success: [Operation.put(before.entryKey, "", { lease })] })
      const refused = yield* Effect.exit(Effect.scoped(lock.acquire("job")))
      assert.strictEqual(failure(refused)?._tag, "EtcdError")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* world.keys, [deeper])
      yield* Effect.scoped(other.lock.tryAcquire("job"))
    }))

  for (const lease of ["a lease that is there", "a lease of its own"] as const) {
    it.effect(
      `a scope that closes at any step of an acquire, on ${lease}, leaves no key, and the lock free`,
      () =>
        Effect.gen(function*() {
          const context = yield* Effect.context<never>()
          const steps = yield* actAtEveryStep({
            setup: Effect.gen(function*() {
              const world = yield* makeWorld
              const one = yield* world.client
              if (lease === "a lease that is there") yield* one.lock.withLock("other")(Effect.void)
              yield* one.link.setFate(() => ({ request: "20 millis", response: "20 millis" }))
              return { world, one, other: yield* world.client, scope: yield* Scope.make() }
            }),
            run: ({ one, scope }) =>
              Scope.provide(one.lock.acquire("job"), scope).pipe(
                Effect.exit,
                Effect.tap(Scope.close(scope, Exit.void))
              ),
            act: ({ scope }) => {
              Effect.runForkWith(context)(Scope.close(scope, Exit.void))
            },
            check: ({ one, other, world }) =>
              Effect.gen(function*() {
                yield* TestClock.adjust("200 millis")
                assert.deepStrictEqual(yield* world.keys, [])
                yield* Effect.scoped(other.lock.tryAcquire("job"))
                yield* one.link.setFate(() => ({}))
                yield* Effect.scoped(one.lock.tryAcquire("job"))
              })
          })
          assert.isAbove(steps, 40)
        }),
      120_000
    )
  }

  it.effect("a lock that is used now and then keeps nothing of its earlier sessions in memory", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* world.client
      const leases: Array<WeakRef<object>> = []
      const pool = yield* makeSessionPool({
        ...etcd,
        leaseGrant: (ttl) =>
          Effect.map(etcd.leaseGrant(ttl), (lease) => {
            const copy = { ...lease }
            leases.push(new WeakRef(copy))
            return copy
          })
      }, "")
      for (let i = 0; i < 50; i++) {
        yield* Effect.scoped(pool.slot({ ttl: Duration.seconds(2), name: "job", key: String }))
        yield* TestClock.adjust("10 seconds")
      }
      assert.strictEqual(leases.length, 50)
      setFlagsFromString("--expose-gc")
      const collect = runInNewContext("gc") as () => void
      yield* Effect.promise(() => new Promise((resume) => setTimeout(resume, 10)))
      collect()
      assert.isBelow(leases.filter((lease) => lease.deref() !== undefined).length, 5)
    }))

  it.effect("a lease that is used again stays, and ends one TTL after its last user", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* world.client
      const granted: Array<bigint> = []
      const revoked: Array<bigint> = []
      const pool = yield* makeSessionPool({
        ...etcd,
        leaseGrant: (ttl) => Effect.tap(etcd.leaseGrant(ttl), ({ id }) => Effect.sync(() => granted.push(id))),
        leaseRevoke: (id) => Effect.tap(etcd.leaseRevoke(id), () => Effect.sync(() => revoked.push(id)))
      }, "")
      const use = Effect.scoped(pool.slot({ ttl: Duration.seconds(10), name: "job", key: String }))
      yield* use
      for (let i = 0; i < 5; i++) {
        yield* TestClock.adjust("9 seconds")
        yield* use
      }
      assert.strictEqual(granted.length, 1)
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual(revoked, [])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(revoked, granted)
      yield* use
      assert.strictEqual(granted.length, 2)
    }))

  it.effect("closing the layer in a partition takes one request timeout, however many leases there are", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd, link } = yield* world.client
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, etcd))), scope)
      const lock = yield* Effect.provideContext(Lock, context)
      for (const ttl of [60, 61, 62, 63, 64]) {
        yield* Effect.scoped(lock.acquire(`job/${ttl}`, { ttl: `${ttl} seconds` }))
      }
      yield* link.partition
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("6 seconds")
      const ended = closing.pollUnsafe() !== undefined
      yield* link.heal
      yield* TestClock.adjust("60 seconds")
      yield* Fiber.join(closing)
      assert.isTrue(ended)
    }))

  it.effect("closing a scope with many locks in a partition takes one request timeout", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const scope = yield* Scope.make()
      for (let i = 0; i < 5; i++) yield* Scope.provide(lock.acquire(`job/${i}`, { ttl: "60 seconds" }), scope)
      yield* link.partition
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("6 seconds")
      const ended = closing.pollUnsafe() !== undefined
      yield* link.heal
      yield* TestClock.adjust("60 seconds")
      yield* Fiber.join(closing)
      assert.isTrue(ended)
    }))

  it.effect("an acquire that waits for its lease when the layer closes fails with Closed", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const scope = yield* Scope.make()
      const { link, lock } = yield* Scope.provide(world.client, scope)
      yield* link.setFate((operation) => operation === "leaseGrant" ? { request: "3 seconds" } : {})
      const attempt = yield* Effect.forkChild(Effect.exit(Effect.scoped(lock.acquire("job"))))
      yield* settle
      yield* within("10 seconds", Scope.close(scope, Exit.void))
      const exit = yield* Fiber.join(attempt)
      const error = failure(exit)
      assert.strictEqual(error?._tag === "EtcdError" && error.reason._tag, "Closed")
    }))

  it.effect("two fibers that try a free lock at once: one has it, the other is told so at once", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      for (let ops = 10; ops < 60; ops++) {
        const scope = yield* Scope.make()
        const attempt = lock.tryAcquire(`job/${ops}`).pipe(
          Scope.provide(scope),
          Effect.exit,
          Effect.provideService(Scheduler.MaxOpsBeforeYield, ops)
        )
        const attempts = [yield* Effect.forkChild(attempt), yield* Effect.forkChild(attempt)]
        for (let i = 0; i < 20; i++) yield* settle
        yield* turns
        const tags = attempts.map((fiber) => {
          const exit = fiber.pollUnsafe()
          if (exit === undefined || Exit.isFailure(exit)) return "waits"
          return Exit.isSuccess(exit.value) ? "has it" : failure(exit.value)?._tag
        })
        yield* Fiber.interruptAll(attempts)
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(tags.sort(), ["LockHeld", "has it"], `${ops} operations between yields`)
      }
    }))

  it.effect("an acquire whose answer arrives after the machine was suspended is not taken for the lock", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const clock = yield* skewedClock
      yield* Effect.provideService(lock.acquire("bystander", { ttl: "10 seconds" }), Clock.Clock, clock.clock)
      yield* link.setFate((operation) => operation === "txn" ? { response: "1 second" } : {})
      const attempt = yield* Effect.forkChild(
        Effect.provideService(lock.acquire("job", { ttl: "10 seconds" }), Clock.Clock, clock.clock)
      )
      yield* settle
      const [entry] = yield* world.operator.range({ prefix: "/locks/job/" }).pipe(Effect.map((found) => found.kvs))
      clock.suspend(Duration.seconds(60))
      yield* world.operator.leaseRevoke(entry?.lease ?? 0n)
      yield* link.setFate(() => ({}))
      yield* TestClock.adjust("1 second")
      const handle = yield* Fiber.join(attempt)
      const found = yield* world.operator.range({ prefix: "/locks/job/" })
      assert.deepStrictEqual(found.kvs.map((kv) => kv.createRevision), [handle.fencingToken])
    }))

  it.effect("a body that ended while the machine was suspended past the lease is LockLost", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const clock = yield* skewedClock
      const exit = yield* lock.withLock("job", { ttl: "10 seconds" })(
        Effect.gen(function*() {
          const [entry] = yield* lock.waiters("job")
          clock.suspend(Duration.seconds(60))
          yield* world.operator.leaseRevoke(entry?.leaseId ?? 0n)
        })
      ).pipe(Effect.provideService(Clock.Clock, clock.clock), Effect.exit)
      assert.instanceOf(failure(exit), LockLost)
    }))

  it.effect("a body that unlocks while the keys of the lease are being verified goes on", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const fiber = yield* Effect.forkChild(
        lock.withLock("job", { ttl: "9 seconds" })((handle) =>
          Effect.sleep("2900 millis").pipe(
            // The delete is applied at once and answered a second later; the beat at 3 s looks in between.
            Effect.andThen(link.setFate((operation) => operation === "txn" ? { response: "1 second" } : {})),
            Effect.andThen(handle.unlock),
            Effect.as("done")
          )
        )
      )
      yield* TestClock.adjust("8 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "done")
    }))

  it.effect("an acquire is not told of an outage that was over before it began", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      yield* link.setFate((operation) => operation === "leaseGrant" ? { request: "lost" } : {})
      const gaveUp = yield* Effect.forkChild(Effect.scoped(Effect.timeoutOption(lock.acquire("job"), "1 second")))
      yield* TestClock.adjust("12 seconds")
      assert.isTrue(Option.isNone(yield* Fiber.join(gaveUp)))
      yield* link.setFate(() => ({}))
      yield* (yield* within("1 second", lock.acquire("job"))).assertHeld
    }))

  it.effect("an entry that was made in one transaction with many deeper keys is waited for", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      for (const entry of ["/locks/job/0", "/locks/job/zz"]) {
        yield* world.operator.txn({
          success: [
            Operation.put(entry, ""),
            ...Array.from({ length: 20 }, (_, i) => Operation.put(`/locks/job/m${i}/1`, ""))
          ]
        })
        const attempt = yield* Effect.forkChild(Effect.scoped(lock.acquire("job")))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(attempt.pollUnsafe(), undefined, entry)
        yield* world.operator.txn({ success: [Operation.delete({ prefix: "/locks/job/" })] })
        yield* Fiber.interrupt(attempt)
      }
    }))

  it.effect("a fenced delete of an empty range deletes nothing", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      yield* world.operator.txn({ success: [Operation.put("a", ""), Operation.put("b", "")] })
      const handle = yield* lock.acquire("job")
      const before = yield* world.keys
      yield* Effect.exit(handle.fenced({ success: [Operation.delete({ from: "", to: "" })] }))
      assert.deepStrictEqual(yield* world.keys, before)
    }))

  it.effect("what a session says in the log names no lock of one of its users", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const seen: Array<unknown> = []
      const logger = Logger.make((options) => {
        if (String(options.message).includes("session lost")) {
          seen.push(options.fiber.getRef(References.CurrentLogAnnotations)["lock"])
        }
      })
      yield* Effect.gen(function*() {
        yield* Effect.scoped(lock.acquire("first", { ttl: "3 seconds" }))
        yield* lock.acquire("second", { ttl: "3 seconds" })
        const [entry] = yield* lock.waiters("second")
        yield* world.operator.leaseRevoke(entry?.leaseId ?? 0n)
        yield* TestClock.adjust("2 seconds")
      }).pipe(Effect.provide(Logger.layer([logger])))
      assert.deepStrictEqual(seen, [undefined])
    }))

  it.effect("nobody queues again while the layer closes, and the close takes one request timeout", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const other = yield* world.client
      const { etcd, link } = yield* world.client
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, etcd))), scope)
      const lock = yield* Effect.provideContext(Lock, context)
      yield* other.lock.acquire("job", { ttl: "90 seconds" })
      const waiting = []
      for (const ttl of [60, 61, 62]) {
        yield* Effect.scoped(lock.acquire(`warm/${ttl}`, { ttl: `${ttl} seconds` }))
        yield* other.lock.acquire(`job/${ttl}`, { ttl: "90 seconds" })
        waiting.push(
          yield* Effect.forkChild(Effect.exit(Effect.scoped(lock.acquire(`job/${ttl}`, { ttl: `${ttl} seconds` }))))
        )
      }
      yield* settle
      const grants: Array<string> = []
      yield* link.setFate((operation) => {
        if (operation === "leaseGrant") grants.push(operation)
        return operation === "leaseRevoke" ? { response: "lost" } : {}
      })
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("6 seconds")
      const ended = closing.pollUnsafe() !== undefined
      yield* link.setFate(() => ({}))
      yield* TestClock.adjust("60 seconds")
      yield* Fiber.join(closing)
      for (const fiber of waiting) {
        const error = failure(yield* Fiber.join(fiber))
        assert.strictEqual(error?._tag === "EtcdError" && error.reason._tag, "Closed")
      }
      assert.deepStrictEqual(grants, [])

      assert.isTrue(ended)
    }))

  it.effect("a deleted lock is noticed even where a late copy of its claim has put the key there again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      let first = true
      yield* link.setFate((operation) => {
        if (operation !== "txn" || !first) return {}
        first = false
        return { request: "12 seconds" }
      })
      const attempt = yield* Effect.forkChild(lock.acquire("job", { ttl: "30 seconds" }))
      yield* TestClock.adjust("11 seconds")
      const handle = yield* Fiber.join(attempt)
      const [entry] = yield* lock.waiters("job")
      yield* world.operator.txn({ success: [Operation.delete(entry?.entryKey ?? "")] })
      yield* TestClock.adjust("2 seconds")
      const [late] = yield* lock.waiters("job")
      assert.strictEqual(late?.entryKey, entry?.entryKey)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Effect.flip(handle.assertHeld)).why, "Deleted")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* lock.waiters("job"), [])
    }))

  it.effect("each look at a lease knows which locks have come and gone since the one before", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const look = TestClock.adjust("5 seconds")
      const stays = yield* lock.acquire("stays")
      yield* look
      const comes = yield* lock.acquire("comes")
      const goes = yield* lock.acquire("goes")
      yield* look
      yield* goes.unlock
      yield* look
      // As a late write would.
      const lease = BigInt(`0x${goes.entryKey.split("/").at(-1) ?? ""}`)
      yield* world.operator.txn({ success: [Operation.put(goes.entryKey, "", { lease })] })
      yield* look
      assert.deepStrictEqual(yield* world.keys, [comes.entryKey, stays.entryKey])
      yield* world.operator.txn({ success: [Operation.delete(comes.entryKey)] })
      yield* look
      assert.strictEqual((yield* Effect.flip(comes.assertHeld)).why, "Deleted")
      yield* stays.assertHeld
      yield* world.operator.txn({ success: [Operation.delete(stays.entryKey)] })
      yield* look
      assert.strictEqual((yield* Effect.flip(stays.assertHeld)).why, "Deleted")
    }))

  it.effect("whoever has lost a lock can take it again while the lost handle's scope is open", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const first = yield* lock.acquire("job")
      yield* world.operator.txn({ success: [Operation.delete({ prefix: "/locks/job/" })] })
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Effect.flip(first.assertHeld)).why, "Deleted")
      yield* (yield* within("1 second", lock.acquire("job"))).assertHeld
    }))

  it.effect("a fenced write to a lock's key is refused however its bytes are spelt", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* world.client
      const context = yield* Layer.build(Lock.layer({ prefix: "/é" }).pipe(Layer.provide(Layer.succeed(Etcd, etcd))))
      const handle = yield* (yield* Effect.provideContext(Lock, context)).acquire("job")
      // U+DCC3 U+DCA9 are the bytes of é.
      const error = yield* Effect.flip(handle.fenced({ success: [Operation.put("/\udcc3\udca9/job/x", "")] }))
      assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "InvalidArgument")
    }))

  it.effect("a fenced transaction tells a compare of its own that failed from a loss, with and without a failure branch", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const handle = yield* lock.acquire("job")
      const absent = Compare.createRevision("ledger", "=", 0n)
      assert.isTrue((yield* handle.fenced({ compare: [absent], success: [Operation.put("ledger", "1")] })).succeeded)
      for (const failure of [undefined, [], [Operation.range("ledger")]]) {
        const refused = yield* handle.fenced({ compare: [absent], success: [Operation.put("ledger", "2")], failure })
        assert.isFalse(refused.succeeded)
        assert.strictEqual(refused.responses.length, failure?.length ?? 0)
      }
      yield* world.operator.txn({ success: [Operation.delete({ prefix: "/locks/job/" })] })
      for (const failure of [undefined, [Operation.range("ledger")]]) {
        const lost = yield* Effect.flip(
          handle.fenced({ compare: [absent], success: [Operation.put("ledger", "3")], failure })
        )
        assert.strictEqual(lost._tag, "LockLost")
      }
      const [ledger] = (yield* world.operator.range({ key: "ledger" })).kvs
      assert.strictEqual(ledger?.version, 1n)
    }))

  it.effect("closing a scope and then the layer in a partition takes one request timeout in all", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd, link } = yield* world.client
      const layer = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, etcd))), layer)
      const lock = yield* Effect.provideContext(Lock, context)
      const scope = yield* Scope.make()
      for (let i = 0; i < 3; i++) yield* Scope.provide(lock.acquire(`job/${i}`, { ttl: "60 seconds" }), scope)
      yield* link.partition
      const closing = yield* Effect.forkChild(
        Effect.andThen(Scope.close(scope, Exit.void), Scope.close(layer, Exit.void))
      )
      yield* TestClock.adjust("5100 millis")
      const ended = closing.pollUnsafe() !== undefined
      yield* link.heal
      yield* TestClock.adjust("60 seconds")
      yield* Fiber.join(closing)
      assert.isTrue(ended)
    }))

  it.effect("a release waits for the whole request timeout, also soon after another one", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const first = yield* lock.acquire("first")
      const second = yield* lock.acquire("second")
      // Its scope releases it once more, which waits for nothing.
      yield* first.unlock
      yield* TestClock.adjust("3 seconds")
      yield* link.setFate(() => ({ response: "lost" }))
      const unlocking = yield* Effect.forkChild(Effect.exit(second.unlock))
      yield* TestClock.adjust("4900 millis")
      assert.isUndefined(unlocking.pollUnsafe())
      yield* TestClock.adjust("200 millis")
      assert.isDefined(unlocking.pollUnsafe())
      yield* link.setFate(() => ({}))
      yield* TestClock.adjust("10 seconds")
    }))

  it.effect("closing waits for the whole request timeout, also soon after a lease that etcd no longer knew", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const expiring = yield* Scope.make()
      yield* Scope.provide(lock.acquire("short", { ttl: "2 seconds" }), expiring)
      const handle = yield* lock.acquire("job")
      yield* link.partition
      yield* TestClock.adjust("3 seconds")
      yield* link.heal
      yield* Scope.close(expiring, Exit.void)
      yield* TestClock.adjust("3 seconds")
      yield* link.setFate(() => ({ response: "lost" }))
      const unlocking = yield* Effect.forkChild(Effect.exit(handle.unlock))
      yield* TestClock.adjust("4900 millis")
      assert.isUndefined(unlocking.pollUnsafe())
      yield* link.setFate(() => ({}))
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(unlocking)
    }))

  it.effect("keys of users that live on the lease of a lock stay while it is held", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd, lock } = yield* world.client
      const handle = yield* lock.acquire("job", { ttl: "3 seconds" })
      const [holder] = yield* lock.waiters("job")
      const own = Operation.put("/status/job", "running", { lease: holder?.leaseId })
      yield* handle.fenced({ success: [own] })
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* etcd.range({ key: "/status/job" })).count, 1)
      yield* handle.unlock
    }))

  it.effect("released entries that a restored snapshot brings back do not keep the locks of a process that goes on", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      const bystander = yield* one.lock.acquire("bystander")
      const released = yield* one.lock.acquire("job")
      const snapshot = world.store.snapshot()
      yield* released.unlock
      world.store.restore(snapshot)
      yield* within("20 seconds", Effect.scoped(other.lock.acquire("job")))
      yield* bystander.assertHeld
    }))

  it.effect("an entry that a restored snapshot brings back is not taken for a new one while it is deleted", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [{ etcd }, other] = yield* Effect.all([world.client, world.client])
      const deleting = yield* Deferred.make<void>()
      const slow = yield* Deferred.make<void>()
      let restored = false
      const lock = Context.get(
        yield* Layer.build(
          Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, {
            ...etcd,
            txn: (request) =>
              restored && request.success?.some(({ _tag }) => _tag === "Delete")
                ? Deferred.succeed(deleting, undefined).pipe(
                  Effect.andThen(Deferred.await(slow)),
                  Effect.andThen(etcd.txn(request))
                )
                : etcd.txn(request)
          })))
        ),
        Lock
      )
      yield* lock.acquire("bystander")
      const released = yield* lock.acquire("job")
      const snapshot = world.store.snapshot()
      yield* released.unlock
      world.store.restore(snapshot)
      restored = true
      yield* within("6 seconds", Deferred.await(deleting))
      const acquiring = yield* Effect.forkChild(lock.acquire("job"), { startImmediately: true })
      yield* settle
      yield* Deferred.succeed(slow, undefined)
      const handle = yield* within("1 second", Fiber.join(acquiring))
      const taken = yield* Effect.exit(other.lock.tryAcquire("job"))
      assert.strictEqual(failure(taken)?._tag, "LockHeld")
      yield* handle.assertHeld
    }))

  it.effect("who tries a lock does not enter by an entry that a restored snapshot brings back behind the holder's", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      const holder = yield* other.lock.acquire("job")
      const waiting = yield* Effect.forkChild(one.lock.acquire("job"))
      yield* settle
      const snapshot = world.store.snapshot()
      yield* Fiber.interrupt(waiting)
      yield* settle
      world.store.restore(snapshot)
      const taken = yield* Effect.exit(Effect.scoped(one.lock.tryAcquire("job")))
      const refused = failure(taken)
      assert.strictEqual(refused?._tag, "LockHeld")
      yield* holder.assertHeld
      yield* holder.unlock
      yield* within("1 second", Effect.scoped(one.lock.tryAcquire("job")))
    }))

  it.effect("a holder is told when a restored snapshot knows of an older entry of his alone", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const earlier = yield* lock.acquire("job", { ttl: "9 seconds" })
      const snapshot = world.store.snapshot()
      yield* earlier.unlock
      const handle = yield* lock.acquire("job", { ttl: "9 seconds" })
      assert.strictEqual(handle.entryKey, earlier.entryKey)
      world.store.restore(snapshot)
      const lost = yield* within("4 seconds", Effect.flip(handle.lost))
      assert.strictEqual(lost.why, "Deleted")
      yield* within("1 second", Effect.scoped(lock.tryAcquire("job", { ttl: "9 seconds" })))
    }))
})
