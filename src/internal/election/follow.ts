/**
 * Who is the first of a queue, as it changes.
 */
import * as Stream from "effect/Stream"
import type { KeyValue } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { isEntryOf } from "../lock/entry.ts"
import type { SharedWatch } from "../SharedWatch.ts"

/** All of it: in a restored history the same revision can be another write. */
const isSame = (a: KeyValue | undefined, b: KeyValue | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && a.key === b.key && a.createRevision === b.createRevision &&
    a.modRevision === b.modRevision && a.lease === b.lease && Buffer.compare(a.value, b.value) === 0)

/** The entry with the least create revision below the path: the present one, then each other one and each change of its value. */
export const followFirst = (shared: SharedWatch, path: string): Stream.Stream<KeyValue | undefined, EtcdError> =>
  Stream.suspend(() => {
    const entries = new Map<string, KeyValue>()
    let told: { readonly first: KeyValue | undefined } | undefined
    return shared.changes({ prefix: path }).pipe(
      Stream.map((changes) => {
        for (const change of changes) {
          if (change._tag === "Put" && isEntryOf(path, change.kv.key)) entries.set(change.kv.key, change.kv)
          else if (change._tag === "Delete") entries.delete(change.key)
        }
        let first: KeyValue | undefined
        for (const entry of entries.values()) {
          if (first === undefined || entry.createRevision < first.createRevision) first = entry
        }
        if (told !== undefined && isSame(told.first, first)) return undefined
        told = { first }
        return told
      }),
      Stream.filter((step) => step !== undefined),
      Stream.map((step) => step.first)
    )
  })
