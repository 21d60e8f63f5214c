/**
 * Read-write locks across processes: many readers or one writer, first come first served.
 *
 * The layout is `/rwlocks/<name>/read/<lease in hex>-<number>` and `.../write/...`, in the order of the create revisions: a reader waits for the
 * writers before it, a writer for everybody before it. So a writer that waits lets no later reader pass, and nobody waits for ever.
 * A lock is as good as its lease: see `Lock`.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type { InvalidKey, InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { KeyValue, TxnRequest, TxnResult } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { isEntryOf } from "./internal/lock/entry.ts"
import { entriesOf, type Line } from "./internal/lock/line.ts"
import { makeLocalQueue } from "./internal/lock/LocalQueue.ts"
import { makePasses } from "./internal/lock/passes.ts"
import * as Telemetry from "./internal/Telemetry.ts"
import { validateKey, validatePrefix, validateTtl } from "./internal/validate.ts"

// -----------------------------------------------------------------------------
// Models and errors
// -----------------------------------------------------------------------------

const Mode = Schema.Literals(["read", "write"])

/**
 * @category models
 * @since 0.1.0
 */
export type ReadWriteMode = typeof Mode.Type

/**
 * Somebody in the line of a read-write lock.
 *
 * @category models
 * @since 0.1.0
 */
export class ReadWriteEntry extends Schema.Class<ReadWriteEntry>("effect-coord/ReadWriteEntry")({
  mode: Mode,
  /** The key in etcd. */
  entryKey: Schema.String,
  /** `0n`: a key without a lease, which stays until somebody deletes it. */
  leaseId: Schema.BigInt,
  fencingToken: Schema.BigInt,
  /** What the entry says of itself. */
  label: Schema.String,
  /** Whether it holds the lock; otherwise it waits. */
  holds: Schema.Boolean
}) {}

/**
 * A `try` found the lock taken, or somebody waiting who comes first. `holder` is the first who is in the way.
 *
 * @category errors
 * @since 0.1.0
 */
export class ReadWriteLockHeld extends Schema.TaggedError<ReadWriteLockHeld>()("ReadWriteLockHeld", {
  name: Schema.String,
  mode: Mode,
  holder: Schema.optionalKey(ReadWriteEntry)
}) {
  override get message(): string {
    const { holder, mode, name } = this
    const by = holder === undefined
      ? ""
      : `: ${holder.mode} by lease ${holder.leaseId.toString(16)}${holder.label === "" ? "" : ` (${holder.label})`}`
    return `read-write lock ${JSON.stringify(name)} is not free to ${mode}${by}`
  }
}

/**
 * The lock is no longer held. `Expired`: the lease was not renewed in time, by the local clock. `Revoked`: etcd no longer knows the lease.
 * `Deleted`: somebody deleted the key. `Closed`: the layer was closed. `Released`: the handle was used after its release.
 *
 * @category errors
 * @since 0.1.0
 */
export class ReadWriteLockLost extends Schema.TaggedError<ReadWriteLockLost>()("ReadWriteLockLost", {
  name: Schema.String,
  mode: Mode,
  fencingToken: Schema.BigInt,
  why: Schema.Literals(["Expired", "Revoked", "Deleted", "Closed", "Released"])
}) {
  override get message(): string {
    return `read-write lock ${
      JSON.stringify(this.name)
    } (${this.mode}, token ${this.fencingToken}) is no longer held: ${this.why}`
  }
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ReadWriteLockOptions {
  /**
   * For how long the lock outlives its process, 15 seconds by default; whole seconds, rounded up, at least one. It is renewed every third of it.
   */
  readonly ttl?: Duration.Input | undefined
  /** Shown to others by `entries` and `ReadWriteLockHeld`. */
  readonly label?: string | undefined
}

/**
 * A read-write lock that is held, to read or to write.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReadWriteHandle {
  readonly name: string
  readonly mode: ReadWriteMode
  /** The entry in etcd, without the namespace: a transaction that compares its create revision with the token is fenced too. */
  readonly entryKey: string
  /** Greater for every later entry of this lock, in every process: etcd's create revision of the entry. */
  readonly fencingToken: bigint
  /** The TTL that the server granted: it can be longer than what was asked for. */
  readonly ttl: Effect.Effect<Duration.Duration, ReadWriteLockLost>
  /** For how long it is held for certain, if no renewal is answered from now on: time to stop what takes a while to stop. */
  readonly remaining: Effect.Effect<Duration.Duration, ReadWriteLockLost>
  /** Fails when the lock is lost; not when it is released. */
  readonly lost: Effect.Effect<never, ReadWriteLockLost>
  /** Fails unless the lock is held, judged by the clock now: right also after the process was stopped for a while. */
  readonly assertHeld: Effect.Effect<void, ReadWriteLockLost>
  /** Runs the effect while the lock is held: interrupts it when the lock is lost, and fails when it was lost at its end. */
  readonly guard: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | ReadWriteLockLost, R>
  /**
   * Commits the transaction only if the lock is still held when etcd applies it. A compare of the transaction itself that fails is an answer
   * (`succeeded: false`), not a loss. Writes to keys of read-write locks are refused.
   */
  readonly fenced: (txn: TxnRequest) => Effect.Effect<TxnResult, ReadWriteLockLost | EtcdError>
  /**
   * Releases the lock; again, or after a loss, it does nothing. Fails when etcd did not answer within the request timeout: it is then
   * repeated in the background until it is answered or the lease has ended.
   */
  readonly release: Effect.Effect<void, EtcdError>
}

