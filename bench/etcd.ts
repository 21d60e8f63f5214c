/**
 * This library beside its peers, at the same work, on one etcd: `npm run bench`, or with `-- --quick` in under two minutes. It prints a
 * table, and writes `bench/results.json` and the plots of `docs/performance.md`.
 *
 * What counts are the ratios within a run: each round asks all peers one after the other. Figures of a machine that has other work
 * to do mean little, and say so by their spread.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { type EtcdServer, makeEtcdServer } from "../test/utils/EtcdServer.ts"
import { buildGo } from "./etcd/go.ts"
import { lineChart, type Series } from "./etcd/plot.ts"
import { type Answer, type Peer, type PeerFailed, startPeer } from "./etcd/protocol.ts"

const quick = process.argv.includes("--quick")
const only = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))
const rounds = quick ? 3 : 7
const millis = quick ? 150 : 1000
const many = quick ? 1000 : 10_000

// etcd's data, in memory.
if (Fs.existsSync("/dev/shm")) process.env["TMPDIR"] = "/dev/shm"

type Name = "ours" | "bare" | "etcd3" | "go"

interface World {
  readonly server: EtcdServer
  readonly start: (name: Name) => Effect.Effect<Peer, never, Scope.Scope>
  /** One of each, warm. */
  readonly peers: Partial<Record<Name, Peer>>
}

interface Row {
  readonly what: string
  readonly bar: string
  /** The ratio, or the figure itself. */
  readonly measured: number
  readonly met: boolean
  readonly detail: string
}

const folder = import.meta.dirname
const node = (file: string, ...args: ReadonlyArray<string>) =>
  startPeer(process.execPath, ["--expose-gc", Path.join(folder, "etcd", file), ...args])

const starter = (server: EtcdServer, go: string | undefined) => (name: Name) => {
  switch (name) {
    case "ours":
      return node("ours.ts", server.endpoint)
    case "go":
      return startPeer(go ?? "", [server.endpoint])
    default:
      return node("raw.ts", name, server.endpoint)
  }
}

const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN
const number = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)))
const spread = (values: ReadonlyArray<number>): string =>
  `${number(median(values))} (${number(Math.min(...values))}-${number(Math.max(...values))})`

const rate = ({ count = 0, seconds = 1 }: Answer): number => count / seconds
const p50 = ({ micros }: Answer): number => median(micros ?? [])

type Ask = readonly [label: string, ask: (round: number) => Effect.Effect<number, PeerFailed>]

/** Alternating; the first round is to warm up. */
const alternate = Effect.fnUntraced(function*(asks: ReadonlyArray<Ask>) {
  const values = asks.map((): Array<number> => [])
  for (let round = 0; round <= rounds; round++) {
    for (const [index, [, ask]] of asks.entries()) {
      const value = yield* ask(round)
      if (round > 0) values[index]?.push(value)
    }
  }
  return values
})

/** Ours against each of the others. `more`: at least so many times as much; otherwise at most. */
const versus = Effect.fnUntraced(function*(
  what: string,
  unit: string,
  ours: Ask,
  others: ReadonlyArray<readonly [ask: Ask, bar: number]>,
  more: boolean
) {
  const [mine = [], ...theirs] = yield* alternate([ours, ...others.map(([ask]) => ask)])
  const rows = others.map(([[label], bar], index): Row => {
    const other = theirs[index] ?? []
    const ratio = median(mine.map((value, round) => value / (other[round] ?? NaN)))
    return {
      what: `${what}, against ${label}`,
      bar: `${more ? ">=" : "<="} ${bar} x`,
      measured: ratio,
      met: more ? ratio >= bar : ratio <= bar,
      detail: `${spread(mine)} against ${spread(other)} ${unit}`
    }
  })
  return { rows, mine: median(mine), theirs: theirs.map(median) }
})

const bound = (what: string, measured: number, bar: number, more: boolean, unit: string): Row => ({
  what,
  bar: `${more ? ">=" : "<="} ${bar.toLocaleString("en")} ${unit}`,
  measured,
  met: more ? measured >= bar : measured <= bar,
  detail: `${number(measured)} ${unit}`
})

