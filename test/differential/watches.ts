/**
 * The watches that are opened in the middle of a sequence, on one store. What they saw is only compared once they have seen all, so that nothing
 * depends on how fast a store is.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { type Etcd, type KeyRange, Operation, type WatchItem } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import type { Transport } from "../../src/internal/Transport.ts"

export interface WatchRecord {
  readonly seen: ReadonlyArray<unknown>
  readonly failed: unknown
  /** It began at the very revision up to which all was compacted. */
  readonly fromCompacted: boolean
}

interface Watcher {
  readonly record: { seen: Array<unknown>; failed: unknown; fromCompacted: boolean }
  /** A key that it watches. */
  readonly key: string
  /** The first revision that it is to see. */
  begins: bigint
  /** The last one that it has seen; `over` when it has ended. */
  readonly last: SubscriptionRef.SubscriptionRef<bigint>
}

const over = 1n << 63n

export const makeWatches = (
  etcd: Etcd["Service"],
  attempts: Transport,
  words: { readonly item: (item: WatchItem) => unknown; readonly failure: (error: EtcdError) => unknown }
) => {
  const watchers: Array<Watcher> = []

  const reached = (watcher: Watcher, revision: bigint): Effect.Effect<unknown> =>
    SubscriptionRef.changes(watcher.last).pipe(
      Stream.filter((last) => last >= revision),
      Stream.runHead,
      Effect.timeoutOrElse({
        duration: "20 seconds",
        orElse: () => Effect.sync(() => watcher.record.seen.push("timed out"))
      })
    )

  /** Writes where everybody looks, and waits until everybody has seen it: a compaction could overtake a slow one. */
  const settle: Effect.Effect<bigint, EtcdError> = Effect.gen(function*() {
    // Also where a watch has ended, as one store tells that later than another.
    const keys = [...new Set(watchers.flatMap(({ key, record }) => record.seen.length === 0 ? [] : [key]))]
    if (keys.length === 0) return 0n
    const { revision } = yield* etcd.txn({ success: keys.map((key) => Operation.put(key, "sync")) })
    yield* Effect.forEach(watchers.filter(({ begins }) => begins <= revision), (watcher) => reached(watcher, revision))
    return revision
  })

  const open = Effect.fnUntraced(
    function*(range: KeyRange, start: bigint, previousKv: boolean, compacted: bigint | undefined) {
      const record: Watcher["record"] = { seen: [], failed: undefined, fromCompacted: start === compacted }
      const watcher: Watcher = {
        record,
        key: "key" in range ? range.key : "prefix" in range ? range.prefix : range.from,
        begins: start,
        last: yield* SubscriptionRef.make(0n)
      }
      const opened = yield* Deferred.make<void>()
      yield* attempts.watch({ ...range, startRevision: start, previousKv }).pipe(
        Stream.tap((item) => {
          if (item._tag === "Opened") {
            record.seen.push({ opened: words.item(item) })
            if (start === 0n) watcher.begins = item.revision + 1n
            return Deferred.succeed(opened, undefined)
          }
          // Old servers send them.
          if (item.revision < watcher.begins) return Effect.void
          record.seen.push(words.item(item))
          return SubscriptionRef.set(watcher.last, item.revision)
        }),
        Stream.runDrain,
        Effect.matchEffect({
          onFailure: (error) => {
            record.failed = words.failure(error)
            return SubscriptionRef.set(watcher.last, over)
          },
          onSuccess: () => SubscriptionRef.set(watcher.last, over)
        }),
        Effect.ensuring(Deferred.succeed(opened, undefined)),
        Effect.forkScoped
      )
      yield* Deferred.await(opened)
      watchers.push(watcher)
    }
  )

  /** When all of them have begun and have seen everything. */
  const end = Effect.gen(function*() {
    const begin = watchers.reduce((greatest, { begins }) => begins > greatest ? begins : greatest, 0n)
    while (true) {
      const revision = yield* settle
      if (revision === 0n || revision >= begin) break
    }
    return watchers.map(({ record }): WatchRecord => ({ ...record, seen: record.seen.slice() }))
  })

  return { open, settle, end }
}
