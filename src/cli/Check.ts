/**
 * A command of the shell that says by its exit code whether something is well.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as ChildProcess from "node:child_process"
import Process from "node:process"

export interface CheckOptions {
  readonly script: string
  readonly env: Record<string, string>
  /** It fails when it takes longer, and is killed. */
  readonly within: Duration.Duration
}

const longestSaid = 200

/** What is not well; nothing if all is. What it has started is killed with it when it is interrupted or takes too long. */
export const check = ({ env, script, within }: CheckOptions): Effect.Effect<string | undefined> =>
  Effect.callback<string | undefined>((resume) => {
    const shell = ChildProcess.spawn("sh", ["-c", script], {
      env: { ...Process.env, ...env },
      detached: true,
      stdio: ["ignore", "pipe", "pipe"]
    })
    let said = ""
    const hear = (text: string) => {
      said = (said + text).slice(-2 * longestSaid)
    }
    shell.stdout.setEncoding("utf8").on("data", hear)
    shell.stderr.setEncoding("utf8").on("data", hear)
    const because = (reason: string) => {
      const last = said.trim().split("\n").at(-1)?.trim().slice(0, longestSaid) ?? ""
      resume(Effect.succeed(last === "" ? reason : `${reason}: ${last}`))
    }
    shell.once("error", ({ message }) => because(message))
    // Not when its output ends: something that it has left in the background may hold that open.
    shell.once("exit", (code, signal) => {
      if (code === 0) resume(Effect.succeed(undefined))
      // What it has said before its end can still be on the way.
      else setImmediate(() => because(code === null ? String(signal) : `exit code ${code}`))
    })
    return Effect.sync(() => {
      try {
        if (shell.pid !== undefined) Process.kill(-shell.pid, "SIGKILL")
      } catch {
        // It has just ended.
      }
    })
  }).pipe(
    Effect.timeoutOrElse({
      duration: within,
      orElse: () => Effect.succeed(`no answer within ${Duration.format(within)}`)
    })
  )
