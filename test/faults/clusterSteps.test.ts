/**
 * The lease of a runner is lost in every state that its storage can be in: at each step of registering, acquiring, refreshing and releasing
 * it is revoked, its keys are deleted, or it is cut off, or its answers, or its renewals, for longer than a lease lives.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import { RunnerStorage } from "effect/cluster/RunnerStorage"
import type * as ShardId from "effect/cluster/ShardId"
import * as ShardingConfig from "effect/cluster/ShardingConfig"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { EtcdRunnerStorage } from "../../src/Cluster.ts"
import { Etcd, Operation } from "../../src/Etcd.ts"
import { addressOf, names, runnerOf, shardsTo } from "../contract/RunnerStorageContract.ts"
import { actAtEveryRequest } from "../utils/actAtEveryRequest.ts"
import { clientOf } from "../utils/clientOf.ts"
import { makeEtcdServer } from "../utils/EtcdServer.ts"
import { actAtEveryStep } from "../utils/interruptAtEveryStep.ts"
import { connect } from "../utils/live.ts"
import { within } from "../utils/virtual.ts"
import { makeWorld } from "../utils/world.ts"

const ttl = 6000
const interval = 1000
const config = ShardingConfig.layer({ shardLockExpiration: ttl, shardLockRefreshInterval: interval })

const [a, b] = [addressOf(1), addressOf(2)]
const wanted = shardsTo(3)
const keyOf = (shard: ShardId.ShardId) => `/cluster/shards/${shard.group}/${shard.id}`

interface Disturbance {
  readonly lost: "request" | "response"
  /** Of everything else nothing is. */
  readonly only?: string
}

const makeScenario = Effect.gen(function*() {
  const world = yield* makeWorld
  const clock = yield* Clock.Clock
  const client = Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const made = yield* Scope.provide(clientOf(world, EtcdRunnerStorage.layer().pipe(Layer.provide(config))), scope)
    return { link: made.link, storage: Context.get(made.context, RunnerStorage), close: Scope.close(scope, Exit.void) }
  })
  const [one, other] = [yield* client, yield* client]
  let disturbed: Disturbance & { readonly at: bigint } | undefined
  yield* one.link.setFate((operation) =>
    disturbed === undefined || clock.monotonicTimeNanosUnsafe() > disturbed.at + outage ||
      (disturbed.only ?? operation) !== operation
      ? { request: "30 millis", response: "30 millis" }
      : { [disturbed.lost]: "lost" }
  )
  const scenario = { world, one, other, lost: false, lies: new Array<string>() }
  const disturb = (how: Disturbance) => () => {
    disturbed = { ...how, at: clock.monotonicTimeNanosUnsafe() }
    scenario.lost = true
  }
  const loss = {
    "revoked": () => {
      for (const id of world.store.snapshot().leases.keys()) world.store.leaseRevoke(id)
      scenario.lost = true
    },
    "with its keys deleted": () => {
      world.store.txn({ success: [Operation.delete({ prefix: "/cluster/" })] })
      scenario.lost = true
    },
    "cut off": disturb({ lost: "request" }),
    "without answers": disturb({ lost: "response" }),
    "without renewals": disturb({ lost: "request", only: "leaseKeepAlive" })
  }
  return Object.assign(scenario, { loss })
})

const outage = Duration.toNanosUnsafe(Duration.millis(1.5 * ttl))

type Scenario = Effect.Success<typeof makeScenario>

/** What is true now: no other fiber in between, as the store answers at once. */
const isInStore = ({ world }: Scenario, shard: ShardId.ShardId): boolean =>
  Result.getOrThrow(world.store.range({ key: keyOf(shard) })).count > 0

