/**
 * Signals of the operating system: to the program that runs under this one, or else to this one.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import Process from "node:process"

/** Those that a shell, a terminal, a supervisor or a scheduler sends. */
const passedOn = [
  "SIGINT",
  "SIGTERM",
  "SIGHUP",
  "SIGQUIT",
  "SIGUSR1",
  "SIGUSR2",
  "SIGALRM",
  "SIGWINCH",
  "SIGTSTP",
  "SIGCONT"
] as const
/** Those that end a process. */
export const ending: ReadonlySet<NodeJS.Signals> = new Set(["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])

const receivers: Array<(signal: NodeJS.Signals) => void> = []

/** Until the scope closes, signals go to this receiver alone. */
export const receive = (receiver: (signal: NodeJS.Signals) => void): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(Effect.acquireRelease(
    Effect.sync(() => receivers.push(receiver)),
    () => Effect.sync(() => receivers.splice(receivers.lastIndexOf(receiver), 1))
  ))

/** In nanoseconds. npm passes on to its scripts what the terminal has sent them as well: the second Ctrl-C of a person is later. */
const twice = 100_000_000n

/** Listens from now on. `interrupt` gets those that end a process and that nobody receives. */
export const listen = (interrupt: (signal: NodeJS.Signals) => void): void => {
  for (const signal of passedOn) {
    let last = -twice
    Process.on(signal, () => {
      const now = Process.hrtime.bigint()
      const same = ending.has(signal) && now - last < twice
      last = now
      if (same) return
      const receiver = receivers.at(-1)
      if (receiver !== undefined) receiver(signal)
      else if (ending.has(signal)) interrupt(signal)
      // Who listens to it is not stopped by it.
      if (signal === "SIGTSTP") Process.kill(Process.pid, "SIGSTOP")
    })
  }
}
