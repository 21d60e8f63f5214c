import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Logger from "effect/Logger"
import * as Random from "effect/Random"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { PermissionDenied } from "../src/EtcdError.ts"
import type { Registration, ServiceEvent } from "../src/Registry.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { makeRegistryWorld } from "./utils/registryWorld.ts"
import { consume, eventually } from "./utils/watching.ts"

const instance = (id: string, metadata: Record<string, string> = {}, name = "orders") =>
  new ServiceInstance({ id, name, address: "10.0.0.7", port: 8080, metadata })

const json = (id: string, metadata = "") =>
  `{"id":"${id}","name":"orders","address":"10.0.0.7","port":8080${metadata === "" ? "" : `,"metadata":${metadata}`}}`

const key = "/services/orders/a"

const short = (event: ServiceEvent): string =>
  event._tag === "Synced"
    ? `=${event.revision}`
    : `${event._tag === "Put" ? "+" : "-"}${event.instance.id}${JSON.stringify(event.instance.metadata)}`

const reasonOf = (exit: Exit.Exit<unknown, unknown>): string => {
  const error = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined
  const { _tag, reason } = (error ?? {}) as { _tag?: string; reason?: { _tag: string } }
  return reason?._tag ?? _tag ?? exit._tag
}

/** One process with one registration, and what a second one sees of it. */
const started = Effect.gen(function*() {
  const world = yield* makeRegistryWorld
  const process = yield* world.process
  const other = yield* world.process
  const registration = yield* process.registry.register(instance("a"))
  const statuses = yield* consume(registration.status.changes)
  const lists = yield* consume(other.registry.instances("orders"))
  yield* eventually(() => lists.seen.length === 1 && statuses.seen.length === 1)
  yield* TestClock.adjust("1 second")
  return { ...world, process, other, registration, statuses, lists }
})

const leaseOf = (registration: Registration, world: { get: Effect.Success<typeof makeRegistryWorld>["get"] }) =>
  Effect.map(world.get(registration.key), (kv) => kv?.lease ?? 0n)

