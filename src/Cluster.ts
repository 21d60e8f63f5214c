/**
 * Effect's cluster on etcd: `effect-coord/cluster`. Runners, machine ids and shards live on the leases of the runners: one that dies is gone
 * with its lease, and one that is cut off stops its entities before etcd gives its shards away.
 *
 * An entry point of its own, as Effect's module is unstable: it may change with it in a minor version.
 *
 * @stability unstable
 * @since 0.1.0
 */
import { PersistenceError } from "effect/cluster/ClusterError"
import * as MachineId from "effect/cluster/MachineId"
import type { RunnerAddress } from "effect/cluster/RunnerAddress"
import * as RunnerHealth from "effect/cluster/RunnerHealth"
import * as RunnerStorage from "effect/cluster/RunnerStorage"
import type { ShardId } from "effect/cluster/ShardId"
import { ShardingConfig } from "effect/cluster/ShardingConfig"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { InvalidOption } from "./Errors.ts"
import { Compare, Etcd, type KeyValue, Operation } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { addressText, runnerKey, runnersOf, shardKey } from "./internal/cluster/layout.ts"
import { encodeEntry, entryOf, makeRunner, type RunnerOfLease } from "./internal/cluster/Runner.ts"
import { measured } from "./internal/Telemetry.ts"
import { validatePrefix, validateTtl } from "./internal/validate.ts"

/**
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface EtcdClusterOptions {
  /** Where the cluster lives, `/cluster` unless said otherwise. Runners with another prefix are another cluster. */
  readonly prefix?: string | undefined
}

const prefixOf = (options: EtcdClusterOptions | undefined) => validatePrefix(options?.prefix ?? "/cluster", "prefix")

/**
 * A condition for transactions of an entity: that its runner still holds its shard when etcd applies them. What an entity writes into etcd
 * under it cannot come from a runner that has lost the shard and does not know.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Etcd, Operation } from "effect-coord"
 * import { shardHeldBy } from "effect-coord/cluster"
 * import { Entity } from "effect/cluster"
 *
 * const save = Effect.fn("save")(function*(value: string) {
 *   const { entityId, shardId } = yield* Entity.CurrentAddress
 *   const etcd = yield* Etcd
 *   const { succeeded } = yield* etcd.txn({
 *     compare: [shardHeldBy(shardId, yield* Entity.CurrentRunnerAddress)],
 *     success: [Operation.put(`/counters/${entityId}`, value)]
 *   })
 *   if (!succeeded) return yield* Effect.interrupt
 * })
 * ```
 *
 * @param prefix that of the storage, `/cluster` unless said otherwise.
 * @stability unstable
 * @category fencing
 * @since 0.1.0
 */
export const shardHeldBy = (shardId: ShardId, address: RunnerAddress, prefix = "/cluster"): Compare =>
  Compare.value(shardKey(prefix, shardId), "=", addressText(address))

// -----------------------------------------------------------------------------
// Runner storage
// -----------------------------------------------------------------------------

const toPersistenceError = (cause: unknown) => new PersistenceError({ cause })

/**
 * What Sharding waits for is bounded by the interval at which it asks, also where it cannot be interrupted. Nothing here is worth a span:
 * these are requests of the runtime, every few seconds.
 */
const operation =
  (name: string, bound?: Duration.Duration) =>
  <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, PersistenceError> =>
    (bound === undefined ? effect : Effect.timeout(Effect.interruptible(effect), bound)).pipe(
      measured(`RunnerStorage.${name}`),
      Effect.mapError(toPersistenceError),
      Effect.withTracerEnabled(false)
    )

/** How often a write of a health flag is tried again when somebody else was faster. */
const maxConflicts = 16

const setHealth = Effect.fnUntraced(function*(etcd: Etcd["Service"], key: string, healthy: boolean) {
  for (let tries = 0; tries < maxConflicts; tries++) {
    const kv: KeyValue | undefined = (yield* etcd.range({ key })).kvs[0]
    const entry = kv === undefined ? undefined : Option.getOrUndefined(entryOf(kv))
    if (kv === undefined || entry === undefined || entry.healthy === healthy) return
    const { succeeded } = yield* etcd.txn({
      compare: [Compare.modRevision(key, "=", kv.modRevision)],
      // It was decoded from it.
      success: [Operation.put(key, yield* Effect.orDie(encodeEntry({ ...entry, healthy })), { lease: kv.lease })]
    })
    if (succeeded) return
  }
}, (effect) =>
  // The runner went with its lease meanwhile.
  Effect.catchIf(effect, (error) => error.reason._tag === "LeaseNotFound", () => Effect.void))

