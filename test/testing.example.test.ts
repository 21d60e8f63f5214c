import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { Lock, Operation } from "../src/index.ts"
import * as CoordTesting from "../src/testing.ts"

/** Sends one invoice after the other, for as long as this instance is the one that does. */
const sendInvoices = (send: (number: number) => Effect.Effect<void>) =>
  Effect.gen(function*() {
    const lock = yield* Lock
    return yield* lock.withLock("invoices", { ttl: "6 seconds" })((handle) =>
      Effect.gen(function*() {
        for (let number = 1; number <= 10; number++) {
          yield* send(number)
          // Refused when somebody else has the lock by now, whatever this process believes.
          yield* handle.fenced({ success: [Operation.put("invoices/sent", String(number))] })
          yield* Effect.sleep("1 second")
        }
      })
    )
  })

const started = (sent: Array<number>) =>
  sendInvoices((number) => Effect.sync(() => void sent.push(number))).pipe(Effect.exit, Effect.forkChild)

it.effect("sends all of them", () =>
  Effect.gen(function*() {
    const sent: Array<number> = []
    const running = yield* started(sent)
    yield* TestClock.adjust("11 seconds")
    assert.isTrue(Exit.isSuccess(yield* Fiber.join(running)))
    assert.strictEqual(sent.length, 10)
  }).pipe(Effect.provide(CoordTesting.layer())))

it.effect("stops when it is cut off, before another instance begins", () =>
  Effect.gen(function*() {
    const etcd = yield* CoordTesting.EtcdTest
    const sent: Array<string> = []
    const instance = (name: string) =>
      Effect.exit(sendInvoices((number) => Effect.sync(() => void sent.push(`${name} ${number}`))))
    const one = yield* Effect.forkChild(instance("one"))
    yield* TestClock.adjust("1500 millis")
    yield* etcd.partition
    const other = yield* Effect.forkChild(Effect.provide(instance("other"), etcd.peer))
    yield* TestClock.adjust("7 seconds")
    assert.isTrue(Exit.isFailure(yield* Fiber.join(one)))
    assert.deepStrictEqual(sent.slice(0, 4), ["one 1", "one 2", "one 3", "other 1"])
    yield* Fiber.interrupt(other)
  }).pipe(Effect.provide(CoordTesting.layer())))

it.effect("commits nothing after its lease was taken away", () =>
  Effect.gen(function*() {
    const etcd = yield* CoordTesting.EtcdTest
    const sent: Array<number> = []
    const running = yield* started(sent)
    yield* TestClock.adjust("1500 millis")
    const before = yield* etcd.store.revision
    yield* etcd.loseLease
    yield* TestClock.adjust("3 seconds")
    assert.isTrue(Exit.isFailure(yield* Fiber.join(running)))
    // The deletion of its entry, and nothing else.
    assert.strictEqual(yield* etcd.store.revision, before + 1n)
  }).pipe(Effect.provide(CoordTesting.layer())))

it.effect("goes on over an answer that was lost", () =>
  Effect.gen(function*() {
    const etcd = yield* CoordTesting.EtcdTest
    const sent: Array<number> = []
    yield* etcd.dropResponse("leaseGrant")
    const running = yield* started(sent)
    yield* TestClock.adjust("30 seconds")
    assert.isTrue(Exit.isSuccess(yield* Fiber.join(running)))
    assert.strictEqual(sent.length, 10)
  }).pipe(Effect.provide(CoordTesting.layer())))
