/** Registrations whose key is made of their lease, as go-zero's: the key moves when the lease is another one. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { EtcdError, PermissionDenied } from "../src/EtcdError.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { makeRegistryWorldWith } from "./utils/registryWorld.ts"
import { consume, eventually } from "./utils/watching.ts"

const makeWorld = makeRegistryWorldWith({ layout: "go-zero" })

const instance = (id: string, address = "10.0.0.7") =>
  new ServiceInstance({ id, name: "user.rpc", address, port: 8080 })

const started = Effect.gen(function*() {
  const world = yield* makeWorld
  const process = yield* world.process
  const other = yield* world.process
  const registration = yield* process.registry.register(instance("a"), { ttl: "30 seconds" })
  const statuses = yield* consume(registration.status.changes)
  const lists = yield* consume(
    Stream.map(other.registry.instances("user.rpc"), (list) => list.map(({ address }) => address).join())
  )
  yield* eventually(() => lists.seen.length === 1 && statuses.seen.length === 1)
  yield* TestClock.adjust("1 second")
  const keys = Effect.map(world.entries, (entries) => [...entries.keys()])
  return { ...world, process, other, registration, statuses, lists, keys }
})

describe("a registration whose key holds its lease", () => {
  it.effect("two of a service in one process have a lease each; those of other services share them", () =>
    Effect.gen(function*() {
      const { process, registration, world } = yield* Effect.map(started, (world) => ({ ...world, world }))
      const second = yield* process.registry.register(instance("b", "10.0.0.8"))
      const third = yield* process.registry.register(new ServiceInstance({ ...instance("c"), name: "order.rpc" }))
      const leases = [registration, second, third].map(({ key }) => key.split("/")[1])
      assert.strictEqual(leases[0], leases[2])
      assert.notStrictEqual(leases[0], leases[1])
      const error = yield* Effect.flip(Effect.scoped(process.registry.register(instance("a", "10.0.0.9"))))
      assert.strictEqual(error._tag, "AlreadyRegistered")
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* world.entries).size, 3)
      yield* second.unregister
      const fourth = yield* process.registry.register(instance("d"))
      assert.notStrictEqual(fourth.key, registration.key)
    }))

  it.effect("a lease that is lost here and lives on there: the new entry takes the place of the old one in one step", () =>
    Effect.gen(function*() {
      const world = yield* started
      const { keys, lists, process, registration } = world
      const [old] = yield* keys
      const changes = yield* consume(world.direct.watch({ prefix: "user.rpc/" }))
      // The beats arrive, their answers do not.
      yield* process.link.setFate((operation) => operation === "leaseKeepAlive" ? { response: "lost" } : {})
      yield* eventually(() => changes.seen.length === 1)
      yield* TestClock.adjust("35 seconds")
      yield* process.link.setFate(() => ({}))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* registration.status.get, "Registered")
      assert.notStrictEqual(registration.key, old)
      assert.deepStrictEqual(yield* keys, [registration.key])
      const batches = changes.seen.flatMap((item) => item._tag === "Batch" ? [item.events.map(({ _tag }) => _tag)] : [])
      assert.deepStrictEqual(batches.map((tags) => tags.toSorted()), [["Delete", "Put"]])
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(new Set(lists.seen), new Set(["10.0.0.7"]))
      assert.deepStrictEqual(yield* keys, [registration.key])
    }))

  it.effect("a deleted key comes back where it was, and an outage moves it", () =>
    Effect.gen(function*() {
      const { keys, process, registration, statuses, store } = yield* started
      const { key } = registration
      yield* store.deleteKey(key)
      yield* eventually(() => statuses.seen.length === 3)
      assert.strictEqual(registration.key, key)
      assert.deepStrictEqual(yield* keys, [key])
      yield* process.link.refuse
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* keys, [])
      assert.strictEqual(registration.key, key)
      yield* process.link.accept
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(statuses.seen.slice(3), ["Recovering", "Registered"])
      assert.notStrictEqual(registration.key, key)
      assert.deepStrictEqual(yield* keys, [registration.key])
      // The new place is guarded as the first one was.
      yield* store.deleteKey(registration.key)
      yield* eventually(() => statuses.seen.length === 7)
      assert.deepStrictEqual(yield* keys, [registration.key])
      yield* registration.unregister
      assert.deepStrictEqual(yield* keys, [])
    }))

  it.effect("whoever takes its place on the lease is not deleted by what moved away", () =>
    Effect.gen(function*() {
      const { get, keys, process, registration, store } = yield* started
      const { key } = registration
      // The registration cannot read its key, so it pauses between attempts. A beat gives up its place meanwhile.
      const denied = new EtcdError({ operation: "range", reason: new PermissionDenied() })
      process.port.beforeRange((request) => request.keysOnly === true ? Effect.void : Effect.fail(denied))
      yield* store.deleteKey(key)
      const others = yield* Effect.forEach(
        Array.from({ length: 60 }, (_, i) => `10.0.1.${i}`),
        (address) =>
          Effect.andThen(TestClock.adjust("200 millis"), process.registry.register(instance(address, address)))
      )
      assert.include(others.map(({ key }) => key), key, "somebody has taken its place")
      const { createRevision } = (yield* get(key)) ?? {}
      process.port.beforeRange(() => Effect.void)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* get(key))?.createRevision, createRevision, "it was never gone")
      assert.strictEqual(yield* registration.status.get, "Registered")
      const expected = [registration, ...others].map(({ key }) => key).toSorted()
      assert.strictEqual(new Set(expected).size, 61)
      assert.deepStrictEqual((yield* keys).toSorted(), expected)
    }))

  it.effect("a first put whose answer is lost is settled, once, also when its lease ends meanwhile", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const process = yield* world.process
      let txns = 0
      yield* process.link.setFate((operation) => operation === "txn" && txns++ === 0 ? { response: "lost" } : {})
      const fiber = yield* Effect.forkChild(process.registry.register(instance("a")))
      yield* TestClock.adjust("10 seconds")
      const registration = yield* Fiber.join(fiber)
      assert.deepStrictEqual([...(yield* world.entries).keys()], [registration.key])

      yield* process.link.setFate((operation) => operation === "txn" ? { response: "lost" } : {})
      const second = yield* Effect.forkChild(process.registry.register(instance("b"), { ttl: "20 seconds" }))
      yield* TestClock.adjust("3 seconds")
      const first = [...(yield* world.entries).keys()].find((key) => key !== registration.key) ?? ""
      yield* process.link.setFate(() => ({}))
      yield* world.store.revokeLease(BigInt(first.split("/")[1] ?? ""))
      yield* TestClock.adjust("1 minute")
      const { key } = yield* Fiber.join(second)
      assert.notStrictEqual(key, first)
      assert.deepStrictEqual([...(yield* world.entries).keys()].toSorted(), [registration.key, key].toSorted())
    }))

  it.effect("a put that arrives after the lease was lost is not there for longer than that lease", () =>
    Effect.gen(function*() {
      const { keys, process, registration, store } = yield* started
      const { key } = registration
      let txns = 0
      yield* process.link.setFate((operation) => operation === "txn" && txns++ === 0 ? { request: "12 seconds" } : {})
      yield* store.deleteKey(key)
      yield* TestClock.adjust("8 seconds")
      yield* TestClock.adjust("3 minutes")
      assert.strictEqual(yield* registration.status.get, "Registered")
      assert.deepStrictEqual(yield* keys, [registration.key])
    }))

  it.effect("an entry that somebody writes over it is theirs", () =>
    Effect.gen(function*() {
      const { put, registration, statuses } = yield* started
      yield* put(registration.key, "10.0.0.99:1")
      yield* eventually(() => statuses.seen.length === 2)
      assert.deepStrictEqual(statuses.seen, ["Registered", "Replaced"])
    }))

  it.effect("metadata is refused by register and by update", () =>
    Effect.gen(function*() {
      const { process, registration } = yield* started
      const refused = yield* Effect.flip(
        Effect.scoped(process.registry.register(new ServiceInstance({ ...instance("m"), metadata: { a: "b" } })))
      )
      assert.strictEqual(refused._tag, "InvalidInstance")
      assert.strictEqual((yield* Effect.flip(registration.update({ zone: "a" })))._tag, "InvalidInstance")
      yield* registration.update({})
    }))

  it.effect(
    "interrupted at any step, it leaves no key, no lease and no watch",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const world = yield* makeWorld
            return { ...world, process: yield* world.process }
          }),
          run: ({ process, store }) =>
            Effect.scoped(Effect.gen(function*() {
              const registration = yield* process.registry.register(instance("a"))
              yield* store.revokeLease(BigInt(registration.key.split("/")[1] ?? ""))
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
              yield* Effect.scoped(process.registry.register(instance("a")))
            }),
          tick: "1 second"
        })
        assert.isAbove(steps, 100)
      }),
    120_000
  )
})
