/**
 * The port: the few etcd operations that locks, registrations and configuration are built from.
 *
 * `Lock`, `Registry` and `ConfigCenter` know etcd only through this service, so they run unchanged on a real
 * cluster (`EtcdLive`) and on the in-process one (`EtcdMemory`).
 *
 * Revisions and lease ids are `bigint`. A key is a `string`: bytes that are not UTF-8 are carried as the lone
 * surrogates U+DC80..U+DCFF (as in PEP 383), so that every key of a shared cluster survives the round trip. Values are
 * `Uint8Array`; a `string` given as a value is sent as UTF-8.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"
import type * as Stream from "effect/Stream"
import type { EtcdError } from "./EtcdError.ts"

// -----------------------------------------------------------------------------
// Keys
// -----------------------------------------------------------------------------

/**
 * One key, all keys that start with a prefix (`""`: every key), or the keys from `from` (inclusive) up to `to`
 * (exclusive) in the order of their bytes.
 *
 * @category models
 * @since 0.1.0
 */
export type KeyRange =
  | { readonly key: string }
  | { readonly prefix: string }
  | { readonly from: string; readonly to: string }

/**
 * A key with its value and the revisions that etcd keeps for it. `lease` is `0n` for a key without a lease.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyValue {
  readonly key: string
  readonly value: Uint8Array
  /** The revision at which the key was created: a key that is deleted and put again has a greater one. */
  readonly createRevision: bigint
  /** The revision of the last put. */
  readonly modRevision: bigint
  /** The number of puts since the key was created, from 1. */
  readonly version: bigint
  readonly lease: bigint
}

// -----------------------------------------------------------------------------
// Range
// -----------------------------------------------------------------------------

/**
 * Reads keys at one revision. Linearizable.
 *
 * @category models
 * @since 0.1.0
 */
