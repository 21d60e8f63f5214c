/**
 * Effect's own `Config` from etcd: the application below is written as for the environment.
 *
 *     npx node examples/config-provider.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/config-provider.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, ConfigProvider, Console, Effect, Layer, Option, Schema } from "effect"
import { ConfigCenter, ConfigChange, EtcdConfigProvider, EtcdLive, EtcdMemory } from "../src/index.ts"

const Replica = Schema.Struct({ host: Schema.String, port: Schema.NumberFromString })

/** It knows nothing of etcd. */
const application = Effect.gen(function*() {
  const { level, port } = yield* Config.all({
    port: Config.Port("PORT"),
    level: Config.String("LEVEL").pipe(Config.nested("log"), Config.withDefault("info"))
  })
  yield* Console.log(`in etcd: port ${port}, level ${level}`)
  const replicas = yield* Config.schema(Schema.Array(Replica), "replicas")
  yield* Console.log(`replicas: ${replicas.map(({ host, port }) => `${host}:${port}`).join(", ")}`)
  const region = yield* Config.String("REGION")
  yield* Console.log(`from the environment, as nobody has put it into etcd: region ${region}`)
})

const environment = ConfigProvider.fromEnv({ env: { PORT: "80", REGION: "eu-1" } })
const configured = EtcdConfigProvider.layer({ prefix: "/config/example", fallback: environment })

const program = Effect.gen(function*() {
  const config = yield* ConfigCenter
  const keys = {
    "example/PORT": "8080",
    "example/log/LEVEL": "debug",
    "example/replicas/0/host": "db-1",
    "example/replicas/0/port": "5432",
    "example/replicas/1/host": "db-2",
    "example/replicas/1/port": "5433"
  }
  yield* config.transact(Object.entries(keys).map(([key, value]) => ConfigChange.set(key, Schema.String, value)))
  yield* Effect.provide(application, configured)

  yield* config.set("example/PORT", Schema.String, "eighty")
  yield* Config.Port("PORT").pipe(
    Config.withDefault(80),
    Effect.provide(configured),
    Effect.catchTag(
      "ConfigError",
      ({ cause }) => Console.log(`no such port, and no default instead of it: ${cause._tag}`)
    )
  )
  yield* config.transact(Object.keys(keys).map((key) => ConfigChange.delete(key)))
})

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, layer))