/** A runner that does with its storage what Sharding does. `told` hears of each shard that it is told of, or works on. */
const makeSharding = (
  storage: RunnerStorage["Service"],
  told: (shard: ShardId.ShardId, when: "answered" | "at work") => void = () => {},
  isLost = () => false
) => {
  const held = new Map<string, ShardId.ShardId>()
  let healthy = true

  /** An answer to a question that was asked when the loss had happened is the truth. */
  const truthful = <E>(ask: Effect.Effect<ReadonlyArray<ShardId.ShardId>, E>) =>
    Effect.suspend(() => {
      const asked = isLost()
      return Effect.tap(ask, (shards) =>
        Effect.sync(() => {
          if (asked) { for (const shard of shards) told(shard, "answered") }
        }))
    })

  const release = Effect.fnUntraced(function*(shards: ReadonlyArray<ShardId.ShardId>) {
    for (const shard of shards) held.delete(String(shard))
    yield* Effect.forEach(shards, (shard) => storage.release(a, shard), { discard: true }).pipe(
      Effect.retry({ times: 5, schedule: Schedule.spaced(50) }),
      Effect.ignore
    )
  })

  const refresh = Effect.gen(function*() {
    const asked = [...held.values()]
    const answer = yield* truthful(storage.refresh(a, asked)).pipe(
      Effect.retry({ times: 5, schedule: Schedule.spaced(50) }),
      Effect.timeout(interval),
      Effect.exit
    )
    if (Exit.isSuccess(answer)) {
      yield* Effect.forkChild(release(asked.filter((shard) => !answer.value.includes(shard))))
      return
    }
    healthy = false
    held.clear()
  })

  const recover = Effect.gen(function*() {
    yield* storage.refresh(a, []).pipe(Effect.timeout(interval))
    yield* storage.releaseAll(a)
    healthy = true
  }).pipe(Effect.ignore)

  const refreshOrRecover = Effect.suspend(() => healthy ? refresh : recover)
  /** Beside everything else, as its answers are believed until the next ones. */
  const refreshing = Effect.repeat(refreshOrRecover, Schedule.fixed(interval))

  const takePart = Effect.gen(function*() {
    const runners = yield* storage.getRunners
    if (!runners.some(([runner]) => runner.address.port === a.port)) yield* storage.register(runnerOf(1), true)
    const missing = wanted.filter((shard) => !held.has(String(shard)))
    if (!healthy || missing.length === 0) return
    const taken = yield* truthful(storage.acquire(a, missing))
    for (const shard of healthy ? taken : []) held.set(String(shard), shard)
  }).pipe(Effect.timeout(interval), Effect.ignore)

  const stop = Effect.gen(function*() {
    held.clear()
    yield* Effect.ignore(storage.releaseAll(a))
    yield* Effect.ignore(storage.unregister(a))
  })

  /** What runs on the shards that it believes to hold. */
  const work = Effect.sync(() => {
    for (const shard of held.values()) told(shard, "at work")
  }).pipe(Effect.repeat(Schedule.spaced("100 millis")))

  return { held, refresh, refreshOrRecover, refreshing, takePart, release, stop, work }
}

const rest = Effect.sleep(interval)

