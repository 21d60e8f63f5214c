/**
 * A service that takes a new configuration without a moment in between: requests go on, each with the configuration that it began with.
 *
 *     npx node examples/reloadable.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/reloadable.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Context, Effect, Fiber, Layer, Option, Schedule, Schema } from "effect"
import { ConfigCenter, EtcdConfigProvider, EtcdLive, EtcdMemory, reloadable } from "../src/index.ts"

const prefix = "/config/example-mail"

/** What is expensive to make, and depends on the configuration: here a pool of connections. */
class Pool extends Context.Service<Pool, { readonly send: Effect.Effect<string> }>()("example/Pool") {
  static readonly layer = Layer.effect(
    Pool,
    Effect.gen(function*() {
      const host = yield* Config.String("HOST")
      const size = yield* Config.Int("SIZE")
      yield* Effect.acquireRelease(
        Console.log(`${size} connections to ${host} are open`),
        () => Console.log(`the connections to ${host} are closed`)
      )
      return { send: Effect.as(Effect.sleep("20 millis"), host) }
    })
  )
}

const program = Effect.gen(function*() {
  const config = yield* ConfigCenter
  yield* config.set("example-mail/HOST", Schema.String, "mail-1")
  yield* config.set("example-mail/SIZE", Schema.Number, 8)
  const pool = yield* reloadable(Pool.layer, { prefix })

  const counts: Record<string, number> = {}
  let failed = 0
  const request = pool.use(Effect.flatMap(Pool, ({ send }) => send)).pipe(
    Effect.map((host) => {
      counts[host] = (counts[host] ?? 0) + 1
    }),
    Effect.catchCause(() => Effect.sync(() => failed++))
  )
  const load = yield* Effect.forkChild(Effect.repeat(request, Schedule.forever))

  const untilGeneration = (wanted: number) =>
    Effect.repeat(Effect.delay(pool.status, "10 millis"), { until: ({ generation }) => generation >= wanted })
  yield* Effect.sleep("100 millis")
  yield* config.set("example-mail/HOST", Schema.String, "mail-2")
  yield* untilGeneration(2)
  yield* Effect.sleep("100 millis")

  yield* config.set("example-mail/SIZE", Schema.String, "many")
  yield* Effect.repeat(Effect.delay(pool.status, "10 millis"), { until: ({ failure }) => failure !== undefined })
  yield* Console.log("a size that is none: the pool before stays, until somebody mends it")
  yield* config.set("example-mail/SIZE", Schema.Number, 16)
  yield* untilGeneration(3)

  yield* Fiber.interrupt(load)
  yield* Console.log(`answered: mail-1 ${(counts["mail-1"] ?? 0) > 0}, mail-2 ${(counts["mail-2"] ?? 0) > 0}`)
  yield* Console.log(`failed: ${failed}`)
  yield* config.delete("example-mail/HOST")
  yield* config.delete("example-mail/SIZE")
}).pipe(Effect.scoped, Effect.provide(EtcdConfigProvider.layer({ prefix })))

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, layer))
