/**
 * Typed configuration values in etcd: read, write, compare and set, watch, and references that follow etcd by themselves.
 *
 * A value lives under `/config/<key>`. How it is written is decided by its schema alone: what can only be a string in JSON
 * as bare text, `RawBytes` as they are, everything else as JSON (`Schema.toCodecJson`). Go services that share the keys do the same.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { ConfigChange, ConfigChangeServices } from "./ConfigChange.ts"
import type {
  ConfigDecodeError,
  ConfigEncodeError,
  ConfigNotFound,
  TransactionConflict,
  VersionConflict
} from "./ConfigError.ts"
import { InvalidKey, type InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import * as codec from "./internal/config/codec.ts"
import type { Change } from "./internal/config/commit.ts"
import { makeEvents } from "./internal/config/events.ts"
import { makeHistory } from "./internal/config/history.ts"
import { makeLive } from "./internal/config/live.ts"
import { makeValues } from "./internal/config/values.ts"
import { makeSharedWatch } from "./internal/SharedWatch.ts"
import { measured, operation, streamSpan } from "./internal/Telemetry.ts"
import { keyRule, validateKey, validatePrefix } from "./internal/validate.ts"

// -----------------------------------------------------------------------------
// Values
// -----------------------------------------------------------------------------

/**
 * When a value was written: etcd's mod revision of the key. Greater for every later write, whoever does it.
 *
 * @category models
 * @since 0.1.0
 */
export type Version = bigint

/**
 * @category models
 * @since 0.1.0
 */
export interface Versioned<A> {
  readonly key: string
  readonly value: A
  readonly version: Version
}

/**
 * Bytes that are stored as they are, neither base64 nor JSON, also at the end of a transformation
 * (`RawBytes.pipe(Schema.decodeTo(...))`). Inside of another schema they are a base64 string, like `Schema.Uint8Array`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const RawBytes: Schema.Uint8Array = codec.RawBytes

// -----------------------------------------------------------------------------
// Events
// -----------------------------------------------------------------------------

/**
 * What happened to a value. `previous` is what this process knew before; it is absent where there was none, where that did not decode,
 * and where etcd has forgotten it. Consumers that watch by the same schema may be handed the same value: it is not to be changed.
 *
 * - `Put`: it was written.
 * - `Invalid`: it was written, but does not decode. The stream goes on.
 * - `Delete`: it was deleted.
 * - `Synced`: all events up to this version have been seen. After the present state at the start, and after each time that etcd could not
 *   tell what happened in between (it compacted its history, or an older state was restored) and the difference was told instead.
 *
 * @category models
 * @since 0.1.0
 */
export type ConfigEvent<A> =
  | {
    readonly _tag: "Put"
    readonly key: string
    readonly value: A
    readonly version: Version
    readonly previous?: A | undefined
  }
  | { readonly _tag: "Delete"; readonly key: string; readonly version: Version; readonly previous?: A | undefined }
  | { readonly _tag: "Invalid"; readonly key: string; readonly version: Version; readonly error: ConfigDecodeError }
  | { readonly _tag: "Synced"; readonly version: Version }

/**
 * @category options
 * @since 0.1.0
 */
export interface WatchOptions {
  /**
   * Begins with what came after this version, without the present state and its `Synced`. Fails with `Compacted` when etcd's history no
   * longer goes back so far.
   */
  readonly from?: Version | undefined
}

/**
 * What is known of a key's past, newest first. The last one says why there is no more:
 *
 * - `Put`: a value that the key had.
 * - `Invalid`: it had one that does not decode.
 * - `Created`: before this version the key did not exist. It may have existed before that, and been deleted.
 * - `Compacted`: what was before this version has been forgotten.
 *
 * @category models
 * @since 0.1.0
 */
export type ConfigHistory<A> =
  | { readonly _tag: "Put"; readonly key: string; readonly value: A; readonly version: Version }
  | { readonly _tag: "Invalid"; readonly key: string; readonly version: Version; readonly error: ConfigDecodeError }
  | { readonly _tag: "Created"; readonly key: string; readonly version: Version }
  | { readonly _tag: "Compacted"; readonly key: string; readonly version: Version }

/**
 * @category options
 * @since 0.1.0
 */
