/**
 * A COMMAND that runs while something is held, and is gone before somebody else can hold it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { type Child, spawn } from "./Child.ts"
import { Exit, ExitCode } from "./Exit.ts"

/** What handles of locks, permits and leaderships have in common. */
export interface Held<L> {
  readonly entryKey: string
  readonly fencingToken: bigint
  readonly remaining: Effect.Effect<Duration.Duration, L>
  readonly lost: Effect.Effect<never, L>
}

export interface RunOptions {
  readonly command: ReadonlyArray<string>
  readonly env: Record<string, string>
  readonly foreground: boolean
  /** Between SIGTERM and SIGKILL; so long before the local deadline SIGTERM is sent. */
  readonly grace: Duration.Duration
}

/** How the command ended: by itself, or because what it ran under was lost, or was about to be. */
export type Outcome = { readonly _tag: "Ended"; readonly code: number } | {
  readonly _tag: "Lost"
  readonly why: string
}

/** Waits until there is only as much time left as it takes to stop the command. */
const almostOver = <L>({ remaining }: Held<L>, grace: Duration.Duration): Effect.Effect<void, L> =>
  Effect.flatMap(remaining, (left) => {
    const spare = Duration.toMillis(left) - Duration.toMillis(grace)
    return spare <= 0
      ? Effect.void
      : Effect.andThen(Effect.sleep(Math.ceil(spare)), almostOver({ remaining } as Held<L>, grace))
  })

const whyLost = <L extends { readonly message: string }>(
  held: Held<L>,
  grace: Duration.Duration
): Effect.Effect<string> =>
  almostOver(held, grace).pipe(
    Effect.raceFirst(held.lost),
    Effect.match({
      onFailure: ({ message }) => message,
      onSuccess: () => "etcd has not answered for too long: it is about to be lost"
    })
  )

/**
 * Runs the command. At a loss that was announced by silence it is terminated early enough that it is gone, killed if it must be, before the
 * deadline; at one that came without notice, by an operator, at once.
 */
export const runWhile = <L extends { readonly message: string }>(
  held: Held<L>,
  { command, env, foreground, grace }: RunOptions
): Effect.Effect<Outcome, Exit> =>
  Effect.scoped(Effect.gen(function*() {
    const child: Child = yield* spawn({ command, env, foreground, grace })
    const outcome: Outcome = yield* Effect.raceFirst(
      Effect.map(child.ended, (code): Outcome => ({ _tag: "Ended", code })),
      Effect.map(whyLost(held, grace), (why): Outcome => ({ _tag: "Lost", why }))
    )
    if (outcome._tag === "Lost") yield* child.terminate(grace)
    return outcome
  }))

/** Half of the TTL is for outages: who stops for longer than that would be stopped without one. */
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
