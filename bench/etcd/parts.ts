/** The parts of the benchmark. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { makeEtcdServer } from "../../test/utils/EtcdServer.ts"
import {
  type Against,
  alternate,
  type Ask,
  asking,
  bound,
  median,
  p50,
  rate,
  type Rounds,
  type Row,
  versus
} from "./measure.ts"
import type { Series } from "./plot.ts"
import type { Peer } from "./protocol.ts"
import type { Plot } from "./report.ts"

export type Name = "ours" | "bare" | "etcd3" | "go"

export interface World {
  readonly endpoint: string
  readonly start: (name: Name, endpoint?: string) => Effect.Effect<Peer, never, Scope.Scope>
  /** One of each that is there, warm. */
  readonly peers: { readonly [name in Exclude<Name, "go">]: Peer } & { readonly go: Peer | undefined }
  readonly quick: boolean
  /** For what is counted in a second. */
  readonly long: Rounds
  /** For locks. Of all that is measured they run the most code: V8 makes it quicker for ten seconds and more of a process's own time. */
  readonly locking: Rounds
  /** For the time that one takes: shorter, and more often, so that what else the machine does meets all alike. */
  readonly short: Rounds
  readonly plot: (plot: Plot) => void
}

const ifThere = (peer: Peer | undefined, against: (peer: Peer) => ReadonlyArray<Against>): ReadonlyArray<Against> =>
  peer === undefined ? [] : against(peer)

// -----------------------------------------------------------------------------
// Calls
// -----------------------------------------------------------------------------

export const calls = Effect.fnUntraced(function*({ long, peers: { bare, ours }, short }: World) {
  const rows: Array<Row> = []
  for (const scenario of ["get", "set"]) {
    const many = yield* versus(long, `${scenario}, 64 at once`, "a second", asking(ours, scenario, 64), [
      { label: "the bare stub", ask: asking(bare, scenario, 64), bar: 2 }
    ], true)
    const one = yield* versus(short, `${scenario}, one at a time, p50`, "us", asking(ours, scenario, 1, p50), [
      { label: "the bare stub", ask: asking(bare, scenario, 1, p50), bar: 1.15 }
    ], false)
    rows.push(...many.rows, ...one.rows)
  }
  const watch = yield* versus(short, "from put to event, p50", "us", asking(ours, "watch", 1, p50), [
    { label: "a raw watch stream", ask: asking(bare, "watch", 1, p50), bar: 1.2 }
  ], false)
  const [live = [], instances = []] = yield* alternate(long, [asking(ours, "live", 1), asking(ours, "instances", 1)])
  return [
    ...rows,
    ...watch.rows,
    bound("reads of a live value", live, 1_000_000, true, "a second"),
    bound("reads of a list that follows `instances`", instances, 1_000_000, true, "a second")
  ]
})

// -----------------------------------------------------------------------------
// Locks
// -----------------------------------------------------------------------------

export const locks = Effect.fnUntraced(function*(
  { locking, long, peers: { bare, etcd3, go, ours }, plot, quick, short }: World
) {
  const concurrent = yield* versus(locking, "lock cycles, 64 at once", "a second", asking(ours, "lock", 64), [
    ...ifThere(go, (go) => [
      { label: "Go, one session", ask: asking(go, "lock-shared", 64), bar: 2 },
      { label: "Go, a session each", ask: asking(go, "lock-own", 64), bar: 5 }
    ]),
    { label: "npm etcd3 lock()", ask: asking(etcd3, "lock", 64), bar: 10 }
  ], true)
  const alone = yield* versus(short, "a lock cycle, one at a time, p50", "us", asking(ours, "lock", 1, p50), [
    { label: "two calls of the bare stub", ask: asking(bare, "lock", 1, p50), bar: 1.15 },
    { label: "its two transactions on the bare stub", ask: asking(bare, "transactions", 1, p50), bar: undefined }
  ], false)
  const points: [Array<readonly [number, number]>, Array<readonly [number, number]>] = [[], []]
  for (const concurrency of quick ? [] : [1, 4, 16, 64, 256]) {
    const found = yield* alternate(long, [
      asking(ours, "lock", concurrency),
      ...go === undefined ? [] : [asking(go, "lock-shared", concurrency)]
    ])
    for (const [index, values] of found.entries()) points[index]?.push([concurrency, median(values)])
  }
  plot({
    file: "locks.svg",
    title: "Uncontended lock cycles",
    xLabel: "at once",
    yLabel: "a second",
    series: [
      { name: "ours", points: points[0] },
      ...go === undefined ? [] : [{ name: "Go, one session", points: points[1] }]
    ]
  })
  return [...concurrent.rows, ...alone.rows]
})

