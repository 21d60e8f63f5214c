import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import { type End, unless } from "../src/internal/unless.ts"

/** An event that is told to whoever listens. */
const makeEvent = () => {
  const listeners = new Set<End<never, string>>()
  return {
    listeners,
    happen: () => {
      for (const end of listeners) end(Exit.fail("event"))
    },
    subscribe: (end: End<never, string>) => {
      listeners.add(end)
      return () => void listeners.delete(end)
    }
  }
}

describe("an effect that an event ends", () => {
  it.effect("is interrupted and waited for, and its own answer does not count any more", () =>
    Effect.gen(function*() {
      const event = makeEvent()
      const slow = Effect.uninterruptible(Effect.delay(Effect.succeed("done"), "1 second"))
      const fiber = yield* Effect.forkChild(unless(slow, event.subscribe), { startImmediately: true })
      event.happen()
      event.happen()
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(fiber.pollUnsafe(), Exit.fail("event"))
      assert.strictEqual(event.listeners.size, 0)
    }))

  it.effect("says what the event says where that has happened before", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(unless(Effect.never, (end: End<never, string>) => {
        end(Exit.fail("before"))
        return () => {}
      }))
      assert.deepStrictEqual(exit, Exit.fail("before"))
    }))

  it.effect("answers as it would without, and is told of nothing then", () =>
    Effect.gen(function*() {
      const event = makeEvent()
      assert.strictEqual(yield* unless(Effect.succeed("at once"), event.subscribe), "at once")
      const fiber = yield* Effect.forkChild(
        Effect.exit(unless(Effect.delay(Effect.fail("own"), "1 second"), event.subscribe)),
        { startImmediately: true }
      )
      assert.strictEqual(event.listeners.size, 1)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail("own"))
      assert.strictEqual(event.listeners.size, 0)
    }))

  it.effect("ends with its caller, who waits for it", () =>
    Effect.gen(function*() {
      const event = makeEvent()
      const cleaned = yield* Deferred.make<void>()
      const slow = Effect.onInterrupt(Effect.never, () => Deferred.await(cleaned))
      const fiber = yield* Effect.forkChild(unless(slow, event.subscribe), { startImmediately: true })
      fiber.interruptUnsafe()
      assert.strictEqual(event.listeners.size, 0)
      assert.isUndefined(fiber.pollUnsafe())
      yield* Deferred.succeed(cleaned, undefined)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
    }))
})
