import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import type { PersistenceError } from "effect/cluster/ClusterError"
import { RunnerHealth } from "effect/cluster/RunnerHealth"
import { RunnerStorage } from "effect/cluster/RunnerStorage"
import type { ShardId } from "effect/cluster/ShardId"
import * as ShardingConfig from "effect/cluster/ShardingConfig"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { EtcdRunnerHealth, EtcdRunnerStorage, shardHeldBy } from "../src/Cluster.ts"
import { Etcd, Operation } from "../src/Etcd.ts"
import type { EtcdError } from "../src/EtcdError.ts"
import type { IdsExhausted } from "../src/InstanceId.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import { makeLink } from "../src/internal/memory/link.ts"
import { makeTransport } from "../src/internal/memory/transport.ts"
import type { SessionLost } from "../src/Session.ts"
import { addressOf, names, runnerOf, shardsTo } from "./contract/RunnerStorageContract.ts"
import { clientOf } from "./utils/clientOf.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

type World = Effect.Success<typeof makeWorld>

/** An answer of a refresh is believed for two seconds, until the next one. */
const config = { shardLockExpiration: "12 seconds", shardLockRefreshInterval: "2 seconds" } as const

const [a, b] = [addressOf(1), addressOf(2)]

const client = Effect.fnUntraced(
  function*(world: World, options: Partial<ShardingConfig.ShardingConfig["Service"]> = {}) {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const layer = Layer.merge(EtcdRunnerStorage.layer(), EtcdRunnerHealth.layer()).pipe(
      Layer.provide(ShardingConfig.layer({ ...config, ...options }))
    )
    const made = yield* Scope.provide(clientOf(world, layer), scope)
    return {
      ...made,
      storage: Context.get(made.context, RunnerStorage),
      health: Context.get(made.context, RunnerHealth),
      close: Scope.close(scope, Exit.void)
    }
  }
)

const causeOf = (error: PersistenceError) => error.cause as EtcdError | SessionLost | IdsExhausted

const reasonOf = (error: PersistenceError): string => {
  const cause = causeOf(error)
  return cause._tag === "EtcdError" ? cause.reason._tag : cause._tag === "SessionLost" ? cause.why : cause._tag
}

const leaseOf = (world: World, key: string) =>
  Effect.map(world.operator.range({ key }), ({ kvs: [kv] }) => kv?.lease ?? 0n)

const shard = (id: number) => `/cluster/shards/default/${id}`

