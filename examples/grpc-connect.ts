/**
 * Connect: clients of what protoc-gen-es generates, over gRPC, by `effect-coord/connect`.
 *
 *     npx node examples/grpc-connect.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/grpc-connect.ts     # on a cluster
 */
import { createClient } from "@connectrpc/connect"
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
// "effect-coord/connect", outside of this project
import { makeGrpcTransport } from "../src/Connect.ts"
import { Registry } from "../src/index.ts"
import { Greeter } from "./greeter/es/greeter_pb.ts"
import { layerEtcd, twoGreeters } from "./greeter/setup.ts"

const program = Effect.gen(function*() {
  yield* twoGreeters
  const registry = yield* Registry
  const client = createClient(Greeter, makeGrpcTransport(yield* registry.channel("greeter")))

  const { greeting, instance } = yield* Effect.tryPromise((signal) => client.greet({ name: "ann" }, { signal }))
  yield* Console.log(`${greeting}, from ${instance}`)

  yield* Effect.tryPromise(async (signal) => {
    const names = async function*() {
      yield { name: "bob" }
      yield { name: "eve" }
    }
    for await (const { greeting } of client.chat(names(), { signal })) console.log(greeting)
  })
}).pipe(Effect.scoped)

NodeRuntime.runMain(Effect.provide(program, layerEtcd))
