/**
 * A COMMAND that runs while something is held, and is gone before somebody else can hold it.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { type Child, spawn } from "./Child.ts"
import { Connection } from "./Connection.ts"
import { asRunner, complain, Exit, ExitCode, silently } from "./Exit.ts"
import { live } from "./services.ts"

/** Why something is held no more. */
export interface Loss {
  readonly why: "Expired" | "Revoked" | "Deleted" | "Closed" | "Released" | "Resigned"
  readonly message: string
}

/** What handles of locks, permits and leaderships have in common. */
export interface Held<L extends Loss> {
  readonly entryKey: string
  readonly fencingToken: bigint
  readonly remaining: Effect.Effect<Duration.Duration, L>
  readonly lost: Effect.Effect<never, L>
}

/** The input of commands that run another one while something is held. */
export interface HeldInput {
  readonly name: string
  readonly ttl: Duration.Duration
  readonly grace: Option.Option<Duration.Duration>
  readonly foreground: boolean
  readonly command: ReadonlyArray<string>
}

export interface RunOptions {
  readonly command: ReadonlyArray<string>
  readonly env: Record<string, string>
  readonly foreground: boolean
  /** Between SIGTERM and SIGKILL; so long before the local deadline SIGTERM is sent. */
  readonly grace: Duration.Duration
  /** What is held, for people. */
  readonly what: string
}

/** How the command ended: by itself, or because what it ran under was lost, or was about to be, which has been said then. */
export type Outcome = { readonly _tag: "Ended"; readonly code: number } | { readonly _tag: "Lost" }

const lost: Outcome = { _tag: "Lost" }

interface Stop {
  readonly why: string
  /** Between SIGTERM and SIGKILL. */
  readonly grace: Duration.Duration
}

/** A loss by expiry is known too late only by who was stopped: somebody else can hold it by now. */
const stopAfter = ({ message, why }: Loss, grace: Duration.Duration): Stop => ({
  why: message,
  grace: why === "Expired" ? Duration.zero : grace
})

/** Waits until there is only as much time left as it takes to stop the command. The watchdog knows of each renewal. */
const silence = <L extends Loss>(held: Held<L>, child: Child, { grace, what }: RunOptions): Effect.Effect<Stop, L> =>
  Effect.gen(function*() {
    let until = 0
    while (true) {
      const left = Duration.toMillis(yield* held.remaining)
      const now = Duration.toMillis(Duration.nanos(yield* Clock.monotonicTimeNanos))
      if (now + left > until + 20) {
        until = now + left
        child.killIn(Duration.millis(left))
      }
      const spare = left - Duration.toMillis(grace)
      if (spare <= 0) {
        return {
          why: `etcd has not renewed ${what} for too long, and it is about to be lost`,
          grace: Duration.millis(left)
        }
      }
      yield* Effect.sleep(Math.ceil(Math.min(spare, left / 4)))
    }
  })

const stopOf = <L extends Loss>(held: Held<L>, child: Child, options: RunOptions): Effect.Effect<Stop> =>
  Effect.catch(
    Effect.raceFirst(silence(held, child, options), held.lost),
    (loss: L) => Effect.succeed(stopAfter(loss, options.grace))
  )

/**
 * Runs the command. At a loss that was announced by silence it is terminated early enough that it is gone, killed if it must be, before the
 * deadline; at one that came without notice, by an operator, at once.
 */
export const runWhile = <L extends Loss>(held: Held<L>, options: RunOptions): Effect.Effect<Outcome, Exit> =>
  Effect.scoped(Effect.gen(function*() {
    const before = yield* Effect.result(held.remaining)
    if (before._tag === "Failure") {
      complain(`${before.failure.message}: the command was not started`)
      return lost
    }
    const child = yield* spawn(options)
    const first = yield* Effect.raceFirst(child.ended, stopOf(held, child, options))
    if (typeof first === "number") {
      const after = yield* Effect.result(held.remaining)
      if (after._tag === "Success") return { _tag: "Ended", code: first } as const
      // Whoever was stopped learns of the end and of the loss at once. It may have ended too late, or by the watchdog.
      complain(`${after.failure.message}, and the command has ended with ${first}`)
      return lost
    }
    // Not at the end, which may have to wait for an etcd that does not answer.
    complain(`${first.why}: stopping the command`)
    yield* child.terminate(first.grace)
    return lost
  }))

/** At the least two thirds of the TTL are left when an outage begins: who stops half of it before the end bridges a sixth. */
export const graceOf = (
  given: Option.Option<Duration.Duration>,
  ttl: Duration.Duration
): Effect.Effect<Duration.Duration, Exit> => {
  const most = Duration.toMillis(ttl) / 2
  const grace = Option.getOrElse(given, () => Duration.millis(Math.min(5_000, most / 2.5)))
  return Duration.toMillis(grace) > most
    ? Effect.fail(
      new Exit({ code: ExitCode.failed, message: `--grace must be at most half of --ttl (${Duration.format(ttl)})` })
    )
    : Effect.succeed(grace)
}

/** What the command finds in its environment: the key as etcd has it, and the token that others may ask for. */
export const envOf = Effect.fnUntraced(function*<L extends Loss>(name: string, held: Held<L>) {
  const { namespace = "" } = yield* Effect.flatMap(Connection, ({ options }) => options)
  return { [name]: `${namespace}${held.entryKey}`, COORD_FENCING_TOKEN: String(held.fencingToken) }
})

/** The input of commands that wait in line, or not. */
export interface LineInput extends HeldInput {
  readonly wait: Option.Option<Duration.Duration>
  readonly try: boolean
}

interface Line<A, E, E2, R, R2> {
  readonly what: string
  /** The command that shows who has it. */
  readonly see?: string | undefined
  /** The variable that says its key. */
  readonly key: string
  readonly wait: Effect.Effect<A, E, R>
  readonly try: Effect.Effect<A, E2, R2>
}

/** Waits, waits so long, or does not wait, as the flags say. */
const take = <A, E, E2, R, R2>(
  input: LineInput,
  line: Line<A, E, E2, R, R2>
): Effect.Effect<A, E | E2 | Exit, R | R2> => {
  if (input.try) {
    return Option.isNone(input.wait)
      ? line.try
      : Effect.fail(new Exit({ code: ExitCode.failed, message: "--try does not wait: leave out one of it and --wait" }))
  }
  if (Option.isNone(input.wait)) return line.wait
  const duration = input.wait.value
  const see = line.see === undefined ? "" : ` (\`${line.see}\` shows who has it)`
  const message = `${line.what} could not be had within ${Duration.format(duration)}${see}`
  return Effect.timeoutOrElse(line.wait, {
    duration,
    orElse: () => Effect.fail(new Exit({ code: ExitCode.notInTime, message }))
  })
}

/** Takes it, runs the command, gives it back, and ends as the command did. */
export const runHeld = <L extends Loss, E, E2, R, R2>(input: LineInput, line: Line<Held<L>, E, E2, R, R2>) =>
  Effect.gen(function*() {
    const grace = yield* graceOf(input.grace, input.ttl)
    const held = yield* take(input, line)
    const env = yield* envOf(line.key, held)
    const outcome = yield* runWhile(held, { ...input, env, grace, what: line.what })
    return yield* silently(outcome._tag === "Ended" ? outcome.code : ExitCode.lost)
  }).pipe(Effect.scoped, Effect.provide(live), asRunner)