describe("the deadline", () => {
  it.effect("whoever is cut off fails to refresh before his shards are given away, with time left to stop", () =>
    Effect.gen(function*() {
      // At different places between two beats.
      const places = [2, 4].flatMap((every) =>
        Array.from({ length: 8 }, (_, index) => [every * 1000, index * 500] as const)
      )
      for (const [every, offset] of places) {
        const world = yield* makeWorld
        const one = yield* client(world, { shardLockRefreshInterval: every })
        const other = yield* client(world)
        yield* one.storage.acquire(a, shardsTo(4))
        yield* TestClock.adjust(offset)
        let told: number | undefined
        // As Sharding does it.
        yield* Effect.forkChild(
          one.storage.refresh(a, shardsTo(4)).pipe(
            Effect.retry({ times: 5, schedule: Schedule.spaced(50) }),
            Effect.timeout(every),
            Effect.repeat(Schedule.fixed(every)),
            Effect.catchCause(() => Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => told = now)))
          )
        )
        // Just after it was told that it holds them all.
        yield* TestClock.adjust(every + 300)
        yield* one.link.partition
        const start = yield* Clock.currentTimeMillis
        let taken: ReadonlyArray<ShardId> = []
        while (taken.length === 0) {
          yield* TestClock.adjust("100 millis")
          taken = yield* other.storage.acquire(b, shardsTo(4))
        }
        const given = yield* Clock.currentTimeMillis
        assert.isDefined(told)
        assert.isAtLeast(
          given - (told ?? given),
          2000,
          `asking every ${every} ms, from ${offset} ms after the lease was granted`
        )
        assert.isBelow(given - start, 12_500)
        assert.strictEqual(taken.length, 4)
      }
    }))

  it.effect("an answer that comes when the lease has run out meanwhile is none", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const clock = yield* skewedClock
      const slipping = Effect.provideService(Clock.Clock, clock.clock)
      const one = yield* slipping(client(world))
      yield* slipping(one.storage.acquire(a, shardsTo(2)))
      yield* one.link.setFate((operation) => operation === "range" ? { response: "1 second" } : {})
      const refreshing = yield* Effect.forkChild(slipping(Effect.flip(one.storage.refresh(a, shardsTo(2)))))
      yield* TestClock.adjust("500 millis")
      clock.skip(Duration.seconds(13))
      assert.include(["Expired", "Timeout"], reasonOf(yield* within("1 second", Fiber.join(refreshing))))
    }))

  it.effect("a process that was stopped for longer than the lease lived is told at once, without asking etcd", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const clock = yield* skewedClock
      yield* Effect.gen(function*() {
        const one = yield* client(world)
        yield* one.storage.acquire(a, shardsTo(2))
        yield* one.link.partition
        clock.skip(Duration.seconds(13))
        const error = yield* Effect.flip(one.storage.refresh(a, shardsTo(2)))
        assert.strictEqual(reasonOf(error), "Expired")
      }).pipe(Effect.provideService(Clock.Clock, clock.clock))
    }))

  it.effect("a machine that was suspended asks etcd before it relies on its lease", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const clock = yield* skewedClock
      const slipping = Effect.provideService(Clock.Clock, clock.clock)
      const one = yield* slipping(client(world))
      yield* slipping(one.storage.acquire(a, shardsTo(2)))
      world.store.leaseRevoke(yield* leaseOf(world, shard(1)))
      clock.suspend(Duration.seconds(60))
      const error = yield* within("1 second", slipping(Effect.flip(one.storage.refresh(a, shardsTo(2)))))
      assert.strictEqual(reasonOf(error), "Revoked")
    }))

  it.effect("no shard is acquired on a lease that ends before it could be refreshed", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      yield* one.storage.register(runnerOf(1), true)
      yield* one.link.setFate((operation) => operation === "leaseKeepAlive" ? { request: "lost" } : {})
      yield* TestClock.adjust("7500 millis")
      const error = yield* within("2 seconds", Effect.flip(one.storage.acquire(a, shardsTo(2))))
      assert.include(["Timeout", "TimeoutError"], reasonOf(error))
    }))

  it.effect("a late beat is waited for, not taken for a loss", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      yield* one.storage.acquire(a, shardsTo(2))
      yield* one.link.setFate((operation) => operation === "leaseKeepAlive" ? { response: "3500 millis" } : {})
      yield* TestClock.adjust("6900 millis")
      const held = yield* within("2 seconds", one.storage.refresh(a, shardsTo(2)))
      assert.strictEqual(held.length, 2)
    }))

  it.effect("a lease that an operator ends is a failure, and the runner begins anew on another one", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      const machine = yield* one.storage.register(runnerOf(1), true)
      yield* one.storage.acquire(a, shardsTo(3))
      world.store.leaseRevoke(yield* leaseOf(world, shard(1)))
      yield* TestClock.adjust("5 seconds")
      // A lease that is new does not hide that the shards were on the old one.
      assert.notStrictEqual(yield* one.storage.register(runnerOf(1), true), machine)
      assert.strictEqual(reasonOf(yield* Effect.flip(one.storage.refresh(a, shardsTo(3)))), "Revoked")
      assert.deepStrictEqual(names(yield* other.storage.acquire(b, shardsTo(1))), ["default:1"])
      // As Sharding does it: it asks whether etcd answers, gives back what it had, and takes what is free.
      assert.deepStrictEqual(yield* one.storage.refresh(a, []), [])
      yield* one.storage.releaseAll(a)
      assert.deepStrictEqual(names(yield* one.storage.acquire(a, shardsTo(3))), ["default:2", "default:3"])
      assert.deepStrictEqual(names(yield* one.storage.refresh(a, shardsTo(3))), ["default:2", "default:3"])
      assert.deepStrictEqual(names(yield* other.storage.refresh(b, shardsTo(3))), ["default:1"])
    }))

  it.effect("a runner whose lease is lost is not listed by itself, so that Sharding registers it again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      yield* one.storage.register(runnerOf(1), true)
      yield* one.link.partition
      yield* TestClock.adjust("11900 millis")
      yield* one.link.heal
      // By the clock of the runner it is over; etcd does not know yet.
      assert.strictEqual((yield* other.storage.getRunners).length, 1)
      assert.deepStrictEqual(yield* within("5 seconds", one.storage.getRunners), [])
      yield* one.storage.register(runnerOf(1), true)
      yield* TestClock.adjust("20 seconds")
      for (const { storage } of [one, other]) assert.strictEqual((yield* storage.getRunners).length, 1)
    }))

  it.effect("one whose own key was deleted by an operator is told by the next refresh", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      yield* one.storage.acquire(a, shardsTo(3))
      yield* world.operator.txn({ success: [Operation.delete(shard(2))] })
      assert.deepStrictEqual(names(yield* one.storage.refresh(a, shardsTo(3))), ["default:1", "default:3"])
    }))
})

