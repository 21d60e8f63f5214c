import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as ChildProcess from "node:child_process"

/** A process has ended without saying what was waited for. */
export class ProcessEnded extends Data.TaggedError("ProcessEnded")<{ readonly message: string }> {}

export interface Running {
  readonly pid: number
  /** The first line of standard output that contains the text; fails when the process ends before. */
  readonly line: (text: string) => Effect.Effect<string, ProcessEnded>
  /** All of standard output up to now. */
  readonly lines: Effect.Effect<ReadonlyArray<string>>
  /** All of standard error up to now. */
  readonly errors: Effect.Effect<string>
  readonly kill: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Its exit code, when it has ended and so has everything that writes to where it writes. */
  readonly ended: Effect.Effect<number | undefined>
}

/** A process of the test's own, killed with its scope. */
export const run = (
  command: string,
  args: ReadonlyArray<string>,
  env: NodeJS.ProcessEnv = {}
): Effect.Effect<Running, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = ChildProcess.spawn(command, args, {
        env: { ...process.env, ...env },
        stdio: ["ignore", "pipe", "pipe"]
      })
      const state = { output: "", errors: "", ended: false }
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        state.output += text
      })
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        state.errors += text
      })
      child.once("close", () => {
        state.ended = true
      })
      const ended = Effect.callback<number | undefined>((resume) => {
        if (state.ended) resume(Effect.succeed(child.exitCode ?? undefined))
        else child.once("close", (code) => resume(Effect.succeed(code ?? undefined)))
      })
      const running: Running = {
        pid: child.pid ?? -1,
        line: (text) =>
          Effect.callback((resume) => {
            const look = () => {
              const found = state.output.split("\n").slice(0, -1).find((line) => line.includes(text))
              if (found !== undefined) resume(Effect.succeed(found))
              else if (state.ended) {
                resume(
                  Effect.fail(
                    new ProcessEnded({ message: `no ${JSON.stringify(text)} in ${state.output}${state.errors}` })
                  )
                )
              }
            }
            child.stdout.on("data", look)
            child.once("close", look)
            look()
            return Effect.sync(() => child.stdout.off("data", look))
          }),
        lines: Effect.sync(() => state.output.split("\n").slice(0, -1)),
        errors: Effect.sync(() => state.errors),
        kill: (signal) => Effect.sync(() => void child.kill(signal)),
        ended
      }
      return running
    }),
    (running) => Effect.andThen(running.kill("SIGKILL"), running.ended)
  )
