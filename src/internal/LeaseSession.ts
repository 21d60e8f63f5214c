/**
 * A lease kept alive, with its own judgement of when it is over, and the keys that live on it.
 *
 * The judgement is local: the server keeps the lease at least until the time at which the last answered beat was *sent*,
 * plus the TTL. From a margin before that on, the lease counts as lost for good, whatever the server says later, so that
 * a holder knows of its loss before the server gives the key away.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { Compare, type Etcd, Operation } from "../Etcd.ts"
import { Ambiguous, EtcdError } from "../EtcdError.ts"
import * as Telemetry from "./Telemetry.ts"

/**
 * The lease of a session is over: `Expired` by the local clock, `Revoked` when the server no longer knows it, `Closed` by
 * its own scope. A lost session never comes back.
 *
 * @category errors
 * @since 0.1.0
 */
export class SessionLost extends Schema.TaggedError<SessionLost>()("SessionLost", {
  leaseId: Schema.BigInt,
  why: Schema.Literals(["Expired", "Revoked", "Closed"])
}) {
  override get message(): string {
    return `session ${this.leaseId.toString(16)} is lost: ${this.why}`
  }
}

/** Why a key is gone: with its session, or alone because somebody deleted it. */
export type SlotLoss = SessionLost["why"] | "Deleted"

/**
 * One key on the lease of a session, owned by one local user.
 */
export interface Slot {
  readonly key: string
  readonly session: LeaseSession
  /** Completes with the reason when the key can no longer be relied on. */
  readonly lost: Effect.Effect<SlotLoss>
  /** Why it is lost, judged now by the clock. */
  readonly lossUnsafe: () => SlotLoss | undefined
  /** As `lossUnsafe`, after a beat where the machine seems to have been suspended. */
  readonly loss: Effect.Effect<SlotLoss | undefined>
  /** The key has been seen in the store with this create revision: from now on its absence is a loss. */
  readonly present: (createRevision: bigint) => void
  /** A compare has shown that the key is not (or no longer) there. */
  readonly lose: (why: SlotLoss) => void
  /** Deletes the key if it is still this one. Fails with `Ambiguous` when there was no answer in time; the session goes on. */
  readonly release: Effect.Effect<void, EtcdError>
}

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
  /** The server said that the lease does not exist. */
  readonly revoked: () => void
  /**
   * The answer to a write of a key on this lease was lost, so that it may be applied at any later time (through a frozen
   * follower, say): no new key is put on this lease, and every beat deletes keys on it that nobody here owns.
   */
  readonly distrust: () => void
  readonly distrustedUnsafe: () => boolean
  /** `onGone` runs when the key is known to be gone for good. */
  readonly open: (key: string, onGone: () => void) => Slot
}

/** Slack for clocks that run at different rates, and for the instant between judging and acting. */
const margin = (ttl: Duration.Duration): bigint => {
  const nanos = durationNanos(ttl)
  const share = nanos / 50n
  return share > 100_000_000n ? share : 100_000_000n
}

const durationNanos = (duration: Duration.Duration): bigint => BigInt(Math.round(Duration.toMillis(duration) * 1e6))

const retrySoon = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")]).pipe(Schedule.jittered)

