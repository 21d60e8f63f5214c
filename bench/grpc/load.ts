/** Calls, and what became of them. */
import type * as grpc from "@grpc/grpc-js"
import { Metadata } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { EchoClient } from "../../test/grpc/echo.ts"

export interface Called {
  /** On `performance.now()`. */
  readonly start: number
  readonly end: number
  /** `host:port` of who answered, or was asked. */
  readonly peer: string
  readonly error: grpc.ServiceError | undefined
  /** Headers of an answer had come: gRPC repeats no such call. */
  readonly begun: boolean
}

const metadata = new Metadata()

const once = (client: EchoClient, delay: number, ended: (called: Called) => void): void => {
  const start = performance.now()
  let begun = false
  const call = client.call(
    { delay },
    metadata,
    { deadline: Date.now() + 20_000 },
    (error) => ended({ start, end: performance.now(), peer: call.getPeer(), error: error ?? undefined, begun })
  )
  call.once("metadata", () => {
    begun = true
  })
}

/** So many calls a second, whether those before have ended or not, until the scope closes; what has ended so far. */
export const openLoop = (
  client: EchoClient,
  perSecond: number,
  delay = 0
): Effect.Effect<Array<Called>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const ended: Array<Called> = []
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const start = performance.now()
        let sent = 0
        return setInterval(() => {
          const due = (performance.now() - start) / 1000 * perSecond
          for (; sent < due; sent++) once(client, delay, (called) => ended.push(called))
        }, 1)
      }),
      (timer) => Effect.sync(() => clearInterval(timer))
    )
    return ended
  })

/** So many calls in flight for a time; how many ended in a second. */
export const closedLoop = (client: EchoClient, inFlight: number, millis: number): Effect.Effect<number> =>
  Effect.callback((resume) => {
    const start = performance.now()
    let running = inFlight
    let ended = 0
    const next = (): void => {
      if (performance.now() - start < millis) return once(client, 0, again)
      running--
      if (running === 0) resume(Effect.succeed(ended / (performance.now() - start) * 1000))
    }
    const again = ({ error }: Called) => {
      if (error !== undefined) throw error
      ended++
      next()
    }
    for (let index = 0; index < inFlight; index++) next()
  })

export const percentile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

export const median = (values: ReadonlyArray<number>): number => percentile(values, 0.5)

export const failed = (calls: ReadonlyArray<Called>): number => calls.filter(({ error }) => error !== undefined).length
