import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import type { ConfigEvent } from "../src/ConfigCenter.ts"
import { EtcdError, PermissionDenied } from "../src/EtcdError.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { makeConfigClient } from "./utils/configClient.ts"
import { consume, eventually } from "./utils/watching.ts"

/** Two clients of one store: the one that is tested, and another program. */
const makeWorld = Effect.gen(function*() {
  const store = yield* EtcdMemory.make()
  const client = yield* makeConfigClient(store)
  const other = yield* makeConfigClient(store)
  return { store, client, other, config: client.config, put: other.put, remove: other.config.delete }
})

const short = (event: ConfigEvent<number>): string => {
  if (event._tag === "Synced") return "Synced"
  const previous = event._tag !== "Invalid" && event.previous !== undefined ? ` after ${event.previous}` : ""
  return `${event._tag} ${event.key}${event._tag === "Put" ? ` ${event.value}` : ""}${previous}`
}

describe("watch", () => {
  it.effect("consumers of one prefix share one watch, which ends with the last of them", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      const scope = yield* Scope.make()
      const watching = yield* Effect.all(
        [1, 2, 3].map(() => consume(config.watchPrefix("app", Schema.Int)))
      ).pipe(Scope.provide(scope))
      yield* eventually(() => watching.every(({ seen }) => seen.length === 1))
      yield* put("app/a", "1")
      yield* eventually(() => watching.every(({ seen }) => seen.length === 2))
      assert.strictEqual(client.port.watches().total, 1)
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(client.port.watches().open, 0)
    }))

  it.effect("changes that were missed and forgotten are told as the difference, followed by Synced", () =>
    Effect.gen(function*() {
      const { client, config, put, remove, store } = yield* makeWorld
      yield* put("app/a", "1")
      yield* put("app/b", "2")
      const { seen } = yield* consume(config.watchPrefix("app", Schema.Int))
      yield* eventually(() => seen.length === 3)
      yield* client.link.refuse
      yield* put("app/a", "3")
      yield* remove("app/b")
      yield* put("app/c", "x")
      yield* store.compact(yield* put("app/a", "4"))
      yield* client.link.accept
      yield* TestClock.adjust("1 minute")
      yield* eventually(() => seen.length === 7)
      assert.deepStrictEqual(seen.slice(3).map(short), [
        "Invalid app/c",
        "Put app/a 4 after 1",
        "Delete app/b after 2",
        "Synced"
      ])
    }))

  it.effect("a restored older state is told as the difference", () =>
    Effect.gen(function*() {
      const { config, put, store } = yield* makeWorld
      yield* put("app/a", "1")
      const backup = yield* store.snapshot
      const { seen } = yield* consume(config.watchPrefix("app", Schema.Int))
      yield* eventually(() => seen.length === 2)
      yield* put("app/a", "2")
      yield* put("app/b", "3")
      yield* eventually(() => seen.length === 4)
      yield* store.restore(backup)
      yield* TestClock.adjust("1 minute")
      yield* eventually(() => seen.length === 7)
      assert.deepStrictEqual(seen.slice(4).map(short), ["Put app/a 1 after 2", "Delete app/b after 3", "Synced"])
    }))

  it.effect("a version of before all is followed by everything", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeWorld
      yield* put("key", "1")
      yield* put("key", "2")
      const all = yield* consume(config.watch("key", Schema.Int, { from: 0n }))
      const negative = yield* consume(config.watch("key", Schema.Int, { from: -5n }))
      yield* eventually(() => all.seen.length === 2 && negative.seen.length === 2)
      assert.deepStrictEqual(all.seen.map(short), ["Put key 1", "Put key 2 after 1"])
    }))
})

