/**
 * Effect's `KeyValueStore` on etcd: `effect-coord/key-value-store`.
 *
 * An entry point of its own, as Effect's module is unstable: it may change with it in a minor version.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Layer from "effect/Layer"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Schedule from "effect/Schedule"
import { isUtf8 } from "node:buffer"
import type { InvalidOption } from "./Errors.ts"
import { Compare, Etcd, Operation, type TxnResult } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { decodeKey, encodeKey } from "./internal/keys.ts"
import { makeLeases } from "./internal/kv/leases.ts"
import { measured } from "./internal/Telemetry.ts"
import { validatePrefix, validateTtl } from "./internal/validate.ts"

/**
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface KeyValueStoreOptions {
  /** Where the entries live, as `/kv/sessions`. `/kv` unless said otherwise. A store owns all that is below its prefix. */
  readonly prefix?: string | undefined
  /**
   * How long an entry lives after it was last written, counted from when the write began; in whole seconds, rounded up. It does not go
   * earlier; it may go later, by a tenth of this and a few seconds, and more when etcd changes its leader. Absent: it stays.
   */
  readonly timeToLive?: Duration.Input | undefined
}

/**
 * A store whose entries are keys below a prefix. Text is stored as UTF-8; bytes behind a byte 0xff, which no text begins with, so that `get`
 * gives bytes as Base64, as Effect's own stores do. `modify` is atomic, also among processes: its function may run more than once.
 *
 * The `cause` of a `KeyValueStoreError` is the `EtcdError`. A write that fails with the reason `Ambiguous` may have been applied, or may still be.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const makeKeyValueStore = Effect.fnUntraced(function*(
  options: KeyValueStoreOptions = {}
): Effect.fn.Return<KeyValueStore.KeyValueStore, InvalidOption, Etcd> {
  const etcd = yield* Etcd
  const root = `${yield* validatePrefix(options.prefix ?? "/kv", "prefix")}/`
  const leases = options.timeToLive === undefined
    ? undefined
    : makeLeases(etcd, yield* validateTtl(options.timeToLive, "timeToLive"))

  const read = (key: string) => Effect.map(etcd.range({ key: root + key }), ({ kvs }) => kvs[0])

  const write = (key: string, value: Uint8Array, compare: ReadonlyArray<Compare> = []) => {
    const put = (lease?: bigint): Effect.Effect<TxnResult, EtcdError> =>
      etcd.txn({ compare, success: [Operation.put(root + key, value, { lease })] })
    return leases === undefined ? put() : leases.use(put)
  }

  const removeAll = (prefix: string) =>
    Effect.asVoid(etcd.txn({ success: [Operation.delete({ prefix: root + prefix })] }))

  const modify =
    <A extends string | Uint8Array>(method: string, decode: (value: Uint8Array) => A) =>
    (key: string, f: (value: A) => A) => {
      const conflict = failure(method, key, "others kept changing it")
      return Effect.gen(function*() {
        const kv = yield* read(key)
        if (kv === undefined) return undefined
        const value = f(decode(kv.value))
        const bytes = yield* encode(method, key, value)
        const result = yield* write(key, bytes, [Compare.modRevision(root + key, "=", kv.modRevision)])
        return result.succeeded ? value : yield* conflict
      }).pipe(
        Effect.retry({ schedule: again, while: (error) => error === conflict }),
        operation(method, key)
      )
    }

  return KeyValueStore.make({
    get: (key) => Effect.map(read(key), (kv) => kv && toText(kv.value)).pipe(operation("get", key)),
    getUint8Array: (key) =>
      Effect.map(read(key), (kv) => kv && toBytes(kv.value)).pipe(operation("getUint8Array", key)),
    set: (key, value) =>
      Effect.flatMap(encode("set", key, value), (bytes) => write(key, bytes)).pipe(
        Effect.asVoid,
        operation("set", key)
      ),
    remove: (key) =>
      Effect.asVoid(etcd.txn({ success: [Operation.delete(root + key)] })).pipe(operation("remove", key)),
    has: (key) =>
      Effect.map(etcd.range({ key: root + key, countOnly: true }), ({ count }) => count > 0).pipe(
        operation("has", key)
      ),
    modify: modify("modify", toText),
    modifyUint8Array: modify("modifyUint8Array", toBytes),
    clear: removeAll("").pipe(operation("clear")),
    clearPrefix: (prefix) => removeAll(prefix).pipe(operation("clearPrefix", prefix)),
    size: Effect.map(etcd.range({ prefix: root, countOnly: true }), ({ count }) => count).pipe(operation("size")),
    keys: Effect.map(
      etcd.range({ prefix: root, keysOnly: true }),
      ({ kvs }) => kvs.map(({ key }) => key.slice(root.length))
    ).pipe(operation("keys"))
  })
})

/**
 * The same as a layer.
 *
 * **Example**
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { EtcdLive } from "effect-coord"
 * import { layerKeyValueStore } from "effect-coord/key-value-store"
 * import { KeyValueStore } from "effect/persistence"
 *
 * const program = Effect.gen(function*() {
 *   const store = yield* KeyValueStore.KeyValueStore
 *   yield* store.set("ann", "logged in")
 * }).pipe(
 *   Effect.provide(layerKeyValueStore({ prefix: "/kv/sessions", timeToLive: "1 hour" }).pipe(Layer.provide(EtcdLive)))
 * )
 * ```
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layerKeyValueStore = (
  options?: KeyValueStoreOptions
): Layer.Layer<KeyValueStore.KeyValueStore, InvalidOption, Etcd> =>
  Layer.effect(KeyValueStore.KeyValueStore, makeKeyValueStore(options))

/** Somebody has succeeded whenever one has not: so soon again, out of step with the others. */
const again = Schedule.min([Schedule.exponential("5 millis", 1.5), Schedule.spaced("100 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ times: 30 })
)

// -----------------------------------------------------------------------------
// Operations
// -----------------------------------------------------------------------------

const failure = (method: string, key: string | undefined, message: string, cause?: unknown) =>
  new KeyValueStore.KeyValueStoreError({
    method,
    message,
    ...(key === undefined ? {} : { key }),
    ...(cause === undefined ? {} : { cause })
  })

const operation =
  (method: string, key?: string) => <A>(effect: Effect.Effect<A, EtcdError | KeyValueStore.KeyValueStoreError>) =>
    Effect.suspend(() =>
      key === undefined || isExact(key)
        ? Effect.mapError(effect, (error) =>
          error._tag === "EtcdError" ? failure(method, key, error.message, error) : error)
        : Effect.fail(failure(method, key, "the key must be well-formed Unicode (it has a lone surrogate)"))
    ).pipe(
      measured(`KeyValueStore.${method}`),
      Effect.withSpan(`KeyValueStore.${method}`, key === undefined ? {} : { attributes: { key } })
    )

/** Another key would be meant: lone surrogates stand for bytes that are no text. */
const isExact = (key: string): boolean => key.isWellFormed() || decodeKey(encodeKey(key)) === key

// -----------------------------------------------------------------------------
// Values
// -----------------------------------------------------------------------------

/** No UTF-8 begins with it. */
const bytesMark = 0xff

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const encode = (
  method: string,
  key: string,
  value: string | Uint8Array
): Effect.Effect<Uint8Array, KeyValueStore.KeyValueStoreError> => {
  if (typeof value === "string") {
    return value.isWellFormed()
      ? Effect.succeed(encoder.encode(value))
      : Effect.fail(failure(method, key, "the value must be well-formed Unicode (it has a lone surrogate)"))
  }
  const marked = new Uint8Array(value.length + 1)
  marked[0] = bytesMark
  marked.set(value, 1)
  return Effect.succeed(marked)
}

const toBytes = (value: Uint8Array): Uint8Array => Uint8Array.from(value[0] === bytesMark ? value.subarray(1) : value)

const toText = (value: Uint8Array): string => {
  if (value[0] === bytesMark) return Base64.encode(value.subarray(1))
  // Bytes that others have written.
  return isUtf8(value) ? decoder.decode(value) : Base64.encode(value)
}