describe("lost answers", () => {
  it.effect("shards of an acquisition that had no answer are taken by the next one", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      yield* one.storage.register(runnerOf(1), true)
      yield* one.link.setFate((operation) => operation === "txn" ? { response: "lost" } : {})
      assert.strictEqual(
        (yield* within("10 seconds", Effect.flip(one.storage.acquire(a, shardsTo(2)))))._tag,
        "PersistenceError"
      )
      yield* one.link.setFate(() => ({}))
      assert.strictEqual((yield* one.storage.acquire(a, shardsTo(2))).length, 2)
    }))

  it.effect("or, when nobody asks for them any more, are given back", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      yield* one.storage.acquire(a, shardsTo(1))
      yield* one.link.setFate((operation) => operation === "txn" ? { request: "4 seconds" } : {})
      // Sharding gives up, and etcd applies it later.
      const acquiring = yield* Effect.forkChild(one.storage.acquire(a, shardsTo(3).slice(1)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(acquiring)
      yield* one.link.setFate(() => ({}))
      assert.deepStrictEqual(yield* one.storage.refresh(a, []), [])
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(names(yield* other.storage.acquire(b, shardsTo(3))), [])
      assert.deepStrictEqual(names(yield* one.storage.refresh(a, shardsTo(3))), ["default:1"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(names(yield* other.storage.acquire(b, shardsTo(3))), ["default:2", "default:3"])
    }))

  it.effect("a release that etcd applies late does not take away what was acquired since", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      const [first] = yield* one.storage.acquire(a, shardsTo(1))
      if (first === undefined) return assert.fail("not acquired")
      for (const late of [one.storage.release(a, first), one.storage.releaseAll(a)]) {
        yield* one.link.setFate((operation) => operation === "txn" ? { request: "3 seconds" } : {})
        const releasing = yield* Effect.forkChild(late)
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(releasing)
        yield* one.link.setFate(() => ({}))
        assert.strictEqual((yield* one.storage.acquire(a, shardsTo(1))).length, 1)
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual((yield* one.storage.refresh(a, shardsTo(1))).length, 1)
        assert.notStrictEqual(yield* leaseOf(world, shard(1)), 0n)
      }
    }))

  it.effect("a put that etcd applies late does not take a shard from somebody else, and is given back when it takes one", () =>
    Effect.gen(function*() {
      for (const taken of [true, false]) {
        const world = yield* makeWorld
        const [one, other] = [yield* client(world), yield* client(world)]
        yield* one.storage.register(runnerOf(1), true)
        yield* one.link.setFate((operation) => operation === "txn" ? { request: "3 seconds" } : {})
        const acquiring = yield* Effect.forkChild(one.storage.acquire(a, shardsTo(1)))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(acquiring)
        yield* one.link.setFate(() => ({}))
        if (taken) assert.strictEqual((yield* other.storage.acquire(b, shardsTo(1))).length, 1)
        yield* TestClock.adjust("3 seconds")
        if (taken) assert.strictEqual((yield* other.storage.refresh(b, shardsTo(1))).length, 1)
        yield* one.storage.refresh(a, [])
        yield* TestClock.adjust("1 second")
        if (taken) assert.strictEqual((yield* other.storage.refresh(b, shardsTo(1))).length, 1)
        else assert.strictEqual(yield* leaseOf(world, shard(1)), 0n)
      }
    }))

  it.effect("a release that is still waited for does not take away what was acquired since", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const link = yield* Scope.provide(makeLink(Duration.seconds(5)), yield* Scope.fork(yield* Effect.scope))
      // As with authentication on an older etcd: transactions overtake each other.
      const settings = {
        retry: Schedule.recurs(0),
        timeout: Duration.seconds(5),
        namespace: "",
        batching: "off"
      } as const
      const etcd = yield* makeEtcd(makeTransport(world.store, link), settings)
      const storage = yield* EtcdRunnerStorage.make().pipe(
        Effect.provideService(Etcd, etcd),
        Effect.provideService(ShardingConfig.ShardingConfig, { ...ShardingConfig.defaults, ...config })
      )
      const [first] = yield* storage.acquire(a, shardsTo(1))
      if (first === undefined) return assert.fail("not acquired")
      // Sharding gives up all by force meanwhile, and begins anew.
      yield* link.setFate((operation) => operation === "txn" ? { request: "1 second" } : {})
      const releasing = yield* Effect.forkChild(storage.release(a, first))
      yield* TestClock.adjust("500 millis")
      yield* link.setFate(() => ({}))
      yield* storage.releaseAll(a)
      assert.strictEqual((yield* storage.acquire(a, shardsTo(1))).length, 1)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(releasing)
      assert.strictEqual((yield* storage.refresh(a, shardsTo(1))).length, 1)
    }))

  it.effect("nor does one of a shard that is not held, while it is acquired", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      const [first] = shardsTo(1)
      if (first === undefined) return assert.fail("no shard")
      yield* one.storage.register(runnerOf(1), true)
      yield* one.link.setFate((operation) => operation === "txn" ? { response: "500 millis" } : {})
      const acquiring = yield* Effect.forkChild(one.storage.acquire(a, [first]))
      yield* TestClock.adjust("100 millis")
      yield* one.link.setFate(() => ({}))
      const releasing = yield* Effect.forkChild(one.storage.release(a, first))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(releasing)
      assert.strictEqual((yield* Fiber.join(acquiring)).length, 1)
      assert.strictEqual((yield* one.storage.refresh(a, [first])).length, 1)
    }))

  it.effect("a release is told as done only when the key is gone", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      const [first] = yield* one.storage.acquire(a, shardsTo(1))
      if (first === undefined) return assert.fail("not acquired")
      yield* one.link.refuse
      assert.strictEqual(
        reasonOf(yield* within("5 seconds", Effect.flip(one.storage.release(a, first)))),
        "Unavailable"
      )
      assert.strictEqual((yield* other.storage.acquire(b, shardsTo(1))).length, 0)
      yield* one.link.accept
      // It was put anew meanwhile, as by a late acquisition.
      const lease = yield* leaseOf(world, shard(1))
      yield* world.operator.txn({ success: [Operation.put(shard(1), "10.0.0.1:1", { lease })] })
      yield* one.storage.release(a, first)
      assert.strictEqual((yield* other.storage.acquire(b, shardsTo(1))).length, 1)
    }))
})

