/**
 * Ends a process for this one when this one cannot: it can be killed, or stopped, and what runs under it would run on with nobody to end it
 * when a lock is given to somebody else.
 */
import * as Duration from "effect/Duration"
import * as ChildProcess from "node:child_process"

export interface Watchdog {
  /** SIGKILL after so long, unless it is called again before. */
  readonly killIn: (left: Duration.Duration) => void
  readonly dismiss: () => void
}

/**
 * It reads from a pipe that only this process holds, and ignores what a supervisor sends to all processes of a service. The timer runs
 * beside it, since not every shell has a `read` that gives up.
 */
const script = `
trap '' HUP INT QUIT TERM
timer=
stop() { [ -z "$timer" ] || kill -s USR1 "$timer"; timer=; }
while read -r left; do
  stop
  [ "$left" != over ] || exit 0
  (
    sleeper=
    trap '[ -z "$sleeper" ] || kill -s KILL "$sleeper"; exit' USR1
    sleep "$left" & sleeper=$!
    wait "$sleeper" && kill -s KILL -- "$1"
  ) & timer=$!
done
kill -s TERM -- "$1"
kill -s CONT -- "$1"
sleep "$2"
kill -s KILL -- "$1"
stop
`

/** `target` is as for `kill`: a process, or a group as a negative number. */
export const watch = (target: number, grace: Duration.Duration): Watchdog => {
  const seconds = String(Math.ceil(Duration.toSeconds(grace)))
  const shell = ChildProcess.spawn("sh", ["-c", script, "sh", String(target), seconds], {
    // Not in a folder that somebody may want to unmount.
    cwd: "/",
    detached: true,
    stdio: ["pipe", "ignore", "ignore"]
  })
  // Without a shell there is no watchdog, and no other harm.
  shell.on("error", () => {})
  shell.stdin.on("error", () => {})
  shell.unref()
  return {
    killIn: (left) => void shell.stdin.write(`${(Duration.toMillis(left) / 1000).toFixed(3)}\n`),
    dismiss: () => void shell.stdin.end("over\n")
  }
}