export interface HistoryOptions {
  /**
   * Begins with the value that the key had right before this version. With the version of a deletion, that is the history of what was
   * deleted. Absent: the present value.
   */
  readonly before?: Version | undefined
}

/**
 * @category options
 * @since 0.1.0
 */
export interface RollbackOptions {
  /** The version that is replaced (`0n`: none, the key does not exist). Absent: the one that is found. */
  readonly expected?: Version | undefined
}

// -----------------------------------------------------------------------------
// Live values
// -----------------------------------------------------------------------------

/**
 * A value that follows etcd. Nothing here waits for etcd: an outage leaves the last good value in place.
 *
 * @category models
 * @since 0.1.0
 */
export interface LiveConfig<A, E = never> {
  readonly key: string
  /** The last good value. */
  readonly get: Effect.Effect<A, E>
  /** The value, then each new one. A slow consumer sees the latest, not each. It ends with the scope. */
  readonly changes: Stream.Stream<A, E>
  /** How the value stands to what is in etcd. */
  readonly status: Effect.Effect<LiveStatus>
  /** The status, then each new one, conflated as `changes`. */
  readonly statusChanges: Stream.Stream<LiveStatus>
}

/**
 * - `Ok`: the value is the one in etcd, as far as it is known.
 * - `Invalid`: what is in etcd does not decode; the last good value is kept.
 * - `Deleted`: the key does not exist as of this version; what `get` gives is decided by `onDelete`.
 * - `Stale`: the watch failed, for a reason that repeating does not mend by itself (as `PermissionDenied`). It is tried again.
 *
 * @category models
 * @since 0.1.0
 */
export type LiveStatus =
  | { readonly _tag: "Ok"; readonly version: Version }
  | { readonly _tag: "Invalid"; readonly version: Version; readonly error: ConfigDecodeError }
  | { readonly _tag: "Deleted"; readonly version: Version }
  | { readonly _tag: "Stale"; readonly error: EtcdError }

/**
 * What a live value is while its key does not exist:
 *
 * - `"keep"` (the default): the last good value.
 * - `{ default }`: this value, also when the key has never existed.
 * - `"fail"`: `get` and `changes` fail with `ConfigNotFound`; `get` works again when the key is back.
 *
 * @category options
 * @since 0.1.0
 */
export type OnDelete<A> = "keep" | "fail" | { readonly default: A }

/**
 * Follows a key for the length of a scope. It waits for the first value, and fails where there is none: `ConfigNotFound` (not with
 * a default), or `ConfigDecodeError`, whatever `onDelete` says.
 *
 * @category models
 * @since 0.1.0
 */
export interface Live {
  <S extends Schema.Constraint>(
    key: string,
    schema: S,
    options: { readonly onDelete: { readonly default: S["Type"] } }
  ): Effect.Effect<
    LiveConfig<S["Type"]>,
    ConfigDecodeError | InvalidKey | EtcdError,
    S["DecodingServices"] | Scope.Scope
  >
  <S extends Schema.Constraint>(
    key: string,
    schema: S,
    options: { readonly onDelete: "fail" }
  ): Effect.Effect<
    LiveConfig<S["Type"], ConfigNotFound>,
    ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError,
    S["DecodingServices"] | Scope.Scope
  >
  <S extends Schema.Constraint>(
    key: string,
    schema: S,
    options?: { readonly onDelete?: "keep" | undefined }
  ): Effect.Effect<
    LiveConfig<S["Type"]>,
    ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError,
    S["DecodingServices"] | Scope.Scope
  >
}

// -----------------------------------------------------------------------------
// Service
// -----------------------------------------------------------------------------

