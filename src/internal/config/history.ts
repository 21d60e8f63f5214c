/**
 * The past of a key: each version is asked for at the revision before the one that followed it, which costs etcd no more than reading
 * the present.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { ConfigHistory } from "../../ConfigCenter.ts"
import { ConfigNotFound } from "../../ConfigError.ts"
import type { Etcd, KeyValue } from "../../Etcd.ts"
import { EtcdError, HistoryLost } from "../../EtcdError.ts"
import { theConflict, type Values } from "./values.ts"

export const makeHistory = (etcd: Etcd["Service"], values: Values) => {
  const rangeAt = Effect.fnUntraced(function*(key: string, revision: bigint) {
    // etcd would read the present.
    if (revision <= 0n) return { kv: undefined, revision: 0n }
    const answer = yield* etcd.range({ key: values.path(key), atRevision: revision })
    return { kv: answer.kvs[0], revision: answer.revision }
  })

  const present = Effect.fnUntraced(function*(key: string) {
    const { kvs: [kv] } = yield* etcd.range({ key: values.path(key) })
    return kv === undefined ? yield* new ConfigNotFound({ key }) : kv
  })

  const past = Effect.fnUntraced(function*(key: string, revision: bigint) {
    const { kv } = yield* rangeAt(key, revision)
    return kv === undefined ? yield* new ConfigNotFound({ key, at: revision }) : kv
  })

  /** The put before one that was not the first. */
  const before = Effect.fnUntraced(function*(key: string, next: KeyValue) {
    const { kv, revision } = yield* rangeAt(key, next.modRevision - 1n)
    if (kv?.version === next.version - 1n && kv.createRevision === next.createRevision) return kv
    // An older state of etcd was restored in between: this is another history.
    const reason = new HistoryLost({ expected: next.modRevision, actual: revision })
    return yield* new EtcdError({ operation: "range", key: values.path(key), reason })
  })

  const history = <S extends Schema.Constraint>(key: string, schema: S, from: bigint | undefined) => {
    type Told = ConfigHistory<S["Type"]>
    type Page = readonly [ReadonlyArray<Told>, Option.Option<KeyValue | undefined>]
    const end = (...told: ReadonlyArray<Told>): Page => [told, Option.none()]
    const more = (told: Told, kv: KeyValue): Page => [[told], Option.some(kv)]

    const tell = (kv: KeyValue): Effect.Effect<Told, never, S["DecodingServices"]> =>
      Effect.matchEffect(values.decode(schema, key, kv), {
        onSuccess: (versioned) => Effect.succeed<Told>({ _tag: "Put", ...versioned }),
        onFailure: (error) => Effect.succeed<Told>({ _tag: "Invalid", key, version: error.version, error })
      })

    const page = (last: KeyValue | undefined) =>
      Effect.gen(function*() {
        const kv = yield* last !== undefined
          ? before(key, last)
          : from === undefined
          ? present(key)
          : past(key, from - 1n)
        const told = yield* tell(kv)
        return kv.version === 1n ? end(told, { _tag: "Created", key, version: kv.modRevision }) : more(told, kv)
      }).pipe(
        Effect.catchReason(
          "EtcdError",
          "Compacted",
          () => Effect.succeed(end({ _tag: "Compacted", key, version: last?.modRevision ?? from ?? 0n }))
        )
      )

    return Stream.paginate<KeyValue | undefined, Told, ConfigNotFound | EtcdError, S["DecodingServices"]>(
      undefined,
      page
    )
  }

  const rollback = Effect.fnUntraced(function*(key: string, to: bigint, expected: bigint | undefined) {
    const old = yield* past(key, to)
    const replaced = expected ??
      (yield* etcd.range({ key: values.path(key), keysOnly: true })).kvs[0]?.modRevision ??
      0n
    return yield* Effect.mapError(
      values.commit([{ _tag: "Set", key, bytes: old.value, expected: replaced }]),
      theConflict
    )
  })

  return { history, rollback }
}
