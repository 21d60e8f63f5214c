/** Servers that end under load, in processes of their own, on a real etcd. */
import { assert, layer } from "@effect/vitest"
import { credentials } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import { GreeterClient } from "../examples/greeter/ts-proto/greeter.ts"
import { layerEtcd } from "../src/EtcdLive.ts"
import { Registry } from "../src/Registry.ts"
import { TestEtcd } from "./utils/EtcdServer.ts"
import { load, replaceAll, startServers } from "./utils/rolling.ts"

const timeout = 90_000

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("serve, told to end", (it) => {
  it.effect(
    "SIGTERM and SIGINT lose no call, also of a client that knows nothing of the registry",
    () =>
      Effect.gen(function*() {
        const { endpoint, etcdctl } = yield* TestEtcd
        const servers = yield* startServers(endpoint, ["a", "b", "c"])
        const target = `ipv4:${servers.map(({ port }) => `127.0.0.1:${port}`).join(",")}`
        const client = yield* Effect.acquireRelease(
          Effect.sync(() =>
            new GreeterClient(target, credentials.createInsecure(), {
              "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] })
            })
          ),
          (client) => Effect.sync(() => client.close())
        )
        const calls = yield* load(client, 200)
        const [a, b] = servers
        for (const [server, signal] of [[a, "SIGTERM"], [b, "SIGINT"]] as const) {
          yield* calls.sent(calls.load.sent + 100)
          assert.isDefined(server)
          yield* server.kill(signal)
          assert.strictEqual(yield* server.ended, 130)
        }
        const keys = yield* etcdctl("get", "/services/", "--prefix", "--keys-only")
        assert.strictEqual(keys.trim(), "/services/greeter/c")
        yield* calls.sent(calls.load.sent + 100)
        yield* calls.end
        assert.deepStrictEqual(calls.load.failures, [])
        assert.deepStrictEqual([...calls.load.byInstance.keys()].toSorted(), ["a", "b", "c"])
      }),
    { timeout }
  )

  it.effect(
    "all three replaced one after the other: a client that follows the registry loses no call",
    () =>
      Effect.gen(function*() {
        const { endpoint } = yield* TestEtcd
        const servers = yield* startServers(endpoint, ["a", "b", "c"])
        yield* Effect.gen(function*() {
          const registry = yield* Registry
          const calls = yield* load(yield* registry.client(GreeterClient, "greeter"), 200)
          yield* calls.sent(100)
          yield* replaceAll(endpoint, servers, ["d", "e", "f"])
          yield* calls.sent(calls.load.sent + 100)
          yield* calls.end
          assert.deepStrictEqual(calls.load.failures, [])
          assert.deepStrictEqual([...calls.load.byInstance.keys()].toSorted(), ["a", "b", "c", "d", "e", "f"])
        }).pipe(Effect.scoped, Effect.provide(layerEtcd({ endpoints: endpoint })))
      }),
    { timeout }
  )
})
