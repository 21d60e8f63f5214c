/**
 * Clients that ts-proto generates (`outputServices=grpc-js`). Those of grpc-tools and protobuf-ts take a channel in the same way.
 *
 *     npx node examples/grpc-ts-proto.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/grpc-ts-proto.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import type { ServiceError } from "@grpc/grpc-js"
import { Console, Effect } from "effect"
import { Registry } from "../src/index.ts"
import { layerEtcd, twoGreeters } from "./greeter/setup.ts"
import { GreeterClient, type GreetReply } from "./greeter/ts-proto/greeter.ts"

const greet = (client: GreeterClient, name: string) =>
  Effect.callback<GreetReply, ServiceError>((resume) => {
    const call = client.greet({ name }, (error, reply) =>
      resume(error === null ? Effect.succeed(reply) : Effect.fail(error)))
    return Effect.sync(() =>
      call.cancel()
    )
  })

const program = Effect.gen(function*() {
  yield* twoGreeters
  const registry = yield* Registry
  const client = yield* registry.client(GreeterClient, "greeter")

  // Until both are connected; from then on they take turns.
  const answered = new Set<string>()
  while (answered.size < 2) answered.add((yield* greet(client, "ann")).instance)
  yield* Console.log(`answered by ${[...answered].toSorted().join(" and ")}`)

  const replies = client.greetMany({ name: "bob" })
  yield* Effect.tryPromise(async () => {
    for await (const { greeting } of replies) console.log(greeting)
  })
}).pipe(Effect.scoped)

NodeRuntime.runMain(Effect.provide(program, layerEtcd))