/**
 * Typed configuration values. Keys are relative to the prefix (`/config`), their segments separated by `/`. A prefix is a folder:
 * `app` covers `app/x` and `app/x/y`, but neither `apple` nor the key `app` itself; `""` covers all.
 *
 * Writes are sent once. When their answer is lost they fail with `EtcdError` of reason `Ambiguous`: the write may have happened, or may still
 * happen.
 *
 * **Example**
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { ConfigCenter } from "effect-coord"
 *
 * const Limits = Schema.Struct({ perSecond: Schema.Int, burst: Schema.Int })
 *
 * const program = Effect.gen(function*() {
 *   const config = yield* ConfigCenter
 *   yield* config.set("api/limits", Limits, { perSecond: 100, burst: 20 })
 *   yield* config.update("api/limits", Limits, (limits) => ({ ...limits, burst: limits.burst * 2 }))
 *   const limits = yield* config.live("api/limits", Limits)
 *   return yield* limits.get
 * })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class ConfigCenter extends Context.Service<ConfigCenter, {
  readonly get: <S extends Schema.Constraint>(
    key: string,
    schema: S
  ) => Effect.Effect<
    S["Type"],
    ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError,
    S["DecodingServices"]
  >
  readonly getVersioned: <S extends Schema.Constraint>(
    key: string,
    schema: S
  ) => Effect.Effect<
    Versioned<S["Type"]>,
    ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError,
    S["DecodingServices"]
  >
  /** Writes whatever was there before, and answers the new version. */
  readonly set: <S extends Schema.Constraint>(
    key: string,
    schema: S,
    value: S["Type"]
  ) => Effect.Effect<Version, ConfigEncodeError | InvalidKey | EtcdError, S["EncodingServices"]>
  /**
   * Writes only if the key still has the version `expected` (`0n`: if it does not exist). `VersionConflict` is certain: nothing was written and
   * nothing will be. Where the answer was lost, etcd's history after `expected` is asked: if another write or a deletion came first it
   * is a `VersionConflict`; otherwise it stays `Ambiguous`, also where the very same bytes came first, as somebody else may have written them,
   * and always for `0n`, as a key that is deleted again can still be created.
   */
  readonly compareAndSet: <S extends Schema.Constraint>(
    key: string,
    schema: S,
    value: S["Type"],
    expected: Version
  ) => Effect.Effect<
    Version,
    VersionConflict | ConfigEncodeError | InvalidKey | EtcdError,
    S["EncodingServices"]
  >
  /**
   * Reads, applies `f` (which answers the new value or an effect of it), compares and sets; all over again when somebody else came first,
   * as often as the retry schedule allows, then `VersionConflict`. So `f` may run more than once, but never again after an `Ambiguous` answer.
   * What the schema does not describe (a field that only other programs know) is not written back.
   */
  readonly update: <S extends Schema.Constraint, E = never, R = never>(
    key: string,
    schema: S,
    f: (value: S["Type"]) => S["Type"] | Effect.Effect<S["Type"], E, R>
  ) => Effect.Effect<
    Versioned<S["Type"]>,
    E | ConfigNotFound | ConfigDecodeError | ConfigEncodeError | VersionConflict | InvalidKey | EtcdError,
    R | S["DecodingServices"] | S["EncodingServices"]
  >
  readonly delete: (key: string) => Effect.Effect<void, ConfigNotFound | InvalidKey | EtcdError>
  /**
   * Sets, deletes and checks several keys at once: all of it at one revision, which it answers, or nothing. `TransactionConflict` is certain,
   * and names each key that had not the version expected. A lost answer is judged as `compareAndSet` does, by the keys that are
   * written over an expected version: where none of them shows that somebody else came first it is `Ambiguous`. No key may be written twice
   * (`InvalidKey`), and etcd takes 128 changes at most (`--max-txn-ops`; more are an `InvalidArgument`).
   */
  readonly transact: <const Changes extends ReadonlyArray<ConfigChange<unknown>>>(
    changes: Changes
  ) => Effect.Effect<
    Version,
    TransactionConflict | ConfigEncodeError | InvalidKey | EtcdError,
    ConfigChangeServices<Changes[number]>
  >
  /**
   * The values that the key has had, newest first, back to where it was created or as far as etcd remembers; the end of the stream says which.
   * Each is asked for when it is pulled. Fails with `ConfigNotFound` when there is none to begin with.
   */
  readonly history: <S extends Schema.Constraint>(
    key: string,
    schema: S,
    options?: HistoryOptions
  ) => Stream.Stream<
    ConfigHistory<S["Type"]>,
    ConfigNotFound | InvalidKey | EtcdError,
    S["DecodingServices"]
  >
  /**
   * Writes what the key had as of an older version, byte for byte, as a new version; also where it has been deleted since. By compare, as
   * `compareAndSet`: `VersionConflict` when somebody else comes in between. `ConfigNotFound` when the key had no value then, `Compacted` when
   * etcd has forgotten it.
   */
  readonly rollback: (
    key: string,
    to: Version,
    options?: RollbackOptions
  ) => Effect.Effect<Version, ConfigNotFound | VersionConflict | InvalidKey | EtcdError>
  /** The keys under a prefix, ascending by their bytes. Keys that `get` would refuse, made by other tools, are left out, here and below. */
  readonly list: (prefix: string) => Effect.Effect<ReadonlyArray<string>, InvalidKey | EtcdError>
  /**
   * The values under a prefix, all as of one revision, ascending by key. One that does not decode fails it, and is named: half a
   * configuration is none. `watchPrefix` tells them apart instead.
   */
  readonly entries: <S extends Schema.Constraint>(
    prefix: string,
    schema: S
  ) => Effect.Effect<
    ReadonlyArray<Versioned<S["Type"]>>,
    ConfigDecodeError | InvalidKey | EtcdError,
    S["DecodingServices"]
  >
  /** The present value as `Put` (nothing if there is none), `Synced`, then every change, once and in order, over reconnects and restarts. */
  readonly watch: <S extends Schema.Constraint>(
    key: string,
    schema: S,
    options?: WatchOptions
  ) => Stream.Stream<ConfigEvent<S["Type"]>, InvalidKey | EtcdError, S["DecodingServices"]>
  /** As `watch`, for all keys under a prefix. */
  readonly watchPrefix: <S extends Schema.Constraint>(
    prefix: string,
    schema: S,
    options?: WatchOptions
  ) => Stream.Stream<ConfigEvent<S["Type"]>, InvalidKey | EtcdError, S["DecodingServices"]>
  readonly live: Live
}>()("effect-coord/ConfigCenter") {
  /**
   * @param options `prefix`: where the values live, `/config` unless said otherwise.
   */
  static readonly layer = (
    options?: { readonly prefix?: string | undefined }
  ): Layer.Layer<ConfigCenter, InvalidOption, Etcd> =>
    Layer.effect(
      ConfigCenter,
      Effect.flatMap(validatePrefix(options?.prefix ?? "/config", "configPrefix"), make)
    )
}

