/**
 * Signals of the operating system: to the program that runs under this one, or else to this one.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import Process from "node:process"

/** Those that a shell, a terminal, a supervisor or a scheduler sends. */
const passedOn = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const
const ending: ReadonlySet<NodeJS.Signals> = new Set(["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])

const receivers: Array<(signal: NodeJS.Signals) => void> = []

/** Until the scope closes, signals go to this receiver alone. */
export const receive = (receiver: (signal: NodeJS.Signals) => void): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(Effect.acquireRelease(
    Effect.sync(() => receivers.push(receiver)),
    () => Effect.sync(() => receivers.splice(receivers.lastIndexOf(receiver), 1))
  ))

/** Listens from now on. `interrupt` gets those that end a process and that nobody receives. */
export const listen = (interrupt: (signal: NodeJS.Signals) => void): void => {
  for (const signal of passedOn) {
    Process.on(signal, () => {
      const receiver = receivers.at(-1)
      if (receiver !== undefined) receiver(signal)
      else if (ending.has(signal)) interrupt(signal)
    })
  }
}
