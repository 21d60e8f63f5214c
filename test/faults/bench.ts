/** A cluster, clients that reach each member through a connection of their own, and what happens to both. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { makeCluster } from "../utils/Cluster.ts"
import type { EtcdServer, EtcdVersion } from "../utils/EtcdServer.ts"
import { makeProxy, type Proxy } from "../utils/Proxy.ts"
import { connect, now } from "./clients.ts"
import type { Chance } from "./random.ts"

export type Client = Effect.Success<ReturnType<typeof connect>>

export interface Behind {
  readonly name: string
  readonly client: Client
  readonly proxies: ReadonlyArray<Proxy>
}

export const makeBench = Effect.fnUntraced(function*(version: EtcdVersion, size: number) {
  // A short history on the server, or a member that comes back gets a snapshot: both happen.
  const cluster = yield* makeCluster({ version, args: ["--snapshot-count=2000"] })
  const clients = yield* Effect.forEach(Array.from({ length: size }), (_, i) =>
    Effect.gen(function*() {
      const proxies = yield* Effect.forEach(cluster.members, makeProxy)
      const client = yield* connect({ endpoints: proxies.map(({ endpoint }) => endpoint), timeout: "2 seconds" })
      // What is released at the end finds its servers.
      yield* Effect.addFinalizer(() =>
        Effect.forEach(proxies, ({ accept, passResponses, thaw }) => Effect.all([accept, passResponses, thaw]))
      )
      const behind: Behind = { name: `client${i}`, client, proxies }
      return behind
    }))
  return { cluster, clients }
})

export type Bench = Effect.Success<ReturnType<typeof makeBench>>

export interface FaultOptions {
  /** Compacts everything up to this revision. */
  readonly compactable: () => bigint
  /** How long a client is cut off at most, in milliseconds. */
  readonly longest: number
  /** Whom it would hurt most to be cut off now. */
  readonly victim: () => string | undefined
}

/** A member led, and was stopped for so long. */
export interface LeaderStop {
  readonly from: number
  readonly to: number
}

/** One fault after another, to the network and to the members, until it is told to stop; then all is whole again. */
export const makeFaults = Effect.fnUntraced(function*(bench: Bench, random: Chance, options: FaultOptions) {
  const { clients, cluster } = bench
  const counts = new Map<string, number>()
  const count = (what: string) => Effect.sync(() => void counts.set(what, (counts.get(what) ?? 0) + 1))
  const stops: Array<LeaderStop> = []
  const down = new Set<EtcdServer>()
  let stopped = false
  const sleep = (from: number, to: number) => Effect.suspend(() => Effect.sleep(random.int(from, to)))
  const all = (proxies: ReadonlyArray<Proxy>, act: (proxy: Proxy) => Effect.Effect<unknown>) =>
    Effect.forEach(proxies, act, { discard: true })

  const compact = Effect.suspend(() => {
    const member = cluster.members.find((member) => !down.has(member))
    const revision = options.compactable() - BigInt(random.is(0.5) ? 0 : random.int(0, 100))
    if (member === undefined || revision < 2n) return Effect.void
    // It may have been compacted before, or the member may have no leader now.
    return member.etcdctl("compact", String(revision)).pipe(
      Effect.andThen(count("compactions")),
      Effect.timeoutOption("5 seconds"),
      Effect.ignore
    )
  })

  const network = Effect.gen(function*() {
    yield* sleep(20, 700)
    const pick = ([first, ...rest]: ReadonlyArray<Behind>) =>
      first === undefined ? undefined : random.pick([first, ...rest])
    const proxies = pick(clients)?.proxies ?? []
    const some = random.is(0.5)
      ? proxies
      : [proxies[random.int(0, proxies.length - 1)] ?? proxies[0]].flatMap((p) => p ?? [])
    switch (
      random.pick(["cut", "cut", "cut", "after", "after", "answers", "answers", "refused", "silent", "off", "off"])
    ) {
      case "cut":
        yield* all(some, ({ cut }) => cut)
        return yield* count("cuts")
      case "after":
        yield* Effect.forEach(
          some,
          ({ cutAfter }) => Effect.timeoutOption(cutAfter(random.int(1, 20_000)), "1 second"),
          { discard: true, concurrency: "unbounded" }
        )
        return yield* count("cuts")
      case "answers":
        yield* all(some, ({ dropResponses }) => dropResponses)
        yield* sleep(20, 400)
        yield* all(some, ({ passResponses }) => passResponses)
        return yield* count("lost answers")
      case "refused":
        yield* all(some, ({ cut, refuse }) => Effect.andThen(refuse, cut))
        yield* sleep(100, 1500)
        yield* all(some, ({ accept }) => accept)
        return yield* count("refusals")
      case "silent":
        yield* all(some.slice(0, 1), ({ freeze }) => freeze)
        yield* sleep(500, 4000)
        yield* all(some.slice(0, 1), ({ thaw }) => thaw)
        return yield* count("frozen connections")
      case "off": {
        const victim = clients.find(({ name }) => name === options.victim())?.proxies ?? proxies
        yield* all(victim, ({ freeze }) => freeze)
        yield* sleep(500, options.longest)
        if (random.is(0.7)) yield* compact
        if (random.is(0.5)) yield* all(victim, ({ cut }) => cut)
        yield* all(victim, ({ thaw }) => thaw)
        return yield* count("partitions of a client")
      }
    }
  })

  const members = Effect.gen(function*() {
    yield* sleep(1000, 4000)
    const kind = random.pick(["leader", "follower", "paused", "compact"])
    if (kind === "compact") return yield* compact
    const leader = yield* cluster.leader
    const followers = cluster.members.filter((member) => member !== leader)
    const member = kind === "leader" || (kind === "paused" && random.is(0.3))
      ? leader
      : followers[random.int(0, followers.length - 1)] ?? leader
    down.add(member)
    if (kind === "paused") {
      const from = now()
      yield* member.pause
      yield* sleep(500, 4000)
      if (member === leader) stops.push({ from, to: now() })
      yield* member.resume
      yield* count(member === leader ? "leaders stopped for a while" : "followers stopped for a while")
    } else {
      yield* member.kill
      yield* sleep(200, 3000)
      yield* member.start
      yield* count(member === leader ? "leaders killed" : "followers killed")
    }
    down.delete(member)
  })

  const loop = (fault: Effect.Effect<void>) => Effect.forkScoped(Effect.repeat(fault, { until: () => stopped }))
  const loops = [yield* loop(network), yield* loop(members)]
  return {
    counts: (): string => [...counts].map(([what, times]) => `${times} ${what}`).join(", "),
    stops: (): ReadonlyArray<LeaderStop> => stops,
    stop: Effect.suspend(() => {
      stopped = true
      return Effect.forEach(loops, Fiber.join, { discard: true })
    })
  }
})