// -----------------------------------------------------------------------------
// Implementation
// -----------------------------------------------------------------------------

type Service = ConfigCenter["Service"]

const make = Effect.fnUntraced(function*(root: string) {
  const etcd = yield* Etcd
  const hub = yield* makeSharedWatch(etcd)
  const values = makeValues(etcd, root)
  const events = makeEvents(hub, values)
  const past = makeHistory(etcd, values)

  const getVersioned: Service["getVersioned"] = (key, schema) =>
    reading.versioned({ key }, onKey(key, () => values.read(key, schema)))

  const get: Service["get"] = (key, schema) => reading.value({ key }, onKey(key, () => values.readValue(key, schema)))

  const set: Service["set"] = (key, schema, value) =>
    writing({ key }, onKey(key, () => values.write(key, schema, value)))

  const compareAndSet: Service["compareAndSet"] = Effect.fn("ConfigCenter.compareAndSet")(
    function*(key, schema, value, expected) {
      return yield* values.compareAndSet(yield* validKey(key), schema, value, expected)
    },
    measured("ConfigCenter.compareAndSet")
  )

  const update: Service["update"] = Effect.fn("ConfigCenter.update")(function*(key, schema, f) {
    yield* validKey(key)
    // Of this update, and not one that `f` failed with.
    let conflict: VersionConflict | undefined
    const attempt = Effect.gen(function*() {
      const current = yield* values.read(key, schema)
      const applied = f(current.value)
      const value = Effect.isEffect(applied) ? yield* applied : applied
      const version = yield* values.compareAndSet(key, schema, value, current.version).pipe(
        Effect.tapErrorTag("VersionConflict", (error) => Effect.sync(() => conflict = error))
      )
      return { key, value, version }
    })
    return yield* Effect.retry(attempt, { schedule: etcd.settings.retry, while: (error) => error === conflict })
  }, measured("ConfigCenter.update"))

  const remove: Service["delete"] = Effect.fn("ConfigCenter.delete")(function*(key) {
    yield* values.remove(yield* validKey(key))
  }, measured("ConfigCenter.delete"))

  const transact = Effect.fn("ConfigCenter.transact")(function*<R>(changes: ReadonlyArray<ConfigChange<R>>) {
    yield* Effect.annotateCurrentSpan({ keys: changes.map(({ key }) => key) })
    yield* Effect.forEach(changes, ({ key }) => validateKey(key), { discard: true })
    yield* writtenOnce(changes)
    const encoded = yield* Effect.forEach(
      changes,
      (change): Effect.Effect<Change, ConfigEncodeError, R> =>
        change._tag !== "Set" ? Effect.succeed(change) : Effect.map(change.encoded, (bytes) => ({ ...change, bytes }))
    )
    return yield* values.commit(encoded)
  }, (effect) => measured("ConfigCenter.transact")(effect))

  const history: Service["history"] = (key, schema, options) =>
    Stream.unwrap(Effect.map(validKey(key), () => past.history(key, schema, options?.before))).pipe(
      Stream.withSpan("ConfigCenter.history", { attributes: { key } })
    )

  const rollback: Service["rollback"] = Effect.fn("ConfigCenter.rollback")(function*(key, to, options) {
    return yield* past.rollback(yield* validKey(key), to, options?.expected)
  }, measured("ConfigCenter.rollback"))

  const list: Service["list"] = Effect.fn("ConfigCenter.list")(function*(prefix) {
    return yield* values.list(yield* validFolder(prefix))
  }, measured("ConfigCenter.list"))

  const entries: Service["entries"] = Effect.fn("ConfigCenter.entries")(function*(prefix, schema) {
    return yield* values.entries(yield* validFolder(prefix), schema)
  }, measured("ConfigCenter.entries"))

  const watch: Service["watch"] = (key, schema, options) =>
    watching(keyRule(key), key, () => events({ key: values.path(key) }, schema, options)).pipe(
      streamSpan("ConfigCenter.watch", { key })
    )

  const watchPrefix: Service["watchPrefix"] = (prefix, schema, options) =>
    watching(
      prefix === "" ? undefined : keyRule(prefix),
      prefix,
      () => events({ prefix: values.folder(prefix) }, schema, options)
    ).pipe(streamSpan("ConfigCenter.watchPrefix", { prefix }))

  const live = Effect.fn("ConfigCenter.live")(function*<S extends Schema.Constraint>(
    key: string,
    schema: S,
    options?: { readonly onDelete?: OnDelete<S["Type"]> | undefined }
  ) {
    return yield* makeLive(hub, values, yield* validKey(key), schema, options?.onDelete ?? "keep")
  }, (effect) => measured("ConfigCenter.live")(effect))

  return {
    get,
    getVersioned,
    set,
    compareAndSet,
    update,
    delete: remove,
    // What a change needs, only its own type says.
    transact: transact as Service["transact"],
    history,
    rollback,
    list,
    entries,
    watch,
    watchPrefix,
    // Which failures remain depends on `onDelete`, in ways that only the overloads say.
    live: live as Live
  }
})

