/**
 * A client's connection to a store in this process.
 */
import * as Arr from "effect/Array"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { MemberHealth, RangeResult, WatchItem } from "../../Etcd.ts"
import { EtcdError, type EtcdErrorReason } from "../../EtcdError.ts"
import type { Transport } from "../Transport.ts"
import { direct, type Link } from "./link.ts"
import { type Store, StoreId } from "./Store.ts"

export const makeTransport = ({ [StoreId]: store }: { readonly [StoreId]: Store }, link: Link = direct): Transport => {
  const call = <A>(operation: string, answer: () => Result.Result<A, EtcdErrorReason>): Effect.Effect<A, EtcdError> =>
    link.call(operation, Effect.suspend(() => Effect.fromResult(answer()))).pipe(
      Effect.mapError((reason) => new EtcdError({ operation, reason }))
    )

  const watch: Transport["watch"] = (request) =>
    Stream.unwrap(Effect.gen(function*() {
      yield* link.call("watch", Effect.void)
      const { revision, watcher } = yield* Effect.acquireRelease(
        Effect.suspend(() => Effect.fromResult(store.watch(request))),
        ({ watcher }) => Effect.sync(() => store.unwatch(watcher))
      )
      const pull: Effect.Effect<ReadonlyArray<WatchItem>, EtcdErrorReason> = Latch.await(watcher.ready).pipe(
        Effect.flatMap(() => Effect.fromResult(store.pull(watcher)))
      )
      const batches = Stream.fromEffectRepeat(pull).pipe(
        Stream.filter(Arr.isReadonlyArrayNonEmpty),
        Stream.flattenArray
      )
      const opened: WatchItem = { _tag: "Opened", revision }
      return Stream.concat(Stream.succeed(opened), batches)
    })).pipe(
      link.watch,
      Stream.mapError((reason) => new EtcdError({ operation: "watch", reason }))
    )

  return {
    range: (request) => call("range", () => store.range(request)),
    txn: (request) => call("txn", () => store.txn(request)),
    leaseGrant: (id, ttl) => call("leaseGrant", () => store.leaseGrant(id, ttl)),
    leaseKeepAlive: (id) => call("leaseKeepAlive", () => store.leaseKeepAlive(id)),
    leaseRevoke: (id) => call("leaseRevoke", () => store.leaseRevoke(id)),
    leaseTimeToLive: (id) => call("leaseTimeToLive", () => store.leaseTimeToLive(id)),
    watch,
    members: Effect.map(
      Effect.timed(Effect.result(call("health", () => store.range({ key: "\0", limit: 1 })))),
      ([latency, answer]) => [memberOf(latency, answer)]
    )
  }
}

const endpoint = "memory"

/** The only one there is. */
export const memberOf = (
  latency: Duration.Duration,
  answer: Result.Result<RangeResult, EtcdError>
): MemberHealth =>
  Result.match(answer, {
    onFailure: (error) => ({ _tag: "Unknown", endpoint, error }),
    onSuccess: ({ revision }) => ({
      _tag: "Known",
      endpoint,
      id: 1n,
      version: "memory",
      leader: 1n,
      isLearner: false,
      raftTerm: 1n,
      raftIndex: revision,
      dbSize: 0,
      dbSizeInUse: 0,
      errors: [],
      latency
    })
  })