describe("Registry", () => {
  it.effect("an instance is there for as long as its scope", () =>
    Effect.gen(function*() {
      const { entries, process: make } = yield* makeRegistryWorld
      const process = yield* make
      const scope = yield* Scope.make()
      const registration = yield* Scope.provide(process.registry.register(instance("a", { zone: "b" })), scope)
      assert.strictEqual(registration.key, key)
      assert.deepStrictEqual(yield* entries, new Map([[key, json("a", `{"zone":"b"}`)]]))
      assert.strictEqual(yield* registration.status.get, "Registered")
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(yield* process.registry.discover("orders"), [instance("a", { zone: "b" })])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* entries, new Map())
    }))

  it.effect("a process that ends without a word is gone after the TTL", () =>
    Effect.gen(function*() {
      const world = yield* makeRegistryWorld
      const process = yield* world.process
      yield* process.registry.register(instance("a"), { ttl: "10 seconds" })
      yield* TestClock.adjust("8 seconds")
      yield* process.link.partition
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual((yield* world.entries).size, 1)
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual((yield* world.entries).size, 0)
    }))

  it.effect("what cannot be registered is refused before anything is sent", () =>
    Effect.gen(function*() {
      const { process: make, store } = yield* makeRegistryWorld
      const process = yield* make
      const before = yield* store.revision
      const bad = { ...instance("a"), port: 0 }
      const error = yield* Effect.flip(process.registry.register(bad))
      assert.strictEqual(error.message, `invalid instance "a": port must be a whole number from 1 to 65535`)
      for (const ttl of ["500 millis", Duration.infinity, Duration.days(1e9)] as const) {
        assert.strictEqual(
          reasonOf(yield* Effect.exit(process.registry.register(instance("a"), { ttl }))),
          "InvalidOption"
        )
      }
      for (const name of ["", "a/b", ".", "a\n"]) {
        assert.strictEqual(reasonOf(yield* Effect.exit(process.registry.discover(name))), "InvalidKey")
        assert.strictEqual(reasonOf(yield* Effect.exit(process.registry.unregister("orders", name))), "InvalidKey")
        assert.strictEqual(reasonOf(yield* Effect.exit(Stream.runDrain(process.registry.watch(name)))), "InvalidKey")
        assert.strictEqual(
          reasonOf(yield* Effect.exit(Stream.runDrain(process.registry.instances(name)))),
          "InvalidKey"
        )
      }
      assert.strictEqual(yield* store.revision, before)
      assert.strictEqual(process.port.ranges(), 0)
    }))

  it.effect("one id twice in one process is AlreadyRegistered, until the first has ended", () =>
    Effect.gen(function*() {
      const { process: make } = yield* makeRegistryWorld
      const process = yield* make
      const registration = yield* process.registry.register(instance("a"))
      assert.strictEqual(reasonOf(yield* Effect.exit(process.registry.register(instance("a")))), "AlreadyRegistered")
      yield* process.registry.register(instance("a", {}, "payments"))
      yield* registration.unregister
      yield* registration.unregister
      yield* process.registry.register(instance("a"))
    }))

  it.effect("discover, instances, watch and services show what there is", () =>
    Effect.gen(function*() {
      const { process: make, put } = yield* makeRegistryWorld
      const process = yield* make
      const { registry } = process
      assert.deepStrictEqual(yield* registry.discover("orders"), [])
      assert.deepStrictEqual(yield* registry.services, [])
      yield* registry.register(instance("b"))
      yield* registry.register(instance("a"))
      yield* registry.register(instance("z", {}, "orders-archive"))
      yield* put("/services/deep/er/x", json("x"))
      yield* put("/services/loose", "")
      assert.deepStrictEqual((yield* registry.discover("orders")).map(({ id }) => id), ["a", "b"])
      assert.deepStrictEqual(yield* registry.services, ["orders", "orders-archive"])
      // The folder is watched since the first registration, and hears of the others by itself.
      yield* TestClock.adjust("1 second")
      const lists = yield* consume(Stream.map(registry.instances("orders"), (list) => list.map(({ id }) => id).join()))
      const events = yield* consume(Stream.map(registry.watch("orders"), short))
      yield* eventually(() => lists.seen.length === 1 && events.seen.length === 3)
      const third = yield* registry.register(instance("c"))
      yield* eventually(() => lists.seen.length === 2)
      yield* third.update({ v: "2" })
      yield* eventually(() => lists.seen.length === 3)
      yield* third.unregister
      yield* eventually(() => lists.seen.length === 4 && events.seen.length === 6)
      assert.deepStrictEqual(lists.seen, ["a,b", "a,b,c", "a,b,c", "a,b"])
      assert.deepStrictEqual(events.seen, ["+b{}", "+a{}", "=3", "+c{}", `+c{"v":"2"}`, `-c{"v":"2"}`])
      const later = yield* consume(Stream.map(registry.watch("orders", { from: 7n }), short))
      yield* eventually(() => later.seen.length === 2)
      assert.deepStrictEqual(later.seen, [`+c{"v":"2"}`, `-c{"v":"2"}`])
      assert.strictEqual(process.port.watches().open, 2 + 1, "orders, orders-archive, and one from a revision")
    }))

  it.effect("all who follow a service share one list, and a change makes nothing anew but what has changed", () =>
    Effect.gen(function*() {
      const { process, put } = yield* makeRegistryWorld
      const { registry } = yield* process
      yield* put("/services/orders/a", json("a"))
      const first = yield* consume(registry.instances("orders"))
      const second = yield* consume(registry.instances("orders"))
      yield* eventually(() => first.seen.length === 1 && second.seen.length === 1)
      yield* put("/services/orders/b", json("b"))
      yield* eventually(() => first.seen.length === 2 && second.seen.length === 2)
      assert.strictEqual(first.seen[0], second.seen[0])
      assert.strictEqual(first.seen[1], second.seen[1])
      assert.strictEqual(first.seen[1]?.[0], first.seen[0]?.[0])
    }))

  it.effect("a bad entry fails no list: it is skipped, told once, and leaves when it was good before", () =>
    Effect.gen(function*() {
      const world = yield* makeRegistryWorld
      const { registry } = yield* world.process
      const logs: Array<string> = []
      const logger = Logger.make(({ fiber, message }) => {
        logs.push(`${String(message)} ${String(fiber.getRef(Logger.CurrentLoggers) && "")}`)
      })
      yield* Effect.gen(function*() {
        yield* world.put("/services/orders/bad", "{")
        yield* world.put("/services/orders/good", json("good"))
        yield* world.put("/services/orders/good/deeper", "{")
        yield* world.put("/services/orders/alias", json("other"))
        const ids = Effect.map(registry.discover("orders"), (list) => list.map(({ id }) => id))
        assert.deepStrictEqual(yield* ids, ["alias", "good"])
        assert.deepStrictEqual(yield* ids, ["alias", "good"])
        const events = yield* consume(Stream.map(registry.watch("orders"), short))
        const lists = yield* consume(
          Stream.map(registry.instances("orders"), (list) => list.map(({ id }) => id).join())
        )
        yield* eventually(() => events.seen.length === 3 && lists.seen.length === 1)
        yield* world.put("/services/orders/good", "null")
        yield* eventually(() => lists.seen.length === 2)
        yield* world.put("/services/orders/good", "[]")
        yield* world.put("/services/orders/bad", json("bad"))
        yield* eventually(() => lists.seen.length === 3)
        assert.deepStrictEqual(events.seen, ["+good{}", "+alias{}", "=5", "-good{}", "+bad{}"])
        assert.deepStrictEqual(lists.seen, ["alias,good", "alias", "alias,bad"])
      }).pipe(Effect.provide(Logger.layer([logger])))
      assert.deepStrictEqual(logs.map((log) => log.trim()), [
        "odd entry: it calls itself by another name or id",
        "entry skipped: it is not JSON",
        "entry skipped: it is not an instance",
        "entry skipped: it is not an instance"
      ])
    }))

  it.effect("unregister deletes what anybody registered; that of a live process comes back", () =>
    Effect.gen(function*() {
      const { entries, other, put, statuses } = yield* started
      yield* put("/services/orders/static", json("static"))
      yield* other.registry.unregister("orders", "static")
      const error = yield* Effect.flip(other.registry.unregister("orders", "static"))
      assert.strictEqual(error.message, `there is no instance "static" of "orders"`)
      yield* other.registry.unregister("orders", "a")
      yield* eventually(() => statuses.seen.length === 3)
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Registered"])
      assert.deepStrictEqual(yield* entries, new Map([[key, json("a")]]))
    }))

  it.effect("hundreds of registrations share a few leases, one keepalive each, and one watch", () =>
    Effect.gen(function*() {
      const world = yield* makeRegistryWorld
      const process = yield* world.process
      yield* Effect.forEach(
        Array.from({ length: 600 }, (_, i) => `i${i}`),
        (id) => process.registry.register(instance(id)),
        {
          concurrency: 50
        }
      )
      const { kvs } = yield* world.direct.range({ prefix: "/services/" })
      const perLease = Map.groupBy(kvs, (kv) => kv.lease)
      assert.strictEqual(kvs.length, 600)
      assert.isAtMost(perLease.size, 4)
      assert.isFalse(perLease.has(0n))
      for (const keys of perLease.values()) assert.isAtMost(keys.length, 256)
      yield* TestClock.adjust("3 minutes")
      assert.strictEqual((yield* world.entries).size, 600)
      assert.strictEqual(process.port.watches().open, 1)
    }))
})

