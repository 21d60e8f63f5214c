/**
 * What an implementation of etcd has to bring: single attempts. `internal/client` makes the port of it (retries, resumed
 * watches, ambiguity, namespace), the same for every implementation, so that what a test or a simulation in memory
 * exercises is what runs on a real cluster.
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type {
  LeaseStatus,
  MemberHealth,
  RangeRequest,
  RangeResult,
  TxnRequest,
  TxnResult,
  WatchItem,
  WatchRequest
} from "../Etcd.ts"
import type { EtcdError } from "../EtcdError.ts"

export interface Transport {
  readonly range: (request: RangeRequest) => Effect.Effect<RangeResult, EtcdError>
  /** Writes fail with `Unavailable { sent: false }` only where it is certain that the request did not leave; with
   * `Unavailable { sent: true }` or `Timeout` where it may have been applied. */
  readonly txn: (request: TxnRequest) => Effect.Effect<TxnResult, EtcdError>
  /** Answers the granted TTL. `LeaseExists` is not an error of users: a lease of that id answers `exists: true`. */
  readonly leaseGrant: (
    id: bigint,
    ttl: Duration.Duration
  ) => Effect.Effect<{ readonly ttl: Duration.Duration; readonly exists: boolean }, EtcdError>
  /** One beat on the shared stream; counted by its callers from before the call. */
  readonly leaseKeepAlive: (id: bigint) => Effect.Effect<Duration.Duration, EtcdError>
  readonly leaseRevoke: (id: bigint) => Effect.Effect<void, EtcdError>
  readonly leaseTimeToLive: (id: bigint) => Effect.Effect<LeaseStatus, EtcdError>
  /**
   * One watch on one connection: exactly one `Opened`, then whole revisions (fragments are joined). It fails when it is
   * cut or silent, with `Compacted` when the start is gone, and does not come back by itself. Events below the start
   * may still be in it.
   */
  readonly watch: (request: WatchRequest) => Stream.Stream<WatchItem, EtcdError>
  /** Idle ones end as `Closed` when the transport does. Otherwise the client sees to that, at the price of a race for each event. */
  readonly endsWatches?: boolean
  /** What each endpoint says of itself, asked at the same time. */
  readonly members: Effect.Effect<ReadonlyArray<MemberHealth>>
}
