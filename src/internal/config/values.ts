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
import type { EtcdError } from "../../EtcdError.ts"
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

  const decodeValue = <S extends Schema.Constraint>(
    schema: S,
    key: string,
    kv: KeyValue
  ): Effect.Effect<S["Type"], ConfigDecodeError, S["DecodingServices"]> =>
    Effect.mapError(
      codec.decode(schema, kv.value),
      (issue) => new ConfigDecodeError({ key, version: kv.modRevision, issue })
    )

  const decode = <S extends Schema.Constraint>(
    schema: S,
    key: string,
    kv: KeyValue
  ): Effect.Effect<Versioned<S["Type"]>, ConfigDecodeError, S["DecodingServices"]> =>
    Effect.map(decodeValue(schema, key, kv), (value) => ({ key, value, version: kv.modRevision }))

  const commit = makeCommit(etcd, path)

  const encode = <S extends Schema.Constraint>(key: string, schema: S, value: S["Type"]) =>
    Effect.mapError(codec.encode(schema, value), (issue) => new ConfigEncodeError({ key, issue }))

  // By plain steps, as `write`: most programs do little else.
  const find = (key: string): Effect.Effect<KeyValue, ConfigNotFound | EtcdError> =>
    Effect.flatMap(
      etcd.range({ key: path(key) }),
      ({ kvs: [kv] }) => kv === undefined ? Effect.fail(new ConfigNotFound({ key })) : Effect.succeed(kv)
    )

  const read = <S extends Schema.Constraint>(key: string, schema: S) =>
    Effect.flatMap(find(key), (kv) => decode(schema, key, kv))

  const readValue = <S extends Schema.Constraint>(key: string, schema: S) =>
    Effect.flatMap(find(key), (kv) => decodeValue(schema, key, kv))

  const write = <S extends Schema.Constraint>(key: string, schema: S, value: S["Type"]) =>
    encode(key, schema, value).pipe(
      Effect.flatMap((bytes) => etcd.txn({ success: [Operation.put(path(key), bytes)] })),
      Effect.map(({ revision }) => revision)
    )

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

  return { path, folder, keyOf, decode, read, readValue, write, commit, compareAndSet, remove, list, entries }
}

/** That of a transaction of one key. */
export const theConflict = <E>(error: E | TransactionConflict): E | VersionConflict =>
  error instanceof TransactionConflict ? error.conflicts[0] : error