export const handoff = Effect.fnUntraced(function*({ locking, peers: { go, ours }, plot, start }: World) {
  const rows: Array<Row> = []
  const series: Array<Series> = []
  const contention = Effect.fnUntraced(function*(
    title: (contenders: number) => string,
    where: string,
    bars: ReadonlyArray<readonly [contenders: number, bar: number]>,
    ask: (whose: "ours" | "go", contenders: number) => Ask,
    /** What each process has of the cores. */
    share: (contenders: number) => number
  ) {
    const mine: Array<readonly [number, number]> = []
    const theirs: Array<readonly [number, number]> = []
    for (const [contenders, bar] of bars) {
      const rounds = { ...locking, warmUp: locking.warmUp / share(contenders) }
      const found = yield* versus(rounds, title(contenders), "a second", ask("ours", contenders), [
        { label: "Go", ask: ask("go", contenders), bar }
      ], true)
      rows.push(...found.rows)
      mine.push([contenders, 1e6 / found.mine])
      theirs.push([contenders, 1e6 / (found.theirs[0] ?? NaN)])
    }
    series.push({ name: `ours, ${where}`, points: mine }, { name: `Go, ${where}`, points: theirs })
  })
  if (go === undefined) return rows
  yield* contention(
    (contenders) => `handoff in one process, ${contenders} contenders`,
    "one process",
    [[2, 40], [8, 12], [32, 4]],
    (whose, contenders) => asking(whose === "ours" ? ours : go, "handoff", contenders),
    () => 1
  )
  yield* Effect.scoped(Effect.gen(function*() {
    const all = (name: Name) => Effect.replicateEffect(start(name), 8, { concurrency: 2 })
    const processes = { ours: yield* all("ours"), go: yield* all("go") }
    yield* contention(
      (contenders) => `handoff between processes, ${contenders}`,
      "processes",
      [[2, 20], [4, 10], [8, 5]],
      (whose, contenders) => (round, millis) =>
        Effect.map(
          Effect.forEach(
            processes[whose].slice(0, contenders),
            (peer) => peer.ask({ scenario: "handoff", concurrency: 1, millis, key: `across/${contenders}/${round}` }),
            { concurrency: "unbounded" }
          ),
          (answers) => answers.reduce((sum, answer) => sum + rate(answer), 0)
        ),
      (contenders) => Math.min(1, Os.availableParallelism() / contenders)
    )
  }))
  plot({ file: "handoff.svg", title: "From one holder to the next", xLabel: "contenders", yLabel: "us", series })
  return rows
})

// -----------------------------------------------------------------------------
// Scale
// -----------------------------------------------------------------------------

export const scale = Effect.fnUntraced(function*({ plot, quick, start }: World) {
  const rows: Array<Row> = []
  const many = quick ? 1000 : 10_000
  const repeats = quick ? 1 : 5
  /** Three beats of each lease, whose keys are looked after each time: of a part of a beat, some leases would count more often. */
  const idle = 15_000
  /** Each time in a process of its own, on an etcd of its own: what was there before would count. */
  const figures = (scenario: string, concurrency: number) =>
    Effect.map(
      Effect.replicateEffect(
        Effect.scoped(Effect.gen(function*() {
          const ours = yield* start("ours", (yield* makeEtcdServer({})).endpoint)
          // The first ones are compiled.
          yield* ours.ask({ scenario, concurrency: 200, millis: 10, key: `warm-${scenario}` })
          return (yield* ours.ask({ scenario, concurrency, millis: idle, key: `scale-${scenario}` })).figures ?? {}
        })),
        repeats
      ),
      (found) => (name: string) => found.map((figures) => figures[name] ?? NaN)
    )
  const fanOut: Array<readonly [number, number]> = []
  for (const count of quick ? [many] : [many / 100, many / 10, many]) {
    const found = yield* figures("watchers", count)
    fanOut.push([count, median(found("millisToAll"))])
    if (count === many) {
      const what = `${count.toLocaleString("en")} watchers of one prefix`
      rows.push(bound(`${what}: one event to all`, found("millisToAll"), 100, false, "ms"))
      rows.push(bound(`${what}: memory`, found("bytesEach").map((bytes) => bytes / 1000), 10, false, "kB each"))
      rows.push(bound(`${what}: etcd's watches`, found("etcdWatches"), 1, false, "at most"))
    }
  }
  plot({
    file: "fan-out.svg",
    title: "One event to all watchers of a prefix",
    xLabel: "watchers",
    yLabel: "ms",
    series: [{ name: "ours", points: fanOut }]
  })
  for (const [scenario, what] of [["registered", "registrations"], ["held", "held locks"]] as const) {
    const found = yield* figures(scenario, many)
    const title = `${many.toLocaleString("en")} ${what}`
    rows.push(bound(`${title}: memory`, found("bytesEach").map((bytes) => bytes / 1000), 8, false, "kB each"))
    rows.push(bound(`${title}: keys on a lease`, found("keysPerLease"), 256, false, "at most"))
    rows.push(bound(`${title}: streams for all beats`, found("streams"), 1, false, "at most"))
    rows.push(bound(`${title}: idle`, found("idlePercent"), 2, false, "% of a core"))
    const registering = scenario === "registered"
    const speed = registering ? "registering" : "acquiring"
    rows.push(bound(`${title}: ${speed}`, found("perSecond"), registering ? 5000 : undefined, true, "a second"))
  }
  return rows
})

