/**
 * A lease that is kept alive, and the keys that live on it.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { Compare, type Etcd } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import * as Telemetry from "../Telemetry.ts"
import { isComplete } from "./Account.ts"
import { durationNanos, makeLeaseClock, readClock, type SessionLost, sleepUntil } from "./LeaseClock.ts"
import { patienceWith } from "./Patience.ts"
import { deletion, retrySoon } from "./Removal.ts"
import { makeSlots, type Slot, type SlotOwner } from "./Slots.ts"

export interface LeaseSession {
  readonly leaseId: bigint
  /** For what has to go on when its caller stops waiting; closes with the session. */
  readonly scope: Scope.Scope
  readonly ttlUnsafe: () => Duration.Duration
  readonly remainingUnsafe: () => Duration.Duration
  readonly lossUnsafe: () => SessionLost | undefined
  readonly lost: Effect.Effect<never, SessionLost>
  /** Succeeds while the lease is held; asks the server first where the machine seems to have been suspended. */
  readonly check: Effect.Effect<void, SessionLost>
  /** The machine seems to have been suspended: `check` would ask. */
  readonly suspectedUnsafe: () => boolean
  /** The server said that the lease does not exist. */
  readonly revoked: () => void
  /**
   * A write of this key may be applied at any later time, since its answer was lost (through a frozen follower, say), or it
   * could not be deleted: no new key is put on this lease, and every beat deletes this one while nobody here owns it.
   */
  readonly distrust: (key: string) => void
  readonly distrustedUnsafe: () => boolean
  readonly open: (key: string, name: string, owner: SlotOwner) => Slot
  /** Ends the session before its scope closes: everything on it is lost, and the lease is revoked, within the request timeout. */
  readonly end: Effect.Effect<void>
}

export interface LeaseSettings {
  /** Below it only slots put keys on this lease. What is elsewhere on it belongs to users. */
  readonly prefix?: string | undefined
  /** On the monotonic clock: by leases that have it in common, beats that are due soon after each other are sent together. */
  readonly origin?: bigint | undefined
}

/**
 * A third of the TTL after the last one; up to a tenth of that earlier, so that leases that were granted soon after each other beat, and are
 * looked at, together: that takes half the processor time of one after the other.
 */
const nextBeat = (last: bigint, ttl: bigint, origin: bigint): bigint => {
  const due = last + ttl / 3n
  return due - (due - origin) % (ttl / 30n)
}

