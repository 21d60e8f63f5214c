/**
 * This library beside its peers, at the same work, on one etcd: `npm run bench`, or with `-- --quick` in under two minutes. Names of parts
 * run those alone. It prints a table; a whole run also writes `bench/results.json`, and the table and the plots of `docs/performance.md`.
 *
 * What counts are the ratios within a run: each round asks all peers one after the other. Figures of a machine that has other work
 * to do mean little, and say so by their spread.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { makeEtcdServer } from "../test/utils/EtcdServer.ts"
import { buildGo } from "./etcd/go.ts"
import type { Row } from "./etcd/measure.ts"
import { calls, disk, firstUse, growth, handoff, locks, type Name, scale, type World } from "./etcd/parts.ts"
import { startPeer } from "./etcd/protocol.ts"
import { line, type Plot, write } from "./etcd/report.ts"

const quick = process.argv.includes("--quick")
const only = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))
const parts = { calls, locks, handoff, scale, growth, disk, firstUse }

const unknown = only.filter((name) => !Object.hasOwn(parts, name))
if (unknown.length > 0) {
  console.error(`no such part: ${unknown.join(", ")}. There are ${Object.keys(parts).join(", ")}`)
  process.exit(1)
}

// etcd's data, in memory.
if (Fs.existsSync("/dev/shm")) process.env["TMPDIR"] = "/dev/shm"

const starter = (known: string, go: string) => (name: Name, endpoint: string = known) => {
  const node = (file: string, ...args: ReadonlyArray<string>) =>
    startPeer(process.execPath, ["--expose-gc", Path.join(import.meta.dirname, "etcd", file), ...args])
  switch (name) {
    case "ours":
      return node("ours.ts", endpoint)
    case "go":
      return startPeer(go, [endpoint])
    default:
      return node("raw.ts", name, endpoint)
  }
}

const load = () => Number(Os.loadavg()[0]?.toFixed(1))

const program = Effect.gen(function*() {
  const go = yield* Effect.result(buildGo)
  const missing = go._tag === "Failure" ? [`the Go client (${go.failure.message.split("\n")[0]})`] : []
  for (const peer of missing) console.log(`missing here: ${peer}`)

  const { endpoint } = yield* makeEtcdServer({})
  const start = starter(endpoint, go._tag === "Success" ? go.success : "")
  const plots: Array<Plot> = []
  const world: World = {
    endpoint,
    start,
    peers: {
      ours: yield* start("ours"),
      bare: yield* start("bare"),
      etcd3: yield* start("etcd3"),
      go: go._tag === "Success" ? yield* start("go") : undefined
    },
    quick,
    long: quick ? { warmUp: 100, rounds: 5, millis: 100 } : { warmUp: 3000, rounds: 5, millis: 800 },
    locking: quick
      ? { warmUp: 100, rounds: 5, millis: 100 }
      : { warmUp: 10_000, rounds: 7, millis: 1200 },
    short: quick ? { warmUp: 100, rounds: 7, millis: 100 } : { warmUp: 2000, rounds: 15, millis: 400 },
    plot: (plot) => plots.push(plot)
  }
  const results: Array<Row> = []
  const before = load()
  for (const [name, part] of Object.entries(parts)) {
    if (only.length > 0 && !only.includes(name)) continue
    const began = performance.now()
    const rows = yield* part(world)
    console.log(`${name}: ${Math.round((performance.now() - began) / 1000)} s`)
    if (rows.length === 0) {
      missing.push(name)
      console.log(`${name}: not measured, something it needs is missing`)
    }
    for (const row of rows) console.log(line(row))
    results.push(...rows)
  }
  const machine = {
    cores: Os.availableParallelism(),
    cpu: Os.cpus()[0]?.model,
    node: process.version,
    "load before": before,
    "load after": load()
  }
  console.log(Object.entries(machine).map(([name, value]) => `${name} ${String(value)}`).join(", "))
  if (quick || only.length > 0) return
  write({ at: new Date().toISOString(), machine, missing, results, plots })
})

await Effect.runPromise(Effect.scoped(program))
process.exit(0)
