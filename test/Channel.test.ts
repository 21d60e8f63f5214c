/** Channels over real connections; etcd is in memory. */
import { assert, describe, it } from "@effect/vitest"
import * as grpc from "@grpc/grpc-js"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { createRequire } from "node:module"
import { EtcdMemory, layerMemory } from "../src/EtcdMemory.ts"
import { Registry } from "../src/Registry.ts"
import type { ChannelOptions } from "../src/ServiceChannel.ts"
import { type Backend, call, connected, definition, Echo, type EchoClient, startBackend, tally } from "./grpc/echo.ts"
import { freePort } from "./utils/ports.ts"
import { type Identity, makeAuthority } from "./utils/tls.ts"

const live = <E>(name: string, test: Effect.Effect<void, E, Registry | Scope.Scope>) =>
  it.live(name, () => test.pipe(Effect.scoped, Effect.provide(EtcdMemory.layer)))

const register = (backend: Backend, metadata: Record<string, string> = {}) =>
  Effect.flatMap(Registry, (registry) => registry.register(backend.instance(metadata)))

/** Backends of these names, registered, and a client that is connected to all of them. */
const world = Effect.fnUntraced(function*(
  ids: ReadonlyArray<string>,
  options: ChannelOptions = {},
  metadata: (id: string) => Record<string, string> = () => ({})
) {
  const registry = yield* Registry
  const backends = yield* Effect.forEach(ids, (id) => startBackend(id))
  const registrations = yield* Effect.forEach(backends, (backend) => register(backend, metadata(backend.id)))
  const client = yield* registry.client(Echo, "echo", options)
  return { registry, backends, registrations, client }
})

const unavailable = (client: EchoClient) =>
  Effect.map(Effect.flip(call(client, { deadline: 5000 })), (error) => {
    assert.strictEqual(error.code, grpc.status.UNAVAILABLE, error.message)
    return error.details
  })

/** Again until it succeeds. */
const eventually = <A, E, R>(check: Effect.Effect<A, E, R>) =>
  Effect.retry(check, { times: 10_000 }).pipe(Effect.timeout("10 seconds"))