const plots: Record<string, string> = {}
const plot = (file: string, ...chart: Parameters<typeof lineChart>): void => {
  if (!quick) plots[file] = lineChart(...chart)
}

// -----------------------------------------------------------------------------
// Scenarios
// -----------------------------------------------------------------------------

const asking = (peer: Peer, scenario: string, concurrency: number, read = rate): Ask[1] => (round) =>
  Effect.map(peer.ask({ scenario, concurrency, millis, key: `${scenario}/${concurrency}/${round}` }), read)

const handoff = Effect.fnUntraced(function*({ peers: { go, ours }, start }: World) {
  if (ours === undefined || go === undefined) return []
  const rows: Array<Row> = []
  const within: [Array<readonly [number, number]>, Array<readonly [number, number]>] = [[], []]
  const across: typeof within = [[], []]
  const contention = Effect.fnUntraced(function*(
    title: string,
    points: typeof within,
    contenders: number,
    bar: number,
    mine: Ask[1],
    theirs: Ask[1]
  ) {
    const found = yield* versus(title, "a second", ["ours", mine], [[["Go", theirs], bar]], true)
    rows.push(...found.rows)
    points[0].push([contenders, 1e6 / found.mine])
    points[1].push([contenders, 1e6 / (found.theirs[0] ?? NaN)])
  })
  for (const [contenders, bar] of [[2, 40], [8, 12], [32, 4]] as const) {
    yield* contention(
      `handoff in one process, ${contenders} contenders`,
      within,
      contenders,
      bar,
      asking(ours, "handoff", contenders),
      asking(go, "handoff", contenders)
    )
  }
  for (const [contenders, bar] of [[2, 20], [4, 10], [8, 5]] as const) {
    yield* Effect.scoped(Effect.gen(function*() {
      const all = (name: Name) => Effect.replicateEffect(start(name), contenders)
      const asked = (peers: ReadonlyArray<Peer>): Ask[1] => (round) =>
        Effect.map(
          Effect.forEach(peers, (peer) =>
            peer.ask({ scenario: "handoff", concurrency: 1, millis, key: `across/${contenders}/${round}` }), {
            concurrency: "unbounded"
          }),
          (answers) =>
            answers.reduce((sum, answer) =>
              sum + rate(answer), 0)
        )
      const title = `handoff between processes, ${contenders}`
      yield* contention(title, across, contenders, bar, asked(yield* all("ours")), asked(yield* all("go")))
    }))
  }
  const series = ([mine, theirs]: typeof within, where: string): ReadonlyArray<Series> => [
    { name: `ours, ${where}`, points: mine },
    { name: `Go, ${where}`, points: theirs }
  ]
  plot("handoff.svg", "From one holder to the next", "contenders", "us", [
    ...series(within, "one process"),
    ...series(across, "processes")
  ])
  return rows
})

const locks = Effect.fnUntraced(function*({ peers: { bare, etcd3, go, ours } }: World) {
  if (ours === undefined || bare === undefined || etcd3 === undefined) return []
  const others: ReadonlyArray<readonly [Ask, number]> = [
    ...go === undefined ? [] : [
      [["Go, one session", asking(go, "lock-shared", 64)], 2],
      [["Go, a session each", asking(go, "lock-own", 64)], 5]
    ] as const,
    [["npm etcd3 lock()", asking(etcd3, "lock", 64)], 10]
  ]
  const concurrent = yield* versus(
    "lock cycles, 64 at once",
    "a second",
    ["ours", asking(ours, "lock", 64)],
    others,
    true
  )
  const alone = yield* versus(
    "a lock cycle, one at a time, p50",
    "us",
    ["ours", asking(ours, "lock", 1, p50)],
    [[["two calls of the bare stub", asking(bare, "lock", 1, p50)], 1.15]],
    false
  )
  const mine: Array<readonly [number, number]> = []
  const theirs: Array<readonly [number, number]> = []
  for (const concurrency of quick ? [] : [1, 4, 16, 64, 256]) {
    const found = yield* alternate([
      ["ours", asking(ours, "lock", concurrency)],
      ...go === undefined ? [] : [["Go", asking(go, "lock-shared", concurrency)] as const]
    ])
    mine.push([concurrency, median(found[0] ?? [])])
    if (found[1] !== undefined) theirs.push([concurrency, median(found[1])])
  }
  plot("locks.svg", "Uncontended lock cycles", "at once", "a second", [
    { name: "ours", points: mine },
    ...theirs.length === 0 ? [] : [{ name: "Go, one session", points: theirs }]
  ])
  return [...concurrent.rows, ...alone.rows]
})