export type RangeRequest = KeyRange & {
  /** The greatest number of keys to return; absent: all. */
  readonly limit?: number | undefined
  /** Ascending by key unless said otherwise. */
  readonly sort?: { readonly by: "key" | "create" | "mod"; readonly order: "ascend" | "descend" } | undefined
  /** Leaves the values empty. */
  readonly keysOnly?: boolean | undefined
  /** Returns the count alone. */
  readonly countOnly?: boolean | undefined
  /** Reads the past; fails with `Compacted` when it is gone. */
  readonly atRevision?: bigint | undefined
  /** Only keys whose create revision is at most this. */
  readonly maxCreateRevision?: bigint | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface RangeResult {
  /** The store's revision when it answered (inside a nested transaction etcd says 0). */
  readonly revision: bigint
  readonly kvs: ReadonlyArray<KeyValue>
  /** The number of keys in the range, whatever the limit. */
  readonly count: number
  /** The limit cut the result short. */
  readonly more: boolean
}

// -----------------------------------------------------------------------------
// Transactions
// -----------------------------------------------------------------------------

/**
 * A condition of a transaction. Over a range it must hold for every key in it; a key that does not exist has
 * revisions, version and lease `0n`, and no value (a compare of its value is false).
 *
 * @category models
 * @since 0.1.0
 */
export type Compare =
  & KeyRange
  & { readonly op: "=" | "!=" | "<" | ">" }
  & (
    | { readonly target: "version" | "createRevision" | "modRevision" | "lease"; readonly value: bigint }
    | { readonly target: "value"; readonly value: string | Uint8Array }
  )

/**
 * @category models
 * @since 0.1.0
 */
export type Operation = PutOperation | DeleteOperation | RangeOperation | TxnOperation

/**
 * @category models
 * @since 0.1.0
 */
export interface PutOperation {
  readonly _tag: "Put"
  readonly key: string
  readonly value: string | Uint8Array
  /** The lease that the key lives on; absent: none. */
  readonly lease?: bigint | undefined
  /** Asks for the replaced key. */
  readonly previousKv?: boolean | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export type DeleteOperation = KeyRange & {
  readonly _tag: "Delete"
  /** Asks for the deleted keys. */
  readonly previousKv?: boolean | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export type RangeOperation = RangeRequest & { readonly _tag: "Range" }

/**
 * @category models
 * @since 0.1.0
 */
export interface TxnOperation extends TxnRequest {
  readonly _tag: "Txn"
}

/**
 * Runs `success` when all compares hold, otherwise `failure`, atomically. All compares, those of nested transactions
 * too, see the store before the transaction; ranges see the puts and deletes before them in the same transaction.
 *
 * @category models
 * @since 0.1.0
 */
export interface TxnRequest {
  readonly compare?: ReadonlyArray<Compare> | undefined
  readonly success?: ReadonlyArray<Operation> | undefined
  readonly failure?: ReadonlyArray<Operation> | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface TxnResult {
  /** The store's revision after the transaction: that of its writes if it wrote. */
  readonly revision: bigint
  readonly succeeded: boolean
  /** One result for each operation of the branch that ran, in order. */
  readonly responses: ReadonlyArray<OperationResult>
}

/**
 * @category models
 * @since 0.1.0
 */
export type OperationResult =
  | { readonly _tag: "Put"; readonly previous: KeyValue | undefined }
  | { readonly _tag: "Delete"; readonly deleted: number; readonly previous: ReadonlyArray<KeyValue> }
  | { readonly _tag: "Range" } & RangeResult
  | { readonly _tag: "Txn"; readonly succeeded: boolean; readonly responses: ReadonlyArray<OperationResult> }

const compare =
  (target: "version" | "createRevision" | "modRevision" | "lease") =>
  (range: string | KeyRange, op: Compare["op"], value: bigint): Compare =>
    typeof range === "string" ? { key: range, target, op, value } : { ...range, target, op, value }

const toRange = (range: string | KeyRange): KeyRange => typeof range === "string" ? { key: range } : range

/**
 * Constructors of compares; a `string` names one key.
 *
 * **Example**
 *
 * ```ts
 * import { Compare } from "effect-coord"
 *
 * const absent = Compare.createRevision("/config/app", "=", 0n)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Compare = {
  version: compare("version"),
  createRevision: compare("createRevision"),
  modRevision: compare("modRevision"),
  lease: compare("lease"),
  value: (range: string | KeyRange, op: Compare["op"], value: string | Uint8Array): Compare => ({
    ...toRange(range),
    target: "value",
    op,
    value
  })
}

/**
 * Constructors of the operations of a transaction; a `string` names one key.
 *
 * @category constructors
 * @since 0.1.0
 */
export const Operation = {
  put: (
    key: string,
    value: string | Uint8Array,
    options?: { readonly lease?: bigint | undefined; readonly previousKv?: boolean | undefined }
  ): PutOperation => options === undefined ? { _tag: "Put", key, value } : { _tag: "Put", key, value, ...options },
  delete: (
    range: string | KeyRange,
    options?: { readonly previousKv?: boolean | undefined }
  ): DeleteOperation =>
    typeof range === "string" && options === undefined
      ? { _tag: "Delete", key: range }
      : { _tag: "Delete", ...toRange(range), ...options },
  range: (request: string | RangeRequest): RangeOperation => ({
    _tag: "Range",
    ...(typeof request === "string" ? { key: request } : request)
  }),
  txn: (request: TxnRequest): TxnOperation => ({ _tag: "Txn", ...request })
}

// -----------------------------------------------------------------------------
// Leases
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface Lease {
  readonly id: bigint
  /** What the server granted: at least what was asked for, in whole seconds. */
  readonly ttl: Duration.Duration
  /**
   * Until when the server keeps the lease at least, in nanoseconds of `Clock.monotonicTimeNanos`: the time at which the
   * answered request was sent, plus `ttl`.
   */
  readonly deadline: bigint
}

/**
 * @category models
 * @since 0.1.0
 */
export interface LeaseStatus {
  readonly remaining: Duration.Duration
  /** The keys that live on the lease. */
  readonly keys: ReadonlyArray<string>
  /** Of the store, as far as the member that was asked knows it: others may be ahead of it. */
  readonly revision: bigint
}

// -----------------------------------------------------------------------------
// Watches
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export type WatchRequest = KeyRange & {
  /**
   * The first revision to deliver. Such a watch survives reconnects and delivers every revision from it exactly once
   * and in order; where etcd has compacted it, or the one before it, it fails with `Compacted`. Without it the watch starts at an unspecified revision about now, is never resumed, and ends when it is cut.
   */
  readonly startRevision?: bigint | undefined
  /** Asks for the value before each event. It can be missing after a compaction. */
  readonly previousKv?: boolean | undefined
  /**
   * Leaves out the events of one kind (etcd's `filters`): nobody is woken for what he does not wait for. A watch with a start goes on after the
   * last revision that it has told: where only such events came since, and are compacted, it fails with `Compacted` once it has been cut.
   */
  readonly without?: WatchEvent["_tag"] | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export type WatchEvent =
  | { readonly _tag: "Put"; readonly kv: KeyValue; readonly previous: KeyValue | undefined }
  | {
    readonly _tag: "Delete"
    readonly key: string
    readonly modRevision: bigint
    readonly previous: KeyValue | undefined
  }

/**
 * `Opened` each time that the server confirms the watch, with the store's revision then; `Batch` for all the events of
 * one revision.
 *
 * @category models
 * @since 0.1.0
 */
export type WatchItem =
  | { readonly _tag: "Opened"; readonly revision: bigint }
  | { readonly _tag: "Batch"; readonly revision: bigint; readonly events: ReadonlyArray<WatchEvent> }

// -----------------------------------------------------------------------------
// Health
// -----------------------------------------------------------------------------

/**
 * What one endpoint says of itself, or why nothing is known of it: it does not answer, or this user may not ask (with authentication
 * only root may, from etcd 3.4.42 and 3.5.28 on: `PermissionDenied`).
 *
 * @category models
 * @since 0.1.0
 */
export type MemberHealth =
  | {
    readonly _tag: "Known"
    readonly endpoint: string
    readonly id: bigint
    /** Of the server, such as `3.5.30`. */
    readonly version: string
    /** The member that it follows; `0n` while it knows of none. It leads itself when that is its own id. */
    readonly leader: bigint
    /** It does not vote yet, and serves no linearizable reads. */
    readonly isLearner: boolean
    readonly raftTerm: bigint
    readonly raftIndex: bigint
    /** The size of the database file, in bytes; the quota counts this one. */
    readonly dbSize: number
    /** Of these, the bytes that are in use: the rest is given back by a defragmentation. */
    readonly dbSizeInUse: number
    /** What it complains of, in its own words; alarms are among it. */
    readonly errors: ReadonlyArray<string>
    readonly latency: Duration.Duration
  }
  | { readonly _tag: "Unknown"; readonly endpoint: string; readonly error: EtcdError }

/**
 * An alarm that a member has raised: `NOSPACE` (the quota is used up, and writes are refused until space is made and the
 * alarm disarmed) or `CORRUPT` (its data differ from those of the others).
 *
 * @category models
 * @since 0.1.0
 */
export interface Alarm {
  readonly member: bigint
  readonly alarm: string
}

/**
 * A cluster that has answered a linearizable read: a majority of it follows one leader.
 *
 * @category models
 * @since 0.1.0
 */
export interface Health {
  /** Of that read. */
  readonly latency: Duration.Duration
  /** The revision of the store then; `undefined` where the user may not read in the namespace. */
  readonly revision: bigint | undefined
  /** As the members say it, those of the latest term; `undefined` when none that answers knows. */
  readonly leader: bigint | undefined
  readonly alarms: ReadonlyArray<Alarm>
  /** One for each of the option `endpoints`, in their order. */
  readonly members: ReadonlyArray<MemberHealth>
}

// -----------------------------------------------------------------------------
// The service
// -----------------------------------------------------------------------------

/**
 * The operations of etcd that the services are built from.
 *
 * - Reads are linearizable and retried by the retry schedule while etcd is `Unavailable`.
 * - A write is sent again only where the failure proves that it never left the process. Otherwise it fails with
 *   `Ambiguous`: it may have been applied, *or may still be*; that it is not visible yet proves nothing.
 * - Every request has a deadline (the `timeout` option) and is cancelled on the wire when its fiber is interrupted.
 *
 * @category services
 * @since 0.1.0
 */
export class Etcd extends Context.Service<Etcd, {
  readonly range: (request: RangeRequest) => Effect.Effect<RangeResult, EtcdError>
  readonly txn: (request: TxnRequest) => Effect.Effect<TxnResult, EtcdError>
  /** Grants a lease of at least `ttl`, a whole number of seconds. The client chooses the id, so that a lost answer is asked for again. */
  readonly leaseGrant: (ttl: Duration.Duration) => Effect.Effect<Lease, EtcdError>
  /** One beat: answers the new time to live, counted from when this effect was started; `LeaseNotFound` when it is gone. */
  readonly leaseKeepAlive: (id: bigint) => Effect.Effect<Duration.Duration, EtcdError>
  /** Deletes the keys on it as well; `LeaseNotFound` when it was gone before. */
  readonly leaseRevoke: (id: bigint) => Effect.Effect<void, EtcdError>
  readonly leaseTimeToLive: (id: bigint) => Effect.Effect<LeaseStatus, EtcdError>
  readonly watch: (request: WatchRequest) => Stream.Stream<WatchItem, EtcdError>
  /**
   * Whether the cluster serves, and what its members say: for readiness probes and for operators. Fails when a linearizable read
   * does, which is retried like all reads. A member that does not answer fails nothing: see `members`.
   */
  readonly health: Effect.Effect<Health, EtcdError>
  /** Of the options: what the services need to repeat and to bound what they do. */
  readonly settings: EtcdSettings
}>()("effect-coord/Etcd") {}

/**
 * @category models
 * @since 0.1.0
 */
export interface EtcdSettings {
  /** When to try again, and how often at most. */
  readonly retry: Schedule.Schedule<unknown>
  /** The bound of one request. */
  readonly timeout: Duration.Duration
}
