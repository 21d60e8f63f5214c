/**
 * An etcd inside this process, for development and tests: no server, nothing kept on disk, and time is Effect's clock, so that
 * `TestClock` decides when leases run out.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { InvalidOption } from "./Errors.ts"
import { Etcd, Operation } from "./Etcd.ts"
import { EtcdError, type EtcdErrorReason } from "./EtcdError.ts"
import type { EtcdOptions } from "./EtcdOptions.ts"
import { makeEtcd } from "./internal/client/Client.ts"
import { makeSettings } from "./internal/etcd3/settings.ts"
import { expireLeases } from "./internal/memory/expiry.ts"
import { type Snapshot, Store, StoreId } from "./internal/memory/Store.ts"
import { makeTransport } from "./internal/memory/transport.ts"
import { layerServices, type Prefixes, type Services } from "./internal/services.ts"

/**
 * A store in this process, and what an operator can do to it.
 *
 * @category models
 * @since 0.1.0
 */
export interface EtcdMemoryStore {
  readonly [StoreId]: Store
  readonly revision: Effect.Effect<bigint>
  /** Forgets the revisions before this one. Fails with `Compacted` when that has happened, with `InvalidArgument` for a future revision. */
  readonly compact: (revision: bigint) => Effect.Effect<void, EtcdError>
  /** Ends a lease, and deletes its keys in one revision. Fails with `LeaseNotFound`. */
  readonly revokeLease: (id: bigint) => Effect.Effect<void, EtcdError>
  readonly deleteKey: (key: string) => Effect.Effect<void, EtcdError>
  /** What a restarted server or a new leader does: every watch is cut, every lease begins anew with its full TTL. */
  readonly restart: Effect.Effect<void>
  readonly snapshot: Effect.Effect<EtcdMemorySnapshot>
  /** Goes back to an older state, as with a restored backup: revisions start again from there. Every watch is cut. */
  readonly restore: (snapshot: EtcdMemorySnapshot) => Effect.Effect<void>
}

/**
 * A state of a store.
 *
 * @category models
 * @since 0.1.0
 */
export interface EtcdMemorySnapshot {
  readonly [StoreId]: Snapshot
}

/**
 * @category options
 * @since 0.1.0
 */
export interface EtcdMemoryStoreOptions {
  /**
   * About how many revisions are kept; older ones are compacted, as with etcd's `--auto-compaction-mode=revision`. 10,000 unless said
   * otherwise; `Infinity`: all.
   */
  readonly retention?: number | undefined
}

const make = Effect.fnUntraced(function*(
  options: EtcdMemoryStoreOptions = {}
): Effect.fn.Return<EtcdMemoryStore, never, Scope.Scope> {
  const store = new Store(yield* Clock.Clock, options.retention ?? 10_000)
  yield* Effect.forkScoped(expireLeases(store))

  const operator = <A>(
    operation: string,
    answer: () => Result.Result<A, EtcdErrorReason>
  ): Effect.Effect<A, EtcdError> =>
    Effect.suspend(() => Effect.fromResult(answer())).pipe(
      Effect.mapError((reason) => new EtcdError({ operation, reason }))
    )

  return {
    [StoreId]: store,
    revision: Effect.sync(() => store.revision),
    compact: (revision) => operator("compact", () => store.compact(revision)),
    revokeLease: (id) => operator("revokeLease", () => store.leaseRevoke(id)),
    deleteKey: (key) => Effect.asVoid(operator("deleteKey", () => store.txn({ success: [Operation.delete(key)] }))),
    restart: Effect.sync(() => store.restart()),
    snapshot: Effect.sync(() => ({ [StoreId]: store.snapshot() })),
    restore: (snapshot) => Effect.sync(() => store.restore(snapshot[StoreId]))
  }
})

/**
 * What of `EtcdOptions` has a meaning without a network.
 *
 * @category options
 * @since 0.1.0
 */
export type EtcdMemoryOptions = Pick<
  EtcdOptions,
  "timeout" | "retry" | "namespace" | keyof Prefixes
>

const layerPort = (
  store: EtcdMemoryStore,
  options: EtcdMemoryOptions = {}
): Layer.Layer<Etcd, InvalidOption> =>
  Layer.effect(Etcd, Effect.flatMap(makeSettings(options), (settings) => makeEtcd(makeTransport(store), settings)))

/**
 * A client of a store: all services, and the port that they stand on. Several clients of one store are to each other what
 * processes are on a cluster.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { EtcdMemory, layerMemory, Lock } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const store = yield* EtcdMemory.make()
 *   const work = Effect.flatMap(Lock, (lock) => lock.withLock("job")(Effect.log("alone")))
 *   yield* Effect.all([
 *     Effect.provide(work, layerMemory(store)),
 *     Effect.provide(work, layerMemory(store))
 *   ], { concurrency: 2 })
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (
  store: EtcdMemoryStore,
  options: EtcdMemoryOptions = {}
): Layer.Layer<Etcd | Services, InvalidOption> =>
  layerServices(options).pipe(Layer.provideMerge(layerPort(store, options)))

const layer: Layer.Layer<Etcd | Services> = Layer.unwrap(Effect.map(make(), (store) => layerMemory(store))).pipe(
  // No option is given that could be invalid.
  Layer.orDie
)

/**
 * An etcd inside this process.
 *
 * - `layer`: all services on a store of their own.
 * - `make`: a store, for `layerMemory`, so that several clients share it.
 * - `layerPort`: a client of a store with the port alone.
 *
 * @category layers
 * @since 0.1.0
 */
export const EtcdMemory = { layer, make, layerPort }
