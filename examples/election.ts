/**
 * An elected scheduler for a pool of workers: of three replicas one hands out the jobs, everybody knows which, and when it ends the next one
 * goes on.
 *
 *     npx node examples/election.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/election.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Fiber, Latch, Layer, Option, Queue, Stream } from "effect"
import { Election, Etcd, EtcdLive, EtcdMemory, Operation } from "../src/index.ts"

const name = "example/scheduler"
const cursor = "/example/scheduled"

const program = Effect.gen(function*() {
  const election = yield* Election
  const etcd = yield* Etcd
  const jobs = yield* Queue.unbounded<string>()

  yield* Console.log("Two workers, and three replicas of which one schedules:")
  const watching = yield* Latch.make()
  const leaders = yield* election.observe(name).pipe(
    Stream.tap(() => watching.open),
    Stream.filter(Option.isSome),
    Stream.map((leader) => leader.value.value),
    Stream.changes,
    Stream.take(3),
    Stream.runCollect,
    Effect.forkChild
  )
  yield* watching.await

  // What each replica runs. When its lease is lost the effect is interrupted, and the replica stands again.
  const replica = (id: string) =>
    election.whileLeader(name, id, { ttl: "5 seconds" })((leadership) =>
      Effect.gen(function*() {
        for (let job = 1; job <= 2; job++) {
          // Written only while it leads: a scheduler that was stopped for too long hands out nothing.
          yield* leadership.fenced({ success: [Operation.put(cursor, `${id}/${job}`)] })
          yield* Queue.offer(jobs, `job ${job} of ${id}`)
          yield* Effect.sleep("20 millis")
        }
      })
    )
  const replicas = yield* Effect.forkChild(
    Effect.forEach(["replica-1", "replica-2", "replica-3"], replica, { concurrency: "unbounded" })
  )
  const worker = Effect.flatMap(Queue.take(jobs), (job) => Console.log(`  ${job}`)).pipe(Effect.repeat({ times: 2 }))
  yield* Effect.all([worker, worker], { concurrency: "unbounded" })
  yield* Fiber.join(replicas)
  yield* Console.log(`  who has led: ${(yield* Fiber.join(leaders)).join(", ")}`)

  yield* Console.log("A leader that an operator deposes:")
  const leadership = yield* election.campaign(name, "replica-4", { ttl: "2 seconds" })
  yield* leadership.proclaim("replica-4 at 10.0.0.7:8080")
  const leader = Option.getOrThrow(yield* election.leader(name))
  yield* Console.log(`  ${leader.value} leads`)
  yield* etcd.txn({ success: [Operation.delete(leader.entryKey)] })
  yield* leadership.fenced({ success: [Operation.put(cursor, "replica-4/1")] }).pipe(
    Effect.catchTag("LeadershipLost", ({ why }) => Console.log(`  its write is refused: ${why}`))
  )
  yield* etcd.txn({ success: [Operation.delete(cursor)] })
})

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(Effect.scoped(program), layer))
