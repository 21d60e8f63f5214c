/**
 * What the gRPC examples share: an etcd, and two servers that are found as `greeter`.
 */
import { Config, Console, Effect, Layer, Option } from "effect"
import { EtcdLive, EtcdMemory, serve } from "../../src/index.ts"
import { type GreeterServer, GreeterService } from "./ts-proto/greeter.ts"

const greeter = (instance: string): GreeterServer => ({
  greet: (call, callback) => callback(null, { greeting: `hello ${call.request.name}`, instance }),
  greetMany: (call) => {
    for (const time of ["morning", "evening"]) call.write({ greeting: `good ${time} ${call.request.name}`, instance })
    call.end()
  },
  greetAll: (call, callback) => {
    const names: Array<string> = []
    call.on("data", ({ name }) => names.push(name))
    call.once("end", () => callback(null, { greeting: `hello ${names.join(" and ")}`, instance }))
  },
  chat: (call) => {
    call.on("data", ({ name }) => call.write({ greeting: `hello ${name}`, instance }))
    call.once("end", () => call.end())
  }
})

/** One server: bound to a free port, registered, and drained when the scope closes. */
export const serveGreeter = (id: string) =>
  serve("greeter", (server) => server.addService(GreeterService, greeter(id)), {
    host: "127.0.0.1",
    id,
    health: ["greeter.Greeter"],
    // Nobody but the example itself has to hear that it is over.
    propagation: "100 millis"
  })

export const twoGreeters = Effect.all([serveGreeter("greeter-1"), serveGreeter("greeter-2")])

export const layerEtcd = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))
