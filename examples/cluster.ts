/**
 * Effect's cluster on etcd: two runners share the entities, and when one leaves the other has them all.
 *
 *     npx node examples/cluster.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/cluster.ts     # on a cluster
 */
import { NodeClusterSocket, NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Exit, Layer, Logger, Option, Schedule, Schema, Scope } from "effect"
import { Entity, MessageStorage, RunnerAddress, ShardingConfig, SocketRunner } from "effect/cluster"
import { Rpc, RpcSerialization } from "effect/rpc"
import { createServer } from "node:net"
import { EtcdRunnerHealth, EtcdRunnerStorage } from "../src/Cluster.ts"
import { Etcd, EtcdLive, EtcdMemory } from "../src/index.ts"

/** A cart for each customer, which lives on one runner at a time. */
const Cart = Entity.make("Cart", [Rpc.make("Add", { payload: { item: Schema.String }, success: Schema.String })])

const Carts = Cart.toLayer(Effect.gen(function*() {
  const { port } = yield* Entity.CurrentRunnerAddress
  const { entityId } = yield* Entity.CurrentAddress
  const items: Array<string> = []
  return Cart.of({
    Add: ({ payload }) =>
      Effect.sync(() => {
        items.push(payload.item)
        return `${entityId}: ${items.join(", ")} (on ${port})`
      })
  })
}))

/** Two runners of one machine need two ports; in production each has the same one, on a host of its own. */
const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(typeof address === "object" ? address?.port ?? 0 : 0)))
  })
})

/** What an application provides once: runners would be processes of their own. */
const runner = (port: number) =>
  Carts.pipe(
    Layer.provideMerge(SocketRunner.layer),
    Layer.provide([NodeClusterSocket.layerSocketServer, NodeClusterSocket.layerClientProtocol]),
    Layer.provide([EtcdRunnerStorage.layer({ prefix: "/example" }), EtcdRunnerHealth.layer({ prefix: "/example" })]),
    Layer.provide([MessageStorage.layerNoop, RpcSerialization.layerNdjson]),
    Layer.provide(ShardingConfig.layer({
      runnerAddress: Option.some(RunnerAddress.make("127.0.0.1", port)),
      shardsPerGroup: 20,
      shardLockExpiration: "6 seconds",
      refreshAssignmentsInterval: "200 millis"
    }))
  )

const program = Effect.gen(function*() {
  const etcd = yield* Etcd
  const start = Effect.fn("start")(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const context = yield* Scope.provide(Layer.build(runner(yield* freePort)), scope)
    return { client: yield* Effect.provideContext(Cart.client, context), stop: Scope.close(scope, Exit.void) }
  })
  const [first, second] = [yield* start(), yield* start()]
  const count = (what: string) => Effect.map(etcd.range({ prefix: `/example/${what}/` }), ({ kvs }) => kvs)

  /** How many shards each runner has, when all are taken and both have some. */
  const holders = (runners: number) =>
    Effect.map(count("shards"), (kvs) => {
      const names = kvs.map(({ value }) => new TextDecoder().decode(value))
      return kvs.length === 20 && new Set(names).size === runners
    }).pipe(Effect.repeat({ until: (done) => done, schedule: Schedule.spaced("100 millis") }))

  yield* holders(2)
  yield* Console.log(`${(yield* count("runners")).length} runners, and all 20 shards are held`)
  const add = (client: typeof first.client, cart: string, item: string) =>
    Effect.map(client(cart).Add({ item }), (answer) => answer.replace(/ \(on.*/, ""))
  yield* Console.log(yield* add(first.client, "ann", "apples"))
  yield* Console.log(yield* add(second.client, "ann", "pears"))

  yield* second.stop
  yield* holders(1)
  yield* Console.log(`${(yield* count("runners")).length} runner, and it has all 20 shards`)
  yield* Console.log(yield* add(first.client, "bob", "bread"))
  yield* first.stop
  yield* Console.log("keys left in etcd:", (yield* etcd.range({ prefix: "/example/" })).count)
}).pipe(Effect.scoped)

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, Layer.merge(layer, Logger.layer([]))))
