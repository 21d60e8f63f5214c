import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import { EtcdError, Unavailable } from "../src/EtcdError.ts"
import { makeHedge } from "../src/internal/client/hedge.ts"

const settings = { timeout: Duration.seconds(5) }
const failed = new EtcdError({ operation: "range", reason: new Unavailable({ detail: "cut", sent: true }) })

/** Says when it was asked, and when it was interrupted, in milliseconds; answered as `answers` says, the last for ever. */
const makeAttempt = (...answers: ReadonlyArray<Effect.Effect<string, EtcdError>>) => {
  const asked: Array<number> = []
  const interrupted: Array<number> = []
  const attempt = Effect.gen(function*() {
    asked.push(yield* Clock.currentTimeMillis)
    return yield* answers[Math.min(asked.length, answers.length) - 1] ?? Effect.never
  }).pipe(Effect.onInterrupt(() => Effect.map(Clock.currentTimeMillis, (now) => void interrupted.push(now))))
  return { attempt, asked, interrupted }
}

V8.setFlagsFromString("--expose-gc")
const collectGarbage: () => void = Vm.runInNewContext("gc")

describe("the timer of reads", () => {
  it.effect("keeps nothing of those that were answered while it sleeps for another one", () =>
    Effect.gen(function*() {
      const hedge = yield* makeHedge(settings)
      const waiting = yield* Effect.forkChild(hedge(Effect.never), { startImmediately: true })
      const answered = yield* Effect.forEach(Array.from({ length: 2000 }), () =>
        Effect.suspend(() => {
          const page = { bytes: new Uint8Array(1000) }
          return Effect.as(hedge(Effect.as(Effect.yieldNow, page)), new WeakRef(page))
        }), { concurrency: 50 })
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      collectGarbage()
      assert.isBelow(answered.filter((page) => page.deref() !== undefined).length, 100)
      yield* Fiber.interrupt(waiting)
    }))
})

describe("a read that is not answered for two seconds", () => {
  it.effect("and is interrupted when one of two has been answered waits for the end of the other all the same", () =>
    Effect.gen(function*() {
      const hedge = yield* makeHedge(settings)
      const answered = yield* Deferred.make<string>()
      const { attempt, interrupted } = makeAttempt(Deferred.await(answered), Effect.never)
      const slow = Effect.onInterrupt(attempt, () => Effect.sleep("1 second"))
      const fiber = yield* Effect.forkChild(hedge(slow), { startImmediately: true })
      yield* TestClock.adjust("2 seconds")
      yield* Deferred.succeed(answered, "first")
      yield* TestClock.adjust("500 millis")
      assert.deepStrictEqual(interrupted, [2000])
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      yield* TestClock.adjust("100 millis")
      assert.isUndefined(interrupting.pollUnsafe())
      yield* TestClock.adjust("400 millis")
      assert.isDefined(interrupting.pollUnsafe())
    }))

  it.effect("is asked again at its own time, whoever else waits or has been answered", () =>
    Effect.gen(function*() {
      const hedge = yield* makeHedge(settings)
      const answer = yield* Deferred.make<string>()
      const [first, answered, last] = [makeAttempt(), makeAttempt(Deferred.await(answer)), makeAttempt()]
      yield* Effect.forkChild(hedge(first.attempt), { startImmediately: true })
      yield* TestClock.adjust("700 millis")
      const fiber = yield* Effect.forkChild(hedge(answered.attempt), { startImmediately: true })
      yield* TestClock.adjust("800 millis")
      yield* Effect.forkChild(hedge(last.attempt), { startImmediately: true })
      yield* Deferred.succeed(answer, "answer")
      assert.strictEqual(yield* Fiber.join(fiber), "answer")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual([first.asked, answered.asked, last.asked], [[0, 2000], [700], [1500, 3500]])

      // The timer has nothing to wait for any more; it starts again with the next one.
      const later = makeAttempt()
      yield* Effect.forkChild(hedge(later.attempt), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(later.asked, [11_500, 13_500])
    }))

  it.effect("is what the first of the two answers says, also a failure, and the other one ends", () =>
    Effect.gen(function*() {
      const hedge = yield* makeHedge(settings)
      for (
        const [answers, exit] of [
          [[Effect.never, Effect.succeed("second")], Exit.succeed("second")],
          [[Effect.never, Effect.fail(failed)], Exit.fail(failed)],
          [[Effect.delay(Effect.succeed("first"), "3 seconds"), Effect.never], Exit.succeed("first")]
        ] as const
      ) {
        const { asked, attempt, interrupted } = makeAttempt(...answers)
        const fiber = yield* Effect.forkChild(hedge(attempt), { startImmediately: true })
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(fiber.pollUnsafe(), exit)
        assert.deepStrictEqual([asked.length, interrupted.length], [2, 1])
      }
    }))

  it.effect("ends with its caller: the attempts, and the wait for the second", () =>
    Effect.gen(function*() {
      const hedge = yield* makeHedge(settings)
      for (const [wait, count] of [["1 second", 1], ["3 seconds", 2]] as const) {
        const { asked, attempt, interrupted } = makeAttempt()
        const fiber = yield* Effect.forkChild(hedge(attempt), { startImmediately: true })
        yield* TestClock.adjust(wait)
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual([asked.length, interrupted.length], [count, count])
      }
    }))

  it.effect("is not asked again when the client has closed", () =>
    Effect.gen(function*() {
      const { asked, attempt } = makeAttempt()
      const fiber = yield* Effect.scoped(Effect.flatMap(
        makeHedge(settings),
        (hedge) => Effect.forkDetach(hedge(attempt), { startImmediately: true })
      ))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(asked, [0])
      yield* Fiber.interrupt(fiber)
    }))
})
