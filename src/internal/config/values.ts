/**
 * Reads and writes of single requests. Keys are valid here.
 */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type { Versioned } from "../../ConfigCenter.ts"
import {
  ConfigDecodeError,
  ConfigEncodeError,
  ConfigNotFound,
  TransactionConflict,
  type VersionConflict
} from "../../ConfigError.ts"
import { type Etcd, type KeyValue, Operation } from "../../Etcd.ts"
import { keyRule } from "../validate.ts"
import * as codec from "./codec.ts"
import { makeCommit } from "./commit.ts"

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

  const commit = makeCommit(etcd, path)

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

  const compareAndSet = <S extends Schema.Constraint>(key: string, schema: S, value: S["Type"], expected: bigint) =>
    Effect.flatMap(
      encode(key, schema, value),
      (bytes) => Effect.mapError(commit([{ _tag: "Set", key, bytes, expected }]), theConflict)
    )

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

  return { path, folder, keyOf, decode, read, write, commit, compareAndSet, remove, list, entries }
}

/** That of a transaction of one key. */
export const theConflict = <E>(error: E | TransactionConflict): E | VersionConflict =>
  error instanceof TransactionConflict ? error.conflicts[0] : error