describe("restored snapshots", () => {
  it.effect("a runner that the snapshot does not know fails to refresh, and begins anew", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const before = world.store.snapshot()
      const one = yield* client(world)
      yield* one.storage.register(runnerOf(1), true)
      yield* one.storage.acquire(a, shardsTo(2))
      world.store.restore(before)
      assert.deepStrictEqual(yield* one.storage.refresh(a, shardsTo(2)), [])
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* one.storage.getRunners, [])
      yield* one.storage.register(runnerOf(1), true)
      assert.strictEqual((yield* one.storage.getRunners).length, 1)
      assert.strictEqual((yield* one.storage.acquire(a, shardsTo(2))).length, 2)
      assert.strictEqual((yield* one.storage.refresh(a, shardsTo(2))).length, 2)
    }))

  it.effect("what was put in the new history is not taken for what was put in the old one at the same revision", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      yield* one.storage.register(runnerOf(1), true)
      yield* other.storage.register(runnerOf(2), true)
      const before = world.store.snapshot()
      const [first] = yield* one.storage.acquire(a, shardsTo(1))
      world.store.restore(before)
      yield* other.storage.acquire(b, shardsTo(1))
      if (first !== undefined) yield* one.storage.release(a, first)
      assert.strictEqual((yield* other.storage.refresh(b, shardsTo(1))).length, 1)
    }))

  it.effect("shards that have moved since are told to nobody as held, and come back to who asks for them", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      yield* other.storage.register(runnerOf(2), true)
      yield* one.storage.acquire(a, shardsTo(2))
      const before = world.store.snapshot()
      yield* one.storage.releaseAll(a)
      yield* other.storage.acquire(b, shardsTo(2))
      world.store.restore(before)
      assert.deepStrictEqual(yield* other.storage.refresh(b, shardsTo(2)), [])
      assert.deepStrictEqual(yield* one.storage.refresh(a, []), [])
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* other.storage.acquire(b, shardsTo(2))).length, 2)
      assert.strictEqual((yield* other.storage.refresh(b, shardsTo(2))).length, 2)
    }))
})