describe("a channel", () => {
  live(
    "spreads calls over the instances, and follows them",
    Effect.gen(function*() {
      const { client, registrations } = yield* world(["a", "b"])
      yield* connected(client, ["a", "b"])
      assert.deepStrictEqual(yield* tally(client, 30), { a: 15, b: 15 })
      yield* register(yield* startBackend("c"))
      yield* connected(client, ["c"])
      assert.deepStrictEqual(yield* tally(client, 30), { a: 10, b: 10, c: 10 })
      yield* registrations[1]?.unregister ?? Effect.void
      yield* Effect.sleep(50)
      assert.deepStrictEqual(yield* tally(client, 30), { a: 15, c: 15 })
    })
  )

  live(
    "keeps its connections to instances that stay",
    Effect.gen(function*() {
      const { backends: [a], client } = yield* world(["a", "b"])
      yield* connected(client, ["a", "b"])
      for (let index = 0; index < 5; index++) {
        yield* Effect.scoped(Effect.gen(function*() {
          yield* register(yield* startBackend("c"))
          yield* connected(client, ["c", "a"])
        }))
      }
      assert.strictEqual(a?.connections(), 1)
    })
  )

  live(
    "an instance that leaves gets no new call, and ends those it has",
    Effect.forEach(
      ["round_robin", "pick_first", "least_request"] as const,
      Effect.fnUntraced(function*(loadBalancing) {
        const { backends: [a], client, registrations } = yield* world(["a"], { loadBalancing })
        yield* connected(client, ["a"])
        const inFlight = yield* Effect.forkChild(call(client, { request: { delay: 300 } }), { startImmediately: true })
        yield* register(yield* startBackend("b"))
        yield* registrations[0]?.unregister ?? Effect.void
        yield* Effect.sleep(50)
        const before = a?.calls
        assert.deepStrictEqual(yield* tally(client, 10), { b: 10 })
        assert.strictEqual(a?.calls, before)
        assert.strictEqual(yield* Fiber.join(inFlight), "a")
      }, Effect.scoped),
      { discard: true }
    )
  )

  live(
    "is shared: a client that is closed closes it for nobody, only the scope does",
    Effect.gen(function*() {
      const { registry } = yield* world(["a"])
      const scope = yield* Scope.make()
      const channel = yield* Scope.provide(registry.channel("echo"), scope)
      const client = () => new Echo("", grpc.credentials.createInsecure(), { channelOverride: channel })
      client().close()
      channel.close()
      assert.strictEqual(yield* call(client()), "a")
      assert.instanceOf(channel, grpc.Channel)
      const inFlight = yield* Effect.forkChild(call(client(), { request: { delay: 100 } }), { startImmediately: true })
      yield* Effect.sleep(20)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(channel.getConnectivityState(false), grpc.connectivityState.SHUTDOWN)
      assert.strictEqual(yield* Fiber.join(inFlight), "a")
      assert.strictEqual((yield* Effect.exit(call(client())))._tag, "Failure")
    })
  )

  live(
    "calls without a deadline get the channel's, others keep theirs",
    Effect.gen(function*() {
      const { client } = yield* world(["a"], { timeout: "100 millis" })
      const late = yield* Effect.flip(call(client, { request: { delay: 2000 } }))
      assert.strictEqual(late.code, grpc.status.DEADLINE_EXCEEDED)
      assert.strictEqual(yield* call(client, { request: { delay: 300 }, deadline: 5000 }), "a")
      // As the documentation says: a channel does not know which calls are streams.
      const stream = client.stream({ delay: 2000 })
      const error = yield* Effect.flip(Effect.tryPromise(() => stream.toArray()))
      assert.include(String(error.cause), "DEADLINE_EXCEEDED")
    })
  )

  live(
    "goes on where it was when it has been idle",
    Effect.gen(function*() {
      const { client, registrations } = yield* world(["a"], { channelOptions: { "grpc.client_idle_timeout_ms": 1000 } })
      assert.strictEqual(yield* call(client), "a")
      const idle = Effect.gen(function*() {
        while (client.getChannel().getConnectivityState(false) !== grpc.connectivityState.IDLE) yield* Effect.sleep(10)
      })
      yield* Effect.timeout(idle, "5 seconds")
      yield* register(yield* startBackend("b"))
      yield* registrations[0]?.unregister ?? Effect.void
      yield* Effect.sleep(20)
      assert.deepStrictEqual(yield* tally(client, 5), { b: 5 })
    })
  )

  live(
    "an instance that comes back at its address is called again",
    Effect.gen(function*() {
      const registry = yield* Registry
      const port = yield* freePort
      const stop = yield* Scope.make()
      const first = yield* Scope.provide(startBackend("a", { port }), stop)
      yield* register(first)
      const client = yield* registry.client(Echo, "echo")
      assert.strictEqual(yield* call(client), "a")
      yield* Scope.close(stop, Exit.void)
      assert.match(yield* eventually(unavailable(client)), /^1 instance of "echo", none can be reached: /)
      yield* startBackend("a", { port })
      assert.strictEqual(yield* call(client, { waitForReady: true, deadline: 5000 }), "a")
    })
  )

  live(
    "IPv6 addresses",
    Effect.gen(function*() {
      const registry = yield* Registry
      const backend = yield* startBackend("six", { host: "::1" })
      yield* register(backend)
      const client = yield* registry.client(Echo, "echo")
      assert.strictEqual(yield* call(client, { deadline: 5000 }), "six")
    })
  )

  live(
    "host names, and addresses that do not parse beside them",
    Effect.gen(function*() {
      const registry = yield* Registry
      const backend = yield* startBackend("named")
      const instance = backend.instance()
      yield* registry.register({ ...instance, id: "bad", address: "999.1.1.1" })
      yield* registry.register({ ...instance, address: "localhost" })
      const client = yield* registry.client(Echo, "echo")
      assert.deepStrictEqual(yield* tally(client, 10, () => ({ deadline: 5000 })), { named: 10 })
    })
  )
})

describe("no instance", () => {
  live(
    "calls fail at once, and name the service and what was seen; those that wait for ready wait",
    Effect.gen(function*() {
      const registry = yield* Registry
      for (const loadBalancing of ["round_robin", "pick_first"] as const) {
        const client = yield* registry.client(Echo, "echo", { loadBalancing, filter: ({ id }) => id !== "hidden" })
        assert.strictEqual(yield* unavailable(client), "no instance of \"echo\": 0 known")
        const waiting = yield* Effect.forkChild(call(client, { waitForReady: true, deadline: 10_000 }), {
          startImmediately: true
        })
        yield* Effect.scoped(Effect.gen(function*() {
          yield* register(yield* startBackend("hidden"))
          assert.strictEqual(
            yield* eventually(Effect.filterOrFail(
              unavailable(client),
              (details) => details.includes("1 filtered out")
            )),
            "no instance of \"echo\": 1 known, 1 filtered out"
          )
          yield* register(yield* startBackend("seen"))
          assert.strictEqual(yield* Fiber.join(waiting), "seen")
        }))
        assert.strictEqual(yield* eventually(unavailable(client)), "no instance of \"echo\": 0 known")
        const late = yield* Effect.flip(call(client, { waitForReady: true, deadline: 100 }))
        assert.strictEqual(late.code, grpc.status.DEADLINE_EXCEEDED)
        assert.match(late.details, /; no instance of "echo": 0 known$/)
      }
    })
  )

  live(
    "keepLast goes on with those there were",
    Effect.gen(function*() {
      const { client, registrations } = yield* world(["a", "b"], { onEmpty: "keepLast" })
      yield* connected(client, ["a", "b"])
      yield* Effect.forEach(registrations, ({ unregister }) => unregister)
      yield* Effect.sleep(50)
      const { a = 0, b = 0 } = yield* tally(client, 10)
      assert.strictEqual(a + b, 10)
    })
  )
})