const calls = Effect.fnUntraced(function*({ peers: { bare, ours } }: World) {
  if (ours === undefined || bare === undefined) return []
  const rows: Array<Row> = []
  for (const scenario of ["get", "set"]) {
    const many = yield* versus(`${scenario}, 64 at once`, "a second", ["ours", asking(ours, scenario, 64)], [
      [["the bare stub", asking(bare, scenario, 64)], 2]
    ], true)
    const one = yield* versus(`${scenario}, one at a time, p50`, "us", ["ours", asking(ours, scenario, 1, p50)], [
      [["the bare stub", asking(bare, scenario, 1, p50)], 1.15]
    ], false)
    rows.push(...many.rows, ...one.rows)
  }
  const watch = yield* versus("from put to event, p50", "us", ["ours", asking(ours, "watch", 1, p50)], [
    [["a raw watch stream", asking(bare, "watch", 1, p50)], 1.2]
  ], false)
  const [live = []] = yield* alternate([["ours", asking(ours, "live", 1)]])
  return [...rows, ...watch.rows, bound("reads of a live value", median(live), 1_000_000, true, "a second")]
})

const scale = Effect.fnUntraced(function*({ start }: World) {
  const rows: Array<Row> = []
  const figures = (scenario: string, concurrency: number) =>
    Effect.scoped(Effect.gen(function*() {
      const ours = yield* start("ours")
      // The first ones are compiled.
      yield* ours.ask({ scenario, concurrency: 200, millis: 10, key: `warm-${scenario}` })
      return (yield* ours.ask({ scenario, concurrency, millis: quick ? 500 : 3000, key: `scale-${scenario}` }))
        .figures ?? {}
    }))
  const fanOut: Array<readonly [number, number]> = []
  for (const count of [many / 100, many / 10, many]) {
    const { bytesEach = NaN, millisToAll = NaN } = yield* figures("watchers", count)
    fanOut.push([count, millisToAll])
    if (count === many) {
      const what = `${count.toLocaleString("en")} watchers of one prefix`
      rows.push(bound(`${what}: one event to all`, millisToAll, 100, false, "ms"))
      rows.push(bound(`${what}: memory`, bytesEach / 1000, 10, false, "kB each"))
    }
  }
  plot("fan-out.svg", "One event to all watchers of a prefix", "watchers", "ms", [{ name: "ours", points: fanOut }])
  for (const [scenario, what] of [["registered", "registrations"], ["held", "held locks"]] as const) {
    const { bytesEach = NaN, idlePercent = NaN, keysPerLease = NaN, perSecond = NaN } = yield* figures(scenario, many)
    const title = `${many.toLocaleString("en")} ${what}`
    rows.push(bound(`${title}: memory`, bytesEach / 1000, 8, false, "kB each"))
    rows.push(bound(`${title}: keys on a lease`, keysPerLease, 256, false, "at most"))
    rows.push(bound(`${title}: idle`, idlePercent, 2, false, "% of a core"))
    if (scenario === "registered") rows.push(bound(`${title}: registering`, perSecond, 5000, true, "a second"))
  }
  return rows
})

