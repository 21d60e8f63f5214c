/**
 * Runs a sequence on one store and tells what it answered, in words that mean the same on every store.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Etcd, Operation, type WatchItem, type WatchRequest } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import { Operator } from "../contract/Operator.ts"
import type { Command } from "./commands.ts"
import { makeDictionary } from "./dictionary.ts"
import { Attempts } from "./stores.ts"
import { makeWatches, type WatchRecord } from "./watches.ts"

export interface Transcript {
  readonly answers: ReadonlyArray<unknown>
  /** What a watch saw that was open all the time. */
  readonly live: unknown
  /** What a watch from the start sees afterwards. */
  readonly history: unknown
  /** What is left to see from the compacted revision itself, and from the one after it. */
  readonly fromCompacted: unknown
  readonly left: unknown
  /** What the watches saw that were opened on the way. */
  readonly watches: ReadonlyArray<WatchRecord>
}

/** Sequences of one store have different numbers, and run one after the other. */
export const runSequence = (
  number: number,
  commands: ReadonlyArray<Command>
): Effect.Effect<Transcript, EtcdError, Etcd | Operator | Attempts> =>
  Effect.gen(function*() {
    const prefix = `/s${number}/`
    const etcd = yield* Etcd
    const attempts = yield* Attempts
    const operator = yield* Operator
    const start = (yield* etcd.txn({ success: [Operation.put(`${prefix}start`, "")] })).revision
    const leases: Array<bigint> = []
    const ttls = new Map<bigint, number>()
    const words = makeDictionary(prefix, start, leases)
    const watches = makeWatches(etcd, attempts, words)
    let lastCompacted: bigint | undefined
    let fresh = BigInt(number + 1) << 32n

    const told = <A>(effect: Effect.Effect<A, EtcdError>, tell: (a: A) => unknown): Effect.Effect<unknown> =>
      Effect.match(effect, { onFailure: words.failure, onSuccess: tell })

    const granted = (id: bigint, ttl: Duration.Duration): number => {
      if (!leases.includes(id)) leases.push(id)
      const seconds = Duration.toSeconds(ttl)
      ttls.set(id, seconds)
      return seconds
    }

    const compact = (revision: bigint) =>
      Effect.gen(function*() {
        yield* Effect.orDie(watches.settle)
        const done = yield* operator.compact(revision)
        if (done) lastCompacted = revision
        return done
      })

    const execute = (command: Command): Effect.Effect<unknown, never, Scope.Scope> => {
      switch (command._tag) {
        case "Transact":
          return told(etcd.txn(words.txn(command.txn)), words.txnResult)
        case "Read":
          return told(etcd.range(words.read(command.read)), words.rangeResult)
        case "Compact":
          return compact(words.revision(command.revision))
        case "Grant":
          return told(etcd.leaseGrant(Duration.seconds(command.ttl)), ({ id, ttl }) => granted(id, ttl))
        case "GrantAs": {
          const id = command.lease === undefined ? ++fresh : words.lease(command.lease)
          return told(attempts.leaseGrant(id, Duration.seconds(command.ttl)), ({ exists, ttl }) =>
            exists ? "exists" : granted(id, ttl))
        }
        case "GrantBriefly": {
          const id = ++fresh
          return told(
            Effect.tap(attempts.leaseGrant(id, Duration.seconds(command.ttl)), attempts.leaseRevoke(id)),
            ({ ttl }) =>
              Duration.toSeconds(ttl)
          )
        }
        case "Revoke":
          return told(etcd.leaseRevoke(words.lease(command.lease)), () => "revoked")
        case "KeepAlive":
          return told(etcd.leaseKeepAlive(words.lease(command.lease)), Duration.toSeconds)
        case "TimeToLive":
          return told(etcd.leaseTimeToLive(words.lease(command.lease)), (status) => {
            // Of the time only what cannot depend on how long the sequence has taken.
            const past = (ttls.get(words.lease(command.lease)) ?? 0) - Duration.toSeconds(status.remaining)
            return { inTime: past >= 0 && past < 300, keys: status.keys.map(words.name).sort() }
          })
        case "Watch":
          return watches.open(
            words.range(command.where),
            words.watchStart(command.start),
            command.previousKv,
            lastCompacted
          )
        case "Wide":
          return told(etcd.txn(words.wide(command.compares, command.operations, command.inner)), words.txnResult)
        case "Large":
          return told(
            etcd.txn({ success: [Operation.put(`${prefix}large`, new Uint8Array(command.kibibytes * 1024))] }),
            words.txnResult
          )
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
          // Where it opened is not known of those that begin while others still write.
          if (item._tag === "Batch") seen.push(words.item(item))
          return onItem(item)
        }),
        Stream.takeUntil((item) =>
          item._tag === "Batch" && item.events.some((event) => event._tag === "Put" && event.kv.key === `${prefix}end`)
        ),
        Stream.runDrain,
        Effect.timeoutOrElse({ duration: "20 seconds", orElse: () => Effect.sync(() => seen.push("timed out")) }),
        Effect.match({
          onFailure: (error) => ({ seen, failed: words.failure(error) }),
          onSuccess: () => ({ seen, failed: undefined })
        })
      )
    }
    const watchFrom = (startRevision: bigint) => watch({ startRevision, previousKv: true }, () => Effect.void)

    const opened = yield* Deferred.make<void>()
    const live = yield* Effect.forkChild(
      // What was before is read when the event is sent, which may be after a compaction: so nothing previous here.
      watch({ startRevision: start + 1n }, ({ _tag }) =>
        _tag === "Batch" ? Deferred.succeed(opened, undefined) : Effect.void)
    )
    // Until it has caught up with what was before it, a compaction would end it.
    yield* etcd.txn({ success: [Operation.put(`${prefix}begin`, "")] })
    yield* Deferred.await(opened)
    const answers: Array<unknown> = []
    for (const command of commands) {
      answers.push(yield* execute(command))
    }
    const after = yield* Effect.forkChild(Effect.all([
      watchFrom(start),
      watchFrom(lastCompacted ?? start),
      watchFrom(lastCompacted === undefined ? start : lastCompacted + 1n)
    ], { concurrency: "unbounded" }))
    const onTheWay = yield* watches.end
    yield* etcd.txn({ success: [Operation.put(`${prefix}end`, "")] })
    const [history, fromCompacted, left] = yield* Fiber.join(after)
    return { answers, live: yield* Fiber.join(live), history, fromCompacted, left, watches: onTheWay }
  }).pipe(Effect.scoped)