describe("load balancing", () => {
  live(
    "weighted, and the weights follow the metadata",
    Effect.gen(function*() {
      const { client, registrations } = yield* world(["a", "b"], { loadBalancing: "weighted" }, (id) => ({
        weight: id === "a" ? "3" : "1"
      }))
      yield* connected(client, ["a", "b"])
      assert.closeTo((yield* tally(client, 40))["a"] ?? 0, 30, 2)
      yield* registrations[0]?.update({ weight: "0" }) ?? Effect.void
      yield* Effect.sleep(50)
      assert.deepStrictEqual(yield* tally(client, 10), { b: 10 })
    })
  )

  live(
    "zone, spilling over when the zone is gone",
    Effect.gen(function*() {
      const { client, registrations } = yield* world(
        ["near", "far"],
        { loadBalancing: { zone: "eu" } },
        (id) => ({ zone: id === "near" ? "eu" : "us" })
      )
      yield* connected(client, ["near"])
      assert.deepStrictEqual(yield* tally(client, 10), { near: 10 })
      yield* registrations[0]?.unregister ?? Effect.void
      yield* connected(client, ["far"])
      assert.deepStrictEqual(yield* tally(client, 10), { far: 10 })
    })
  )

  live(
    "hash by a header: one value, one instance, from two clients",
    Effect.gen(function*() {
      const options = { loadBalancing: { hashHeader: "X-User" } }
      const { client, registry } = yield* world(["a", "b", "c"], options)
      const other = yield* registry.client(Echo, "echo", options)
      yield* connected(client, ["a", "b", "c"])
      yield* connected(other, ["a", "b", "c"])
      for (const user of ["ann", "bob", "eve", "joe"]) {
        const headers = { "x-user": user }
        const [id, ...others] = Object.keys(yield* tally(client, 5, () => ({ headers })))
        assert.deepStrictEqual(others, [])
        assert.strictEqual(yield* call(other, { headers }), id)
      }
    })
  )

  live(
    "least request goes around an instance with calls in flight",
    Effect.gen(function*() {
      const { backends, client } = yield* world(["a", "b"], { loadBalancing: "least_request" })
      yield* connected(client, ["a", "b"])
      const slow = yield* Effect.forkChild(call(client, { request: { delay: 500 } }), { startImmediately: true })
      yield* Effect.sleep(20)
      const counts = yield* tally(client, 20)
      assert.strictEqual(Object.keys(counts).length, 1)
      assert.isFalse(yield* Fiber.join(slow).pipe(Effect.map((id) => id in counts)))
      // Both again.
      assert.deepStrictEqual(Object.keys(yield* tally(client, 40)), backends.map(({ id }) => id))
    })
  )

  live(
    "pick_first stays with one, over new lists too, and moves when it is gone",
    Effect.gen(function*() {
      const { client, registrations } = yield* world(["a"], { loadBalancing: "pick_first" })
      assert.deepStrictEqual(yield* tally(client, 5), { a: 5 })
      for (const id of ["b", "c"]) {
        yield* register(yield* startBackend(id))
        yield* Effect.sleep(30)
        assert.deepStrictEqual(yield* tally(client, 5), { a: 5 })
      }
      yield* registrations[0]?.unregister ?? Effect.void
      yield* Effect.sleep(50)
      const [id, ...others] = Object.keys(yield* tally(client, 10, () => ({ deadline: 5000 })))
      assert.deepStrictEqual([id === "a", others], [false, []])
    })
  )

  live(
    "pick_first takes the next when its connection breaks",
    Effect.gen(function*() {
      const { backends: [a], client } = yield* world(["a"], { loadBalancing: "pick_first" })
      assert.strictEqual(yield* call(client), "a")
      yield* register(yield* startBackend("b"))
      yield* Effect.sleep(30)
      yield* a?.stop ?? Effect.void
      assert.strictEqual(yield* call(client, { waitForReady: true, deadline: 5000 }), "b")
    })
  )
})

