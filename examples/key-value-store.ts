/**
 * Effect's `KeyValueStore` on etcd: sessions that several processes share, and that expire.
 *
 *     npx node examples/key-value-store.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/key-value-store.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Option, Schedule, Schema } from "effect"
import { KeyValueStore } from "effect/persistence"
import { EtcdLive, EtcdMemory } from "../src/index.ts"
import { layerKeyValueStore } from "../src/KeyValueStore.ts"

const Session = Schema.Struct({ user: Schema.String, visits: Schema.Int })

/** It knows nothing of etcd. */
const program = Effect.gen(function*() {
  const store = yield* KeyValueStore.KeyValueStore
  const sessions = KeyValueStore.toSchemaStore(KeyValueStore.prefix(store, "sessions/"), Session)

  yield* sessions.set("ann", { user: "ann", visits: 1 })
  yield* Console.log("stored:", Option.getOrUndefined(yield* sessions.get("ann")))

  // Five writers, and none overwrites another one.
  yield* store.set("visits", "0")
  const visit = store.modify("visits", (visits) => String(Number(visits) + 1))
  yield* Effect.all(Array.from({ length: 5 }, () => visit), { concurrency: "unbounded" })
  yield* Console.log(`visits: ${yield* store.get("visits")}`)

  yield* store.set("avatar", Uint8Array.of(0xff, 0xd8, 0xff))
  yield* Console.log(`bytes: ${(yield* store.getUint8Array("avatar"))?.join(" ")}`)

  yield* Console.log(`keys: ${(yield* store.keys).join(", ")}`)
  yield* store.isEmpty.pipe(Effect.repeat({ until: (isEmpty) => isEmpty, schedule: Schedule.spaced("200 millis") }))
  yield* Console.log("all of them have expired")
})

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

const store = layerKeyValueStore({ prefix: "/kv/example", timeToLive: "2 seconds" }).pipe(Layer.provide(layer))

NodeRuntime.runMain(Effect.provide(program, store))
