/** A cluster of real processes on a real etcd: one is killed, one is stopped for longer than its lease lives, one leaves in order. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { type Line, machineNow, makeCluster, overlaps, runsOf } from "./utils/clusterLedger.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"

const ttl = 4
/** So many that each runner has some, wherever its port puts it on the ring. */
const entities = 40

describe("three runners on one etcd", () => {
  it.live(
    "the entities of one that is killed move within the lease and two seconds, and none runs twice",
    () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer()
        const cluster = yield* makeCluster({ ttl, entities, storage: { etcd: server.endpoint } })
        const [one, two, three] = [
          yield* cluster.start("one", true),
          yield* cluster.start("two"),
          yield* cluster.start("three")
        ]
        const first = yield* cluster.settled(["one", "two", "three"], 0)

        const killedAt = machineNow()
        yield* three.kill("SIGKILL")
        const moved = yield* cluster.settled(["one", "two"], killedAt)
        const orphans = [...first.owner].filter(([, name]) => name === "three").map(([entity]) => entity)
        const runs = runsOf(yield* cluster.lines)
        const began = orphans.map((entity) =>
          runs.find((run) => run.entity === entity && run.from > killedAt)?.from ?? 0
        )
        const took = Math.max(...began) - killedAt
        assert.isAbove(took, 0)
        yield* Effect.log(
          `killed: ${orphans.length} entities run again after ${took} ms, answer after ${moved.at - killedAt} ms`
        )
        assert.isBelow(took, (ttl + 2) * 1000)

        const leftAt = machineNow()
        yield* two.kill("SIGTERM")
        yield* two.ended
        yield* cluster.settled(["one"], leftAt)
        yield* one.kill("SIGTERM")
        yield* one.ended
        const lines = yield* cluster.lines
        assert.deepStrictEqual(overlaps(runsOf(lines)), [])
        assert.isAbove(lines.filter(({ what }) => what === "saved").length, entities)
        assert.deepStrictEqual(lines.filter(({ what }) => what === "fenced"), [])
        assert.strictEqual(yield* server.etcdctl("get", "/cluster", "--prefix", "--keys-only"), "", "keys left")
        assert.strictEqual((yield* server.etcdctl("lease", "list")).trim(), "found 0 leases")
      }).pipe(Effect.scoped),
    120_000
  )

  it.live(
    "one that is stopped for longer than its lease lives saves nothing any more, and ends what it ran",
    () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer()
        const cluster = yield* makeCluster({ ttl, entities, storage: { etcd: server.endpoint } })
        const [, two] = [yield* cluster.start("one", true), yield* cluster.start("two")]
        const first = yield* cluster.settled(["one", "two"], 0)
        const orphans = new Set([...first.owner].filter(([, name]) => name === "two").map(([entity]) => entity))
        const stoppedAt = machineNow()
        yield* two.kill("SIGSTOP")
        yield* cluster.settled(["one"], stoppedAt)
        const wentOnAt = machineNow()
        yield* two.kill("SIGCONT")
        const ended = Effect.map(
          cluster.lines,
          (lines) => lines.filter((line) => line.name === "two" && orphans.has(line.entity) && line.at >= wentOnAt)
        )
        const isEnded = (lines: Effect.Success<typeof ended>) =>
          new Set(lines.filter(({ what }) => what === "end").map(({ entity }) => entity)).size === orphans.size
        yield* ended.pipe(
          Effect.repeat({ until: isEnded, schedule: Schedule.spaced("50 millis") }),
          Effect.timeout("20 seconds")
        )
        const after = yield* ended
        const lastSign = Math.max(...orphansEnds(after))
        yield* Effect.log(`stopped: ${orphans.size} entities ended ${lastSign - wentOnAt} ms after it went on`)
        // Whatever it began to save after it went on.
        const saved = after.filter(({ at, more, what }) =>
          what === "saved" && Number(more) >= wentOnAt && at < lastSign
        )
        assert.deepStrictEqual(saved, [])
        // It takes its part again.
        yield* cluster.settled(["one", "two"], machineNow())
      }).pipe(Effect.scoped),
    120_000
  )
})

const orphansEnds = (lines: ReadonlyArray<Line>): ReadonlyArray<number> => {
  const ends = new Map<string, number>()
  for (const { at, entity, what } of lines) if (what === "end" && !ends.has(entity)) ends.set(entity, at)
  return [...ends.values()]
}