describe("Registration, recovering", () => {
  it.effect("a deleted key is back within a moment", () =>
    Effect.gen(function*() {
      const { entries, registration, statuses, store } = yield* started
      yield* store.deleteKey(key)
      yield* eventually(() => statuses.seen.length === 3)
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Registered"])
      assert.deepStrictEqual(yield* entries, new Map([[key, json("a")]]))
      assert.strictEqual(yield* registration.status.get, "Registered")
    }))

  it.effect("a deleted key is back also where the watch is denied, within a third of the TTL", () =>
    Effect.gen(function*() {
      const { entries, process, store } = yield* started
      yield* process.port.failWatches(new PermissionDenied())
      yield* eventually(() => process.port.watches().open === 0)
      yield* store.deleteKey(key)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* entries).size, 0)
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual((yield* entries).size, 1)
    }))

  it.effect.each([2048, 16])(
    "however often keys are deleted, and amid whatever, each is back, and no other is touched (a fiber runs for %i steps)",
    (steps) =>
      Effect.gen(function*() {
        const { direct, process: make, store } = yield* makeRegistryWorld
        const process = yield* make
        const ids = Array.from({ length: 60 }, (_, i) => `i${i}`)
        const all = yield* Effect.forEach(ids, (id) => process.registry.register(instance(id)), { concurrency: 20 })
        const untouched = yield* process.registry.register(instance("untouched"))
        const before = yield* direct.range({ key: untouched.key })
        const operator = Effect.gen(function*() {
          for (let i = 0; i < 200; i++) {
            const id = yield* Random.nextIntBetween(0, ids.length)
            yield* store.deleteKey(`/services/orders/i${id}`)
            for (let n = yield* Random.nextIntBetween(0, 40); n > 0; n--) yield* Effect.yieldNow
          }
        })
        const writer = Effect.gen(function*() {
          for (let i = 0; i < 50; i++) {
            const one = all[yield* Random.nextIntBetween(0, all.length)]
            yield* (one?.update({ v: `${i}` }) ?? Effect.void)
            for (let n = yield* Random.nextIntBetween(0, 40); n > 0; n--) yield* Effect.yieldNow
          }
        })
        yield* Effect.all([operator, operator, writer], { concurrency: "unbounded" })
        // Without a beat of any lease: they are told. Fibers that run for a few steps only need many turns.
        yield* TestClock.adjust("5 seconds")
        yield* Effect.repeat(Effect.yieldNow, { times: 5000 })
        assert.deepStrictEqual((yield* process.registry.discover("orders")).length, ids.length + 1)
        for (const one of all) assert.strictEqual(yield* one.status.get, "Registered")
        assert.deepStrictEqual((yield* direct.range({ key: untouched.key })).kvs, before.kvs)
      }).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, steps))
  )

  it.effect("a revoked lease costs one beat", () =>
    Effect.gen(function*() {
      const world = yield* started
      const { entries, lists, registration, statuses, store } = world
      const lease = yield* leaseOf(registration, world)
      yield* store.revokeLease(lease)
      yield* TestClock.adjust("1 second")
      yield* eventually(() => statuses.seen.length === 3)
      assert.deepStrictEqual(yield* entries, new Map([[key, json("a")]]))
      assert.notStrictEqual(yield* leaseOf(registration, world), lease)
      yield* eventually(() => lists.seen.length === 3)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* entries).size, 1)
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Registered"])
    }))

  it.effect("after an outage of several TTLs it is back, with the metadata that was wanted meanwhile", () =>
    Effect.gen(function*() {
      const { entries, process, registration, statuses } = yield* started
      yield* process.link.refuse
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual((yield* entries).size, 0)
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering"])
      const update = yield* Effect.forkChild(Effect.exit(registration.update({ v: "2" })))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(reasonOf(yield* Fiber.join(update)), "Ambiguous")
      yield* process.link.accept
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* entries, new Map([[key, json("a", `{"v":"2"}`)]]))
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Registered"])
    }))

  it.effect("an outage shorter than the TTL is not noticed", () =>
    Effect.gen(function*() {
      const { entries, lists, process, statuses } = yield* started
      yield* process.link.refuse
      yield* TestClock.adjust("15 seconds")
      yield* process.link.accept
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual((yield* entries).size, 1)
      assert.deepStrictEqual(statuses.seen, ["Registered"])
      assert.strictEqual(lists.seen.length, 1)
    }))

  it.effect("an outage empties no list of those who look", () =>
    Effect.gen(function*() {
      const { lists, other } = yield* started
      yield* other.link.refuse
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(lists.seen.length, 1)
      assert.isUndefined(lists.exit())
      yield* other.link.accept
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(lists.seen.length, 1)
    }))

  it.effect("a restored store that does not know the registration gets it again", () =>
    Effect.gen(function*() {
      const world = yield* makeRegistryWorld
      yield* world.put("/x", "1")
      const backup = yield* world.store.snapshot
      const process = yield* world.process
      const registration = yield* process.registry.register(instance("a"))
      const statuses = yield* consume(registration.status.changes)
      yield* world.put("/x", "2")
      yield* TestClock.adjust("1 second")
      yield* world.store.restore(backup)
      assert.strictEqual((yield* world.entries).size, 1)
      yield* TestClock.adjust("15 seconds")
      assert.strictEqual((yield* world.entries).get(key), json("a"))
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Registered"])
      yield* TestClock.adjust("2 minutes")
      yield* registration.unregister
      assert.isUndefined((yield* world.entries).get(key))
    }))

  it.effect("a restored store with an older version of the registration gets the newer one", () =>
    Effect.gen(function*() {
      const { entries, registration, statuses, store } = yield* started
      const backup = yield* store.snapshot
      yield* registration.update({ v: "2" })
      yield* registration.update({ v: "3" })
      yield* store.restore(backup)
      assert.strictEqual((yield* entries).get(key), json("a"))
      yield* TestClock.adjust("15 seconds")
      assert.strictEqual((yield* entries).get(key), json("a", `{"v":"3"}`))
      assert.strictEqual(statuses.seen.at(-1), "Registered")
    }))

  /** Somebody registers, a snapshot is taken, he dies, another one registers, and the snapshot is restored. */
  const broughtBack = Effect.gen(function*() {
    const world = yield* makeRegistryWorld
    const predecessor = yield* world.process
    yield* predecessor.registry.register(instance("a", { by: "before" }))
    const backup = yield* world.store.snapshot
    yield* predecessor.link.partition
    yield* TestClock.adjust("1 minute")
    assert.strictEqual((yield* world.entries).size, 0)
    const process = yield* world.process
    const registration = yield* process.registry.register(instance("a"))
    const statuses = yield* consume(registration.status.changes)
    for (let i = 0; i < 10; i++) yield* world.put("/x", String(i))
    return { world, process, registration, statuses, restore: world.store.restore(backup) }
  })

  it.effect("a restored store that brings back whoever had the id before gets the registration when that is gone", () =>
    Effect.gen(function*() {
      const { registration, restore, statuses, world } = yield* broughtBack
      yield* restore
      assert.strictEqual((yield* world.entries).get(key), json("a", `{"by":"before"}`))
      yield* TestClock.adjust("35 seconds")
      assert.strictEqual((yield* world.entries).get(key), json("a"))
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Registered"])
      yield* registration.update({ v: "2" })
      assert.strictEqual((yield* world.entries).get(key), json("a", `{"v":"2"}`))
      // Who comes after the restore is a later one.
      yield* (yield* world.process).registry.register(instance("a", { by: "after" }))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(statuses.seen.at(-1), "Replaced")
    }))

  it.effect("who registers on the lower revisions of a restored store is not written over", () =>
    Effect.gen(function*() {
      const { process, restore, statuses, world } = yield* broughtBack
      yield* process.link.partition
      yield* restore
      const successor = yield* (yield* world.process).registry.register(instance("a", { by: "after" }))
      yield* TestClock.adjust("1 minute")
      yield* process.link.heal
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Replaced"])
      assert.strictEqual((yield* world.entries).get(key), json("a", `{"by":"after"}`))
      assert.strictEqual(yield* successor.status.get, "Registered")
    }))

  it.effect("a restarted server is not noticed", () =>
    Effect.gen(function*() {
      const { entries, lists, statuses, store } = yield* started
      yield* store.restart
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(statuses.seen, ["Registered"])
      assert.strictEqual(lists.seen.length, 1)
      assert.strictEqual((yield* entries).size, 1)
    }))
})

