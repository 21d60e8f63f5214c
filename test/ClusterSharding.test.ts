/** Effect's own Sharding on the storage, in virtual time: what runs where, and never twice. */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as MessageStorage from "effect/cluster/MessageStorage"
import * as RunnerAddress from "effect/cluster/RunnerAddress"
import * as Runners from "effect/cluster/Runners"
import * as Sharding from "effect/cluster/Sharding"
import * as ShardingConfig from "effect/cluster/ShardingConfig"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { EtcdRunnerHealth, EtcdRunnerStorage } from "../src/Cluster.ts"
import { Operation } from "../src/Etcd.ts"
import { clientOf } from "./utils/clientOf.ts"
import { makeWorld } from "./utils/world.ts"

type World = Effect.Success<typeof makeWorld>

const ttl = 6000
const singletons = Array.from({ length: 24 }, (_, index) => `job-${index}`)

/** Who runs what, and whether two ever ran the same at a time. */
const makeLedger = () => {
  const running = new Map<string, Set<number>>()
  const twice: Array<string> = []
  const leave = (name: string, runner: number) => running.get(name)?.delete(runner)
  const run = (name: string, runner: number) =>
    Effect.acquireUseRelease(
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        Effect.sync(() => {
          const runners = running.get(name) ?? new Set()
          running.set(name, runners.add(runner))
          if (runners.size > 1) twice.push(`${name} on ${[...runners].join(" and ")} at ${now}`)
        })),
      () => Effect.never,
      () => Effect.sync(() => leave(name, runner))
    )
  const owners = (name: string) => [...running.get(name) ?? []]
  return { run, twice, owners, forget: (runner: number) => singletons.forEach((name) => leave(name, runner)) }
}

const start = Effect.fnUntraced(function*(world: World, ledger: ReturnType<typeof makeLedger>, runner: number) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const config = ShardingConfig.layer({
    runnerAddress: Option.some(RunnerAddress.make("10.0.0.1", runner)),
    shardsPerGroup: 30,
    shardLockExpiration: ttl,
    shardLockRefreshInterval: 1000,
    refreshAssignmentsInterval: 500,
    runnerHealthCheckInterval: 2000,
    entityMessagePollInterval: 1000
  })
  const storage = Layer.merge(EtcdRunnerStorage.layer(), EtcdRunnerHealth.layer()).pipe(Layer.provide(config))
  const client = yield* Scope.provide(clientOf(world, storage), scope)
  const sharding = yield* Layer.build(
    Sharding.layer.pipe(
      Layer.provide([
        Runners.layerNoop.pipe(Layer.provide([MessageStorage.layerNoop, config])),
        MessageStorage.layerNoop,
        config,
        Layer.succeedContext(client.context)
      ])
    )
  ).pipe(Scope.provide(scope))
  yield* Effect.forEach(
    singletons,
    (name) => Context.get(sharding, Sharding.Sharding).registerSingleton(name, ledger.run(name, runner)),
    { discard: true }
  ).pipe(Scope.provide(scope))
  return { link: client.link, close: Scope.close(scope, Exit.void) }
}, Effect.provideService(References.MinimumLogLevel, "None"))

/** Until each runs on exactly one of these. Answers how long it took, in milliseconds. */
const settled = Effect.fnUntraced(function*(ledger: ReturnType<typeof makeLedger>, runners: ReadonlyArray<number>) {
  for (let waited = 0; waited < 60_000; waited += 50) {
    const owners = singletons.map(ledger.owners)
    const done = owners.every(([owner, ...more]) => owner !== undefined && more.length === 0 && runners.includes(owner))
    if (done && runners.every((runner) => owners.some(([owner]) => owner === runner))) return waited
    yield* TestClock.adjust(50)
  }
  return assert.fail(`not settled: ${JSON.stringify(singletons.map(ledger.owners))}`)
})

/** What is still there at the end, also of a test that has failed, needs time to go. */
const ending = <A, E>(body: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const exit = yield* Effect.exit(Scope.provide(body, scope))
    yield* Effect.forkChild(Scope.close(scope, Exit.void))
    yield* TestClock.adjust("2 minutes")
    return yield* exit
  })

describe("Sharding on etcd", () => {
  it.effect(
    "runs everything once: when runners join, leave, are cut off and come back",
    () =>
      ending(Effect.gen(function*() {
        const world = yield* makeWorld
        const ledger = makeLedger()
        const one = yield* start(world, ledger, 1)
        yield* settled(ledger, [1])
        const two = yield* start(world, ledger, 2)
        const three = yield* start(world, ledger, 3)
        yield* settled(ledger, [1, 2, 3])
        // Cut off: it stops what it runs before the others begin.
        yield* two.link.partition
        const moved = yield* settled(ledger, [1, 3])
        assert.isAtMost(moved, ttl + 2000)
        yield* two.link.heal
        yield* settled(ledger, [1, 2, 3])
        // Leaving in order takes no lease.
        const closing = yield* Effect.forkChild(three.close)
        assert.isAtMost(yield* settled(ledger, [1, 2]), 3000)
        yield* TestClock.adjust("10 seconds")
        assert.isDefined(closing.pollUnsafe())
        assert.strictEqual((yield* world.operator.range({ prefix: "/cluster/runners/" })).count, 2)
        yield* Effect.forkChild(Effect.all([one.close, two.close], { concurrency: 2 }))
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual(yield* world.keys, [])
        assert.deepStrictEqual(ledger.twice, [])
      })),
    60_000
  )

  it.effect(
    "runs everything once, wherever between two refreshes and two beats the connection is lost",
    () =>
      ending(Effect.gen(function*() {
        const world = yield* makeWorld
        const ledger = makeLedger()
        const one = yield* start(world, ledger, 1)
        yield* start(world, ledger, 2)
        for (let offset = 0; offset < 2000; offset += 130) {
          yield* settled(ledger, [1, 2])
          yield* TestClock.adjust(offset)
          const way = offset % 3
          yield* way === 0 ? one.link.partition : way === 1 ? one.link.refuse : one.link.setFate(lostAnswers)
          const moved = yield* settled(ledger, [2])
          // Beats without an answer renew the lease all the same, until the runner has given it up.
          assert.isAtMost(moved, (way === 2 ? 2 * ttl : ttl) + 2000)
          yield* Effect.all([one.link.heal, one.link.accept, one.link.setFate(() => ({}))])
        }
        assert.deepStrictEqual(ledger.twice, [])
      })),
    120_000
  )

  it.effect(
    "begins anew by itself when an operator ends a lease, or an older snapshot is restored",
    () =>
      ending(Effect.gen(function*() {
        const world = yield* makeWorld
        const before = world.store.snapshot()
        const ledger = makeLedger()
        yield* start(world, ledger, 1)
        yield* start(world, ledger, 2)
        yield* settled(ledger, [1, 2])
        const { kvs: [runner] } = yield* world.operator.range({ key: "/cluster/runners/10.0.0.1:1" })
        world.store.leaseRevoke(runner?.lease ?? 0n)
        yield* TestClock.adjust("10 seconds")
        yield* settled(ledger, [1, 2])
        world.store.restore(before)
        yield* TestClock.adjust("10 seconds")
        yield* settled(ledger, [1, 2])
        yield* world.operator.txn({ success: [Operation.delete({ prefix: "/cluster/" })] })
        yield* TestClock.adjust("10 seconds")
        yield* settled(ledger, [1, 2])
      })),
    60_000
  )
})

const lostAnswers = () => ({ response: "lost" as const })
