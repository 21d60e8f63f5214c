/**
 * What happens in etcd, as events of typed values.
 */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { ConfigEvent, WatchOptions } from "../../ConfigCenter.ts"
import type { KeyRange, KeyValue } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import type { Change, SharedWatch } from "../SharedWatch.ts"
import type { Values } from "./values.ts"

export const makeEvents = (hub: SharedWatch, values: Values) =>
<S extends Schema.Constraint>(
  range: KeyRange,
  schema: S,
  options: WatchOptions | undefined
): Stream.Stream<ConfigEvent<S["Type"]>, EtcdError, S["DecodingServices"]> => {
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

  return hub.changes(range, options).pipe(
    Stream.flattenIterable,
    Stream.mapEffect(eventOf),
    Stream.filter((event) => event !== undefined)
  )
}
