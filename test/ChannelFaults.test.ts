/** Channels, while etcd is away, and while backends die and freeze. How fast is measured by `npm run bench:grpc`. */
import { assert, describe, it } from "@effect/vitest"
import * as grpc from "@grpc/grpc-js"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Path from "node:path"
import { layerEtcd } from "../src/EtcdLive.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { Registry } from "../src/Registry.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { call, connected, Echo, type EchoClient, startBackend, tally } from "./grpc/echo.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"
import { run } from "./utils/processes.ts"

/** A process of its own, registered by this one. */
const startProcess = Effect.fnUntraced(function*(id: string) {
  const process_ = yield* run(process.execPath, [Path.join(import.meta.dirname, "fixtures", "echoBackend.ts"), id])
  const port = Number((yield* process_.line("port ")).slice("port ".length))
  const registry = yield* Registry
  yield* registry.register(new ServiceInstance({ id, name: "echo", address: "127.0.0.1", port }))
  return process_
})

/** Ten calls at any time, until it is interrupted; the failures. */
const load = (client: EchoClient, failures: Array<grpc.ServiceError>, request: { delay: number }) =>
  call(client, { request, deadline: 10_000 }).pipe(
    Effect.catch((error) => Effect.sync(() => failures.push(error))),
    Effect.forever,
    Effect.replicateEffect(10, { concurrency: "unbounded", discard: true }),
    Effect.forkChild({ startImmediately: true })
  )

describe("etcd is killed, and comes back", () => {
  it.live("no call fails, the list is unchanged, and then follows again", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const registry = yield* Effect.map(
        Layer.build(layerEtcd({ endpoints: server.endpoint, timeout: "1 second" })),
        Context.get(Registry)
      )
      const [a, b] = [yield* startBackend("a"), yield* startBackend("b")]
      yield* registry.register(a.instance(), { ttl: "60 seconds" })
      const client = yield* registry.client(Echo, "echo")
      assert.strictEqual(yield* call(client), "a")
      const failures: Array<grpc.ServiceError> = []
      const calls = yield* load(client, failures, { delay: 5 })
      yield* server.kill
      yield* Effect.sleep("3 seconds")
      assert.deepStrictEqual(Object.keys(yield* tally(client, 10)), ["a"])
      const denied = yield* Effect.flip(registry.channel("other"))
      assert.strictEqual(denied._tag, "EtcdError")
      yield* server.start
      yield* Effect.retry(registry.register(b.instance()), { times: 10 })
      yield* connected(client, ["a", "b"])
      yield* Fiber.interrupt(calls)
      assert.deepStrictEqual(failures, [])
    }).pipe(Effect.scoped))
})

describe("a backend", () => {
  it.live("that is killed: only calls in flight on it fail, and none with retry", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      const [plain, retrying] = [
        yield* registry.client(Echo, "echo"),
        yield* registry.client(Echo, "echo", { retry: {} })
      ]
      const doomed = yield* startProcess("doomed")
      yield* startProcess("other")
      yield* Effect.forEach([plain, retrying], (client) => connected(client, ["doomed", "other"]))
      const [failed, repeated]: [Array<grpc.ServiceError>, Array<grpc.ServiceError>] = [[], []]
      const fibers = [
        yield* load(plain, failed, { delay: 50 }),
        yield* load(retrying, repeated, { delay: 50 })
      ]
      yield* Effect.sleep(200)
      yield* doomed.kill("SIGKILL")
      yield* Effect.sleep(1000)
      yield* Effect.forEach(fibers, Fiber.interrupt)
      assert.isAtMost(failed.length, 10)
      for (const { code } of failed) assert.strictEqual(code, grpc.status.UNAVAILABLE)
      assert.deepStrictEqual(repeated, [])
      assert.deepStrictEqual(yield* tally(plain, 10), { other: 10 })
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))

  it.live("that is frozen: keepalive takes it out, and brings it back", () =>
    Effect.gen(function*() {
      const registry = yield* Registry
      const client = yield* registry.client(Echo, "echo", {
        keepalive: { time: "500 millis", timeout: "300 millis" },
        retry: {}
      })
      const frozen = yield* startProcess("frozen")
      yield* startProcess("other")
      yield* connected(client, ["frozen", "other"])
      const failures: Array<grpc.ServiceError> = []
      const calls = yield* load(client, failures, { delay: 20 })
      yield* frozen.kill("SIGSTOP")
      yield* Effect.sleep("2 seconds")
      assert.deepStrictEqual(yield* tally(client, 10), { other: 10 })
      yield* frozen.kill("SIGCONT")
      yield* connected(client, ["frozen"])
      yield* Fiber.interrupt(calls)
      assert.deepStrictEqual(failures, [])
    }).pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))
})
