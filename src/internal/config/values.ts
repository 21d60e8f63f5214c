/**
 * Reads and writes of single requests. Keys are valid here.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { Versioned } from "../../ConfigCenter.ts"
import { ConfigDecodeError, ConfigEncodeError, ConfigNotFound, VersionConflict } from "../../ConfigError.ts"
import { Compare, type Etcd, type KeyValue, Operation, type WatchEvent } from "../../Etcd.ts"
import { compareBytes } from "../keys.ts"
import { keyRule } from "../validate.ts"
import * as codec from "./codec.ts"

export type Values = ReturnType<typeof makeValues>

export const makeValues = (etcd: Etcd["Service"], root: string) => {
  const path = (key: string): string => `${root}/${key}`
  const folder = (prefix: string): string => prefix === "" ? `${root}/` : `${root}/${prefix}/`

  /** The key as users say it; none for what others have put there under a name that is no key. */
  const keyOf = (path: string): string | undefined => {
    const key = path.slice(root.length + 1)
    return keyRule(key) === undefined ? key : undefined
  }

  const decode = <S extends Schema.Constraint>(
    schema: S,
    key: string,
    kv: KeyValue
  ): Effect.Effect<Versioned<S["Type"]>, ConfigDecodeError, S["DecodingServices"]> =>
    codec.decode(schema, kv.value).pipe(
      Effect.mapBoth({
        onSuccess: (value) => ({ key, value, version: kv.modRevision }),
        onFailure: (issue) => new ConfigDecodeError({ key, version: kv.modRevision, issue })
      })
    )

  const encode = <S extends Schema.Constraint>(key: string, schema: S, value: S["Type"]) =>
    Effect.mapError(codec.encode(schema, value), (issue) => new ConfigEncodeError({ key, issue }))

  const read = Effect.fnUntraced(function*<S extends Schema.Constraint>(key: string, schema: S) {
    const { kvs: [kv] } = yield* etcd.range({ key: path(key) })
    if (kv === undefined) return yield* new ConfigNotFound({ key })
    return yield* decode(schema, key, kv)
  })

  const write = Effect.fnUntraced(function*<S extends Schema.Constraint>(key: string, schema: S, value: S["Type"]) {
    const bytes = yield* encode(key, schema, value)
    return (yield* etcd.txn({ success: [Operation.put(path(key), bytes)] })).revision
  })

  const compareAndSet = Effect.fnUntraced(function*<S extends Schema.Constraint>(
    key: string,
    schema: S,
    value: S["Type"],
    expected: bigint
  ) {
    const bytes = yield* encode(key, schema, value)
    const result = yield* etcd.txn({
      compare: [Compare.modRevision(path(key), "=", expected)],
      success: [Operation.put(path(key), bytes)],
      failure: [Operation.range({ key: path(key), keysOnly: true })]
    }).pipe(
      Effect.catch((error) =>
        error.reason._tag !== "Ambiguous" ? Effect.fail(error) : Effect.flatMap(
          supersededBy(key, expected, bytes),
          (actual) => Effect.fail(actual === undefined ? error : new VersionConflict({ key, expected, actual }))
        )
      )
    )
    if (result.succeeded) return result.revision
    const [found] = result.responses
    const actual = found?._tag === "Range" ? found.kvs[0]?.modRevision ?? 0n : 0n
    return yield* new VersionConflict({ key, expected, actual })
  })

  /**
   * The present version, if it is certain that the compare-and-set was not and never will be applied.
   *
   * It is applied only while the key is at `expected`, which a key leaves once and for all: so whatever changed the key first after
   * `expected` either is it, or has shut it out. A key that did not exist (`0n`) can come back to that: nothing is ever certain.
   */
  const supersededBy = Effect.fnUntraced(function*(key: string, expected: bigint, bytes: Uint8Array) {
    if (expected <= 0n) return undefined
    const { kvs: [kv] } = yield* etcd.range({ key: path(key) })
    // Unchanged, or a restored store that went back: no history to judge by.
    if (kv !== undefined && kv.modRevision <= expected) return undefined
    const first = yield* etcd.watch({ key: path(key), startRevision: expected + 1n }).pipe(
      Stream.map((item) => item._tag === "Batch" ? item.events : []),
      Stream.flattenIterable,
      Stream.runHead,
      // Only a key that never was at `expected` makes it wait.
      Effect.timeoutOption(etcd.settings.timeout)
    )
    const isOther = Option.exists(Option.flatten(first), (event) => !mayBeOurs(event, bytes))
    return isOther ? kv?.modRevision ?? 0n : undefined
  }, Effect.orElseSucceed(() => undefined))

  const remove = Effect.fnUntraced(function*(key: string) {
    const { responses: [result] } = yield* etcd.txn({ success: [Operation.delete(path(key))] })
    if (result?._tag === "Delete" && result.deleted === 0) return yield* new ConfigNotFound({ key })
  })

  const list = Effect.fnUntraced(function*(prefix: string) {
    const { kvs } = yield* etcd.range({ prefix: folder(prefix), keysOnly: true })
    return kvs.flatMap((kv) => keyOf(kv.key) ?? [])
  })

  const entries = Effect.fnUntraced(function*<S extends Schema.Constraint>(prefix: string, schema: S) {
    const { kvs } = yield* etcd.range({ prefix: folder(prefix) })
    return yield* Effect.forEach(
      kvs.flatMap((kv) => {
        const key = keyOf(kv.key)
        return key === undefined ? [] : { key, kv }
      }),
      ({ key, kv }) => decode(schema, key, kv)
    )
  })

  return { path, folder, keyOf, decode, read, write, compareAndSet, remove, list, entries }
}

/** Equal bytes can have been written by others as well. */
const mayBeOurs = (event: WatchEvent, bytes: Uint8Array): boolean =>
  event._tag === "Put" && event.kv.lease === 0n && compareBytes(event.kv.value, bytes) === 0
