import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { layerEtcdPort } from "../src/EtcdLive.ts"
import { Registry } from "../src/Registry.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { registryContract } from "./contract/RegistryContract.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"

registryContract("the registry on memory", layerMemory())
registryContract("the registry on etcd 3.5", layerServer("3.5"))
registryContract("the registry on etcd 3.4", layerServer("3.4"))

const instance = (id: string) => new ServiceInstance({ id, name: "orders", address: "10.0.0.7", port: 8080 })

describe("registrations and a server that is killed", () => {
  const connect = (endpoint: string) =>
    Effect.map(
      Layer.build(Registry.layer().pipe(Layer.provide(layerEtcdPort({ endpoints: endpoint, timeout: "1 second" })))),
      (context) => Context.get(context, Registry)
    )

  it.live("a restart after 3 seconds: registrations are there, and others never see them gone", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const [registry, other] = yield* Effect.all([connect(server.endpoint), connect(server.endpoint)])
      const registration = yield* registry.register(instance("a"), { ttl: "10 seconds" })
      const listed = yield* Latch.make()
      const lists = yield* other.instances("orders").pipe(
        Stream.map((list) => list.map(({ id }) => id).join()),
        Stream.tap(() => listed.open),
        Stream.takeUntil((list) => list === "a,last"),
        Stream.runCollect,
        Effect.timeout("30 seconds"),
        Effect.forkChild
      )
      yield* listed.await
      yield* server.kill
      yield* Effect.sleep("3 seconds")
      yield* server.start
      yield* Effect.retry(registry.register(instance("last")), { schedule: Schedule.spaced("100 millis"), times: 100 })
      assert.deepStrictEqual([...new Set(yield* Fiber.join(lists))], ["a", "a,last"])
      assert.strictEqual(yield* registration.status.get, "Registered")
    }).pipe(Effect.scoped))

  it.live("away for longer than the TTL: registrations are back, and guarded as before", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const registry = yield* connect(server.endpoint)
      const registration = yield* registry.register(instance("a"), { ttl: "2 seconds" })
      const watched = yield* Latch.make()
      const statuses = yield* registration.status.changes.pipe(
        Stream.tap(() => watched.open),
        Stream.drop(1),
        Stream.takeUntil((status) => status === "Registered"),
        Stream.runCollect,
        Effect.timeout("40 seconds"),
        Effect.forkChild
      )
      yield* watched.await
      yield* server.kill
      yield* Effect.sleep("4 seconds")
      assert.strictEqual(yield* registration.status.get, "Recovering")
      yield* server.start
      assert.deepStrictEqual(yield* Fiber.join(statuses), ["Recovering", "Registered"])
      assert.strictEqual(
        yield* server.etcdctl("get", "--print-value-only", "/services/orders/a"),
        `{"id":"a","name":"orders","address":"10.0.0.7","port":8080}\n`
      )
      yield* server.etcdctl("del", "/services/orders/a")
      yield* Effect.retry(
        Effect.filterOrFail(registry.discover("orders"), (list) => list.length === 1),
        { schedule: Schedule.spaced("50 millis"), times: 200 }
      )
    }).pipe(Effect.scoped))
})
