/**
 * The shards of one runner: a key for each, on the runner's lease.
 *
 * Sharding asks at an interval which shards it still holds, and believes the answer until it has the next one. So an answer is given only
 * while the lease lasts for another interval, and for as long as it takes to stop what runs: see `assured`.
 *
 * A key is deleted by the revision of its last put, and each acquisition puts it anew. So neither a put nor a deletion that etcd applies
 * late, after its caller has given up, can take away what was acquired since. What a late put brings back is on the runner's own lease, and
 * is deleted when it is seen.
 */
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import type { ShardId } from "effect/cluster/ShardId"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { Compare, type Etcd, type KeyValue, Operation, type OperationResult } from "../../Etcd.ts"
import { EtcdError, Timeout } from "../../EtcdError.ts"
import { list } from "../follow.ts"
import type { SessionLost } from "../session/LeaseClock.ts"
import { durationNanos } from "../session/LeaseClock.ts"
import type { LeaseSession } from "../session/LeaseSession.ts"
import { shardKey, shardsOf } from "./layout.ts"
import type { RunnerLease } from "./RunnerLease.ts"

export interface ShardLocks {
  /** Those of the shards that nobody else holds, and that this runner holds from now on. */
  readonly acquire: (
    shards: ReadonlyArray<ShardId>
  ) => Effect.Effect<Array<ShardId>, EtcdError | SessionLost>
  /**
   * Those of the shards that are still held. Fails when one of them was on a lease that is lost, or is about to be: Sharding then stops
   * what runs on all of them by force, while it would wait politely for a shard that is only missing in the answer.
   */
  readonly refresh: (
    shards: ReadonlyArray<ShardId>
  ) => Effect.Effect<Array<ShardId>, EtcdError | SessionLost>
  readonly release: (shard: ShardId) => Effect.Effect<void, EtcdError>
  readonly releaseAll: Effect.Effect<void, EtcdError>
}

/** A shard that Sharding has been told it holds. */
interface Held {
  readonly session: LeaseSession
  readonly modRevision: bigint
}

/** etcd takes 128 operations, those of the deepest nested transaction included. */
const perTransaction = 100

/** How often it is looked whether a late beat has come after all. */
const lookAgain = "50 millis"

/** What is left of the TTL for Sharding to stop what runs. */
const graceOf = (session: LeaseSession) => Duration.divideUnsafe(session.ttlUnsafe(), 4)

const deadlineNear = new EtcdError({
  operation: "refresh",
  reason: new Timeout({ detail: "the lease was not renewed in time to be relied on any longer" })
})

const deletion = (key: string, leaseId: bigint, modRevision: bigint) => ({
  compare: [Compare.lease(key, "=", leaseId), Compare.modRevision(key, "=", modRevision)],
  success: [Operation.delete(key)]
})

/**
 * All of them in one, each as if it were alone. Before 3.4.42 and 3.5.28, etcd checks no right to write within nested transactions: so it is
 * asked about the keys outside of them, where nothing is ever done, as a transaction without a compare succeeds.
 */
const together = (transactions: ReadonlyArray<{ readonly key: string; readonly operation: Operation }>) => ({
  success: transactions.map(({ operation }) => operation),
  failure: transactions.map(({ key }) => Operation.delete(key))
})

/** Answers what is on this lease under the key instead: another put. */
const removePut = (
  etcd: Etcd["Service"],
  key: string,
  leaseId: bigint,
  modRevision: bigint
): Effect.Effect<KeyValue | undefined, EtcdError> =>
  Effect.map(
    etcd.txn({ ...deletion(key, leaseId, modRevision), failure: [Operation.range({ key, keysOnly: true })] }),
    ({ responses: [found] }) => found?._tag === "Range" ? found.kvs.find(({ lease }) => lease === leaseId) : undefined
  )

/** Until the key is gone, or is not on this lease. */
export const removeKey = (
  etcd: Etcd["Service"],
  key: string,
  leaseId: bigint,
  modRevision = 0n
): Effect.Effect<void, EtcdError> =>
  Effect.flatMap(
    removePut(etcd, key, leaseId, modRevision),
    (other) => other === undefined ? Effect.void : removeKey(etcd, key, leaseId, other.modRevision)
  )