/** The same with few keys and with many beside them, which have nothing to do with it. */
const growth = Effect.fnUntraced(function*() {
  const worlds = yield* Effect.forEach([100, quick ? 5000 : 100_000], (keys) =>
    Effect.gen(function*() {
      const ours = yield* starter(yield* makeEtcdServer({}), undefined)("ours")
      yield* ours.ask({ scenario: "fill", concurrency: keys, millis, key: "fill" })
      return { keys, ours }
    }))
  const [few, lots] = worlds
  if (few === undefined || lots === undefined) return []
  const rows: Array<Row> = []
  for (const scenario of ["lock", "get", "watch"]) {
    const found = yield* versus(
      `${scenario} beside ${lots.keys.toLocaleString("en")} keys, p50`,
      "us",
      ["many", asking(lots.ours, scenario, 1, p50)],
      [[[`beside ${few.keys}`, asking(few.ours, scenario, 1, p50)], 1.1]],
      false
    )
    rows.push(...found.rows)
  }
  return rows
}, Effect.scoped)

const firstUse = Effect.fnUntraced(function*({ server }: World) {
  const took = (program: string): Ask[1] => () =>
    Effect.sync(() => {
      const start = performance.now()
      execFileSync(process.execPath, ["--input-type=module", "--eval", program], {
        cwd: Path.join(folder, ".."),
        env: { ...process.env, ETCD_ENDPOINTS: server.endpoint }
      })
      return performance.now() - start
    })
  const library = Path.join(folder, "..", "dist", "index.js")
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
  return (yield* versus("import, connect, first answer", "ms", ["ours", took(ours)], [
    [["effect and etcd3 alone", took(theirs)], 1.3]
  ], false)).rows
})

// -----------------------------------------------------------------------------
// The run
// -----------------------------------------------------------------------------

const load = () => Number(Os.loadavg()[0]?.toFixed(1))

const program = Effect.gen(function*() {
  const server = yield* makeEtcdServer({})
  const go = yield* Effect.result(buildGo)
  if (go._tag === "Failure") console.log(`missing here: the Go client (${go.failure.message.split("\n")[0]})`)
  const start = starter(server, go._tag === "Success" ? go.success : undefined)
  const peers: World["peers"] = {
    ours: yield* start("ours"),
    bare: yield* start("bare"),
    etcd3: yield* start("etcd3"),
    ...go._tag === "Success" && { go: yield* start("go") }
  }
  const world: World = { server, start, peers }
  const results: Array<Row> = []
  const before = load()
  const parts = { calls, locks, handoff, scale, growth, firstUse }
  for (const [name, part] of Object.entries(parts)) {
    if (only.length > 0 && !only.includes(name)) continue
    const began = performance.now()
    const rows = yield* part(world)
    console.log(`${name}: ${Math.round((performance.now() - began) / 1000)} s`)
    if (rows.length === 0) console.log(`${name}: not measured, something it needs is missing`)
    for (const row of rows) {
      results.push(row)
      console.log(
        `${row.met ? "met   " : "MISSED"} ${row.what.padEnd(62)} ${number(row.measured).padStart(10)}  ${
          row.bar.padEnd(22)
        } ${row.detail}`
      )
    }
  }
  const machine = { cores: Os.availableParallelism(), cpu: Os.cpus()[0]?.model, node: process.version }
  const loads = { before, after: load() }
  console.log(
    `rounds: ${rounds} of ${millis} ms; load before ${loads.before} and after ${loads.after} on ${machine.cores} cores`
  )
  if (quick || only.length > 0) return
  Fs.writeFileSync(
    Path.join(folder, "results.json"),
    `${JSON.stringify({ at: new Date().toISOString(), machine, loads, rounds, millis, results }, undefined, 2)}\n`
  )
  const docs = Path.join(folder, "..", "docs", "performance")
  Fs.mkdirSync(docs, { recursive: true })
  for (const [file, svg] of Object.entries(plots)) Fs.writeFileSync(Path.join(docs, file), svg)
})

await Effect.runPromise(Effect.scoped(program))
process.exit(0)
