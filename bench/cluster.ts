/**
 * Effect's cluster on etcd and on SQL (SQLite in a file, for want of a server), in one run: how long the entities of a killed runner are
 * without one, and what three idle runners cost.
 *
 *     npm run bench:cluster                  # three kills each, TTL 4 seconds
 *     ROUNDS=10 npm run bench:cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Logger } from "effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import type { Settings } from "../test/fixtures/clusterRunner.ts"
import { machineNow, makeCluster, overlaps, runsOf } from "../test/utils/clusterLedger.ts"
import { makeEtcdServer } from "../test/utils/EtcdServer.ts"

const ttl = 4
const entities = 40

/** Milliseconds of processor time that a process has had (Linux). */
const cpuOf = (pid: number): number => {
  const fields = Fs.readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /, "").split(" ")
  return (Number(fields[11]) + Number(fields[12])) * 10
}

const kill = Effect.fn("kill")(function*(storage: Settings["storage"]) {
  const cluster = yield* makeCluster({ ttl, entities, storage })
  yield* cluster.start("one", true)
  yield* cluster.start("two")
  const three = yield* cluster.start("three")
  const { owner } = yield* cluster.settled(["one", "two", "three"], 0)
  const killedAt = machineNow()
  yield* three.kill("SIGKILL")
  yield* cluster.settled(["one", "two"], killedAt)
  const runs = runsOf(yield* cluster.lines)
  const began = [...owner].filter(([, name]) => name === "three").map(([entity]) =>
    (runs.find((run) => run.entity === entity && run.from > killedAt)?.from ?? Number.NaN) - killedAt
  )
  return { moved: Math.max(...began), twice: overlaps(runs).length }
}, Effect.scoped)

const idle = Effect.fn("idle")(function*(storage: Settings["storage"], server: number | undefined) {
  const cluster = yield* makeCluster({ ttl, entities, storage })
  const runners = yield* Effect.forEach(["one", "two", "three"], (name) => cluster.start(name))
  const pids = runners.map(({ pid }) => pid)
  const read = () => ({
    runners: pids.reduce((sum, pid) => sum + cpuOf(pid), 0),
    server: server === undefined ? 0 : cpuOf(server)
  })
  yield* Effect.sleep("6 seconds")
  const before = read()
  yield* Effect.sleep("15 seconds")
  const after = read()
  return { runners: (after.runners - before.runners) / 45, server: (after.server - before.server) / 15 }
}, Effect.scoped)

const program = Effect.gen(function*() {
  const rounds = yield* Config.withDefault(Config.Int("ROUNDS"), 3)
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-bench-"))),
    (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
  )
  const etcd = yield* makeEtcdServer()
  let files = 0
  const backends = [
    { name: "etcd", storage: () => ({ etcd: etcd.endpoint }), server: yield* etcd.pid },
    { name: "SQL ", storage: () => ({ sqlite: Path.join(folder, `${files++}.db`) }), server: undefined }
  ]
  for (let round = 1; round <= rounds; round++) {
    for (const { name, storage } of backends) {
      const { moved, twice } = yield* kill(storage())
      yield* Console.log(`${name}: moved in ${moved} ms, entities that ran twice: ${twice}`)
    }
  }
  for (const { name, server, storage } of backends) {
    const { runners, server: etcdShare } = yield* idle(storage(), server)
    const beside = server === undefined ? "" : `, etcd ${etcdShare.toFixed(1)} ms`
    yield* Console.log(`${name}: idle, processor time a second: a runner ${runners.toFixed(1)} ms${beside}`)
  }
}).pipe(Effect.scoped, Effect.provide(Logger.layer([])))

NodeRuntime.runMain(program)
