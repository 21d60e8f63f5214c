/**
 * Runs a sequence on one store and tells what it answered, in words that mean the same on every store.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { Etcd, Operation, type WatchItem, type WatchRequest } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import { Operator } from "../contract/Operator.ts"
import type { Command } from "./commands.ts"
import { makeDictionary } from "./dictionary.ts"

export interface Transcript {
  readonly answers: ReadonlyArray<unknown>
  /** What a watch saw that was open all the time. */
  readonly live: unknown
  /** What a watch from the start sees afterwards. */
  readonly history: unknown
  /** What is left to see from the compacted revision itself, and from the one after it. */
  readonly fromCompacted: unknown
  readonly left: unknown
}

export const runSequence = (
  prefix: string,
  commands: ReadonlyArray<Command>
): Effect.Effect<Transcript, EtcdError, Etcd | Operator> =>
  Effect.gen(function*() {
    const etcd = yield* Etcd
    const operator = yield* Operator
    const start = (yield* etcd.txn({ success: [Operation.put(`${prefix}start`, "")] })).revision
    const leases: Array<bigint> = []
    const words = makeDictionary(prefix, start, leases)

    const told = <A>(effect: Effect.Effect<A, EtcdError>, tell: (a: A) => unknown): Effect.Effect<unknown> =>
      Effect.match(effect, { onFailure: words.failure, onSuccess: tell })

    const execute = (command: Command): Effect.Effect<unknown> => {
      switch (command._tag) {
        case "Transact":
          return told(etcd.txn(words.txn(command.txn)), words.txnResult)
        case "Read":
          return told(etcd.range(words.read(command.read)), words.rangeResult)
        case "Compact":
          return operator.compact(words.revision(command.revision))
        case "Grant":
          return told(etcd.leaseGrant(Duration.seconds(command.ttl)), ({ id, ttl }) => {
            leases.push(id)
            return Duration.toSeconds(ttl)
          })
        case "Revoke":
          return told(etcd.leaseRevoke(words.lease(command.lease)), () => "revoked")
        case "KeepAlive":
          return told(etcd.leaseKeepAlive(words.lease(command.lease)), Duration.toSeconds)
        case "TimeToLive":
          return told(etcd.leaseTimeToLive(words.lease(command.lease)), (status) => status.keys.map(words.name).sort())
      }
    }

    /** All that a watch tells until the last key is put, and why it fails before. */
    const watch = (
      request: Omit<WatchRequest, "key" | "prefix" | "from" | "to">,
      onItem: (item: WatchItem) => Effect.Effect<unknown>
    ) => {
      const seen: Array<unknown> = []
      return etcd.watch({ prefix, ...request }).pipe(
        Stream.tap((item) => {
          seen.push(words.item(item))
          return onItem(item)
        }),
        Stream.takeUntil((item) =>
          item._tag === "Batch" && item.events.some((event) => event._tag === "Put" && event.kv.key === `${prefix}end`)
        ),
        Stream.runDrain,
        Effect.timeoutOrElse({ duration: "20 seconds", orElse: () => Effect.sync(() => seen.push("timed out")) }),
        Effect.match({
          onFailure: (error) => ({ seen, failed: words.failure(error), reason: error.reason }),
          onSuccess: () => ({ seen, failed: undefined, reason: undefined })
        })
      )
    }
    const tellWatch = ({ failed, seen }: { readonly seen: unknown; readonly failed: unknown }) => ({ failed, seen })
    const watchFrom = (startRevision: bigint) => watch({ startRevision, previousKv: true }, () => Effect.void)

    const opened = yield* Deferred.make<void>()
    const live = yield* Effect.forkChild(
      // What was before is read when the event is sent, which may be after a compaction: so nothing previous here.
      watch({ startRevision: start + 1n }, () => Deferred.succeed(opened, undefined))
    )
    yield* Deferred.await(opened)
    const answers: Array<unknown> = []
    for (const command of commands) answers.push(yield* execute(command))
    const end = (yield* etcd.txn({ success: [Operation.put(`${prefix}end`, "")] })).revision

    const history = yield* watchFrom(start)
    const compacted = history.reason?._tag === "Compacted" ? history.reason.compactRevision : undefined
    const [fromCompacted, left] = compacted === undefined ? [history, history] : yield* Effect.all(
      [watchFrom(compacted), watchFrom(compacted < end ? compacted + 1n : end)],
      { concurrency: "unbounded" }
    )
    return {
      answers,
      live: tellWatch(yield* Fiber.join(live)),
      history: tellWatch(history),
      fromCompacted: tellWatch(fromCompacted),
      left: tellWatch(left)
    }
  })