const reading = { value: operation("ConfigCenter.get"), versioned: operation("ConfigCenter.getVersioned") }
const writing = operation("ConfigCenter.set")

const onKey = <A, E, R>(key: string, use: () => Effect.Effect<A, E, R>): Effect.Effect<A, E | InvalidKey, R> =>
  Effect.suspend(() => Effect.flatMapEager(validateKey(key), use))

/** Checked when it is made: there may be thousands, and a stream within a stream costs each of them. */
const watching = <A, E, R>(
  rule: string | undefined,
  key: string,
  events: () => Stream.Stream<A, E, R>
): Stream.Stream<A, E | InvalidKey, R> => rule === undefined ? events() : Stream.fail(new InvalidKey({ key, rule }))

const validKey = (key: string) => Effect.andThen(Effect.annotateCurrentSpan({ key }), validateKey(key))

/** etcd would answer "duplicate key", and not say which. */
const writtenOnce = (changes: ReadonlyArray<ConfigChange<unknown>>): Effect.Effect<void, InvalidKey> => {
  const seen = new Set<string>()
  for (const { _tag, key } of changes) {
    if (_tag === "Check") continue
    if (seen.has(key)) {
      return Effect.fail(new InvalidKey({ key, rule: "must be written no more than once in a transaction" }))
    }
    seen.add(key)
  }
  return Effect.void
}

const validFolder = (prefix: string) =>
  prefix === "" ? Effect.succeed(prefix) : Effect.andThen(Effect.annotateCurrentSpan({ prefix }), validateKey(prefix))
