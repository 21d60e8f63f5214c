/**
 * What lies between a client and the store, and what can go wrong there.
 */
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { WatchItem } from "../../Etcd.ts"
import type { EtcdErrorReason } from "../../EtcdError.ts"

export interface Link {
  /** One request and its answer; `server` is the step that the store takes, which happens each time that it is run. */
  readonly call: <A>(operation: string, server: Effect.Effect<A, EtcdErrorReason>) => Effect.Effect<A, EtcdErrorReason>
  readonly watch: (items: Stream.Stream<WatchItem, EtcdErrorReason>) => Stream.Stream<WatchItem, EtcdErrorReason>
}

/** Nothing goes wrong, and nothing takes time. */
export const direct: Link = {
  call: (_, server) => server,
  watch: (items) => items
}
