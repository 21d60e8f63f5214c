/** The `coord` command as a process: what went in, what came out. */
import * as Effect from "effect/Effect"
import * as ChildProcess from "node:child_process"
import { Readable } from "node:stream"

export const coordBin = new URL("../../src/cli/bin.ts", import.meta.url).pathname

export interface Ended {
  readonly code: number | undefined
  readonly stdout: Buffer
  readonly text: string
  readonly stderr: string
  /** Standard output, each line as JSON. */
  readonly objects: ReadonlyArray<Record<string, unknown>>
}

/** Without the variables of the machine that the tests run on. */
export const coordEnv = (env: NodeJS.ProcessEnv): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(ETCD|COORD)_|^NO_COLOR$/.test(name))),
  ...env
})

/** Runs it to its end. */
export const coord = (
  endpoints: string,
  args: ReadonlyArray<string>,
  { env = {}, input }: { readonly env?: NodeJS.ProcessEnv; readonly input?: string | Uint8Array | Readable } = {}
): Effect.Effect<Ended> =>
  Effect.callback((resume) => {
    const child = ChildProcess.spawn(process.execPath, [coordBin, ...args], {
      env: coordEnv({ ETCD_ENDPOINTS: endpoints, ...env }),
      stdio: ["pipe", "pipe", "pipe"]
    })
    const out: Array<Buffer> = []
    const errors: Array<Buffer> = []
    child.stdin.on("error", () => {})
    if (input instanceof Readable) input.pipe(child.stdin)
    else child.stdin.end(input)
    child.stdout.on("data", (chunk: Buffer) => out.push(chunk))
    child.stderr.on("data", (chunk: Buffer) => errors.push(chunk))
    child.once("close", (code) => {
      const stdout = Buffer.concat(out)
      const text = stdout.toString()
      resume(Effect.succeed({
        code: code ?? undefined,
        stdout,
        text,
        stderr: Buffer.concat(errors).toString(),
        get objects() {
          return text.split("\n").filter((line) => line !== "").map((line) =>
            JSON.parse(line) as Record<string, unknown>
          )
        }
      }))
    })
    return Effect.sync(() => void child.kill("SIGKILL"))
  })