export const makeLeaseSession = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  requestedTtl: Duration.Duration,
  { origin, prefix }: LeaseSettings = {}
): Effect.fn.Return<LeaseSession, EtcdError, Scope.Scope> {
  const scope = yield* Effect.scope
  const clock = yield* Clock.Clock
  const asked = readClock(clock)
  let over = false

  const revoke = (leaseId: bigint) =>
    Effect.suspend(() => {
      if (over) return Effect.void
      over = true
      const patience = patienceWith(etcd)
      const revoked = Effect.onExit(etcd.leaseRevoke(leaseId), (exit) => Effect.sync(() => patience.heardUnsafe(exit)))
      return patience.within(revoked, Effect.logDebug("lease not revoked in time, it expires by itself")).pipe(
        Effect.catch((error) => Effect.logDebug("lease not revoked, it expires by itself", error)),
        Effect.annotateLogs({ lease: leaseId.toString(16) })
      )
    })

  // Interruptible: whoever closes the scope does not wait for a server that does not answer.
  const lease = yield* Effect.acquireRelease(etcd.leaseGrant(requestedTtl), ({ id }) => revoke(id), {
    interruptible: true
  })
  const annotated = Effect.annotateLogs({ lease: lease.id.toString(16) })
  const slots = yield* makeSlots(etcd)
  const life = makeLeaseClock(clock, lease, asked, (why) => {
    over ||= why === "Revoked"
    slots.loseAll(why)
  })
  const distrusted = new Set<string>()

  const revokedBy = (error: EtcdError): boolean => {
    if (error.reason._tag !== "LeaseNotFound") return false
    life.lose("Revoked")
    return true
  }

  const beat: Effect.Effect<boolean> = Effect.suspend(() => {
    const sent = readClock(clock)
    return etcd.leaseKeepAlive(lease.id).pipe(
      Effect.timeout(Duration.divideUnsafe(life.ttlUnsafe(), 3)),
      Effect.match({
        onSuccess: (granted) => life.confirm(sent, granted),
        onFailure: (error) => {
          if (error._tag === "EtcdError") revokedBy(error)
          return false
        }
      })
    )
  })

  const check: Effect.Effect<void, SessionLost> = Effect.suspend(() => {
    const lost = life.lossUnsafe()
    if (lost !== undefined) return Effect.fail(lost)
    if (!life.suspectedUnsafe()) return Effect.void
    return Effect.raceFirst(beat, life.lost).pipe(
      Effect.flatMap((beaten) => beaten || life.lossUnsafe() !== undefined ? Effect.void : Effect.sleep("100 millis")),
      Effect.andThen(check)
    )
  })

  const readKey = (key: string) => Effect.map(etcd.range({ key, keysOnly: true }), (result) => result.kvs[0])

  /** Finds keys that somebody deleted, and keys that nobody here owns: a late write or a restored older state has put them there. */
  const inspect = Effect.gen(function*() {
    if (!slots.areUsed() && distrusted.size === 0) return
    const { expected } = slots.account()
    const { keys, revision } = yield* etcd.leaseTimeToLive(lease.id)
    if (distrusted.size === 0 && isComplete(slots.account(), keys, revision)) return
    const onLease = new Set(keys)
    // A late write can put a key of the same name there, after somebody deleted the one that is relied on. So does an older snapshot that is
    // restored, whose revision is below that of the key, unless the member that was asked is only behind.
    const doubtful = [...expected].filter(([slot, createRevision]) =>
      !onLease.has(slot.key) || distrusted.has(slot.key) || createRevision > revision
    )
    for (const [slot, createRevision] of doubtful) {
      const kv = yield* readKey(slot.key)
      // It may have been released meanwhile, or put anew.
      const stillExpected = slots.account().expected.get(slot) === createRevision
      if (stillExpected && (kv?.createRevision !== createRevision || kv.lease !== lease.id)) slot.lose("Deleted")
    }
    const { owned } = slots.account()
    for (const key of onLease) {
      if (owned.has(key) || prefix === undefined || !key.startsWith(prefix)) continue
      const kv = yield* readKey(key)
      // Somebody may have claimed it meanwhile.
      if (kv === undefined || kv.lease !== lease.id || slots.account().owned.has(key)) continue
      // Whoever claims a key of this name from here on does so on another lease: here, it would be taken for his, and then deleted.
      distrusted.add(key)
      yield* Effect.logWarning("deleting a key that nobody owns any more").pipe(Effect.annotateLogs({ key }))
      // The lease too: a key that another client has put over keeps its create revision.
      const { compare = [], success } = deletion(key, kv.createRevision)
      yield* etcd.txn({ compare: [...compare, Compare.lease(key, "=", lease.id)], success })
    }
  })

  let inspecting = false
  const inspectInTime = Effect.suspend(() => {
    inspecting = true
    return Effect.timeout(inspect, Duration.divideUnsafe(life.ttlUnsafe(), 3))
  }).pipe(
    Effect.catchTags({
      EtcdError: (error) => revokedBy(error) ? Effect.void : Effect.logDebug("keys not verified", error),
      TimeoutError: () => Effect.logDebug("keys not verified: no answer in time")
    }),
    Effect.ensuring(Effect.sync(() => {
      inspecting = false
    })),
    annotated
  )

  const beats = Effect.gen(function*() {
    let sent = clock.monotonicTimeNanosUnsafe()
    // Whoever came first may be under another clock than the pool.
    const from = origin === undefined || origin > sent ? sent : origin
    while (life.lossUnsafe() === undefined) {
      const planned = nextBeat(sent, durationNanos(life.ttlUnsafe()), from)
      yield* sleepUntil(clock, planned)
      const now = clock.monotonicTimeNanosUnsafe()
      // A timer may be early by less than a millisecond: that must not make it one of those before.
      sent = now > planned ? now : planned
      yield* beat.pipe(
        Effect.flatMap((beaten) => beaten || life.lossUnsafe() !== undefined ? Effect.void : Effect.fail("no answer")),
        Effect.retry(retrySoon),
        Effect.ignore
      )
      // Beside the beats: it must not delay the next one.
      if (life.lossUnsafe() === undefined && !inspecting) yield* Effect.forkIn(inspectInTime, scope)
    }
  })

  const watchdog = Effect.gen(function*() {
    while (life.lossUnsafe() === undefined) yield* sleepUntil(clock, life.deadlineUnsafe())
  })

  const report = Effect.catch(life.lost, ({ why }) =>
    why === "Closed" ? Effect.void : Effect.andThen(
      Telemetry.sessionLost(why),
      Effect.annotateLogs(Effect.logWarning("session lost"), { why })
    ))

  yield* Effect.forkIn(annotated(beats), scope)
  yield* Effect.forkIn(watchdog, scope)
  yield* Effect.forkIn(annotated(report), scope)

  const end = Effect.suspend(() => {
    life.lose("Closed")
    return revoke(lease.id)
  })
  // The last to be added is the first to run: nobody relies on a session that has begun to close.
  yield* Scope.addFinalizer(scope, Effect.sync(() => life.lose("Closed")))

  const session: LeaseSession = {
    leaseId: lease.id,
    scope,
    ttlUnsafe: life.ttlUnsafe,
    remainingUnsafe: life.remainingUnsafe,
    lossUnsafe: life.lossUnsafe,
    lost: life.lost,
    check,
    suspectedUnsafe: life.suspectedUnsafe,
    revoked: () => life.lose("Revoked"),
    distrust: (key) => {
      distrusted.add(key)
    },
    distrustedUnsafe: () => distrusted.size > 0,
    open: (key, name, owner) => slots.open(session, key, name, owner),
    end
  }
  return session
})
