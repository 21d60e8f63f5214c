import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Etcd, Operation } from "../src/Etcd.ts"
import { InstanceId, InstanceIdLost } from "../src/InstanceId.ts"
import { instanceIdContract } from "./contract/InstanceIdContract.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { clientOf } from "./utils/clientOf.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { failure, settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

instanceIdContract("ids of instances on memory", layerMemory())
instanceIdContract("ids of instances on etcd 3.5", layerServer("3.5"))
instanceIdContract("ids of instances on etcd 3.4", layerServer("3.4"))

type World = Effect.Success<typeof makeWorld>

const client = (world: World) =>
  Effect.map(clientOf(world, InstanceId.layer()), (made) => ({ ...made, ids: Context.get(made.context, InstanceId) }))

const root = "/allocators/orders/ids/"

const options = { max: 4, ttl: "10 seconds" } as const

describe("InstanceId under faults", () => {
  it.effect("an id is not given to another before its holder knows of the loss, nor before the lease has ended", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([client(world), client(world)])
      const held = yield* one.ids.acquire("orders", options)
      yield* one.link.partition
      const lost = yield* Effect.forkChild(Effect.flip(held.lost))
      let knownAt: number | undefined
      for (let tick = 0; tick < 300; tick++) {
        yield* TestClock.adjust("50 millis")
        if (lost.pollUnsafe() !== undefined) knownAt ??= tick
        const id = yield* Effect.scoped(Effect.map(other.ids.acquire("orders", options), ({ id }) => id))
        if (id !== 0) continue
        assert.isDefined(knownAt)
        assert.isAbove(tick, knownAt ?? tick)
        assert.strictEqual((yield* Effect.flip(held.assertHeld)).why, "Expired")
        return
      }
      assert.fail("the id was never free again")
    }))

  it.effect("two processes that race for the same number get one each, whoever waits longer for answers", () =>
    Effect.gen(function*() {
      for (const fate of [{ request: "50 millis" }, { response: "50 millis" }] as const) {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([client(world), client(world)])
        yield* one.link.setFate(() => fate)
        yield* other.link.setFate(() => ({ request: "50 millis" }))
        const both = yield* Effect.forkChild(
          Effect.all([one.ids.acquire("orders", options), other.ids.acquire("orders", options)], {
            concurrency: "unbounded"
          })
        )
        yield* TestClock.adjust("2 seconds")
        const got = yield* within("1 second", Fiber.join(both))
        yield* Effect.all([one.link.setFate(() => ({})), other.link.setFate(() => ({}))])
        assert.deepStrictEqual(got.map(({ id }) => id).sort(), [0, 1])
        for (const { id, fencingToken } of got) {
          const [kv] = (yield* world.operator.range({ key: `${root}${id}` })).kvs
          assert.strictEqual(kv?.createRevision, fencingToken)
        }
      }
    }))

  it.effect("a claim whose answer is lost is settled: the id is held once, and the other gets the next", () =>
    Effect.gen(function*() {
      for (const way of ["request", "response"]) {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([client(world), client(world)])
        let sent = 0
        yield* one.link.setFate((operation) => operation === "txn" && sent++ === 0 ? { [way]: "lost" } : {})
        const held = yield* within("7 seconds", one.ids.acquire("orders", options))
        assert.strictEqual(held.id, 0)
        yield* held.assertHeld
        assert.strictEqual((yield* other.ids.acquire("orders", options)).id, 1)
        assert.deepStrictEqual(yield* world.keys, [`${root}0`, `${root}1`])
      }
    }))

  it.effect("a claim that is applied long after its caller took another id, or gave up, keeps no id", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([client(world), client(world)])
      // Keeps the shared lease in use, so that an orphan would live as long.
      yield* one.ids.acquire("bystander", options)
      let sent = 0
      yield* one.link.setFate((operation) => operation === "txn" && sent++ === 0 ? { request: "8 seconds" } : {})
      const waiting = yield* Effect.forkChild(one.ids.acquire("orders", options))
      yield* settle
      const scope = yield* Scope.make()
      assert.strictEqual((yield* Scope.provide(other.ids.acquire("orders", options), scope)).id, 0)
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual((yield* within("1 second", Fiber.join(waiting))).id, 1)
      yield* Scope.close(scope, Exit.void)
      // Now the first copy of the claim is applied, and nobody wants it.
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual((yield* world.keys).filter((key) => key.startsWith(root)), [`${root}1`])
    }))

  it.effect("a deleted key is noticed within a third of the TTL, and other ids of the process go on", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { ids } = yield* client(world)
      const [held, beside] = [yield* ids.acquire("orders", options), yield* ids.acquire("orders", options)]
      yield* world.operator.txn({ success: [Operation.delete(`${root}0`)] })
      const lost = yield* within("3500 millis", Effect.flip(held.lost))
      assert.deepInclude(lost, { service: "orders", id: 0, why: "Deleted", fencingToken: held.fencingToken })
      yield* beside.assertHeld
      assert.strictEqual((yield* ids.acquire("orders", options)).id, 0)
    }))

  it.effect("a stopped process that goes on after its lease refuses everything at once", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { ids } = yield* client(world)
      const clock = yield* skewedClock
      yield* Effect.gen(function*() {
        const held = yield* ids.acquire("orders", options)
        const body = yield* Effect.exit(
          ids.withId("orders", options)(() => Effect.sync(() => clock.skip(Duration.seconds(11))))
        )
        assert.instanceOf(failure(body), InstanceIdLost)
        for (
          const refused of [
            yield* Effect.flip(held.assertHeld),
            yield* Effect.flip(held.guard(Effect.die("it ran"))),
            yield* Effect.flip(held.fenced({ success: [Operation.put("data", "late")] })),
            yield* Effect.flip(held.ttl)
          ]
        ) assert.strictEqual(refused._tag === "InstanceIdLost" && refused.why, "Expired")
      }).pipe(Effect.provideService(Clock.Clock, clock.clock))
    }))

  it.effect("a restored snapshot that does not know the id: its holder is told, and a new one gets what is free", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { ids } = yield* client(world)
      const before = world.store.snapshot()
      const held = yield* ids.acquire("orders", options)
      world.store.restore(before)
      yield* within("3500 millis", Effect.flip(held.lost))
      assert.strictEqual((yield* ids.acquire("orders", options)).id, 0)
    }))

  it.effect("a session that is lost while it claims: another lease, one id", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { ids, link } = yield* client(world)
      let revoked = false
      yield* link.setFate((operation) => operation === "txn" ? { request: "1 second" } : {})
      const waiting = yield* Effect.forkChild(ids.acquire("orders", options))
      yield* settle
      for (const id of world.store.snapshot().leases.keys()) {
        revoked = true
        yield* world.operator.leaseRevoke(id)
      }
      assert.isTrue(revoked)
      yield* TestClock.adjust("5 seconds")
      const held = yield* within("1 second", Fiber.join(waiting))
      yield* link.setFate(() => ({}))
      assert.strictEqual(held.id, 0)
      yield* held.assertHeld
    }))

  it.effect("a layer that closes ends what is held and what is on its way, and leaves nothing", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd, link } = yield* client(world)
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        Layer.provide(InstanceId.layer(), Layer.succeed(Etcd, etcd)),
        scope
      )
      const ids = Context.get(context, InstanceId)
      const body = yield* Effect.forkChild(Effect.exit(ids.withId("orders", options)(Effect.never)))
      yield* settle
      yield* link.setFate((operation) => operation === "txn" ? { response: "1 second" } : {})
      const waiting = yield* Effect.forkChild(Effect.exit(Effect.scoped(ids.acquire("orders", options))))
      yield* settle
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("7 seconds")
      yield* within("1 second", Fiber.join(closing))
      const lost = failure(yield* within("1 second", Fiber.join(body)))
      assert.strictEqual(lost?._tag === "InstanceIdLost" && lost.why, "Closed")
      const error = failure(yield* within("1 second", Fiber.join(waiting)))
      assert.strictEqual(error?._tag === "EtcdError" && error.reason._tag, "Closed")
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("three ids of one process live on one lease", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { ids } = yield* client(world)
      const all = yield* Effect.all([1, 2, 3].map(() => ids.acquire("orders", options)), { concurrency: 3 })
      assert.deepStrictEqual(all.map(({ id }) => id).sort(), [0, 1, 2])
      assert.strictEqual(world.store.snapshot().leases.size, 1)
    }))

  it.effect(
    "interrupted at any step of acquire, hold and release, while others race for it, it leaves no key",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const world = yield* makeWorld
            const [one, other] = yield* Effect.all([client(world), client(world)])
            let raced = false
            // Somebody takes the number between the look and the claim.
            yield* one.link.setFate((operation) => {
              if (operation === "txn" && !raced) {
                raced = true
                world.store.txn({ success: [Operation.put(`${root}0`, "")] })
              }
              return {}
            })
            return { world, one, other }
          }),
          run: ({ one }) =>
            Effect.scoped(
              Effect.flatMap(
                one.ids.acquire("orders", { max: 4, ttl: "3 seconds" }),
                (handle) => Effect.andThen(Effect.sleep("100 millis"), handle.release)
              )
            ),
          check: ({ other, world }) =>
            Effect.gen(function*() {
              yield* world.operator.txn({ success: [Operation.delete(`${root}0`)] })
              assert.deepStrictEqual(yield* world.keys, [])
              yield* Effect.scoped(within("1 second", other.ids.acquire("orders", { max: 1 })))
            })
        })
        assert.isAbove(steps, 100)
      }),
    120_000
  )
})
