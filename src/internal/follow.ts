/**
 * A range followed from a known state: every change exactly once and in order, with what this process knew before it.
 *
 * Where etcd cannot tell what happened (compacted away, or an older snapshot was restored) the range is listed again and
 * the difference to the known state is told, so that nobody behind this sees a gap.
 */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Option from "effect/Option"
import * as Order from "effect/Order"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import type { Etcd, KeyRange, KeyValue, WatchEvent } from "../Etcd.ts"
import type { EtcdError } from "../EtcdError.ts"
import { compareBytes, decodeKey, encodeKey, prefixEnd } from "./keys.ts"

export type Change =
  | { readonly _tag: "Put"; readonly kv: KeyValue; readonly previous: KeyValue | undefined }
  | {
    readonly _tag: "Delete"
    readonly key: string
    /** Of a deletion that was not seen: the revision of the listing that missed the key. */
    readonly modRevision: bigint
    readonly previous: KeyValue | undefined
  }
  /** The consumer has now seen the whole state as of this revision: after the first listing, and after each resynchronisation. */
  | { readonly _tag: "Synced"; readonly revision: bigint }

export interface Snapshot {
  readonly revision: bigint
  readonly kvs: HashMap.HashMap<string, KeyValue>
}

/** The changes of one revision, and the state after them (which shares its structure with the states around it). */
export interface Entry {
  readonly changes: ReadonlyArray<Change>
  readonly state: Snapshot
  readonly bytes: number
}

// -----------------------------------------------------------------------------
// Listing
// -----------------------------------------------------------------------------

/** Keys per request: a big range does not become one answer over the client's receive limit. */
const pageSize = 1000

/** The whole range at one revision: `atRevision`, or that of the first page. */
export const list = (etcd: Etcd["Service"], range: KeyRange, atRevision?: bigint): Effect.Effect<Snapshot, EtcdError> =>
  Effect.retry(listOnce(etcd, range, atRevision), {
    times: 3,
    // Between two pages; only a revision that was asked for stays lost. In a store that was restored meanwhile it is one of the future.
    while: ({ reason: { _tag } }) => (_tag === "Compacted" || _tag === "InvalidArgument") && atRevision === undefined
  })

const listOnce = Effect.fnUntraced(function*(etcd: Etcd["Service"], range: KeyRange, atRevision: bigint | undefined) {
  const end = endOf(range)
  let page = yield* etcd.range({ ...range, atRevision, limit: end === undefined ? undefined : pageSize })
  const revision = atRevision ?? page.revision
  const kvs = [...page.kvs]
  let last = page.kvs.at(-1)
  while (page.more && end !== undefined && last !== undefined) {
    page = yield* etcd.range({ from: `${last.key}\0`, to: end, atRevision: revision, limit: pageSize })
    kvs.push(...page.kvs)
    last = page.kvs.at(-1)
  }
  return { revision, kvs: HashMap.fromIterable(kvs.map((kv) => [kv.key, kv] as const)) } satisfies Snapshot
})

/** Where a range ends, if it can be read in pages: one key needs none, and a range without an end cannot be said. */
const endOf = (range: KeyRange): string | undefined => {
  if ("key" in range) return undefined
  if ("to" in range) return range.to
  const end = prefixEnd(encodeKey(range.prefix))
  return end.length === 1 && end[0] === 0 ? undefined : decodeKey(end)
}

// -----------------------------------------------------------------------------
// Following
// -----------------------------------------------------------------------------

/**
 * What happens after `start`, one entry for each revision that changes something. It does not end; it fails with what neither time nor a
 * new listing mends, as `PermissionDenied`.
 */
