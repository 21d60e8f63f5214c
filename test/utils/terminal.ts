/** A program on a terminal of its own, as a person sees it and types to it. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as ChildProcess from "node:child_process"

export interface Terminal {
  /** All that was written to the terminal. */
  readonly written: () => string
  /** What was last drawn from the upper left corner on, without colours. */
  readonly screen: () => string
  /** Waits until what was written satisfies this; fails when the program ends before. */
  readonly until: (look: (terminal: Terminal) => boolean) => Effect.Effect<void>
  readonly type: (keys: string) => void
  /** The exit code, 128 and the signal's number for a signal. */
  readonly ended: Effect.Effect<number>
}

/** Node has no pseudo-terminals; Python has them in its standard library. */
const script = `
import fcntl, os, pty, select, struct, sys, termios
rows, columns, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.execvp(command[0], command)
inputs = [fd, 0]
while True:
    ready, _, _ = select.select(inputs, [], [])
    if 0 in ready:
        typed = os.read(0, 4096)
        if typed: os.write(fd, typed)
        else: inputs.remove(0)
    if fd in ready:
        try: shown = os.read(fd, 65536)
        except OSError: break
        if not shown: break
        os.write(1, shown)
_, status = os.waitpid(pid, 0)
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
`

// oxlint-disable-next-line no-control-regex -- that is what is looked for
const sequence = /\u001b\[[?\d;]*[A-Za-z]/g

export const onTerminal = (
  command: ReadonlyArray<string>,
  options: { readonly env: NodeJS.ProcessEnv; readonly rows?: number; readonly columns?: number }
): Effect.Effect<Terminal, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const { columns = 100, env, rows = 24 } = options
      const child = ChildProcess.spawn("python3", ["-c", script, String(rows), String(columns), ...command], {
        env: { ...env, TERM: "xterm" },
        stdio: ["pipe", "pipe", "inherit"]
      })
      let text = ""
      let code: number | undefined
      child.stdin.on("error", () => {})
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk
      })
      child.once("close", (exitCode) => {
        code = exitCode ?? 1
      })
      const terminal: Terminal = {
        written: () => text,
        screen: () => (text.split("\u001b[H").at(-1) ?? "").replaceAll(sequence, "").replaceAll("\r", ""),
        until: (look) =>
          Effect.callback((resume) => {
            const see = () => {
              if (look(terminal)) resume(Effect.void)
              else if (code !== undefined) resume(Effect.die(new Error(`it ended with ${code} before:\n${text}`)))
            }
            child.stdout.on("data", see)
            child.once("close", see)
            see()
            return Effect.sync(() => child.stdout.off("data", see))
          }),
        type: (keys) => void child.stdin.write(keys),
        ended: Effect.callback((resume) => {
          if (code === undefined) child.once("close", (exitCode) => resume(Effect.succeed(exitCode ?? 1)))
          else resume(Effect.succeed(code))
        })
      }
      return { terminal, child }
    }),
    ({ child, terminal }) =>
      Effect.suspend(() => {
        // The end of the terminal is a SIGHUP to what runs on it.
        child.kill("SIGKILL")
        return terminal.ended
      })
  ).pipe(Effect.map(({ terminal }) => terminal))
