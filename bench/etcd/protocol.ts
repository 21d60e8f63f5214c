/**
 * A peer is a process that does as it is told: one request on a line of its input, one answer on a line of its output. So each has
 * its own event loop, and the Go client is asked as all others are.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"

export interface Request {
  readonly scenario: string
  readonly concurrency: number
  readonly millis: number
  readonly key: string
}

export interface Answer {
  readonly count?: number
  readonly seconds?: number
  /** Of each, where there was one at a time. */
  readonly micros?: ReadonlyArray<number> | null
  /** What a scenario measures besides. */
  readonly figures?: Readonly<Record<string, number>>
  readonly error?: string
}

export class PeerFailed extends Data.TaggedError("PeerFailed")<{ readonly message: string }> {}

export interface Peer {
  readonly ask: (request: Request) => Effect.Effect<Answer, PeerFailed>
}

export const startPeer = (command: string, args: ReadonlyArray<string>): Effect.Effect<Peer, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] })
      const lines = createInterface({ input: child.stdout })
      const waiting: Array<(answer: Answer) => void> = []
      lines.on("line", (line) => waiting.shift()?.(JSON.parse(line)))
      const ended = () => {
        for (const answer of waiting.splice(0)) answer({ error: `${command} has ended` })
      }
      child.once("exit", ended)
      child.once("error", ended)
      child.stdin.on("error", () => {})
      return { child, waiting }
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  ).pipe(
    Effect.map(({ child, waiting }) => ({
      ask: (request) =>
        Effect.callback<Answer, PeerFailed>((resume) => {
          waiting.push((answer) =>
            resume(
              answer.error === undefined
                ? Effect.succeed(answer)
                : Effect.fail(new PeerFailed({ message: `${command}, ${request.scenario}: ${answer.error}` }))
            )
          )
          child.stdin.write(`${JSON.stringify(request)}\n`)
        })
    }))
  )

/** Answers requests until the input ends. */
export const serve = async (run: (request: Request) => Promise<Answer>): Promise<void> => {
  for await (const line of createInterface({ input: process.stdin })) {
    const answer = await run(JSON.parse(line)).catch((error: unknown): Answer => ({ error: String(error) }))
    process.stdout.write(`${JSON.stringify(answer)}\n`)
  }
  process.exit(0)
}

/** Repeats a step in each of `concurrency` loops until the time is over. */
export const repeat = async (
  { concurrency, millis }: Request,
  step: (index: number) => Promise<unknown>
): Promise<Answer> => {
  const micros: Array<number> = []
  let count = 0
  const start = performance.now()
  await Promise.all(Array.from({ length: concurrency }, async (_, index) => {
    for (let now = performance.now(); now < start + millis;) {
      await step(index)
      const after = performance.now()
      if (concurrency === 1) micros.push((after - now) * 1000)
      now = after
      count++
    }
  }))
  return { count, seconds: (performance.now() - start) / 1000, micros }
}