// -----------------------------------------------------------------------------
// Service
// -----------------------------------------------------------------------------

type Take<E = never> = (
  name: string,
  options?: ReadWriteLockOptions
) => Effect.Effect<ReadWriteHandle, E | InvalidKey | InvalidOption | EtcdError, Scope.Scope>

type With = (
  name: string,
  options?: ReadWriteLockOptions
) => <A, E, R>(
  use: Effect.Effect<A, E, R> | ((handle: ReadWriteHandle) => Effect.Effect<A, E, R>)
) => Effect.Effect<A, E | ReadWriteLockLost | InvalidKey | InvalidOption | EtcdError, R>

/**
 * Read-write locks across processes.
 *
 * They are not re-entrant, and a reader cannot become a writer: whoever holds one and waits for another of the same name waits for ever,
 * but for a reader that reads again while no writer waits.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { ReadWriteLock } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const lock = yield* ReadWriteLock
 *   yield* lock.withReadLock("catalog")(Effect.log("with other readers"))
 *   yield* lock.withWriteLock("catalog")((handle) => Effect.log(`alone, token ${handle.fencingToken}`))
 * })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class ReadWriteLock extends Context.Service<ReadWriteLock, {
  /**
   * Waits for the writers before it and holds the lock until the scope closes. Interrupted or timed out, it leaves nothing behind. Fails
   * with `EtcdError` when etcd cannot be reached (the retry schedule is used up) before it is in line; from then on it waits.
   */
  readonly readLock: Take
  /** The same to write: waits for all before it. */
  readonly writeLock: Take
  /** Takes the lock to read if no writer has it or waits for it, and answers at once with `ReadWriteLockHeld` if not. */
  readonly tryReadLock: Take<ReadWriteLockHeld>
  /** Takes the lock to write if nobody has it or waits for it, and answers at once with `ReadWriteLockHeld` if not. */
  readonly tryWriteLock: Take<ReadWriteLockHeld>
  /**
   * Runs an effect while holding the lock to read. When it is lost the effect is interrupted and the result is `ReadWriteLockLost`, also when the
   * effect ended just after the loss. An error of the effect is never masked.
   */
  readonly withReadLock: With
  readonly withWriteLock: With
  /** Those who hold the lock and those who wait, in order. */
  readonly entries: (name: string) => Effect.Effect<ReadonlyArray<ReadWriteEntry>, InvalidKey | EtcdError>
}>()("effect-coord/ReadWriteLock") {
  /**
   * Read-write locks over the etcd of the context, with entries below `prefix` (`/rwlocks`).
   *
   * @since 0.1.0
   */
  static readonly layer = (
    options?: { readonly prefix?: string | undefined }
  ): Layer.Layer<ReadWriteLock, InvalidOption, Etcd> => Layer.effect(ReadWriteLock, make(options?.prefix ?? "/rwlocks"))
}

const defaultTtl = Duration.seconds(15)

const isOf = (path: string, mode: ReadWriteMode, key: string): boolean =>
  key.startsWith(`${path}${mode}/`) && isEntryOf(`${path}${mode}/`, key)

const isEntry = (path: string, key: string): boolean => isOf(path, "read", key) || isOf(path, "write", key)