export const makeShardLocks = (options: {
  readonly etcd: Etcd["Service"]
  readonly prefix: string
  /** Of the runner, for whoever looks into etcd, and for fences. */
  readonly address: string
  readonly lease: RunnerLease
  /** How long at most Sharding believes an answer before it asks again. */
  readonly interval: Duration.Duration
  readonly scope: Scope.Scope
}): ShardLocks => {
  const { address, etcd, interval, lease, prefix, scope } = options
  const held = new Map<string, Held>()
  /** One change at a time: whoever deletes what is not held must not meet an acquisition half way. */
  const turn = Semaphore.makeUnsafe(1)
  let listedAt: bigint | undefined
  let sweeping = false

  // ---------------------------------------------------------------------------
  // The deadline
  // ---------------------------------------------------------------------------

  const lossOf = (session: LeaseSession): Effect.Effect<void, SessionLost> =>
    Effect.suspend(() => {
      const lost = session.lossUnsafe()
      return lost === undefined ? Effect.void : Effect.fail(lost)
    })

  /** Waits for a beat that is late until it would be too late. */
  const assured = (session: LeaseSession): Effect.Effect<void, EtcdError | SessionLost> =>
    Effect.suspend(() => {
      const [remaining, grace] = [session.remainingUnsafe(), graceOf(session)]
      if (Duration.isGreaterThanOrEqualTo(remaining, Duration.sum(interval, grace))) return Effect.void
      return Duration.isLessThanOrEqualTo(remaining, grace)
        ? Effect.andThen(lossOf(session), Effect.fail(deadlineNear))
        : Effect.andThen(Effect.sleep(lookAgain), assured(session))
    })

  const graceBegins = (session: LeaseSession): Effect.Effect<never, EtcdError> =>
    Effect.suspend(() => {
      const left = Duration.subtract(session.remainingUnsafe(), graceOf(session))
      return Duration.isLessThanOrEqualTo(left, Duration.zero)
        ? Effect.fail(deadlineNear)
        // Beats move the deadline meanwhile.
        : Effect.andThen(Effect.sleep(Duration.max(left, Duration.millis(1))), graceBegins(session))
    })

  // ---------------------------------------------------------------------------
  // Acquiring
  // ---------------------------------------------------------------------------

  const claim = (key: string, leaseId: bigint): Operation => {
    const put = Operation.put(key, address, { lease: leaseId })
    return Operation.txn({
      compare: [Compare.createRevision(key, "=", 0n)],
      success: [put],
      // Put there by an acquisition that was given up.
      failure: [Operation.txn({ compare: [Compare.lease(key, "=", leaseId)], success: [put] })]
    })
  }

  const isTaken = (result: OperationResult | undefined): boolean =>
    result?._tag === "Txn" && (result.succeeded || isTaken(result.responses[0]))

  const acquire: ShardLocks["acquire"] = (shards) =>
    Effect.gen(function*() {
      const session = yield* lease.session
      const taken: Array<{ readonly shard: ShardId; readonly key: string; readonly modRevision: bigint }> = []
      for (const chunk of Arr.chunksOf(shards, perTransaction)) {
        const keys = chunk.map((shard) => shardKey(prefix, shard))
        const claims = keys.map((key) => ({ key, operation: claim(key, session.leaseId) }))
        const result = yield* etcd.txn(together(claims)).pipe(
          Effect.tapError(({ reason }) =>
            Effect.sync(() => reason._tag === "LeaseNotFound" ? session.revoked() : undefined)
          )
        )
        chunk.forEach((shard, index) => {
          const key = keys[index]
          if (key === undefined || !isTaken(result.responses[index])) return
          taken.push({ shard, key, modRevision: result.revision })
        })
      }
      yield* session.check
      yield* assured(session)
      return { session, taken }
    }).pipe(
      Effect.retry({ times: 2, while: (error) => error._tag === "EtcdError" && error.reason._tag === "LeaseNotFound" }),
      // Interrupted before, nobody was told: what was put is in nobody's hands, and is swept away.
      Effect.onExit((exit) =>
        Effect.sync(() => {
          if (exit._tag === "Failure") return
          const { session, taken } = exit.value
          for (const { key, modRevision } of taken) held.set(key, { session, modRevision })
        })
      ),
      Effect.map(({ taken }) => taken.map(({ shard }) => shard)),
      turn.withPermit
    )

  // ---------------------------------------------------------------------------
  // Releasing
  // ---------------------------------------------------------------------------

  // Sharding may give up all by force while it waits for one, and begin anew: what has been acquired since is not meant.
  const release: ShardLocks["release"] = Effect.fnUntraced(function*(shard) {
    const key = shardKey(prefix, shard)
    const entry = held.get(key)
    const session = entry === undefined ? lease.liveUnsafe() : entry.session
    // What was on a lost lease goes with it.
    if (session !== undefined && session.lossUnsafe() === undefined) {
      const other = entry && (yield* removePut(etcd, key, session.leaseId, entry.modRevision))
      if (entry === undefined || other !== undefined) {
        yield* turn.withPermit(
          Effect.suspend(() =>
            held.get(key) === entry ? removeKey(etcd, key, session.leaseId, other?.modRevision) : Effect.void
          )
        )
      }
    }
    if (held.get(key) === entry) held.delete(key)
  })

  const removeAll = (kvs: ReadonlyArray<KeyValue>) =>
    Effect.forEach(
      Arr.chunksOf(kvs, perTransaction),
      (chunk) =>
        etcd.txn(together(chunk.map(({ key, lease, modRevision }) => ({
          key,
          operation: Operation.txn(deletion(key, lease, modRevision))
        })))),
      { discard: true }
    )

  const listOwn = (session: LeaseSession) =>
    Effect.map(listing, (kvs) => kvs.filter((kv) => kv.lease === session.leaseId))

  const releaseAll = turn.withPermit(Effect.gen(function*() {
    const session = lease.liveUnsafe()
    if (session !== undefined) yield* Effect.flatMap(listOwn(session), removeAll)
    held.clear()
    yield* lease.endLost
  }))

  // ---------------------------------------------------------------------------
  // Refreshing
  // ---------------------------------------------------------------------------

  const listing = Effect.flatMap(
    Clock.monotonicTimeNanos,
    (now) =>
      Effect.map(list(etcd, { prefix: shardsOf(prefix) }), ({ kvs }) => {
        listedAt = now
        return [...HashMap.values(kvs)]
      })
  )

  /** One shard is asked for before each reply of an entity: then the others are looked at only as often as at all. */
  const read = (shards: ReadonlyArray<ShardId>) =>
    Effect.flatMap(Clock.monotonicTimeNanos, (now) => {
      const [shard] = shards
      const recent = listedAt !== undefined && now - listedAt < durationNanos(interval)
      return shards.length === 1 && shard !== undefined && recent
        ? Effect.map(etcd.range({ key: shardKey(prefix, shard), keysOnly: true }), ({ kvs }) => kvs)
        : listing
    })

  /** Sharding asks for nothing when it has stopped relying on what it had. */
  const forgetLost = (): void => {
    for (const [key, { session }] of held) if (session.lossUnsafe() !== undefined) held.delete(key)
  }

  const strays = (session: LeaseSession, kvs: ReadonlyArray<KeyValue>) =>
    kvs.filter((kv) => kv.lease === session.leaseId && !held.has(kv.key))

  /** Beside the answer, which does not wait for it. */
  const sweep = (session: LeaseSession, found: ReadonlyArray<KeyValue>) =>
    Effect.suspend(() => {
      if (sweeping || strays(session, found).length === 0) return Effect.void
      sweeping = true
      return turn.withPermit(
        // Again: those that were being acquired are held by now.
        Effect.suspend(() => removeAll(strays(session, found)))
      ).pipe(
        Effect.timeout(interval),
        Effect.catch((error) => Effect.logDebug("shards that nobody uses are not released yet", error)),
        Effect.ensuring(Effect.sync(() => {
          sweeping = false
        })),
        Effect.forkIn(scope)
      )
    })

  const refresh: ShardLocks["refresh"] = Effect.fnUntraced(function*(shards) {
    const keys = shards.map((shard) => shardKey(prefix, shard))
    yield* Effect.forEach(
      new Set(keys.flatMap((key) => Option.toArray(Option.fromUndefinedOr(held.get(key)?.session)))),
      (session) => session.check,
      { discard: true }
    )
    const session = lease.liveUnsafe()
    if (session === undefined) {
      // To ask for nothing is to ask whether etcd answers.
      yield* read(shards)
      if (shards.length === 0) forgetLost()
      return []
    }
    const found = yield* Effect.raceFirst(read(shards), graceBegins(session))
    yield* assured(session)
    yield* sweep(session, found)
    if (shards.length === 0) forgetLost()
    const own = new Set(found.flatMap((kv) => kv.lease === session.leaseId ? [kv.key] : []))
    return shards.filter((_, index) => {
      const key = keys[index]
      return key !== undefined && own.has(key) && held.get(key)?.session === session
    })
  })

  return { acquire, refresh, release, releaseAll }
}
