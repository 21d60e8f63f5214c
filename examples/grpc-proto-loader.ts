/**
 * Clients that `@grpc/proto-loader` makes of a `.proto` file, with nothing generated: by client, by channel, by target.
 *
 *     npx node examples/grpc-proto-loader.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/grpc-proto-loader.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import * as grpc from "@grpc/grpc-js"
import { loadSync } from "@grpc/proto-loader"
import { Console, Effect } from "effect"
import { Registry } from "../src/index.ts"
import { layerEtcd, twoGreeters } from "./greeter/setup.ts"

interface Reply {
  readonly greeting: string
  readonly instance: string
}

// What is loaded has no types: these are ours.
interface GreeterClient extends grpc.Client {
  greet(request: { readonly name: string }, callback: (error: grpc.ServiceError | null, reply: Reply) => void): void
}
const { greeter } = grpc.loadPackageDefinition(
  loadSync(`${import.meta.dirname}/greeter/greeter.proto`)
) as unknown as { greeter: { Greeter: new(...args: ConstructorParameters<typeof grpc.Client>) => GreeterClient } }

const greet = (client: GreeterClient, name: string) =>
  Effect.callback<Reply, grpc.ServiceError>((resume) =>
    client.greet({ name }, (error, reply) => resume(error === null ? Effect.succeed(reply) : Effect.fail(error)))
  )

const program = Effect.gen(function*() {
  yield* twoGreeters
  const registry = yield* Registry

  // A client on a channel of its own, which the scope closes.
  const client = yield* registry.client(greeter.Greeter, "greeter", { timeout: "5 seconds" })
  const first = yield* greet(client, "ann")
  yield* Console.log(`client: ${first.greeting}, from ${first.instance}`)

  // Any number of clients on one channel.
  const channel = yield* registry.channel("greeter")
  const shared = new greeter.Greeter("", grpc.credentials.createInsecure(), { channelOverride: channel })
  const second = yield* greet(shared, "bob")
  yield* Console.log(`channel: ${second.greeting}, from ${second.instance}`)

  // For what makes its channel itself, as frameworks do: where to, and with which options.
  const { options, target } = yield* registry.target("greeter")
  const own = yield* Effect.acquireRelease(
    Effect.sync(() => new greeter.Greeter(target, grpc.credentials.createInsecure(), options)),
    (client) => Effect.sync(() => client.close())
  )
  const third = yield* greet(own, "eve")
  yield* Console.log(`target: ${third.greeting}, from ${third.instance}`)
}).pipe(Effect.scoped)

NodeRuntime.runMain(Effect.provide(program, layerEtcd))