export const makeLeaseSession = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  requestedTtl: Duration.Duration
): Effect.fn.Return<LeaseSession, EtcdError, Scope.Scope> {
  const scope = yield* Effect.scope
  const clock = yield* Clock.Clock
  const readings = () => ({ wall: clock.currentTimeMillisUnsafe(), monotonic: clock.monotonicTimeNanosUnsafe() })
  const slots = new Map<string, { readonly slot: Slot; createRevision: bigint | undefined }>()
  const lostSignal = Deferred.makeUnsafe<never, SessionLost>()
  let loss: SessionLost | undefined
  let distrusted = false
  let confirmed = readings()

  // Interruptible: whoever closes the scope does not wait for a server that does not answer.
  const lease = yield* Effect.acquireRelease(
    etcd.leaseGrant(requestedTtl),
    (lease) =>
      loss?.why === "Revoked" ? Effect.void : etcd.leaseRevoke(lease.id).pipe(
        Effect.timeout(etcd.settings.timeout),
        Effect.catch((error) => Effect.logDebug("lease not revoked, it expires by itself", error)),
        Effect.annotateLogs({ lease: lease.id.toString(16) })
      ),
    { interruptible: true }
  )

  const lose = (why: SessionLost["why"]): void => {
    if (loss !== undefined) return
    loss = new SessionLost({ leaseId: lease.id, why })
    Deferred.doneUnsafe(lostSignal, Exit.fail(loss))
    for (const { slot } of slots.values()) slot.lose(why)
    slots.clear()
  }

  let ttl = lease.ttl
  let deadline = lease.deadline - margin(ttl)

  const lossUnsafe = (): SessionLost | undefined => {
    if (loss === undefined && clock.monotonicTimeNanosUnsafe() >= deadline) lose("Expired")
    return loss
  }

  // A suspended machine stops the monotonic clock on most systems, while the server's lease runs out.
  const suspected = (): boolean => {
    const now = readings()
    return now.wall - confirmed.wall > Number((now.monotonic - confirmed.monotonic) / 1_000_000n) + 1000
  }

  const revokedBy = (error: EtcdError): boolean => {
    if (error.reason._tag !== "LeaseNotFound") return false
    lose("Revoked")
    return true
  }

  const beat: Effect.Effect<boolean> = Effect.suspend(() => {
    const sent = readings()
    return etcd.leaseKeepAlive(lease.id).pipe(
      Effect.timeout(Duration.divideUnsafe(ttl, 3)),
      Effect.match({
        onSuccess: (granted) => {
          // An answer that comes after the deadline revives nothing.
          if (lossUnsafe() !== undefined) return false
          const extended = sent.monotonic + durationNanos(granted) - margin(granted)
          ttl = granted
          if (extended > deadline) deadline = extended
          confirmed = sent
          return true
        },
        onFailure: (error) => {
          if (error._tag === "EtcdError") revokedBy(error)
          return false
        }
      })
    )
  })

  const check: Effect.Effect<void, SessionLost> = Effect.suspend(() => {
    const lost = lossUnsafe()
    if (lost !== undefined) return Effect.fail(lost)
    if (!suspected()) return Effect.void
    return Effect.raceFirst(beat, Deferred.await(lostSignal)).pipe(
      Effect.flatMap((beaten) => beaten || lossUnsafe() !== undefined ? Effect.void : Effect.sleep("100 millis")),
      Effect.andThen(check)
    )
  })

  const deleteIf = (key: string, createRevision: bigint) =>
    etcd.txn({
      compare: [Compare.createRevision(key, "=", createRevision)],
      success: [Operation.delete(key)]
    })

  const readKey = (key: string) => Effect.map(etcd.range({ key, keysOnly: true }), (result) => result.kvs[0])

  /** Finds keys that an operator deleted, and keys that a late write left behind. */
  const inspect = Effect.gen(function*() {
    const expected = [...slots.values()].filter((entry) => entry.createRevision !== undefined)
    if (expected.length === 0 && !distrusted) return
    const onLease = new Set((yield* etcd.leaseTimeToLive(lease.id)).keys)
    for (const entry of expected) {
      const { slot, createRevision } = entry
      if (onLease.has(slot.key) || slots.get(slot.key) !== entry) continue
      const kv = yield* readKey(slot.key)
      if (kv?.createRevision !== createRevision || kv?.lease !== lease.id) slot.lose("Deleted")
    }
    if (!distrusted) return
    for (const key of onLease) {
      if (slots.has(key)) continue
      const kv = yield* readKey(key)
      if (kv === undefined || kv.lease !== lease.id || slots.has(key)) continue
      yield* Effect.logWarning("deleting a key that a write without an answer left behind").pipe(
        Effect.annotateLogs({ key, lease: lease.id.toString(16) })
      )
      yield* deleteIf(key, kv.createRevision)
    }
  }).pipe(
    Effect.timeout(Duration.divideUnsafe(ttl, 3)),
    Effect.catchTag(
      "EtcdError",
      (error) => revokedBy(error) ? Effect.void : Effect.logDebug("keys not verified", error)
    ),
    Effect.catchTag("TimeoutError", () => Effect.logDebug("keys not verified: no answer in time"))
  )

  yield* Effect.gen(function*() {
    let next = clock.monotonicTimeNanosUnsafe() + durationNanos(ttl) / 3n
    while (lossUnsafe() === undefined) {
      yield* sleepUntil(clock, next)
      const sent = clock.monotonicTimeNanosUnsafe()
      yield* beat.pipe(
        Effect.flatMap((beaten) => beaten || lossUnsafe() !== undefined ? Effect.void : Effect.fail("no answer")),
        Effect.retry(retrySoon),
        Effect.ignore
      )
      next = sent + durationNanos(ttl) / 3n
      if (lossUnsafe() === undefined) yield* inspect
    }
  }).pipe(Effect.forkIn(scope))

  yield* Effect.gen(function*() {
    while (lossUnsafe() === undefined) yield* sleepUntil(clock, deadline)
  }).pipe(Effect.raceFirst(Effect.ignore(Deferred.await(lostSignal))), Effect.forkIn(scope))

  yield* Deferred.await(lostSignal).pipe(
    Effect.catch((lost) =>
      lost.why === "Closed" ? Effect.void : Effect.andThen(
        Telemetry.sessionLost(lost.why),
        Effect.logWarning("session lost").pipe(
          Effect.annotateLogs({ lease: lease.id.toString(16), why: lost.why })
        )
      )
    ),
    Effect.forkIn(scope)
  )

  // The last to be added is the first to run: nobody relies on a session that has begun to close.
  yield* Scope.addFinalizer(scope, Effect.sync(() => lose("Closed")))

  const open = (key: string, onGone: () => void): Slot => {
    const signal = Deferred.makeUnsafe<SlotLoss>()
    let slotLoss: SlotLoss | undefined
    let released: { readonly fiber: Fiber.Fiber<void, EtcdError>; readonly patience: bigint } | undefined
    const leave = () => {
      if (slots.get(key) === entry) {
        slots.delete(key)
        onGone()
      }
    }
    const currentLoss = (): SlotLoss | undefined => {
      lossUnsafe()
      return slotLoss
    }
    // Repeated until it is answered or the lease is over: the compare makes every repetition harmless.
    const remove = Effect.suspend(() =>
      entry.createRevision === undefined ? Effect.void : deleteIf(key, entry.createRevision)
    ).pipe(
      Effect.retry({ schedule: retrySoon, while: isTransient }),
      Effect.raceFirst(Effect.ignore(Deferred.await(lostSignal))),
      Effect.asVoid,
      Effect.ensuring(Effect.sync(leave))
    )
    // In the session's scope: it goes on when its caller stops waiting.
    const removal = Effect.suspend(() =>
      released !== undefined ?
        Effect.succeed(released) :
        Effect.map(Effect.forkIn(remove, scope, { startImmediately: true }), (fiber) =>
          released = {
            fiber,
            patience: clock.monotonicTimeNanosUnsafe() + durationNanos(etcd.settings.timeout)
          })
    ).pipe(Effect.uninterruptible)
    const slot: Slot = {
      key,
      session,
      lost: Deferred.await(signal),
      lossUnsafe: currentLoss,
      loss: Effect.map(Effect.exit(check), currentLoss),
      present: (createRevision) => {
        entry.createRevision = createRevision
      },
      lose: (why) => {
        if (slotLoss !== undefined) return
        slotLoss = why
        leave()
        Deferred.doneUnsafe(signal, Exit.succeed(why))
      },
      release: Effect.suspend(() => {
        if (released === undefined && (currentLoss() !== undefined || slots.get(key) !== entry)) return Effect.void
        // The bound counts from the first call: who releases twice does not wait twice.
        return Effect.flatMap(removal, ({ fiber, patience }) =>
          Effect.raceFirst(
            // Interrupted: the session closes, and its lease takes the key along.
            Effect.flatMap(Fiber.await(fiber), (exit) => Exit.hasInterrupts(exit) ? Effect.void : exit),
            Effect.andThen(
              sleepUntil(clock, patience),
              Effect.fail(
                new EtcdError({
                  operation: "release",
                  key,
                  reason: new Ambiguous({
                    detail: "no answer in time; the session goes on trying until its lease ends"
                  })
                })
              )
            )
          ))
      })
    }
    const entry = { slot, createRevision: undefined as bigint | undefined }
    slots.set(key, entry)
    const lost = lossUnsafe()
    if (lost !== undefined) slot.lose(lost.why)
    return slot
  }

  const session: LeaseSession = {
    leaseId: lease.id,
    scope,
    ttlUnsafe: () => ttl,
    remainingUnsafe: () => {
      const left = deadline - clock.monotonicTimeNanosUnsafe()
      return loss !== undefined || left < 0n ? Duration.zero : Duration.nanos(left)
    },
    lossUnsafe,
    lost: Deferred.await(lostSignal),
    check,
    revoked: () => lose("Revoked"),
    distrust: () => {
      distrusted = true
    },
    distrustedUnsafe: () => distrusted,
    open
  }
  return session
})

/** At least a millisecond, so that rounding never makes a busy loop. */
const sleepUntil = (clock: Clock.Clock, deadline: bigint): Effect.Effect<void> =>
  Effect.suspend(() => {
    const left = Number(deadline - clock.monotonicTimeNanosUnsafe()) / 1e6
    return left <= 0 ? Effect.void : clock.sleep(Duration.millis(Math.max(1, Math.ceil(left))))
  })

/** The request may succeed later as it stands. */
export const isTransient = (error: EtcdError): boolean => {
  const tag = error.reason._tag
  return tag === "Unavailable" || tag === "Timeout" || tag === "Ambiguous"
}