describe("Registration, giving way", () => {
  it.effect("the last registrant wins, and the first never takes it back", () =>
    Effect.gen(function*() {
      const { entries, other, process, registration, statuses } = yield* started
      const second = yield* other.registry.register(instance("a", { by: "other" }))
      yield* eventually(() => statuses.seen.length === 2)
      assert.deepStrictEqual(statuses.seen, ["Registered", "Replaced"])
      const error = yield* Effect.flip(registration.update({ by: "me" }))
      assert.strictEqual(error.message, `instance "a" of "orders" has been registered by somebody else`)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* entries).get(key), json("a", `{"by":"other"}`))
      yield* registration.unregister
      assert.strictEqual((yield* entries).get(key), json("a", `{"by":"other"}`))
      assert.strictEqual(yield* second.status.get, "Registered")
      yield* second.unregister
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* entries).size, 0)
      yield* process.registry.register(instance("a"))
    }))

  it.effect("an update that finds somebody else's entry is Replaced and leaves it alone", () =>
    Effect.gen(function*() {
      const { entries, process, put, registration } = yield* started
      yield* process.port.failWatches(new PermissionDenied())
      yield* eventually(() => process.port.watches().open === 0)
      yield* put(key, json("a", `{"by":"hand"}`))
      assert.strictEqual(reasonOf(yield* Effect.exit(registration.update({ v: "2" }))), "Replaced")
      assert.strictEqual((yield* entries).get(key), json("a", `{"by":"hand"}`))
    }))

  it.effect("who comes back after an outage and finds a new registrant gives way", () =>
    Effect.gen(function*() {
      const { entries, other, process, statuses } = yield* started
      yield* process.link.refuse
      yield* TestClock.adjust("2 minutes")
      yield* other.registry.register(instance("a", { by: "other" }))
      yield* process.link.accept
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(statuses.seen, ["Registered", "Recovering", "Replaced"])
      assert.strictEqual((yield* entries).get(key), json("a", `{"by":"other"}`))
    }))

  it.effect("a release while somebody else takes over does not delete the new entry", () =>
    Effect.gen(function*() {
      const { entries, process, put, registration } = yield* started
      // The new entry arrives while the watch of the own key is cut off.
      yield* process.port.failWatches(new PermissionDenied())
      yield* eventually(() => process.port.watches().open === 0)
      yield* put(key, json("a", `{"by":"hand"}`))
      yield* registration.unregister
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* entries).get(key), json("a", `{"by":"hand"}`))
    }))
})

