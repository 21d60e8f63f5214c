/**
 * The COMMAND that a command runs: its own process group, signals passed on, and gone with all that it has started when it has to be.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as ChildProcess from "node:child_process"
import * as Os from "node:os"
import Process from "node:process"
import { Exit, ExitCode } from "./Exit.ts"
import * as Signals from "./Signals.ts"

export interface Child {
  /** Its exit code; 128 and the number of the signal that ended it, as a shell says it. */
  readonly ended: Effect.Effect<number>
  readonly signal: (signal: NodeJS.Signals) => void
  /** SIGTERM, and SIGKILL after the grace period. It has ended then, and nothing that it has started in its group is left. */
  readonly terminate: (grace: Duration.Duration) => Effect.Effect<void>
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
}

const spawnFailed = (name: string, error: Error): Exit => {
  const code = "code" in error ? error.code : undefined
  return code === "ENOENT"
    ? new Exit({ code: ExitCode.notFound, message: `${name}: command not found` })
    : new Exit({ code: ExitCode.notExecutable, message: `${name}: cannot be run (${String(code ?? error.message)})` })
}

/**
 * This process can be killed so that it can do nothing more, and the command would run on with nobody to stop it when what it runs under is
 * lost. A shell waits for the end of a pipe that only this process holds.
 */
const watchdog = (target: string, grace: Duration.Duration): { readonly dismiss: () => void } => {
  const script = `read -r word || { kill -s TERM -- "$1"; sleep "$2"; kill -s KILL -- "$1"; }`
  const shell = ChildProcess.spawn("sh", ["-c", script, "sh", target, String(Math.ceil(Duration.toSeconds(grace)))], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"]
  })
  // Without a shell there is no watchdog, and no other harm.
  shell.on("error", () => {})
  shell.stdin.on("error", () => {})
  shell.unref()
  return { dismiss: () => void shell.stdin.end("over\n") }
}

/** What is left of a group after SIGKILL are zombies that nobody reaps, as in a container without an init. */
const unreaped = Duration.seconds(1)

interface Started extends Child {
  readonly hasEnded: () => boolean
  readonly dismiss: () => void
}

const control = (child: ChildProcess.ChildProcess, pid: number, { foreground, grace }: SpawnOptions): Started => {
  const target = foreground ? pid : -pid
  let code: number | undefined
  child.once("exit", (exitCode, signal) => {
    code = exitCode ?? 128 + (signal === null ? 0 : Os.constants.signals[signal])
  })
  const send = (signal: NodeJS.Signals | 0): boolean => {
    // A group outlives its leader; a process that has ended may have left its number to another.
    if (foreground && code !== undefined) return false
    try {
      return Process.kill(target, signal)
    } catch {
      return false
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
        return Effect.asVoid(Effect.timeoutOrElse(gone, { duration: grace, orElse: () => kill }))
      }),
    hasEnded: () => code !== undefined,
    dismiss: watchdog(String(target), grace).dismiss
  }
}

const start = (options: SpawnOptions): Effect.Effect<Started, Exit> =>
  Effect.callback((resume) => {
    const [file = "", ...args] = options.command
    const child = ChildProcess.spawn(file, args, {
      env: { ...Process.env, ...options.env },
      stdio: "inherit",
      detached: !options.foreground
    })
    child.once("error", (error) => resume(Effect.fail(spawnFailed(file, error))))
    child.once("spawn", () => resume(Effect.succeed(control(child, child.pid ?? 0, options))))
  })

/**
 * Starts it. Until the scope closes, signals that this process receives are passed on to it; if it has not ended by then it is terminated.
 * What it leaves running in the background at its own end is not.
 */
export const spawn = (options: SpawnOptions): Effect.Effect<Child, Exit, Scope.Scope> =>
  Effect.acquireRelease(start(options), (child) =>
    Effect.andThen(
      child.hasEnded() ? Effect.void : child.terminate(options.grace),
      Effect.sync(child.dismiss)
    )).pipe(
      Effect.tap((child) =>
        Signals.receive((signal) => {
          // The terminal has sent these to the command as well.
          if (!options.foreground || (signal !== "SIGINT" && signal !== "SIGQUIT")) child.signal(signal)
        })
      )
    )
