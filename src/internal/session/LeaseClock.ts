/**
 * When a lease is over, judged here.
 *
 * The server keeps the lease at least until the time at which the last answered beat was *sent*, plus the TTL. From a margin
 * before that on, the lease counts as lost for good, whatever the server says later, so that a holder knows of its loss
 * before the server gives the key away.
 */
import type * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import type { Lease } from "../../Etcd.ts"

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

/** When a request was sent, by both clocks. */
export interface Sent {
  readonly wall: number
  readonly monotonic: bigint
}

export interface LeaseClock {
  readonly leaseId: bigint
  readonly ttlUnsafe: () => Duration.Duration
  readonly deadlineUnsafe: () => bigint
  readonly remainingUnsafe: () => Duration.Duration
  /** Why the lease is over, if it is: looked up on the clock now. */
  readonly lossUnsafe: () => SessionLost | undefined
  readonly lost: Effect.Effect<never, SessionLost>
  readonly lose: (why: SessionLost["why"]) => void
  /** A beat was answered. `false`: too late, which revives nothing. */
  readonly confirm: (sent: Sent, granted: Duration.Duration) => boolean
  /**
   * The wall clock went ahead of the monotonic one since the last answer: the machine was suspended, which stops the monotonic
   * clock on most systems, while the server's lease ran out.
   */
  readonly suspectedUnsafe: () => boolean
}

/** How far the wall clock may run ahead before the machine counts as suspended, in milliseconds. */
const suspicion = 1000

/** Slack for clocks that run at different rates, and for the instant between judging and acting. */
const margin = (ttl: Duration.Duration): bigint => {
  const share = durationNanos(ttl) / 50n
  return share > 100_000_000n ? share : 100_000_000n
}

export const durationNanos = (duration: Duration.Duration): bigint =>
  BigInt(Math.round(Duration.toMillis(duration) * 1e6))

export const readClock = (clock: Clock.Clock): Sent => ({
  wall: clock.currentTimeMillisUnsafe(),
  monotonic: clock.monotonicTimeNanosUnsafe()
})

/** At least a millisecond, so that rounding never makes a busy loop. */
export const sleepUntil = (clock: Clock.Clock, deadline: bigint): Effect.Effect<void> =>
  Effect.suspend(() => {
    const left = Number(deadline - clock.monotonicTimeNanosUnsafe()) / 1e6
    return left <= 0 ? Effect.void : clock.sleep(Duration.millis(Math.max(1, Math.ceil(left))))
  })

export const makeLeaseClock = (
  clock: Clock.Clock,
  lease: Lease,
  granted: Sent,
  onLoss: (why: SessionLost["why"]) => void
): LeaseClock => {
  const signal = Deferred.makeUnsafe<never, SessionLost>()
  let ttl = lease.ttl
  let deadline = lease.deadline - margin(ttl)
  let confirmed = granted
  let loss: SessionLost | undefined

  const lose = (why: SessionLost["why"]): void => {
    if (loss !== undefined) return
    loss = new SessionLost({ leaseId: lease.id, why })
    Deferred.doneUnsafe(signal, Exit.fail(loss))
    onLoss(why)
  }

  const lossUnsafe = (): SessionLost | undefined => {
    if (loss === undefined && clock.monotonicTimeNanosUnsafe() >= deadline) lose("Expired")
    return loss
  }

  return {
    leaseId: lease.id,
    ttlUnsafe: () => ttl,
    deadlineUnsafe: () => deadline,
    remainingUnsafe: () => {
      const left = deadline - clock.monotonicTimeNanosUnsafe()
      return loss !== undefined || left < 0n ? Duration.zero : Duration.nanos(left)
    },
    lossUnsafe,
    lost: Deferred.await(signal),
    lose,
    confirm: (sent, granted) => {
      if (lossUnsafe() !== undefined) return false
      const extended = sent.monotonic + durationNanos(granted) - margin(granted)
      ttl = granted
      if (extended > deadline) deadline = extended
      confirmed = sent
      return true
    },
    suspectedUnsafe: () => {
      const now = readClock(clock)
      return now.wall - confirmed.wall > Number((now.monotonic - confirmed.monotonic) / 1_000_000n) + suspicion
    }
  }
}
