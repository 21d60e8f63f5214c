/**
 * What happens in etcd, as events of typed values.
 */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import type { ConfigEvent, WatchOptions } from "../../ConfigCenter.ts"
import type { KeyRange, KeyValue } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { type Change, mapChanges, type SharedWatch } from "../SharedWatch.ts"
import { isPure } from "./pure.ts"
import type { Values } from "./values.ts"

type Decode<A, R> = (changes: ReadonlyArray<Change>) => Effect.Effect<ReadonlyArray<ConfigEvent<A>>, never, R>

export const makeEvents = (hub: SharedWatch, values: Values) => {
  /** Made once for each schema, as there may be thousands of consumers. */
  const decoders = new WeakMap<Schema.Constraint, Decode<unknown, unknown>>()

  const decoderOf = <S extends Schema.Constraint>(schema: S): Decode<S["Type"], S["DecodingServices"]> => {
    const found = decoders.get(schema)
    if (found !== undefined) return found as Decode<S["Type"], S["DecodingServices"]>
    const decode = makeDecode(values, schema)
    const decoder = isPure(schema) ? oncePer(schema, decode) : decode
    decoders.set(schema, decoder as Decode<unknown, unknown>)
    return decoder
  }

  return <S extends Schema.Constraint>(
    range: KeyRange,
    schema: S,
    options: WatchOptions | undefined
  ): Stream.Stream<ConfigEvent<S["Type"]>, EtcdError, S["DecodingServices"]> =>
    mapChanges(hub.changes(range, options), decoderOf(schema))
}

const makeDecode = <S extends Schema.Constraint>(
  values: Values,
  schema: S
): Decode<S["Type"], S["DecodingServices"]> => {
  type Event = ConfigEvent<S["Type"]>

  const previousOf = (key: string, kv: KeyValue | undefined) =>
    kv === undefined ? Effect.succeed({}) : values.decode(schema, key, kv).pipe(
      Effect.map(({ value }) => ({ previous: value })),
      Effect.orElseSucceed(() => ({}))
    )

  const put = (key: string, kv: KeyValue, previous: KeyValue | undefined) =>
    Effect.matchEffect(values.decode(schema, key, kv), {
      onSuccess: (current) =>
        Effect.map(previousOf(key, previous), (previous): Event => ({ _tag: "Put", ...current, ...previous })),
      onFailure: (error) => Effect.succeed<Event>({ _tag: "Invalid", key, version: error.version, error })
    })

  const eventOf = (change: Change): Effect.Effect<Event | undefined, never, S["DecodingServices"]> => {
    if (change._tag === "Synced") return Effect.succeed<Event>({ _tag: "Synced", version: change.revision })
    const key = values.keyOf(change._tag === "Put" ? change.kv.key : change.key)
    if (key === undefined) return Effect.undefined
    return change._tag === "Put"
      ? put(key, change.kv, change.previous)
      : Effect.map(previousOf(key, change.previous), (previous): Event => ({
        _tag: "Delete",
        key,
        version: change.modRevision,
        ...previous
      }))
  }

  return (changes) =>
    Effect.map(
      Effect.forEach(changes, eventOf),
      Arr.filter((event) => event !== undefined)
    )
}

/** What changes mean by a schema, for all who watch by that schema. */
const known = new WeakMap<ReadonlyArray<Change>, WeakMap<Schema.Constraint, ReadonlyArray<unknown>>>()

/** Consumers of one watch are handed the same changes: the first one decodes for all. */
const oncePer = <A, R>(
  schema: Schema.Constraint,
  decode: (changes: ReadonlyArray<Change>) => Effect.Effect<ReadonlyArray<A>, never, R>
) =>
(changes: ReadonlyArray<Change>): Effect.Effect<ReadonlyArray<A>, never, R> => {
  const found = known.get(changes)?.get(schema)
  if (found !== undefined) return Effect.succeed(found as ReadonlyArray<A>)
  return Effect.map(decode(changes), (events) => {
    known.set(changes, (known.get(changes) ?? new WeakMap()).set(schema, events))
    return events
  })
}
