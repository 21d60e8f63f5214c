/** What the tests of faults share: clients of all services, the monotonic clock of the machine, and what etcd itself saw. */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { EtcdOptions } from "../../src/EtcdOptions.ts"
import { ConfigCenter, Etcd, layerEtcd, Lock, Registry, ServiceInstance } from "../../src/index.ts"
import type { EtcdServer } from "../utils/EtcdServer.ts"
import { makeProxy } from "../utils/Proxy.ts"

/** In milliseconds, the same for all processes of this machine. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6

export const ms = (time: number): string => time >= 10_000 ? `${(time / 1000).toFixed(1)} s` : `${Math.round(time)} ms`

/** All services, as a process has them, until the scope closes. */
export const connect = (options: EtcdOptions) =>
  Effect.map(Layer.build(Layer.fresh(layerEtcd(options))), (context) => ({
    lock: Context.get(context, Lock),
    registry: Context.get(context, Registry),
    config: Context.get(context, ConfigCenter),
    etcd: Context.get(context, Etcd)
  }))

export type Client = Effect.Success<ReturnType<typeof connect>>

/** A client that reaches a server through a connection of its own, which can fail. */
export const connectThroughProxy = Effect.fnUntraced(function*(
  server: Pick<EtcdServer, "port">,
  options: EtcdOptions = {}
) {
  const proxy = yield* makeProxy({ port: server.port })
  const client = yield* connect({ timeout: "2 seconds", ...options, endpoints: proxy.endpoint })
  // Leases are not revoked into a void at the end of a test.
  yield* Effect.addFinalizer(() => proxy.thaw)
  return { ...client, proxy }
})

export class TooLate extends Data.TaggedError("TooLate")<{ readonly message: string }> {}

/** Asks until it holds; fails, with the words, when that takes too long. Answers how long it took. */
export const until = <E, R>(
  what: string,
  holds: Effect.Effect<boolean, E, R>,
  bound: number,
  interval = 10
): Effect.Effect<number, TooLate, R> =>
  Effect.suspend(() => {
    const start = now()
    return Effect.suspend(() => holds).pipe(
      Effect.orElseSucceed(() => false),
      Effect.filterOrFail((is) => is, () => "not yet"),
      Effect.retry(Schedule.spaced(interval)),
      Effect.timeout(bound),
      Effect.mapError(() => new TooLate({ message: `not within ${ms(bound)}: ${what}` })),
      Effect.map(() => now() - start)
    )
  })

export interface Deletion {
  readonly at: number
  readonly revision: bigint
}

/** When the keys below a prefix were deleted, as it is told to a watch on a connection of its own. */
export const deletions = Effect.fnUntraced(function*(endpoint: string, prefix: string) {
  const { etcd } = yield* connect({ endpoints: endpoint })
  const seen = new Map<string, Deletion>()
  yield* etcd.watch({ prefix, startRevision: 1n }).pipe(
    Stream.runForEach((item) =>
      Effect.sync(() => {
        if (item._tag === "Opened") return
        const at = now()
        for (const event of item.events) {
          if (event._tag === "Delete") seen.set(event.key, { at, revision: item.revision })
        }
      })
    ),
    Effect.forkScoped({ startImmediately: true })
  )
  return {
    of: (key: string, bound = 60_000) =>
      Effect.map(
        until(`${key} is deleted`, Effect.sync(() => seen.has(key)), bound, 5),
        () => seen.get(key) ?? { at: Number.NaN, revision: 0n }
      )
  }
})

/**
 * For how long this process could not run shortly before a time, whoever took the machine: nothing that it does can be sooner.
 */
export const standstills = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const late: Array<{ readonly at: number; readonly by: number }> = []
      let due = now() + 5
      const timer = setInterval(() => {
        const at = now()
        if (at - due > 5) late.push({ at, by: at - due })
        due = at + 5
      }, 5)
      return { late, timer }
    }),
    ({ timer }) => Effect.sync(() => clearInterval(timer))
  ),
  ({ late }) => (time: number) =>
    Math.max(0, ...late.filter(({ at }) => at > time - 500 && at < time + 50).map(({ by }) => by))
)

/** A scope that a test closes when it wants to, and that closes with the test at the latest. */
export const ownScope = Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))

export const instance = (name: string, id: string) =>
  new ServiceInstance({ id, name, address: "127.0.0.1", port: 9000, metadata: {} })

/** Thousands of losses are what a test is about, not news. */
export const quiet = Effect.provideService(References.MinimumLogLevel, "None")

export const summary = (values: ReadonlyArray<number>): string => {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share: number) => ms(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN)
  return `min ${at(0)}, median ${at(0.5)}, max ${at(1)}`
}
