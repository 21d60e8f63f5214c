import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import { isComplete } from "../src/internal/session/Account.ts"
import { makeLeaseSession } from "../src/internal/session/LeaseSession.ts"
import { makeSlots } from "../src/internal/session/Slots.ts"
import { makeWorld } from "./utils/world.ts"

const owner = { gone: () => {}, left: () => {} }

describe("the account of a lease's keys", () => {
  it.effect("is the same one until a slot says something else, and then another", () =>
    Effect.gen(function*() {
      const { etcd, link } = yield* (yield* makeWorld).client
      const session = yield* makeLeaseSession(etcd, Duration.seconds(15))
      const slots = yield* makeSlots(etcd)
      let last = slots.account()
      const says = (owned: ReadonlyArray<string>, expected: ReadonlyArray<readonly [string, bigint]>) => {
        const account = slots.account()
        assert.notStrictEqual(account, last)
        assert.deepStrictEqual([...account.owned.keys()], owned)
        assert.deepStrictEqual([...account.expected].map(([slot, revision]) => [slot.key, revision] as const), expected)
        assert.strictEqual(slots.account(), account)
        last = account
      }
      const slot = slots.open(session, "a", "a", owner)
      says(["a"], [])
      slot.rest()
      says([], [])
      assert.isTrue(slot.engage())
      says(["a"], [])
      slot.present(7n)
      says(["a"], [["a", 7n]])
      const other = slots.open(session, "b", "b", owner)
      says(["a", "b"], [["a", 7n]])
      other.present(9n)
      says(["a", "b"], [["a", 7n], ["b", 9n]])
      yield* link.setFate(() => ({ response: "1 second" }))
      const releasing = yield* Effect.forkChild(slot.release, { startImmediately: true })
      says(["a", "b"], [["b", 9n]])
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(releasing)
      yield* link.setFate(() => ({}))
      says(["b"], [["b", 9n]])
      other.lose("Deleted")
      says([], [])
    }))

  it.effect("is complete with every key that has to be there, at no earlier revision, and none that nobody owns", () =>
    Effect.gen(function*() {
      const { etcd } = yield* (yield* makeWorld).client
      const session = yield* makeLeaseSession(etcd, Duration.seconds(15))
      const slots = yield* makeSlots(etcd)
      const [a, b, c] = ["a", "b", "c"].map((key) => slots.open(session, key, key, owner))
      a?.present(7n)
      b?.present(9n)
      c?.rest()
      const complete = (keys: ReadonlyArray<string>, revision: bigint) => isComplete(slots.account(), keys, revision)
      assert.isTrue(complete(["b", "a"], 9n))
      assert.isFalse(complete(["b", "a"], 8n))
      assert.isFalse(complete(["b"], 9n))
      // On its way, or there already.
      const coming = slots.open(session, "d", "d", owner)
      assert.isTrue(complete(["b", "a"], 9n))
      assert.isTrue(complete(["b", "d", "a"], 9n))
      assert.isFalse(complete(["b", "c", "a"], 9n))
      assert.isFalse(complete(["b", "d"], 9n))
      coming.lose("Deleted")
      assert.isFalse(complete(["b", "d", "a"], 9n))
    }))
})