const lineOf = (path: string, mode: ReadWriteMode): Line =>
  mode === "write"
    ? { path, counts: (key) => isEntry(path, key), admits: (ahead) => ahead.length === 0 }
    : {
      path: `${path}write/`,
      counts: (key) => isOf(path, "write", key),
      admits: (ahead) => ahead.length === 0
    }

const modeOf = (path: string, key: string): ReadWriteMode => isOf(path, "write", key) ? "write" : "read"

const entryOf = (path: string, kv: KeyValue, holds: boolean): ReadWriteEntry =>
  new ReadWriteEntry({
    mode: modeOf(path, kv.key),
    entryKey: kv.key,
    leaseId: kv.lease,
    fencingToken: kv.createRevision,
    label: new TextDecoder().decode(kv.value),
    holds
  })

const make = Effect.fnUntraced(function*(
  prefixOption: string
): Effect.fn.Return<ReadWriteLock["Service"], InvalidOption, Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const prefix = yield* validatePrefix(prefixOption, "readWriteLockPrefix")
  const queue = makeLocalQueue()
  const pass = yield* makePasses(etcd, { service: "ReadWriteLock", prefix, what: "read-write locks" })
  const pathOf = (name: string) => Effect.map(validateKey(name), (key) => `${prefix}/${key}/`)

  const take = Effect.fnUntraced(function*<E = never>(
    mode: ReadWriteMode,
    name: string,
    options: ReadWriteLockOptions | undefined,
    refuse?: (holder: ReadWriteEntry | undefined) => E
  ) {
    yield* Effect.annotateCurrentSpan({ "coord.key": name })
    const path = yield* pathOf(name)
    const held = yield* pass({
      key: name,
      ttl: options?.ttl === undefined ? defaultTtl : yield* validateTtl(options.ttl),
      line: lineOf(path, mode),
      folder: `${path}${mode}/`,
      value: options?.label ?? "",
      // Of the writers of this process one waits in etcd.
      turn: mode === "write" && refuse === undefined ? queue.turn(path) : undefined,
      refuse: refuse &&
        (([first]) => refuse(first && entryOf(path, first, true))),
      lossOf: (fencingToken, why) => new ReadWriteLockLost({ name, mode, fencingToken, why })
    })
    return { name, mode, ...held } satisfies ReadWriteHandle
  })

  const waiting = (mode: ReadWriteMode, operation: string): Take =>
    Effect.fn(operation)(function*(name, options) {
      return yield* take(mode, name, options)
    }, Telemetry.measured(operation))

  const trying = (mode: ReadWriteMode, operation: string): Take<ReadWriteLockHeld> =>
    Effect.fn(operation)(function*(name, options) {
      return yield* take(
        mode,
        name,
        options,
        (holder) => new ReadWriteLockHeld({ name, mode, ...holder !== undefined && { holder } })
      )
    }, Telemetry.measured(operation))

  const holding = (lock: Take, operation: string): With => (name, options) => (use) =>
    // The scope is for the lock alone: one that `use` asks for is its caller's.
    Effect.scopedWith((scope) =>
      Effect.flatMap(
        Scope.provide(lock(name, options), scope),
        (handle) => handle.guard(Effect.isEffect(use) ? use : Effect.suspend(() => use(handle)))
      )
    ).pipe(Effect.withSpan(operation, { attributes: { "coord.key": name } }))

  const entries: ReadWriteLock["Service"]["entries"] = Effect.fn("ReadWriteLock.entries")(function*(name) {
    yield* Effect.annotateCurrentSpan({ "coord.key": name })
    const path = yield* pathOf(name)
    const all = yield* entriesOf(etcd, lineOf(path, "write"))
    return all.map((kv, index) => {
      const line = lineOf(path, modeOf(path, kv.key))
      return entryOf(path, kv, line.admits(all.slice(0, index).filter(({ key }) => line.counts(key))))
    })
  }, Telemetry.measured("ReadWriteLock.entries"))

  const readLock = waiting("read", "ReadWriteLock.readLock")
  const writeLock = waiting("write", "ReadWriteLock.writeLock")
  return {
    readLock,
    writeLock,
    tryReadLock: trying("read", "ReadWriteLock.tryReadLock"),
    tryWriteLock: trying("write", "ReadWriteLock.tryWriteLock"),
    withReadLock: holding(readLock, "ReadWriteLock.withReadLock"),
    withWriteLock: holding(writeLock, "ReadWriteLock.withWriteLock"),
    entries
  }
})