describe("credentials", () => {
  const authority = makeAuthority()
  const serverOf = ({ cert, key }: Identity) =>
    grpc.ServerCredentials.createSsl(null, [{ cert_chain: Buffer.from(cert), private_key: Buffer.from(key) }])
  const credentials = grpc.credentials.createSsl(Buffer.from(authority.cert))

  live(
    "a certificate has to name the service, or the override",
    Effect.gen(function*() {
      const registry = yield* Registry
      for (
        const [commonName, channelOptions] of [
          ["echo", {}],
          ["other.example", { "grpc.ssl_target_name_override": "other.example" }]
        ] as const
      ) {
        yield* Effect.scoped(Effect.gen(function*() {
          const identity = authority.issue({ commonName, dns: [commonName] })
          yield* register(yield* startBackend(commonName, { credentials: serverOf(identity) }))
          const client = yield* registry.client(Echo, "echo", { credentials, channelOptions })
          assert.strictEqual(yield* call(client, { deadline: 5000 }), commonName)
          if (commonName === "echo") return
          const strict = yield* registry.client(Echo, "echo", { credentials })
          assert.match(yield* unavailable(strict), /none can be reached: /)
        }))
      }
    })
  )
})

describe("another copy of grpc-js", () => {
  live(
    "its clients take the channel",
    Effect.gen(function*() {
      const { registry } = yield* world(["a"])
      const require = createRequire(import.meta.url)
      const own = require.resolve("@grpc/grpc-js")
      for (const file of Object.keys(require.cache)) if (file.includes("grpc-js")) delete require.cache[file]
      const copy: typeof grpc = require(own)
      assert.notStrictEqual(copy.Client, grpc.Client)
      const Copied = copy.makeGenericClientConstructor(definition, "Echo")
      const client = yield* registry.client(Copied, "echo", { timeout: "5 seconds" })
      const answer = yield* Effect.callback<unknown, grpc.ServiceError>((resume) => {
        client["call"]?.(
          {},
          new copy.Metadata(),
          (error: grpc.ServiceError | null, reply: unknown) =>
            resume(error === null ? Effect.succeed(reply) : Effect.fail(error))
        )
      })
      assert.deepStrictEqual(answer, { id: "a" })
    })
  )
})

describe("two clusters in one process", () => {
  it.live("the same service name is never mixed up, also behind one address", () =>
    Effect.gen(function*() {
      const client = (store: Layer.Layer<Registry, unknown>) => Effect.map(Layer.build(store), Context.get(Registry))
      const stores = yield* Effect.all([EtcdMemory.make(), EtcdMemory.make()])
      const [one, two] = yield* Effect.all([client(layerMemory(stores[0])), client(layerMemory(stores[1]))])
      const [a, b, shared] = yield* Effect.all([startBackend("a"), startBackend("b"), startBackend("shared")])
      yield* one.register(a.instance())
      yield* two.register(b.instance())
      yield* Effect.forEach([one, two], (registry) => registry.register(shared.instance()))
      const [first, second] = [yield* one.client(Echo, "echo"), yield* two.client(Echo, "echo")]
      yield* connected(first, ["a", "shared"])
      yield* connected(second, ["b", "shared"])
      assert.deepStrictEqual(yield* tally(first, 20), { a: 10, shared: 10 })
      assert.deepStrictEqual(yield* tally(second, 20), { b: 10, shared: 10 })
      assert.notStrictEqual(first.getChannel().getTarget(), second.getChannel().getTarget())
      // A connection of its own each.
      assert.strictEqual(shared.connections(), 2)
    }).pipe(Effect.scoped))
})

describe("a target", () => {
  live(
    "is what a framework makes a channel from",
    Effect.gen(function*() {
      const { registry } = yield* world(["a", "b"])
      const { options, target } = yield* registry.target("echo", { loadBalancing: "pick_first" })
      const client = yield* Effect.acquireRelease(
        Effect.sync(() => new Echo(target, grpc.credentials.createInsecure(), options)),
        (client) => Effect.sync(() => client.close())
      )
      assert.strictEqual(Object.keys(yield* tally(client, 4)).length, 1)
    })
  )

  live(
    "without its options: calls fail at once, and say so",
    Effect.gen(function*() {
      const { registry } = yield* world(["a"])
      const { target } = yield* registry.target("echo")
      const client = new Echo(target, grpc.credentials.createInsecure())
      assert.match(yield* unavailable(client), /^the target etcd:\/\/\d+\/echo was used without the options/)
      client.close()
    })
  )

  live(
    "names that could not be those of a host",
    Effect.gen(function*() {
      const registry = yield* Registry
      const backend = yield* startBackend("a")
      for (const name of ["bestellungen für öl?", "orders.1", "1.2", "99999999999", "orders:80", "a b", "_", "%41"]) {
        yield* registry.register(backend.instance({}, name))
        const client = yield* registry.client(Echo, name)
        assert.strictEqual(yield* call(client, { deadline: 5000 }), "a", name)
      }
    })
  )
})
