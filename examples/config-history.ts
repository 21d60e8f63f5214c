/**
 * Several values changed at once, what a value was before, and back to it.
 *
 *     npx node examples/config-history.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/config-history.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Option, Schema, Stream } from "effect"
import { ConfigCenter, ConfigChange, EtcdLive, EtcdMemory } from "../src/index.ts"

const Replicas = Schema.Array(Schema.String)
const primary = "example/db/primary"
const replicas = "example/db/replicas"

const program = Effect.gen(function*() {
  const config = yield* ConfigCenter
  const first = yield* config.transact([
    ConfigChange.set(primary, Schema.String, "db-1"),
    ConfigChange.set(replicas, Replicas, ["db-2", "db-3"])
  ])

  // A failover: both keys or none, and only if nobody else was faster.
  const failover = config.transact([
    ConfigChange.set(primary, Schema.String, "db-2", { expected: first }),
    ConfigChange.set(replicas, Replicas, ["db-3"], { expected: first })
  ])
  yield* failover
  yield* Console.log(
    `primary ${yield* config.get(primary, Schema.String)}, replicas`,
    yield* config.get(replicas, Replicas)
  )

  // The same decision of another process, made on what it had read before.
  yield* failover.pipe(
    Effect.catchTag(
      "TransactionConflict",
      ({ conflicts }) =>
        Console.log(`nothing written, changed meanwhile: ${conflicts.map(({ key }) => key).join(", ")}`)
    )
  )

  yield* Console.log("what the primary was:")
  yield* config.history(primary, Schema.String).pipe(
    Stream.runForEach((told) => Console.log(told._tag === "Put" ? `  ${told.value}` : `  ${told._tag}`))
  )

  // A mistake, and back.
  yield* config.set(primary, Schema.String, "db-l")
  const [mistake, good] = yield* config.history(primary, Schema.String).pipe(
    Stream.filter((told) => told._tag === "Put"),
    Stream.take(2),
    Stream.runCollect
  )
  if (mistake === undefined || good === undefined) return
  // Refused if somebody has corrected it already.
  yield* config.rollback(primary, good.version, { expected: mistake.version })
  yield* Console.log(`back to ${yield* config.get(primary, Schema.String)}`)

  yield* config.transact([ConfigChange.delete(primary), ConfigChange.delete(replicas)])
})

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, layer))