describe("the storage of a runner whose lease is, at any step,", () => {
  for (const how of ["revoked", "with its keys deleted", "cut off", "without answers", "without renewals"] as const) {
    const isByHand = how === "revoked" || how === "with its keys deleted"
    it.effect(
      `${how}: nothing is told that is not true, all is taken again, and nothing stays`,
      () =>
        Effect.gen(function*() {
          const steps = yield* actAtEveryStep({
            setup: makeScenario,
            act: ({ loss }) => loss[how](),
            run: (scenario) =>
              Effect.gen(function*() {
                const sharding = makeSharding(
                  scenario.one.storage,
                  (shard, when) => isInStore(scenario, shard) || scenario.lies.push(`${shard} ${when}`),
                  () => scenario.lost
                )
                yield* Effect.forkChild(sharding.refreshing)
                // Of a loss by somebody's hand it is told by the next refresh.
                if (!isByHand) yield* Effect.forkChild(sharding.work)
                yield* sharding.takePart
                yield* sharding.release(wanted.slice(0, 1))
                yield* rest
                yield* sharding.takePart
                // Who is cut off goes on believing until he is told.
                if (isByHand) yield* sharding.stop
                return sharding
              }),
            tick: "250 millis",
            // There are thousands of steps, several between any two things that a storage does.
            every: 11,
            check: (scenario, exit, step) =>
              Effect.gen(function*() {
                const at = `${how}, step ${step}`
                const { one, other, world } = scenario
                const sharding = yield* exit
                assert.deepStrictEqual(scenario.lies, [], at)
                // It begins anew, whatever it was told before.
                const beside = yield* Effect.forEach(
                  [
                    sharding.refreshing,
                    Effect.forever(Effect.andThen(sharding.takePart, rest)),
                    ...isByHand ? [] : [sharding.work]
                  ],
                  (effect) => Effect.forkChild(effect)
                )
                const isBack = Effect.map(
                  world.operator.range({ prefix: "/cluster/runners/" }),
                  ({ count }) => count === 1 && sharding.held.size === wanted.length
                )
                for (let waited = 0; waited < (isByHand ? 500 : 2.5 * ttl) || !(yield* isBack); waited += 500) {
                  assert.isBelow(waited, 1.5 * ttl + 2 * ttl + 5000, at)
                  yield* TestClock.adjust(500)
                }
                yield* Fiber.interruptAll(beside)
                assert.deepStrictEqual(scenario.lies, [], at)
                for (const shard of wanted) assert.isTrue(isInStore(scenario, shard), at)
                yield* within("1 second", sharding.stop)
                assert.deepStrictEqual(names(yield* other.storage.acquire(b, wanted)), names(wanted), at)
                yield* Effect.forkChild(Effect.all([one.close, other.close], { discard: true }))
                yield* TestClock.adjust("1 second")
                assert.deepStrictEqual(yield* world.keys, [], at)
                yield* TestClock.adjust(3 * ttl)
                assert.strictEqual(world.store.snapshot().leases.size, 0, at)
              })
          })
          assert.isAbove(steps, 1000)
        }),
      480_000
    )
  }
})

for (const version of ["3.5", "3.4"] as const) {
  describe(`the storage of a runner on etcd ${version}`, () => {
    it.live(
      "all is taken again, around whichever of its requests all leases are revoked, and nothing stays",
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const etcd = yield* connect({ endpoints: server.endpoint })
          const revokeAll = Effect.gen(function*() {
            const list = yield* server.etcdctl("lease", "list")
            for (const id of list.split("\n").slice(1).filter((line) => line !== "")) {
              yield* Effect.ignore(server.etcdctl("lease", "revoke", id))
            }
          }).pipe(Effect.orDie)
          const places = yield* actAtEveryRequest(etcd, revokeAll, (port, place, end) =>
            Effect.scoped(Effect.gen(function*() {
              const prefix = `/cluster/${place}`
              const storage = yield* EtcdRunnerStorage.make({ prefix }).pipe(Effect.provideService(Etcd, port))
              const sharding = makeSharding(storage)
              yield* sharding.takePart
              yield* sharding.refresh
              yield* sharding.release(wanted.slice(0, 1))
              yield* sharding.takePart
              yield* sharding.refreshOrRecover
              yield* end
              // What is lost is known by the next refresh, and taken by the round after it.
              for (let rounds = 0; rounds < 3; rounds++) {
                yield* sharding.refreshOrRecover
                yield* sharding.takePart
              }
              const { kvs } = yield* etcd.range({ prefix: `${prefix}/shards/` })
              const { kvs: [runner] } = yield* etcd.range({ prefix: `${prefix}/runners/` })
              assert.strictEqual(kvs.length, wanted.length, `place ${place}`)
              assert.strictEqual(sharding.held.size, wanted.length, `place ${place}`)
              assert.isTrue(
                kvs.every((kv) =>
                  kv.lease !== 0n && kv.lease === runner?.lease
                ),
                `place ${place}`
              )
              yield* sharding.stop
              assert.strictEqual((yield* etcd.range({ prefix: `${prefix}/shards/` })).count, 0)
            })).pipe(Effect.provideService(ShardingConfig.ShardingConfig, {
              ...ShardingConfig.defaults,
              shardLockExpiration: ttl,
              shardLockRefreshInterval: interval
            })))
          assert.isAbove(places, 12)
          assert.strictEqual((yield* etcd.range({ prefix: "/cluster/" })).count, 0)
          assert.strictEqual((yield* server.etcdctl("lease", "list")).trim(), "found 0 leases")
        }).pipe(Effect.provideService(References.MinimumLogLevel, "None")),
      120_000
    )
  })
}
