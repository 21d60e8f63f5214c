/**
 * Service discovery: a client that always knows where to send its requests, while instances come, go, and are deleted by mistake.
 *
 *     npx node examples/registry.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/registry.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Exit, Layer, Option, Queue, Schedule, Scope, Stream } from "effect"
import { EtcdLive, EtcdMemory, Registry, ServiceInstance } from "../src/index.ts"

const service = "example-billing"
const often = Schedule.spaced("20 millis")

const instance = (id: string, port: number) =>
  new ServiceInstance({ id, name: service, address: "127.0.0.1", port, metadata: { version: "1.4.0" } })

const program = Effect.gen(function*() {
  const registry = yield* Registry

  // What a client keeps: the present list, then each new one. An outage of etcd leaves the last list in place.
  const lists = yield* Stream.toQueue(registry.instances(service), { capacity: "unbounded" })
  const showNextList = Effect.flatMap(
    Queue.take(lists),
    (instances) =>
      Console.log(`  the client knows: ${instances.map(({ id, port }) => `${id} (${port})`).join(", ") || "nobody"}`)
  )
  yield* showNextList

  yield* Console.log("billing-1 starts")
  const first = yield* registry.register(instance("billing-1", 9001), { ttl: "10 seconds" })
  yield* showNextList

  yield* Console.log("billing-2 starts, in a scope of its own as in a process of its own")
  const process2 = yield* Scope.make()
  yield* Scope.provide(registry.register(instance("billing-2", 9002)), process2)
  yield* showNextList

  // What goes into a health check.
  yield* Console.log(`billing-1 is ${yield* first.status.get}`)

  yield* Console.log("somebody deletes the entry of billing-1, which is alive")
  yield* registry.unregister(service, "billing-1")
  yield* registry.discover(service).pipe(
    Effect.repeat({ until: (instances) => instances.some(({ id }) => id === "billing-1"), schedule: often })
  )
  yield* Console.log("  it has registered itself again")

  yield* Console.log("billing-2 stops: its scope closes")
  yield* Scope.close(process2, Exit.void)
  yield* Console.log(`  discovered: ${(yield* registry.discover(service)).map(({ id }) => id).join(", ")}`)

  yield* Console.log("a port that cannot be is refused before anything is sent")
  const refusal = yield* Effect.flip(registry.register(instance("billing-3", 70_000)))
  yield* Console.log(`  ${refusal.message}`)
}).pipe(Effect.scoped)

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, layer))