/** The same with few keys and with many beside them, which have nothing to do with it. */
export const growth = Effect.fnUntraced(function*({ quick, short, start }: World) {
  const world = Effect.fnUntraced(function*(keys: number) {
    const { endpoint } = yield* makeEtcdServer({})
    const ours = yield* start("ours", endpoint)
    yield* ours.ask({ scenario: "fill", concurrency: keys, millis: 0, key: "fill" })
    return { keys, ours }
  })
  const few = yield* world(100)
  const lots = yield* world(quick ? 5000 : 100_000)
  const rows: Array<Row> = []
  for (const scenario of ["lock", "get", "watch"]) {
    const found = yield* versus(
      // Flat or not is a matter of a few percent.
      { ...short, rounds: short.rounds * 2 - 1 },
      `${scenario} beside ${lots.keys.toLocaleString("en")} keys, p50`,
      "us",
      asking(lots.ours, scenario, 1, p50),
      [{ label: `beside ${few.keys}`, ask: asking(few.ours, scenario, 1, p50), bar: 1.1 }],
      false
    )
    rows.push(...found.rows)
  }
  return rows
}, Effect.scoped)

/** With a log that is written to a disk, and waits for it. */
export const disk = Effect.fnUntraced(function*({ long, start }: World) {
  const folder = Path.join(import.meta.dirname, "..", "..", ".cache")
  const temporary = process.env["TMPDIR"]
  process.env["TMPDIR"] = folder
  const { endpoint } = yield* makeEtcdServer({ args: ["--unsafe-no-fsync=false"] }).pipe(
    Effect.ensuring(Effect.sync(() => {
      if (temporary === undefined) delete process.env["TMPDIR"]
      else process.env["TMPDIR"] = temporary
    }))
  )
  const ours = yield* start("ours", endpoint)
  const bare = yield* start("bare", endpoint)
  const rows: Array<Row> = []
  for (const scenario of ["get", "set"]) {
    const found = yield* versus(long, `on a disk: ${scenario}, 64 at once`, "a second", asking(ours, scenario, 64), [
      { label: "the bare stub", ask: asking(bare, scenario, 64), bar: undefined }
    ], true)
    rows.push(...found.rows)
  }
  const ways = yield* versus(
    long,
    "on a disk: 64 reads as ranges of a transaction",
    "a second",
    asking(bare, "ranges", 1),
    [
      { label: "read-only nested transactions", ask: asking(bare, "nested", 1), bar: undefined }
    ],
    true
  )
  return [...rows, ...ways.rows]
}, Effect.scoped)

// -----------------------------------------------------------------------------
// First use
// -----------------------------------------------------------------------------

export const firstUse = Effect.fnUntraced(function*({ endpoint, long }: World) {
  const root = Path.join(import.meta.dirname, "..", "..")
  const took = (program: string): Ask => () =>
    Effect.sync(() => {
      const start = performance.now()
      execFileSync(process.execPath, ["--input-type=module", "--eval", program], {
        cwd: root,
        env: { ...process.env, ETCD_ENDPOINTS: endpoint }
      })
      return performance.now() - start
    })
  const library = Path.join(root, "dist", "index.js")
  if (!Fs.existsSync(library)) return []
  const ours = `import * as Effect from "effect/Effect"
    import { Etcd, EtcdLive } from ${JSON.stringify(library)}
    await Effect.runPromise(Effect.provide(Effect.flatMap(Etcd, (etcd) => etcd.range({ key: "x" })), EtcdLive))`
  const theirs = `import * as Effect from "effect/Effect"
    import "effect/Schema"
    import "effect/Stream"
    import { Etcd3 } from "etcd3"
    const client = new Etcd3({ hosts: process.env.ETCD_ENDPOINTS })
    await Effect.runPromise(Effect.promise(() => client.get("x").string()))
    client.close()`
  return (yield* versus(long, "import, connect, first answer", "ms", took(ours), [
    { label: "effect and etcd3 alone", ask: took(theirs), bar: 1.3 }
  ], false)).rows
})
