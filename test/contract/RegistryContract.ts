/**
 * What the registry does on every implementation of the port. The tests share one store: each has a prefix of its own.
 */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Etcd } from "../../src/Etcd.ts"
import { type Registration, Registry, type ServiceEvent } from "../../src/Registry.ts"
import { ServiceInstance } from "../../src/ServiceInstance.ts"
import type { Operator } from "./Operator.ts"
import { batches, freshPrefix, get, keys, put, remove, text } from "./support.ts"

const instance = (id: string, metadata: Record<string, string> = {}) =>
  new ServiceInstance({ id, name: "orders", address: "10.0.0.7", port: 8080, metadata })

const short = (event: ServiceEvent): string =>
  event._tag === "Synced"
    ? "="
    : `${event._tag === "Put" ? "+" : "-"}${event.instance.id}${event.instance.metadata["v"] ?? ""}`

const ids = (list: ReadonlyArray<ServiceInstance>): string => list.map(({ id }) => id).join()

/** What a stream says until it says this. */
const until = <A, E>(stream: Stream.Stream<A, E>, holds: (a: A) => boolean) =>
  stream.pipe(Stream.takeUntil(holds), Stream.runCollect, Effect.timeout("20 seconds"))

const untilStatus = (registration: Registration, expected: string) =>
  until(registration.status.changes, (status) => status === expected)

interface Given {
  readonly registry: Registry["Service"]
  /** Another process. */
  readonly other: Registry["Service"]
  readonly root: string
}

/** On the real clock, also where there is a virtual one. */
export const registryContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    const test = (title: string, body: (given: Given) => Effect.Effect<void, unknown, Etcd | Scope.Scope>) =>
      it.effect(title, () =>
        Effect.gen(function*() {
          const root = freshPrefix().slice(0, -1)
          const client = Effect.map(Layer.build(Registry.layer({ prefix: root })), (all) => Context.get(all, Registry))
          yield* body({ root, registry: yield* client, other: yield* client })
        }))

    test("an entry is what a Go service writes, on a lease, and goes with its scope", ({ registry, root }) =>
      Effect.gen(function*() {
        const key = `${root}/orders/a`
        const scope = yield* Scope.make()
        yield* Scope.provide(registry.register(instance("a", { zone: "<b>", "": "\u2028" })), scope)
        const kv = yield* get(key)
        assert.strictEqual(
          text(kv),
          `{"id":"a","name":"orders","address":"10.0.0.7","port":8080,` +
            String.raw`"metadata":{"":"\u2028","zone":"\u003cb\u003e"}}`
        )
        const status = yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseTimeToLive(kv.lease))
        assert.deepStrictEqual(status.keys, [key])
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(yield* keys({ prefix: root }), [])
      }))

    test("what Go services write is discovered", ({ registry, root }) =>
      Effect.gen(function*() {
        yield* put(`${root}/orders/go`, `{"id":"go","name":"orders","address":"10.0.0.7","port":8080}`)
        yield* put(
          `${root}/orders/null`,
          `{"id":"null","name":"orders","address":"10.0.0.7","port":8080,"metadata":null}`
        )
        yield* put(`${root}/orders/broken`, `{`)
        yield* put(`${root}/orders/deeper/key`, `{}`)
        yield* put(`${root}/payments/x`, `{}`)
        assert.deepStrictEqual(yield* registry.discover("orders"), [instance("go"), instance("null")])
        assert.deepStrictEqual(yield* registry.services, ["orders", "payments"])
        yield* registry.unregister("orders", "broken")
        assert.strictEqual((yield* Effect.flip(registry.unregister("orders", "broken")))._tag, "InstanceNotFound")
      }))

    test("others see instances come, change and go", ({ other, registry }) =>
      Effect.gen(function*() {
        yield* registry.register(instance("a"))
        const events = yield* Effect.forkChild(
          until(Stream.map(other.watch("orders"), short), (event) => event === "-b2")
        )
        const lists = yield* Effect.forkChild(
          until(Stream.map(other.instances("orders"), ids), (list) => list === "a,b")
        )
        const second = yield* registry.register(instance("b"))
        yield* Fiber.join(lists)
        yield* second.update({ v: "2" })
        yield* second.unregister
        // How many were there when it began, depends on when that was.
        const seen = yield* Fiber.join(events)
        assert.deepStrictEqual(seen.filter((event) => event !== "="), ["+a", "+b", "+b2", "-b2"])
        assert.strictEqual(seen.filter((event) => event === "=").length, 1)
      }))

    test("a deleted key comes back", ({ registry, root }) =>
      Effect.gen(function*() {
        const registration = yield* registry.register(instance("a"))
        const { lease, modRevision } = yield* get(registration.key)
        yield* remove(registration.key)
        const [, again] = yield* batches({ key: registration.key, startRevision: modRevision + 1n }, 2)
        assert.strictEqual(again?.events[0]?._tag, "Put")
        yield* untilStatus(registration, "Registered")
        assert.strictEqual((yield* get(registration.key)).lease, lease)
        assert.deepStrictEqual(yield* keys({ prefix: root }), [registration.key])
      }))

    test("a revoked lease is replaced", ({ registry, root }) =>
      Effect.gen(function*() {
        const registration = yield* registry.register(instance("a", { v: "1" }), { ttl: "2 seconds" })
        const { lease, modRevision } = yield* get(registration.key)
        yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseRevoke(lease))
        const [, again] = yield* batches({ key: registration.key, startRevision: modRevision + 1n }, 2)
        assert.strictEqual(again?.events[0]?._tag, "Put")
        yield* untilStatus(registration, "Registered")
        assert.notStrictEqual((yield* get(registration.key)).lease, lease)
        assert.deepStrictEqual(yield* keys({ prefix: root }), [registration.key])
      }))

    test("the last registrant wins", ({ other, registry }) =>
      Effect.gen(function*() {
        const first = yield* registry.register(instance("a"))
        const second = yield* other.register(instance("a", { v: "2" }))
        yield* untilStatus(first, "Replaced")
        assert.strictEqual((yield* Effect.flip(first.update({})))._tag, "Replaced")
        yield* first.unregister
        assert.deepStrictEqual(yield* registry.discover("orders"), [instance("a", { v: "2" })])
        assert.strictEqual(yield* second.status.get, "Registered")
      }))

    test("three hundred instances are listed in order", ({ other, registry }) =>
      Effect.gen(function*() {
        const names = Array.from({ length: 300 }, (_, i) => `i${String(i).padStart(3, "0")}`)
        yield* Effect.forEach(names, (id) => registry.register(instance(id)), { concurrency: 30 })
        assert.strictEqual(ids(yield* other.discover("orders")), names.join())
      }))
  })
