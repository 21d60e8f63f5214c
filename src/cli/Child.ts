/**
 * The COMMAND that a command runs: its own process group, signals passed on, and gone with all that it has started when it has to be.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as ChildProcess from "node:child_process"
import * as Os from "node:os"
import Process from "node:process"
import { complain, Exit, ExitCode } from "./Exit.ts"
import * as Signals from "./Signals.ts"
import { watch } from "./Watchdog.ts"

export interface Child {
  /** Its exit code; 128 and the number of the signal that ended it, as a shell says it. */
  readonly ended: Effect.Effect<number>
  readonly signal: (signal: NodeJS.Signals) => void
  /** SIGTERM, and SIGKILL after the grace period. It has ended then, and nothing that it has started in its group is left. */
  readonly terminate: (grace: Duration.Duration) => Effect.Effect<void>
  /** It is killed after so long, also when this process is stopped by then, unless this is called again before. */
  readonly killIn: (left: Duration.Duration) => void
}

export interface SpawnOptions {
  readonly command: ReadonlyArray<string>
  readonly env: Record<string, string>
  /**
   * The command stays in the session of the terminal, so that it can ask for a password there. Signals then reach it alone, not what it
   * has started.
   */
  readonly foreground: boolean
  /** How long it has after SIGTERM when this process is killed. */
  readonly grace: Duration.Duration
  /** Decides when a signal is passed on: at once unless it is said. */
  readonly onSignal?: ((signal: NodeJS.Signals, child: Child) => void) | undefined
  /** What it reads from its standard input; absent: what this process would read. */
  readonly input?: string | undefined
}

const errorCode = (error: unknown): string =>
  error instanceof Error && "code" in error ? String(error.code) : String(error)

const spawnFailed = (name: string, error: unknown): Exit => {
  const code = errorCode(error)
  return code === "ENOENT"
    ? new Exit({ code: ExitCode.notFound, message: `${name}: command not found` })
    : new Exit({ code: ExitCode.notExecutable, message: `${name}: cannot be run (${code})` })
}

/** What is left of a group after SIGKILL are zombies that nobody reaps, as in a container without an init. */
const unreaped = Duration.seconds(1)

interface Started extends Child {
  readonly hasEnded: () => boolean
  readonly dismiss: () => void
}

const control = (
  child: ChildProcess.ChildProcess,
  pid: number,
  { command, foreground, grace }: SpawnOptions
): Started => {
  const target = foreground ? pid : -pid
  const watchdog = watch(target, grace)
  let code: number | undefined
  child.once("exit", (exitCode, signal) => {
    code = exitCode ?? 128 + (signal === null ? 0 : Os.constants.signals[signal])
  })
  /** Whether there is anybody whom it could reach. */
  const send = (signal: NodeJS.Signals | 0): boolean => {
    // A group outlives its leader; a process that has ended may have left its number to another.
    if (foreground && code !== undefined) return false
    try {
      return Process.kill(target, signal)
    } catch (error) {
      if (errorCode(error) !== "EPERM") return false
      if (signal === "SIGTERM") {
        complain(`${command[0]} runs as another user and cannot be stopped: waiting for its end`)
      }
      return true
    }
  }
  const ended = Effect.callback<number>((resume) => {
    if (code !== undefined) return resume(Effect.succeed(code))
    const end = () => resume(Effect.succeed(code ?? ExitCode.failed))
    child.once("exit", end)
    return Effect.sync(() => child.off("exit", end))
  })
  const gone = Effect.andThen(
    ended,
    Effect.sleep("5 millis").pipe(Effect.repeat({ until: () => !send(0) }))
  )
  const kill = Effect.suspend(() => {
    send("SIGKILL")
    return Effect.andThen(ended, Effect.timeoutOption(gone, unreaped))
  })
  return {
    ended,
    signal: (signal) => void send(signal),
    terminate: (grace) =>
      Effect.suspend(() => {
        send("SIGTERM")
        // Who is stopped would not notice.
        send("SIGCONT")
        return Effect.asVoid(Effect.timeoutOrElse(gone, { duration: grace, orElse: () => kill }))
      }),
    killIn: watchdog.killIn,
    hasEnded: () => code !== undefined,
    dismiss: watchdog.dismiss
  }
}

const start = (options: SpawnOptions): Effect.Effect<Started, Exit> =>
  Effect.callback((resume) => {
    const [file = "", ...args] = options.command
    const failed = (error: unknown) => resume(Effect.fail(spawnFailed(file, error)))
    try {
      const child = ChildProcess.spawn(file, args, {
        env: { ...Process.env, ...options.env },
        stdio: [options.input === undefined ? "inherit" : "pipe", "inherit", "inherit"],
        detached: !options.foreground
      })
      child.once("error", failed)
      // It need not read it.
      child.stdin?.on("error", () => {})
      child.stdin?.end(options.input)
      child.once("spawn", () => resume(Effect.succeed(control(child, child.pid ?? 0, options))))
    } catch (error) {
      // Some codes are thrown, as ENOTDIR and E2BIG.
      failed(error)
    }
  })

/** What happens to a signal unless `onSignal` decides. */
export const passOn = (foreground: boolean) => (signal: NodeJS.Signals, child: Child): void => {
  // A group without a shell over it ignores SIGTSTP.
  if (signal === "SIGTSTP" && !foreground) child.signal("SIGSTOP")
  // The terminal has sent these to a command in the foreground as well.
  else if (!foreground || (signal !== "SIGINT" && signal !== "SIGQUIT" && signal !== "SIGTSTP")) child.signal(signal)
}

/**
 * Starts it. Until it has ended, signals that this process receives are passed on to it; if it has not ended when the scope closes it is
 * terminated. What it leaves running in the background at its own end is not.
 */
export const spawn = Effect.fnUntraced(
  function*(options: SpawnOptions): Effect.fn.Return<Child, Exit, Scope.Scope> {
    const { onSignal = passOn(options.foreground) } = options
    const early: Array<NodeJS.Signals> = []
    let deliver = (signal: NodeJS.Signals): void => void early.push(signal)
    // Before it starts, so that there is no moment at which a signal is for nobody; and until it is gone.
    yield* Signals.receive((signal) => deliver(signal))
    const child = yield* Effect.acquireRelease(start(options), (child) =>
      Effect.andThen(
        child.hasEnded() ? Effect.void : child.terminate(options.grace),
        Effect.sync(child.dismiss)
      ))
    deliver = (signal) => onSignal(signal, child)
    early.forEach(deliver)
    return child
  }
)
