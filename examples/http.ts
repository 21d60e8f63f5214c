/**
 * HTTP requests to a service by its name: three servers register, requests go to each in turn, one of them dies and one leaves.
 *
 *     npx node examples/http.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/http.ts     # on a cluster
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Exit, Layer, Option, Schedule, Scope } from "effect"
import { FetchHttpClient, HttpClient, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"
import { layerServiceHttpClient, NoInstances } from "../src/Http.ts"
import { EtcdLive, EtcdMemory, Registry, ServiceInstance } from "../src/index.ts"

/** An HTTP server on a free port, registered for as long as the scope is open. */
const serveGreetings = Effect.fnUntraced(function*(id: string) {
  const registry = yield* Registry
  const server = yield* NodeHttpServer.make(createServer, { host: "127.0.0.1", port: 0 })
  yield* server.serve(Effect.succeed(HttpServerResponse.text(`hello from ${id}`)))
  const port = "port" in server.address ? server.address.port : 0
  return yield* registry.register(new ServiceInstance({ id, name: "greetings", address: "127.0.0.1", port }))
})

const greet = HttpClient.get("http://greetings/").pipe(Effect.flatMap((response) => response.text))

const greetings = (count: number) =>
  Effect.map(Effect.replicateEffect(greet, count), (answers) => [...new Set(answers)].toSorted().join(", "))

const program = Effect.gen(function*() {
  const nobody = yield* Effect.flip(greet)
  yield* Console.log(`before: ${nobody.cause instanceof NoInstances ? nobody.cause.message : String(nobody)}`)

  const scopes = yield* Effect.forEach(["one", "two", "three"], (id) =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      yield* Scope.provide(serveGreetings(id), scope)
      return scope
    }))
  const [one] = scopes

  // The list is there within a moment of each change.
  const until = (expected: string) =>
    Effect.retry(Effect.filterOrFail(greetings(6), (answer) => answer === expected), {
      schedule: Schedule.spaced("20 millis"),
      times: 200
    })

  yield* Console.log(`three servers: ${yield* until("hello from one, hello from three, hello from two")}`)

  const registry = yield* Registry
  yield* registry.register(new ServiceInstance({ id: "dead", name: "greetings", address: "127.0.0.1", port: 2 }))
  yield* Console.log(`one that nobody reaches, and no request lost: ${yield* greetings(8)}`)

  if (one !== undefined) yield* Scope.close(one, Exit.void)
  yield* Console.log(`one has left: ${yield* until("hello from three, hello from two")}`)
})

const etcd = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

const live = layerServiceHttpClient().pipe(Layer.provide(FetchHttpClient.layer), Layer.provideMerge(etcd))

NodeRuntime.runMain(program.pipe(Effect.scoped, Effect.provide(live)))