describe("Registration, with answers that are lost", () => {
  it.effect("a first put whose answer is lost is settled, once", () =>
    Effect.gen(function*() {
      const world = yield* makeRegistryWorld
      const process = yield* world.process
      let txns = 0
      yield* process.link.setFate((operation) => operation === "txn" && txns++ === 0 ? { response: "lost" } : {})
      const fiber = yield* Effect.forkChild(process.registry.register(instance("a")))
      yield* TestClock.adjust("10 seconds")
      const registration = yield* Fiber.join(fiber)
      assert.strictEqual(yield* registration.status.get, "Registered")
      assert.strictEqual((yield* world.get(key))?.version, 1n)
    }))

  it.effect("a first put that arrives late does not undo what came after it", () =>
    Effect.gen(function*() {
      const world = yield* makeRegistryWorld
      const process = yield* world.process
      let txns = 0
      yield* process.link.setFate((operation) => operation === "txn" && txns++ === 0 ? { request: "20 seconds" } : {})
      const fiber = yield* Effect.forkChild(process.registry.register(instance("a", { v: "1" })))
      yield* TestClock.adjust("10 seconds")
      const registration = yield* Fiber.join(fiber)
      yield* registration.update({ v: "2" })
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* world.entries).get(key), json("a", `{"v":"2"}`))
      assert.strictEqual((yield* world.get(key))?.version, 2n)
    }))

  it.effect("an update that arrives late does not undo a later one", () =>
    Effect.gen(function*() {
      const { entries, process, registration } = yield* started
      let txns = 0
      yield* process.link.setFate((operation) => operation === "txn" && txns++ === 0 ? { request: "20 seconds" } : {})
      const first = yield* Effect.forkChild(Effect.exit(registration.update({ v: "1" })))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(reasonOf(yield* Fiber.join(first)), "Ambiguous")
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* entries).get(key), json("a", `{"v":"1"}`), "the wish is carried out")
      yield* registration.update({ v: "2" })
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* entries).get(key), json("a", `{"v":"2"}`))
    }))

  it.effect("a put that arrives after the release is cleared away", () =>
    Effect.gen(function*() {
      const world = yield* makeRegistryWorld
      const process = yield* world.process
      // Another registration keeps the lease alive.
      const fate = yield* Latch.make()
      yield* process.registry.register(instance("stays"))
      yield* process.link.setFate((operation) => operation === "txn" ? { request: "12 seconds" } : {})
      const fiber = yield* Effect.forkChild(Effect.scoped(process.registry.register(instance("a"))))
      yield* TestClock.adjust("1 second")
      yield* process.link.setFate(() => ({}))
      yield* Fiber.interrupt(fiber)
      yield* fate.open
      assert.isUndefined((yield* world.entries).get(key))
      yield* TestClock.adjust("11 seconds")
      yield* TestClock.adjust("12 seconds")
      assert.deepStrictEqual([...(yield* world.entries).keys()], ["/services/orders/stays"])
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual([...(yield* world.entries).keys()], ["/services/orders/stays"])
    }))

  it.effect("a release without an answer says so within the request timeout, and the entry goes all the same", () =>
    Effect.gen(function*() {
      const { entries, process, registration } = yield* started
      yield* process.registry.register(instance("stays"))
      yield* process.link.setFate((operation) => operation === "txn" ? { request: "lost" } : {})
      const fiber = yield* Effect.forkChild(Effect.exit(registration.unregister))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Ambiguous")
      assert.strictEqual((yield* entries).size, 2)
      yield* process.link.setFate(() => ({}))
      yield* TestClock.adjust("31 seconds")
      assert.deepStrictEqual([...(yield* entries).keys()], ["/services/orders/stays"])
    }))

  it.effect("an update that etcd refuses changes nothing", () =>
    Effect.gen(function*() {
      const { entries, registration, statuses } = yield* started
      const exit = yield* Effect.exit(registration.update({ big: "x".repeat(3_000_000) }))
      assert.strictEqual(reasonOf(exit), "TooLarge")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* entries).get(key), json("a"))
      assert.deepStrictEqual(statuses.seen, ["Registered"])
      assert.strictEqual(reasonOf(yield* Effect.exit(registration.update({ bad: "\ud800" }))), "InvalidInstance")
      yield* registration.update({ v: "2" })
      assert.strictEqual((yield* entries).get(key), json("a", `{"v":"2"}`))
    }))

  it.effect("nor does one that is refused while the registration recovers", () =>
    Effect.gen(function*() {
      const { entries, process, registration } = yield* started
      yield* process.link.refuse
      yield* TestClock.adjust("2 minutes")
      const update = yield* Effect.forkChild(Effect.exit(registration.update({ big: "x".repeat(3_000_000) })))
      yield* TestClock.adjust("1 second")
      yield* process.link.accept
      yield* TestClock.adjust("20 seconds")
      assert.include(["TooLarge", "Ambiguous"], reasonOf(yield* Fiber.join(update)))
      assert.strictEqual((yield* entries).get(key), json("a"))
      assert.strictEqual(yield* registration.status.get, "Registered")
    }))

  it.effect("without etcd a registration fails, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const { entries, process: make } = yield* makeRegistryWorld
      const process = yield* make
      yield* process.link.refuse
      const fiber = yield* Effect.forkChild(Effect.exit(process.registry.register(instance("a"))))
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Unavailable")
      yield* process.link.accept
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* entries).size, 0)
      yield* process.registry.register(instance("a"))
      assert.strictEqual((yield* entries).size, 1)
    }))
})