export const follow = (etcd: Etcd["Service"], range: KeyRange, start: Snapshot): Stream.Stream<Entry, EtcdError> =>
  Stream.suspend(() => {
    let state = start
    let outdated = false
    let failures = 0

    const advance = (revision: bigint, events: ReadonlyArray<Change>): Entry => {
      failures = 0
      state = { revision, kvs: apply(state.kvs, events) }
      return { changes: events, state, bytes: events.reduce((sum, change) => sum + sizeOf(change), 0) }
    }

    const watch = Stream.suspend(() => etcd.watch({ ...range, startRevision: state.revision + 1n })).pipe(
      Stream.map((item) => {
        failures = 0
        // At or below what is known: an old server may send it, and the state already has it.
        if (item._tag === "Opened" || item.revision <= state.revision) return undefined
        return advance(item.revision, changesOf(state.kvs, item.events))
      }),
      Stream.filter((entry): entry is Entry => entry !== undefined && entry.changes.length > 0)
    )

    const resync = Effect.gen(function*() {
      const next = yield* list(etcd, range)
      outdated = false
      return advance(next.revision, [...difference(state.kvs, next), { _tag: "Synced", revision: next.revision }])
    })

    const round = Stream.unwrap(Effect.gen(function*() {
      yield* pause(failures++)
      return outdated ? Stream.concat(Stream.fromEffect(resync), watch) : watch
    })).pipe(
      Stream.catch((error) => {
        switch (error.reason._tag) {
          case "Compacted":
          case "HistoryLost":
            outdated = true
            return Stream.unwrap(Effect.as(logResync(range, error), Stream.empty))
          case "Unavailable":
          case "Timeout":
            return Stream.empty
          default:
            return Stream.fail(error)
        }
      })
    )
    return Stream.forever(round)
  })

/** Before the n-th try after a failure (0: at once): all clients of a restored etcd would come back at once without the jitter. */
export const pause = (failures: number, longest = 5000): Effect.Effect<void> =>
  failures === 0
    ? Effect.void
    : Effect.flatMap(Random.next, (random) =>
      Effect.sleep(Math.min(100 * 2 ** (failures - 1), longest) * (0.5 + random / 2)))

const logResync = (range: KeyRange, error: EtcdError) =>
  Effect.logWarning("watch interrupted: listing again").pipe(
    Effect.annotateLogs({ ...range, reason: error.reason.message })
  )

// -----------------------------------------------------------------------------
// Changes
// -----------------------------------------------------------------------------

const changesOf = (known: Snapshot["kvs"], events: ReadonlyArray<WatchEvent>): ReadonlyArray<Change> => {
  const changes: Array<Change> = []
  for (const event of events) {
    const key = event._tag === "Put" ? event.kv.key : event.key
    const previous = Option.getOrUndefined(HashMap.get(known, key))
    if (event._tag === "Put") changes.push({ _tag: "Put", kv: event.kv, previous })
    else if (previous !== undefined) changes.push({ _tag: "Delete", key, modRevision: event.modRevision, previous })
  }
  return changes
}

const apply = (kvs: Snapshot["kvs"], changes: ReadonlyArray<Change>): Snapshot["kvs"] =>
  HashMap.mutate(kvs, (draft) => {
    for (const change of changes) {
      if (change._tag === "Put") HashMap.set(draft, change.kv.key, change.kv)
      else if (change._tag === "Delete") HashMap.remove(draft, change.key)
    }
  })

/** What leads from one state to another, in the order of the revisions. */
const difference = (known: Snapshot["kvs"], next: Snapshot): ReadonlyArray<Change> => {
  const changes: Array<Change> = []
  for (const kv of inOrder(next)) {
    const previous = Option.getOrUndefined(HashMap.get(known, kv.key))
    if (previous === undefined || !isSame(previous, kv)) changes.push({ _tag: "Put", kv, previous })
  }
  for (const [key, previous] of known) {
    if (!HashMap.has(next.kvs, key)) changes.push({ _tag: "Delete", key, modRevision: next.revision, previous })
  }
  return changes
}

/** All of it: in a restored history the same revision can be another write. */
const isSame = (a: KeyValue, b: KeyValue): boolean =>
  a.modRevision === b.modRevision && a.createRevision === b.createRevision && a.lease === b.lease &&
  compareBytes(a.value, b.value) === 0

/** A state as the changes that lead to it. */
export const stateAsChanges = (state: Snapshot): ReadonlyArray<Change> => [
  ...inOrder(state).map((kv): Change => ({ _tag: "Put", kv, previous: undefined })),
  { _tag: "Synced", revision: state.revision }
]

const inOrder = (state: Snapshot): ReadonlyArray<KeyValue> => Arr.sort(HashMap.values(state.kvs), byRevision)

const byRevision = Order.combine(
  Order.mapInput(Order.BigInt, (kv: KeyValue) => kv.modRevision),
  Order.mapInput(Order.String, (kv: KeyValue) => kv.key)
)

const overhead = 64

const sizeOf = (change: Change): number =>
  overhead + (change._tag === "Put" ? change.kv.key.length + change.kv.value.length : 0)
