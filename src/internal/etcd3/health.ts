/**
 * What is done for a member that cannot be reached, or that is reached and says nothing: a frozen process, whose kernel takes
 * connections and requests, or a network that swallows what it is given.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { Condition } from "./condition.ts"
import type { Member } from "./member.ts"

/** A member that owes something is asked for a sign of life after so long without a word. */
const quiet = Duration.seconds(1)

/** It has so long for its answer. With `quiet`: what a frozen member costs, before anything goes elsewhere. */
const patience = Duration.millis(1750)

/** When it has not answered by then, new calls go elsewhere, and another member is asked the same. */
const unusual = Duration.millis(500)

/** Calls that are older than an election have so long after it. */
const aftermath = Duration.seconds(1)

/** A timer that is later than this says that this process could not run: nobody is judged by that. */
const late = Duration.millis(500)

/**
 * Keeps a connection. Until a peer has said its first word grpc-js waits for it for ever, and behind the cause of an earlier failure
 * that cannot even be seen: so whoever is not connected within `dialTimeout` is dialled anew, whatever the reason.
 */
export const keepConnected = (member: Member, states: Condition, dialTimeout: Duration.Duration) =>
  Effect.gen(function*() {
    const ready = yield* Effect.timeoutOption(states.until(member.isReady), dialTimeout)
    if (Option.isNone(ready)) return member.redial()
    // It greets, and yet may not answer; or it answers, while what it passes on to the leader is lost. Nobody else would ask it.
    while (member.isDoubtful() && member.isReady()) {
      const answered = yield* Effect.timeoutOption(member.ask("in touch"), patience)
      if (!member.isDoubtful()) break
      yield* Effect.sleep(quiet)
      if (Option.isNone(answered) && !member.owes()) return member.redial()
    }
    yield* states.until(() => !member.isReady() || member.isDoubtful())
  }).pipe(Effect.forever)

/**
 * Leaves the member when it is silent. A member whose log is slow, or that is cut off from the others, answers: it is left to the
 * deadlines, and to etcd, which ends the requests that need a leader. One whose store is locked, as by a defragmentation, does not.
 */
export const detectSilence = (member: Member, others: ReadonlyArray<Member>) =>
  Effect.gen(function*() {
    yield* member.untilOwes
    const left = Duration.toNanosUnsafe(quiet) - member.silence()
    if (left > 0n) return yield* Effect.sleep(Duration.nanos(left))
    if (member.isReady() && (yield* isSilent(member, others))) {
      member.leave()
      return yield* Effect.logWarning(`${member.endpoint} does not answer: others are asked until it does`)
    }
    // Nobody answers, or it has no connection.
    if (member.silence() > Duration.toNanosUnsafe(quiet)) yield* Effect.sleep("250 millis")
  }).pipe(Effect.forever)

/**
 * Ends the calls that an election has lost. A member passes writes on to the leader, and forgets about those that reach a dead or
 * frozen one: they would end at their deadline only. What is not lost is answered at once by a new leader, which has the older
 * entries before its own.
 */
export const endLostCalls = (member: Member) =>
  Effect.gen(function*() {
    const end = yield* member.untilElection
    yield* Effect.sleep(aftermath)
    end()
  }).pipe(Effect.forever)

/** Another member answers the same question sooner, although it was asked later. If none does, nothing is known about this one. */
const isSilent = (member: Member, others: ReadonlyArray<Member>): Effect.Effect<boolean> => {
  const outrun = Effect.gen(function*() {
    const start = yield* Clock.monotonicTimeNanos
    yield* Effect.sleep(unusual)
    member.doubt()
    const answers = yield* Effect.forEach(
      others.filter((other) => other.isReady()),
      (other) => Effect.forkChild(other.ask("alive"))
    )
    yield* Effect.sleep(Duration.subtract(patience, unusual))
    const end = yield* Clock.monotonicTimeNanos
    yield* turn
    const isLate = end - start > Duration.toNanosUnsafe(Duration.sum(patience, late))
    const answered = answers.some((fiber) => {
      const exit = fiber.pollUnsafe()
      return exit?._tag === "Success" && exit.value
    })
    yield* Fiber.interruptAll(answers)
    return answered && !isLate
  })
  return Effect.raceFirst(Effect.as(member.ask("alive"), false), outrun)
}

/** What has arrived while this process did something else is read before anything is judged. */
const turn = Effect.callback<void>((resume) => {
  // Comes after sockets are read.
  const timer = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(timer))
})