describe("interruption", () => {
  it.effect(
    "at any step leaves a storage that works, nothing that nobody can take, and nothing at all after its end",
    () =>
      Effect.gen(function*() {
        const steps = yield* interruptAtEveryStep({
          setup: Effect.gen(function*() {
            const world = yield* makeWorld
            const made = { world, one: yield* client(world), other: yield* client(world) }
            yield* made.one.link.setFate(() => ({ request: "50 millis", response: "50 millis" }))
            return made
          }),
          run: ({ one: { storage } }) =>
            Effect.gen(function*() {
              yield* storage.register(runnerOf(1), true)
              const [first] = yield* storage.acquire(a, shardsTo(3))
              yield* storage.refresh(a, shardsTo(3))
              if (first !== undefined) yield* storage.release(a, first)
              yield* storage.releaseAll(a)
              yield* storage.unregister(a)
            }),
          check: ({ one, other, world }) =>
            Effect.gen(function*() {
              yield* one.link.setFate(() => ({}))
              // What was on its way arrives; then Sharding gives up what it knows of, and asks as it always does.
              yield* TestClock.adjust("1 second")
              yield* one.storage.releaseAll(a)
              yield* one.storage.refresh(a, [])
              yield* TestClock.adjust("1 second")
              assert.strictEqual((yield* other.storage.acquire(b, shardsTo(3))).length, 3)
              yield* one.storage.register(runnerOf(1), true)
              const machines = yield* world.operator.range({ prefix: "/cluster/machines/" })
              yield* TestClock.adjust("10 seconds")
              assert.isAtMost(machines.count, 2)
              assert.strictEqual((yield* world.operator.range({ prefix: "/cluster/machines/" })).count, 1)
              assert.strictEqual((yield* one.storage.getRunners).length, 1)
              yield* one.close
              yield* other.close
              assert.deepStrictEqual(yield* world.keys, [])
              // One that was being granted when its runner was interrupted runs out by itself.
              yield* TestClock.adjust("20 seconds")
              assert.strictEqual(world.store.snapshot().leases.size, 0)
            })
        })
        assert.isAbove(steps, 200)
      }),
    240_000
  )
})

