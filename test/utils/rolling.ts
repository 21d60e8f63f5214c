/** Servers in processes of their own that are replaced one after the other, under load. */
import { status as Code } from "@grpc/grpc-js"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Path from "node:path"
import type { GreeterClient } from "../../examples/greeter/ts-proto/greeter.ts"
import { run } from "./processes.ts"

const script = Path.join(import.meta.dirname, "..", "fixtures", "serveUntilTold.ts")

const startServer = Effect.fnUntraced(function*(endpoint: string, id: string) {
  const server = yield* run(process.execPath, [script, endpoint, id])
  const port = Number((yield* server.line("serving on")).split(" ").at(-1))
  return { ...server, id, port }
})

export const startServers = (endpoint: string, ids: ReadonlyArray<string>) =>
  Effect.forEach(ids, (id) => startServer(endpoint, id), { concurrency: "unbounded" })

export type Servers = Effect.Success<ReturnType<typeof startServers>>

export interface Load {
  sent: number
  answered: number
  /** Milliseconds of each call. */
  readonly times: Array<number>
  readonly failures: Array<string>
  readonly byInstance: Map<string, number>
}

/**
 * Calls at a steady rate, whether or not the earlier ones are answered, until interrupted. Each takes 50 ms to answer, so that there
 * are always some in flight.
 */
export const load = Effect.fnUntraced(function*(client: GreeterClient, perSecond: number) {
  const load: Load = { sent: 0, answered: 0, times: [], failures: [], byInstance: new Map() }
  const call = () => {
    const from = performance.now()
    load.sent++
    client.greet({ name: "busy" }, (error, reply) => {
      load.answered++
      if (error !== null) return load.failures.push(`${Code[error.code]}: ${error.details}`)
      load.times.push(performance.now() - from)
      return load.byInstance.set(reply.instance, (load.byInstance.get(reply.instance) ?? 0) + 1)
    })
  }
  const start = yield* Clock.monotonicTimeNanos
  const sending = yield* Clock.monotonicTimeNanos.pipe(
    Effect.map((now) => {
      // At most a tenth of a second is caught up with: a pause of this process is no burst of calls.
      const due = Math.min((Number(now - start) / 1e9) * perSecond - load.sent, perSecond / 10)
      for (let i = 0; i < due; i++) call()
    }),
    Effect.repeat(Schedule.spaced("5 millis")),
    Effect.forkScoped
  )
  const soon = Schedule.spaced("10 millis")
  return {
    load,
    sent: (calls: number) =>
      Effect.repeat(Effect.sync(() => load.sent), { until: (sent) => sent >= calls, schedule: soon }),
    /** Sends no more, and waits until all is answered. */
    end: Effect.andThen(
      Fiber.interrupt(sending),
      Effect.repeat(Effect.sync(() => load.answered), { until: (answered) => answered === load.sent, schedule: soon })
    )
  }
})

/** The new ones are there first. Then the old ones are told to end, one after the other, and the end of each is waited for. */
export const replaceAll = Effect.fnUntraced(function*(endpoint: string, old: Servers, ids: ReadonlyArray<string>) {
  const next = yield* startServers(endpoint, ids)
  for (const server of old) {
    yield* server.kill("SIGTERM")
    const code = yield* server.ended
    if (code !== 130) return yield* Effect.die(new Error(`${server.id} ended with ${code}`))
  }
  return next
})