describe("live", () => {
  it.effect("reads do not wait for etcd, and outlast it", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      const version = yield* put("key", "1")
      const live = yield* config.live("key", Schema.Int)
      const ranges = client.port.ranges()
      yield* client.link.refuse
      assert.strictEqual(yield* live.get, 1)
      assert.deepStrictEqual(yield* live.status, { _tag: "Ok", version })
      assert.strictEqual(client.port.ranges(), ranges)
      yield* put("key", "2")
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(yield* live.get, 1)
      yield* client.link.accept
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* live.get, 2)
    }))

  it.effect("a bad value keeps the last good one and says so, until a good one comes", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeWorld
      yield* put("key", "1")
      const live = yield* config.live("key", Schema.Int)
      const { seen } = yield* consume(live.changes)
      const statuses = (yield* consume(live.statusChanges)).seen
      yield* eventually(() => seen.length === 1 && statuses.length === 1)
      const bad = yield* put("key", "\"one\"")
      yield* eventually(() => statuses.length === 2)
      const status = yield* live.status
      assert.deepInclude(status, { _tag: "Invalid", version: bad })
      assert.deepInclude(status._tag === "Invalid" ? status.error : {}, { key: "key", issue: "Expected number" })
      assert.strictEqual(yield* live.get, 1)
      yield* put("key", "2")
      yield* eventually(() => seen.length === 2)
      assert.deepStrictEqual(seen, [1, 2])
      assert.deepStrictEqual(statuses.map((each) => each._tag), ["Ok", "Invalid", "Ok"])
    }))

  it.effect("a good value that was followed by a bad one at once is the last good one", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      yield* put("key", "1")
      const live = yield* config.live("key", Schema.Int)
      const { seen } = yield* consume(live.statusChanges)
      yield* eventually(() => seen.length === 1)
      yield* client.link.refuse
      yield* put("key", "2")
      yield* put("key", "bad")
      yield* client.link.accept
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* live.status)._tag, "Invalid")
      assert.strictEqual(yield* live.get, 2)
    }))

  it.effect("a deleted key keeps the last good value, and is followed when it is back", () =>
    Effect.gen(function*() {
      const { config, put, remove } = yield* makeWorld
      yield* put("key", "1")
      const live = yield* config.live("key", Schema.Int)
      const { seen } = yield* consume(live.changes)
      const statuses = (yield* consume(live.statusChanges)).seen
      yield* eventually(() => statuses.length === 1)
      yield* remove("key")
      yield* eventually(() => statuses.length === 2)
      assert.strictEqual(yield* live.get, 1)
      assert.strictEqual((yield* live.status)._tag, "Deleted")
      yield* put("key", "2")
      yield* eventually(() => statuses.length === 3)
      assert.deepStrictEqual(seen, [1, 2])
    }))

  it.effect("a deleted key is its default, and so is one that has never been", () =>
    Effect.gen(function*() {
      const { config, put, remove } = yield* makeWorld
      const live = yield* config.live("key", Schema.Int, { onDelete: { default: 7 } })
      const { seen } = yield* consume(live.changes)
      const statuses = (yield* consume(live.statusChanges)).seen
      assert.strictEqual(yield* live.get, 7)
      assert.strictEqual((yield* live.status)._tag, "Deleted")
      yield* eventually(() => seen.length === 1)
      yield* put("key", "1")
      yield* eventually(() => seen.length === 2)
      yield* put("key", "bad")
      yield* eventually(() => statuses.length === 3)
      assert.strictEqual(yield* live.get, 1)
      yield* remove("key")
      yield* eventually(() => seen.length === 3)
      assert.strictEqual(yield* live.get, 7)
      assert.deepStrictEqual(seen, [7, 1, 7])
    }))

  it.effect("a deleted key fails, where that was asked for, until it is back", () =>
    Effect.gen(function*() {
      const { config, put, remove } = yield* makeWorld
      yield* put("key", "1")
      const live = yield* config.live("key", Schema.Int, { onDelete: "fail" })
      const changes = yield* consume(live.changes)
      const statuses = (yield* consume(live.statusChanges)).seen
      yield* eventually(() => statuses.length === 1)
      yield* remove("key")
      yield* eventually(() => statuses.length === 2)
      assert.deepInclude(yield* Effect.flip(live.get), { _tag: "ConfigNotFound", key: "key" })
      yield* eventually(() => changes.exit() !== undefined)
      assert.deepInclude(changes.error(), { _tag: "ConfigNotFound", key: "key" })
      yield* put("key", "2")
      yield* eventually(() => statuses.length === 3)
      assert.strictEqual(yield* live.get, 2)
    }))

  it.effect("it starts with a value or not at all, and then leaves no watch behind", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      for (const onDelete of ["keep", "fail"] as const) {
        const options = { onDelete } as { readonly onDelete: "fail" }
        assert.strictEqual((yield* Effect.flip(config.live("key", Schema.Int, options)))._tag, "ConfigNotFound")
      }
      yield* put("key", "bad")
      const bad = yield* Effect.flip(config.live("key", Schema.Int, { onDelete: { default: 1 } }))
      assert.deepInclude(bad, { _tag: "ConfigDecodeError", key: "key" })
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(client.port.watches().open, 0)

      yield* client.link.refuse
      const failed = yield* Effect.forkChild(Effect.flip(config.live("key", Schema.Int)))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(failed))._tag, "EtcdError")
    }))

  it.effect("an interrupted start leaves no watch behind in a long scope", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      yield* put("key", "1")
      yield* client.link.setFate(() => ({ request: "3 seconds" }))
      const starting = yield* Effect.forkChild(config.live("key", Schema.Int))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(starting)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(client.port.watches().open, 0)
    }))

  it.effect("it ends with a scope that is closed, or closes during the start", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      yield* put("n", "1")
      const scope = yield* Scope.make()
      yield* client.link.partition
      const starting = yield* Effect.forkChild(Scope.provide(config.live("n", Schema.Int), scope), {
        startImmediately: true
      })
      yield* Scope.close(scope, Exit.void)
      const late = yield* Effect.forkChild(Scope.provide(config.live("n", Schema.Int), scope), {
        startImmediately: true
      })
      yield* client.link.heal
      yield* TestClock.adjust("1 minute")
      for (const fiber of [starting, late]) {
        const exit = fiber.pollUnsafe()
        assert.isTrue(exit !== undefined && Exit.hasInterrupts(exit))
      }
      assert.strictEqual(client.port.watches().open, 0)
    }))

  it.effect("a slow consumer sees the latest value, and a change of the status alone is none of the value", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeWorld
      yield* put("key", "0")
      const live = yield* config.live("key", Schema.Int)
      const slow = yield* consume(live.changes, () => Effect.sleep("1 minute"))
      yield* eventually(() => slow.seen.length === 1)
      for (let n = 1; n <= 100; n++) {
        yield* put("key", String(n))
        yield* put("key", "bad")
      }
      yield* put("key", "101")
      yield* Effect.flatMap(live.get, (n) => n === 101 ? Effect.void : Effect.yieldNow).pipe(
        Effect.repeat({ times: 10_000 })
      )
      assert.strictEqual(yield* live.get, 101)
      yield* TestClock.adjust("10 minutes")
      assert.isAtMost(slow.seen.length, 4)
      assert.strictEqual(slow.seen.at(-1), 101)
    }))

  it.effect("a watch that is refused leaves a stale value, says so, and is tried again", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      yield* put("key", "1")
      const live = yield* config.live("key", Schema.Int)
      const { seen } = yield* consume(live.changes)
      const statuses = (yield* consume(live.statusChanges)).seen
      yield* eventually(() => client.port.watches().open === 1)
      yield* client.port.failWatches(new PermissionDenied({}))
      yield* eventually(() => statuses.length === 2)
      const status = yield* live.status
      assert.strictEqual(status._tag === "Stale" ? status.error.reason._tag : status._tag, "PermissionDenied")
      assert.strictEqual(yield* live.get, 1)
      yield* TestClock.adjust("1 minute")
      yield* eventually(() => statuses.length === 3)
      assert.strictEqual((yield* live.status)._tag, "Ok")
      yield* put("key", "2")
      yield* eventually(() => seen.length === 2)
      assert.deepStrictEqual(seen, [1, 2])
    }))

  it.effect("a watch that stays refused is tried again at a bounded pace", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      yield* put("key", "1")
      const live = yield* config.live("key", Schema.Int)
      yield* eventually(() => client.port.watches().open === 1)
      client.port.beforeRange(() =>
        Effect.fail(new EtcdError({ operation: "range", reason: new PermissionDenied({}) }))
      )
      const before = client.port.ranges()
      yield* client.port.failWatches(new PermissionDenied({}))
      yield* TestClock.adjust("10 minutes")
      const tries = client.port.ranges() - before
      assert.isAtLeast(tries, 60)
      assert.isAtMost(tries, 300)
      assert.strictEqual((yield* live.status)._tag, "Stale")
    }))

  it.effect("its streams end with the scope, also for those who come late; the last value stays", () =>
    Effect.gen(function*() {
      const { client, config, put } = yield* makeWorld
      yield* put("key", "1")
      const scope = yield* Scope.make()
      const live = yield* config.live("key", Schema.Int).pipe(Scope.provide(scope))
      const early = yield* consume(live.changes)
      yield* eventually(() => early.seen.length === 1)
      yield* Scope.close(scope, Exit.void)
      const late = yield* consume(live.changes)
      yield* eventually(() => early.exit() !== undefined && late.exit() !== undefined)
      assert.isTrue(Exit.isSuccess(early.exit() ?? Exit.fail("open")))
      assert.isTrue(Exit.isSuccess(late.exit() ?? Exit.fail("open")))
      assert.strictEqual(yield* live.get, 1)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(client.port.watches().open, 0)
    }))
})
