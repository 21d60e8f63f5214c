/**
 * nice-grpc: clients with promises and async iterables, from ts-proto's definitions.
 *
 *     npx node examples/grpc-nice-grpc.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/grpc-nice-grpc.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import { createClient } from "nice-grpc"
import { Registry } from "../src/index.ts"
import { layerEtcd, twoGreeters } from "./greeter/setup.ts"
import { GreeterDefinition } from "./greeter/ts-proto/greeter.ts"

const program = Effect.gen(function*() {
  yield* twoGreeters
  const registry = yield* Registry
  const client = createClient(GreeterDefinition, yield* registry.channel("greeter"))

  const { greeting, instance } = yield* Effect.tryPromise((signal) => client.greet({ name: "ann" }, { signal }))
  yield* Console.log(`${greeting}, from ${instance}`)

  yield* Effect.tryPromise(async (signal) => {
    for await (const { greeting } of client.greetMany({ name: "bob" }, { signal })) console.log(greeting)
  })
}).pipe(Effect.scoped)

NodeRuntime.runMain(Effect.provide(program, layerEtcd))