const makeRunnerStorage = Effect.fnUntraced(function*(
  options?: EtcdClusterOptions
): Effect.fn.Return<RunnerStorage.RunnerStorage["Service"], InvalidOption, Etcd | ShardingConfig | Scope.Scope> {
  const etcd = yield* Etcd
  const config = yield* ShardingConfig
  const prefix = yield* prefixOf(options)
  const ttl = yield* validateTtl(config.shardLockExpiration, "shardLockExpiration")
  // As Sharding does it.
  const interval = Duration.min(
    Duration.fromInputUnsafe(config.shardLockRefreshInterval),
    Duration.divideUnsafe(Duration.fromInputUnsafe(config.shardLockExpiration), 3)
  )
  const scope = yield* Effect.scope
  const context: Context.Context<never> = yield* Effect.context<never>()
  const runners = new Map<string, RunnerOfLease>()

  const runnerOf = (address: RunnerAddress): RunnerOfLease => {
    const text = addressText(address)
    const found = runners.get(text) ??
      makeRunner({ etcd, prefix, runner: address, ttl, interval, scope, context })
    runners.set(text, found)
    return found
  }

  const decode = (kv: KeyValue) => {
    if (runners.get(kv.key.slice(runnersOf(prefix).length))?.isOutdatedUnsafe() === true) return Effect.succeed([])
    const entry = entryOf(kv)
    return Option.isSome(entry)
      ? Effect.succeed([[entry.value.runner, entry.value.healthy] as const])
      : Effect.as(Effect.annotateLogs(Effect.logWarning("not the entry of a runner: skipped"), { key: kv.key }), [])
  }

  return RunnerStorage.RunnerStorage.of({
    register: (runner, healthy) =>
      Effect.map(runnerOf(runner.address).register(runner, healthy), MachineId.make).pipe(operation("register")),
    unregister: (address) => Effect.suspend(() => runnerOf(address).unregister).pipe(operation("unregister", interval)),
    getRunners: Effect.flatMap(etcd.range({ prefix: runnersOf(prefix) }), ({ kvs }) => Effect.forEach(kvs, decode))
      .pipe(
        Effect.map((entries) => entries.flat()),
        operation("getRunners")
      ),
    setRunnerHealth: (address, healthy) =>
      setHealth(etcd, runnerKey(prefix, address), healthy).pipe(operation("setRunnerHealth")),
    acquire: (address, shardIds) =>
      Effect.suspend(() => runnerOf(address).shards.acquire([...shardIds])).pipe(operation("acquire", interval)),
    refresh: (address, shardIds) =>
      Effect.suspend(() => runnerOf(address).shards.refresh([...shardIds])).pipe(operation("refresh", interval)),
    release: (address, shardId) =>
      Effect.suspend(() => runnerOf(address).shards.release(shardId)).pipe(operation("release", interval)),
    releaseAll: (address) =>
      Effect.suspend(() => runnerOf(address).shards.releaseAll).pipe(operation("releaseAll", interval))
  })
})

/**
 * Effect's `RunnerStorage` on etcd: which runners there are, their machine ids, and who holds which shard. One lease for each runner, of the
 * TTL `shardLockExpiration` (in whole seconds, rounded up). Keys `<prefix>/runners/<host:port>`, `<prefix>/machines/<n>` and
 * `<prefix>/shards/<group>/<n>`.
 *
 * The `cause` of a `PersistenceError` is the `EtcdError`, or why the lease was lost.
 *
 * **Example**
 *
 * ```ts
 * import { Layer } from "effect"
 * import { EtcdLive } from "effect-coord"
 * import { EtcdRunnerHealth, EtcdRunnerStorage } from "effect-coord/cluster"
 *
 * const storage = Layer.mergeAll(EtcdRunnerStorage.layer(), EtcdRunnerHealth.layer()).pipe(Layer.provide(EtcdLive))
 * ```
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const EtcdRunnerStorage = {
  make: makeRunnerStorage,
  layer: (
    options?: EtcdClusterOptions
  ): Layer.Layer<RunnerStorage.RunnerStorage, InvalidOption, Etcd | ShardingConfig> =>
    Layer.effect(RunnerStorage.RunnerStorage, makeRunnerStorage(options))
}

// -----------------------------------------------------------------------------
// Runner health
// -----------------------------------------------------------------------------

const makeRunnerHealth = Effect.fnUntraced(function*(
  options?: EtcdClusterOptions
): Effect.fn.Return<RunnerHealth.RunnerHealth["Service"], InvalidOption, Etcd> {
  const etcd = yield* Etcd
  const prefix = yield* prefixOf(options)
  const alive = (error: EtcdError) =>
    Effect.as(Effect.logDebug("not known whether a runner is alive: taken for alive", error), true)
  return RunnerHealth.RunnerHealth.of({
    isAlive: (address) =>
      etcd.range({ key: runnerKey(prefix, address), keysOnly: true }).pipe(
        Effect.map(({ kvs: [kv] }) => kv !== undefined && kv.lease !== 0n),
        Effect.catch(alive),
        Effect.withTracerEnabled(false)
      )
  })
})

/**
 * Effect's `RunnerHealth`: a runner is alive while its entry is in etcd on its lease. For runners of `EtcdRunnerStorage` with the same
 * prefix. Nobody is taken for dead because etcd does not answer.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const EtcdRunnerHealth = {
  make: makeRunnerHealth,
  layer: (options?: EtcdClusterOptions): Layer.Layer<RunnerHealth.RunnerHealth, InvalidOption, Etcd> =>
    Layer.effect(RunnerHealth.RunnerHealth, makeRunnerHealth(options))
}
