/**
 * What Sharding relies on, on every storage of runners: two processes on one store, each test with a prefix of its own.
 */
import { assert, layer } from "@effect/vitest"
import * as Runner from "effect/cluster/Runner"
import * as RunnerAddress from "effect/cluster/RunnerAddress"
import type { RunnerStorage } from "effect/cluster/RunnerStorage"
import * as ShardId from "effect/cluster/ShardId"
import * as ShardingConfig from "effect/cluster/ShardingConfig"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

type Storage = RunnerStorage["Service"]

export const config = {
  ...ShardingConfig.defaults,
  availableShardGroups: ["default", "a:b/c"],
  assignedShardGroups: ["default", "a:b/c"]
}

export const addressOf = (port: number) => RunnerAddress.make("10.0.0.1", port)

export const runnerOf = (port: number, weight = 1) =>
  Runner.make({ address: addressOf(port), groups: ["default"], weight })

export const shardsTo = (count: number, group = "default") =>
  Array.from({ length: count }, (_, index) => ShardId.make(group, index + 1))

export const names = (shards: ReadonlyArray<ShardId.ShardId>) => shards.map(String).toSorted()

const listed = (storage: Storage) =>
  Effect.map(
    storage.getRunners,
    (runners) =>
      runners.map(([runner, healthy]) => `${runner.address.port} ${runner.weight} ${healthy ? "healthy" : "unhealthy"}`)
        .toSorted()
  )

export const runnerStorageContract = <R>(
  name: string,
  store: Layer.Layer<R, unknown>,
  /** A process on it. */
  process: (test: number) => Effect.Effect<Storage, unknown, R | ShardingConfig.ShardingConfig | Scope.Scope>
): void =>
  layer(store, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    let tests = 0
    const [a, b] = [addressOf(1), addressOf(2)]

    const test = (title: string, body: (one: Storage, other: Storage) => Effect.Effect<void, unknown, Scope.Scope>) =>
      it.effect(title, () =>
        Effect.gen(function*() {
          const number = tests++
          yield* body(yield* process(number), yield* process(number))
        }).pipe(Effect.provideService(ShardingConfig.ShardingConfig, config)), 30_000)

    test("runners are listed with their health, everywhere, until they leave", (one, other) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* listed(one), [])
        yield* one.register(runnerOf(1, 3), true)
        yield* other.register(runnerOf(2), false)
        for (const storage of [one, other]) {
          assert.deepStrictEqual(yield* listed(storage), ["1 3 healthy", "2 1 unhealthy"])
        }
        yield* other.setRunnerHealth(a, false)
        yield* other.setRunnerHealth(b, true)
        yield* other.setRunnerHealth(addressOf(9), true)
        assert.deepStrictEqual(yield* listed(one), ["1 3 unhealthy", "2 1 healthy"])
        const [[runner] = []] = yield* one.getRunners
        assert.deepStrictEqual(runner, runner?.address.port === 1 ? runnerOf(1, 3) : runnerOf(2))
        yield* one.unregister(a)
        assert.deepStrictEqual(yield* listed(other), ["2 1 healthy"])
        yield* one.unregister(a)
        yield* one.register(runnerOf(1, 4), true)
        assert.deepStrictEqual(yield* listed(other), ["1 4 healthy", "2 1 healthy"])
      }))

    test("each runner has a machine id of its own, and keeps it", (one, other) =>
      Effect.gen(function*() {
        const first = yield* one.register(runnerOf(1), true)
        const second = yield* other.register(runnerOf(2), true)
        assert.notStrictEqual(first % 1024, second % 1024)
        assert.strictEqual(yield* one.register(runnerOf(1, 2), true), first)
      }))

    test("a shard is given to one runner, and to it again when it asks again", (one, other) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(names(yield* one.acquire(a, shardsTo(3))), ["default:1", "default:2", "default:3"])
        assert.deepStrictEqual(names(yield* other.acquire(b, shardsTo(5))), ["default:4", "default:5"])
        assert.deepStrictEqual(names(yield* one.acquire(a, shardsTo(4))), ["default:1", "default:2", "default:3"])
        assert.deepStrictEqual(yield* one.acquire(a, []), [])
      }))

    test("two that ask at once get each shard once", (one, other) =>
      Effect.gen(function*() {
        const [first, second] = yield* Effect.all([one.acquire(a, shardsTo(40)), other.acquire(b, shardsTo(40))], {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(names([...first, ...second]), names(shardsTo(40)))
      }))

    test("a refresh tells which of them are held, and takes none", (one, other) =>
      Effect.gen(function*() {
        yield* one.acquire(a, shardsTo(2))
        yield* other.acquire(b, [ShardId.make("default", 3)])
        assert.deepStrictEqual(names(yield* one.refresh(a, shardsTo(4))), ["default:1", "default:2"])
        assert.deepStrictEqual(yield* other.refresh(b, [ShardId.make("default", 4)]), [])
        assert.deepStrictEqual(names(yield* one.refresh(a, shardsTo(1))), ["default:1"])
        assert.deepStrictEqual(yield* one.refresh(a, []), [])
        assert.deepStrictEqual(names(yield* one.acquire(a, [ShardId.make("default", 4)])), ["default:4"])
      }))

    test("a shard is released by its owner alone", (one, other) =>
      Effect.gen(function*() {
        const [first] = [ShardId.make("default", 1)]
        yield* one.acquire(a, shardsTo(2))
        yield* other.release(b, first)
        yield* other.releaseAll(b)
        assert.deepStrictEqual(names(yield* one.refresh(a, shardsTo(2))), ["default:1", "default:2"])
        yield* one.release(a, first)
        assert.deepStrictEqual(names(yield* other.acquire(b, shardsTo(2))), ["default:1"])
        // Again: it is somebody else's by now.
        yield* one.release(a, first)
        assert.deepStrictEqual(names(yield* one.refresh(a, shardsTo(2))), ["default:2"])
        yield* one.releaseAll(a)
        assert.deepStrictEqual(names(yield* other.acquire(b, shardsTo(2))), ["default:1", "default:2"])
        assert.deepStrictEqual(names(yield* one.acquire(a, shardsTo(2))), [])
      }))

    test("groups are apart, whatever they are called", (one, other) =>
      Effect.gen(function*() {
        const both = [...shardsTo(2), ...shardsTo(2, "a:b/c")]
        yield* one.acquire(a, shardsTo(2))
        assert.deepStrictEqual(names(yield* other.acquire(b, both)), ["a:b/c:1", "a:b/c:2"])
        assert.deepStrictEqual(names(yield* other.refresh(b, both)), ["a:b/c:1", "a:b/c:2"])
      }))

    test("all shards of a big cluster are taken, told and given back at once", (one, other) =>
      Effect.gen(function*() {
        const all = shardsTo(300)
        assert.strictEqual((yield* one.acquire(a, all)).length, 300)
        assert.strictEqual((yield* one.refresh(a, all)).length, 300)
        assert.strictEqual((yield* other.acquire(b, all)).length, 0)
        yield* Effect.forEach(all.slice(0, 100), (shard) => one.release(a, shard), { concurrency: "unbounded" })
        assert.strictEqual((yield* one.refresh(a, all)).length, 200)
        yield* one.releaseAll(a)
        assert.deepStrictEqual(yield* one.refresh(a, all), [])
        assert.strictEqual((yield* other.acquire(b, all)).length, 300)
      }))
  })
