/**
 * One etcd watch per range and process, however many consumers.
 *
 * Every consumer sees the same shape: the present state, then what changes. `previous` is what this process knew before,
 * so it is there for every change, also for those that are synthesised after a compaction or a restored snapshot, where
 * the range is listed again and only the difference is told.
 */
import type * as Effect from "effect/Effect"
import type * as HashMap from "effect/HashMap"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { KeyRange, KeyValue } from "../Etcd.ts"
import type { EtcdError } from "../EtcdError.ts"

export type Change =
  | { readonly _tag: "Put"; readonly kv: KeyValue; readonly previous: KeyValue | undefined }
  | { readonly _tag: "Delete"; readonly key: string; readonly modRevision: bigint; readonly previous: KeyValue | undefined }
  /** The consumer has now seen the whole state as of this revision: after the first listing, and after each resynchronisation. */
  | { readonly _tag: "Synced"; readonly revision: bigint }

export interface Snapshot {
  readonly revision: bigint
  readonly kvs: HashMap.HashMap<string, KeyValue>
}

export interface SharedWatch {
  /**
   * Every revision once and in order: the state as `Put`s, `Synced`, then the changes, one array for each revision. With `from` (a
   * revision the consumer has already seen) it begins with what came after, and fails with `Compacted` when that is gone.
   * A slow consumer is moved to a watch of its own and slows nobody else.
   */
  readonly changes: (
    range: KeyRange,
    options?: { readonly from?: bigint | undefined }
  ) => Stream.Stream<ReadonlyArray<Change>, EtcdError>
  /** The state, then each new one, conflated: a slow consumer sees the latest. */
  readonly snapshots: (range: KeyRange) => Stream.Stream<Snapshot, EtcdError>
  /** Keeps the range watched for the scope; the effect inside reads the latest state without asking etcd. */
  readonly current: (range: KeyRange) => Effect.Effect<Effect.Effect<Snapshot>, EtcdError, Scope.Scope>
}