describe("Registration, ending", () => {
  it.effect("updates after the end are refused, and the changes of the status end", () =>
    Effect.gen(function*() {
      const { registration, statuses } = yield* started
      yield* registration.unregister
      yield* eventually(() => statuses.exit() !== undefined)
      const late = yield* consume(registration.status.changes)
      yield* eventually(() => late.exit() !== undefined)
      assert.deepStrictEqual(late.seen, ["Registered"])
      assert.strictEqual(reasonOf(yield* Effect.exit(registration.update({}))), "Closed")
    }))

  it.effect("a scope that closes while somebody else takes over does not delete the new entry", () =>
    Effect.gen(function*() {
      const { entries, process: make, put } = yield* makeRegistryWorld
      const process = yield* make
      const scope = yield* Scope.make()
      yield* Scope.provide(process.registry.register(instance("a")), scope)
      // The new entry arrives while the watch of the own key is cut off.
      yield* process.port.failWatches(new PermissionDenied())
      yield* eventually(() => process.port.watches().open === 0)
      yield* put(key, json("a", `{"by":"hand"}`))
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* entries).get(key), json("a", `{"by":"hand"}`))
    }))

  it.effect("a scope that closes without an answer takes one request timeout", () =>
    Effect.gen(function*() {
      const { process: make } = yield* makeRegistryWorld
      const process = yield* make
      const scope = yield* Scope.make()
      yield* Scope.provide(process.registry.register(instance("a")), scope)
      yield* process.link.setFate((operation) => operation === "txn" ? { request: "lost" } : {})
      const closed = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(closed.pollUnsafe())
    }))

  it.effect("the layer closed before the registration: nothing hangs, nothing stays", () =>
    Effect.gen(function*() {
      const { entries, process } = yield* started
      yield* process.close
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* entries).size, 0)
    }))

  it.effect(
    "interrupted at any step, a registration leaves no key, no lease and no watch",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const world = yield* makeRegistryWorld
            return { ...world, process: yield* world.process }
          }),
          run: ({ process, store }) =>
            Effect.scoped(Effect.gen(function*() {
              const registration = yield* process.registry.register(instance("a"))
              yield* registration.update({ v: "2" })
              yield* store.deleteKey(key)
              yield* Stream.runDrain(Stream.takeUntil(
                Stream.drop(registration.status.changes, 1),
                (status) => status === "Registered"
              )).pipe(Effect.timeoutOption("1 second"))
            })),
          check: ({ entries, process }, _, step) =>
            Effect.gen(function*() {
              yield* TestClock.adjust("2 minutes")
              assert.strictEqual((yield* entries).size, 0, `step ${step}`)
              assert.strictEqual(process.port.watches().open, 0)
              // The id is free again.
              yield* Effect.scoped(process.registry.register(instance("a")))
            }),
          tick: "1 second"
        })
        assert.isAbove(steps, 100)
      }),
    120_000
  )
})