describe("runners", () => {
  it.effect("who start together have machine ids of their own, and one that was given back is not the next", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const ports = Array.from({ length: 30 }, (_, index) => index + 1)
      const clients = yield* Effect.forEach(ports, () => client(world))
      const ids = yield* Effect.forEach(clients, ({ storage }, index) => storage.register(runnerOf(index + 1), true), {
        concurrency: "unbounded"
      })
      assert.strictEqual(new Set(ids).size, 30)
      for (const id of ids) assert.isTrue(id >= 0 && id < 1024)
      const [first] = clients
      yield* first?.close ?? Effect.void
      const next = yield* (yield* client(world)).storage.register(runnerOf(1), true)
      assert.notInclude(ids, next)
    }))

  it.effect("a registration that gave up while its machine id was claimed does not take it away from another one", () =>
    Effect.gen(function*() {
      for (const late of ["300 millis", "800 millis", "3 seconds"] as const) {
        for (const atOnce of [true, false]) {
          const world = yield* makeWorld
          const one = yield* client(world)
          yield* one.storage.acquire(a, shardsTo(1))
          const register = Effect.forkChild(one.storage.register(runnerOf(1), true), { startImmediately: true })
          yield* one.link.setFate((operation) => operation === "txn" ? { request: late } : {})
          const first = yield* register
          yield* one.link.setFate((operation) => operation === "txn" ? { request: "500 millis" } : {})
          const early = atOnce ? yield* register : undefined
          yield* TestClock.adjust("100 millis")
          // As Sharding does it, after a timeout.
          yield* Fiber.interrupt(first)
          const next = early ?? (yield* register)
          yield* TestClock.adjust("5 seconds")
          const id = yield* Fiber.join(next)
          assert.notStrictEqual(yield* leaseOf(world, `/cluster/machines/${id}`), 0n, `${late}, at once: ${atOnce}`)
        }
      }
    }))

  it.effect("more than there are machine ids are refused, and by name", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      for (let from = 0; from < 1024; from += 128) {
        yield* world.operator.txn({
          success: Array.from({ length: 128 }, (_, index) => Operation.put(`/cluster/machines/${from + index}`, "x"))
        })
      }
      const one = yield* client(world)
      const error = causeOf(yield* Effect.flip(one.storage.register(runnerOf(1), true)))
      assert.deepInclude(error, { _tag: "IdsExhausted", service: "/cluster", min: 0, max: 1024 })
      yield* world.operator.txn({ success: [Operation.delete("/cluster/machines/700")] })
      assert.strictEqual(yield* one.storage.register(runnerOf(1), true), 700)
    }))

  it.effect("a health flag does not outlive its runner, nor bring back one that is gone", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      yield* one.storage.register(runnerOf(1), true)
      yield* other.link.setFate((operation) => operation === "txn" ? { request: "1 second" } : {})
      const setting = yield* Effect.forkChild(other.storage.setRunnerHealth(a, false))
      yield* TestClock.adjust("500 millis")
      yield* one.storage.register(runnerOf(1, 7), true)
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(setting)
      const [entry] = yield* one.storage.getRunners
      assert.deepStrictEqual([entry?.[0].weight, entry?.[1]], [7, false])
      const late = yield* Effect.forkChild(other.storage.setRunnerHealth(a, true))
      yield* TestClock.adjust("500 millis")
      yield* one.close
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(late)
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("what is not an entry of a runner is skipped", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      yield* one.storage.register(runnerOf(1), true)
      for (const value of ["", "{", "{\"runner\":1}"]) {
        yield* world.operator.txn({ success: [Operation.put("/cluster/runners/strange", value)] })
        assert.strictEqual((yield* one.storage.getRunners).length, 1)
        yield* one.storage.setRunnerHealth({ ...a, host: "strange" } as typeof a, true)
      }
    }))

  it.effect("an outage is an error with the cause, after a bounded time", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const one = yield* client(world)
      const [first] = yield* one.storage.acquire(a, shardsTo(1))
      if (first === undefined) return assert.fail("not acquired")
      yield* one.link.refuse
      for (
        const call of [
          one.storage.acquire(a, shardsTo(1)),
          one.storage.refresh(a, shardsTo(1)),
          one.storage.refresh(a, []),
          one.storage.release(a, first),
          one.storage.releaseAll(a)
        ]
      ) {
        const error = yield* within("2001 millis", Effect.flip(Effect.asVoid(call)))
        assert.strictEqual(error._tag, "PersistenceError")
      }
      for (
        const call of [
          one.storage.getRunners,
          one.storage.setRunnerHealth(a, true),
          one.storage.register(runnerOf(1), true)
        ]
      ) {
        assert.strictEqual(reasonOf(yield* within("5 seconds", Effect.flip(Effect.asVoid(call)))), "Unavailable")
      }
    }))

  it.effect("options that make no sense fail the layer, by name", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const short = yield* Effect.flip(client(world, { shardLockExpiration: "100 millis" }))
      assert.deepInclude(short, { _tag: "InvalidOption", option: "shardLockExpiration" })
    }))
})

describe("health", () => {
  it.effect("a runner is alive while its lease is, and nobody is dead because etcd does not answer", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      assert.isFalse(yield* other.health.isAlive(a))
      yield* one.storage.register(runnerOf(1), true)
      assert.isTrue(yield* other.health.isAlive(a))
      yield* one.link.partition
      yield* TestClock.adjust("10 seconds")
      assert.isTrue(yield* other.health.isAlive(a))
      yield* TestClock.adjust("3 seconds")
      assert.isFalse(yield* other.health.isAlive(a))
      yield* other.link.refuse
      assert.isTrue(yield* within("10 seconds", other.health.isAlive(a)))
    }))
})

describe("fencing", () => {
  it.effect("a transaction of an entity is refused as soon as its shard is not with its runner any more", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = [yield* client(world), yield* client(world)]
      const [first] = yield* one.storage.acquire(a, shardsTo(1))
      if (first === undefined) return assert.fail("not acquired")
      const save = (value: string, address = a) =>
        Effect.map(
          world.operator.txn({ compare: [shardHeldBy(first, address)], success: [Operation.put("/saved", value)] }),
          ({ succeeded }) => succeeded
        )
      assert.isTrue(yield* save("1"))
      world.store.leaseRevoke(yield* leaseOf(world, shard(1)))
      assert.isFalse(yield* save("2"))
      yield* other.storage.acquire(b, shardsTo(1))
      assert.deepStrictEqual([yield* save("3"), yield* save("4", b)], [false, true])
    }))
})
