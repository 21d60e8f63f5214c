import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { Compare, Operation } from "../src/Etcd.ts"
import { makeCluster } from "./utils/Cluster.ts"
import { attempts, connect } from "./utils/live.ts"

const put = (key: string) => ({ success: [Operation.put(key, "1")] })
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([time, a]) => [Duration.toMillis(time), a] as const)

for (const version of ["3.5", "3.4"] as const) {
  describe(`a cluster of three (${version})`, () => {
    it.live(
      "reads go on without an error when a member is frozen, killed, and when the leader is killed",
      () =>
        Effect.gen(function*() {
          const cluster = yield* makeCluster({ version })
          const etcd = yield* connect({ endpoints: cluster.endpoints })
          const { revision } = yield* etcd.txn(put("/w/a"))
          const leader = yield* cluster.leader
          const follower = cluster.members.find((member) => member !== leader) ?? leader
          const reads = (times: number) =>
            Effect.forEach(
              Array.from({ length: times }),
              () => Effect.map(timed(etcd.range({ key: "/a" })), ([time]) => time)
            )
          yield* reads(6)

          yield* follower.pause
          assert.isBelow(Math.max(...yield* reads(12)), 3000)
          yield* follower.resume

          yield* follower.kill
          assert.isBelow(Math.max(...yield* reads(12)), 1000)
          yield* follower.start

          yield* leader.kill
          assert.isBelow(Math.max(...yield* reads(12)), 5000)
          // A write that was sent on a dying connection may say that it is ambiguous, once for each.
          const last = yield* etcd.txn(put("/w/b")).pipe(Effect.retry({ times: 3 }))
          const seen = yield* etcd.watch({ prefix: "/w/", startRevision: revision }).pipe(
            Stream.takeUntil((item) => item._tag === "Batch" && item.revision === last.revision),
            Stream.runCollect,
            Effect.timeout("15 seconds")
          )
          const delivered = seen.flatMap((item) => item._tag === "Batch" ? [item.revision] : [])
          assert.strictEqual(delivered[0], revision)
          assert.strictEqual(delivered.at(-1), last.revision)
        }),
      90_000
    )

    it.live(
      "a member without majority fails instead of hanging, in calls, beats and watches",
      () =>
        Effect.gen(function*() {
          const cluster = yield* makeCluster({ version })
          const leader = yield* cluster.leader
          const transport = yield* attempts(leader.port, { timeout: Duration.seconds(15) })
          yield* transport.leaseGrant(5n, Duration.seconds(60))
          const pull = yield* Stream.toPull(transport.watch({ prefix: "/", startRevision: 1n }))
          yield* pull
          const watch = yield* Effect.forkChild(Effect.flip(pull), { startImmediately: true })
          const beats = yield* transport.leaseKeepAlive(5n).pipe(
            Effect.repeat(Schedule.spaced("200 millis")),
            Effect.flip,
            Effect.forkChild({ startImmediately: true })
          )
          yield* Effect.forEach(cluster.members.filter((member) => member !== leader), ({ pause }) => pause)
          // Sent while the member still takes itself for the leader: nobody knows what becomes of it.
          const error = yield* Effect.flip(transport.txn(put("/a")))
          assert.deepInclude(error.reason, { _tag: "Unavailable", detail: "etcdserver: request timed out", sent: true })
          for (const call of [transport.range({ key: "/a" }), transport.txn(put("/a"))]) {
            const refused = yield* Effect.flip(call as Effect.Effect<unknown, typeof error>)
            assert.deepInclude(refused.reason, { _tag: "Unavailable", detail: "etcdserver: no leader", sent: false })
          }
          const endings: ReadonlyArray<Effect.Effect<{ readonly _tag: string }, unknown>> = [
            Fiber.join(watch),
            Fiber.join(beats)
          ]
          for (const ended of endings) {
            const failure = yield* Effect.timeout(ended, "10 seconds")
            assert.strictEqual(failure._tag, "EtcdError")
          }
          yield* Effect.forEach(cluster.members.filter((member) => member !== leader), ({ resume }) => resume)
        }),
      60_000
    )

    it.live(
      "a transaction that only compares is not answered by a member that cannot ask the others",
      () =>
        Effect.gen(function*() {
          const cluster = yield* makeCluster({ version })
          const leader = yield* cluster.leader
          const behind = cluster.members.find((member) => member !== leader) ?? leader
          const transport = yield* attempts(behind.port)
          yield* transport.txn(put("/a"))
          const compare = { compare: [Compare.version("/a", "=", 2n)] }
          const answer = yield* transport.txn(compare)
          assert.deepInclude(answer, { succeeded: false, responses: [] })
          assert.isTrue((yield* transport.txn({ compare: [Compare.version({ prefix: "" }, ">", 0n)] })).succeeded)
          // Until it notices, it takes itself for a follower of a leader that is there.
          yield* Effect.forEach(cluster.members.filter((member) => member !== behind), ({ pause }) => pause)
          const error = yield* Effect.flip(transport.txn(compare))
          assert.include(["Unavailable", "Timeout"], error.reason._tag)
          yield* Effect.forEach(cluster.members.filter((member) => member !== behind), ({ resume }) => resume)
        }),
      60_000
    )
  })
}
