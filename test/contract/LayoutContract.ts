/**
 * What the registry does in every layout, on every implementation of the port: entries of ours are where and how others look for
 * them, those of others are found, and both live as they should. The tests share one store: each has services of its own.
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
import type { ServiceLayoutName } from "../../src/ServiceLayout.ts"
import type { Operator } from "./Operator.ts"
import { batches, freshPrefix, get, keys, put, remove, text } from "./support.ts"

/** What is specific to a layout. `name` is that of a service. */
interface Expected {
  readonly layout: ServiceLayoutName
  /** Whether the lease takes the place of the id. */
  readonly moves: boolean
  readonly folder: (name: string) => string
  /** What instance `a` is, byte for byte. */
  readonly value: (name: string) => string
  /** Keys below the folder and values as the other ecosystem writes them, each with the id and the address that it stands for. */
  readonly foreign: (name: string) => ReadonlyArray<readonly [key: string, value: string, read?: string]>
}

const layouts: ReadonlyArray<Expected> = [
  {
    layout: "coord",
    moves: false,
    folder: (name) => `/services/${name}/`,
    value: (name) => `{"id":"a","name":"${name}","address":"10.0.0.7","port":8080}`,
    foreign: (name) => [
      ["go", `{"id":"go","name":"${name}","address":"10.0.0.8","port":80}`, "go 10.0.0.8 80"],
      ["deeper/key", `{"id":"key","name":"${name}","address":"10.0.0.8","port":80}`],
      ["bad", "{"]
    ]
  },
  {
    layout: "go-etcd",
    moves: false,
    folder: (name) => `${name}/`,
    value: () => `{"Op":0,"Addr":"10.0.0.7:8080","Metadata":null}`,
    foreign: () => [
      ["10.0.0.8:80", `{"Op":0,"Addr":"10.0.0.8:80","Metadata":null}`, "10.0.0.8:80 10.0.0.8 80"],
      ["deeper/key", `{"Op":0,"Addr":"[::1]:80","Metadata":{"weight":1}}`, "deeper/key ::1 80"],
      ["bad", `{"Op":0,"Addr":"nowhere"}`]
    ]
  },
  {
    layout: "kratos",
    moves: false,
    folder: (name) => `/microservices/${name}/`,
    value: (name) => `{"id":"a","name":"${name}","version":"","metadata":{},"endpoints":["grpc://10.0.0.7:8080"]}`,
    foreign: (name) => [
      [
        "2f1b",
        `{"id":"2f1b","name":"${name}","version":"v1","metadata":null,"endpoints":["http://10.0.0.8:81","grpc://10.0.0.8:80"]}`,
        "2f1b 10.0.0.8 80"
      ],
      ["deeper/key", `{"id":"key","name":"${name}/deeper","version":"","metadata":null,"endpoints":["grpc://h:1"]}`],
      ["none", `{"id":"none","name":"${name}","version":"","metadata":null,"endpoints":null}`]
    ]
  },
  {
    layout: "go-zero",
    moves: true,
    folder: (name) => `${name}/`,
    value: () => "10.0.0.7:8080",
    foreign: () => [
      ["7587862094423298819", "10.0.0.8:80", "7587862094423298819 10.0.0.8 80"],
      ["12", "[::1]:80", "12 ::1 80"],
      ["deeper/7587862094423298819", "h:1"],
      ["13", "nowhere"]
    ]
  }
]

const short = (event: ServiceEvent): string =>
  event._tag === "Synced" ? "=" : `${event._tag === "Put" ? "+" : "-"}${event.instance.address}`

/** What a stream says until it says this. */
const until = <A, E>(stream: Stream.Stream<A, E>, holds: (a: A) => boolean) =>
  stream.pipe(Stream.takeUntil(holds), Stream.runCollect, Effect.timeout("20 seconds"))

const untilStatus = (registration: Registration, expected: string) =>
  until(registration.status.changes, (status) => status === expected)

interface Given extends Expected {
  readonly registry: Registry["Service"]
  /** Another process. */
  readonly other: Registry["Service"]
  /** The service. */
  readonly name: string
  readonly path: string
  readonly instance: (id: string, address?: string) => ServiceInstance
}

/** On the real clock, also where there is a virtual one. */
export const layoutContract = (where: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(where, (it) => {
    const test = (title: string, body: (given: Given) => Effect.Effect<void, unknown, Etcd | Scope.Scope>) => {
      for (const expected of layouts) {
        it.effect(`${expected.layout}: ${title}`, () =>
          Effect.gen(function*() {
            const name = `s${freshPrefix().slice(2, -1)}`
            const client = Effect.map(
              Layer.build(Layer.fresh(Registry.layer({ layout: expected.layout }))),
              (all) => Context.get(all, Registry)
            )
            yield* body({
              ...expected,
              name,
              path: expected.folder(name),
              registry: yield* client,
              other: yield* client,
              instance: (id, address = "10.0.0.7") => new ServiceInstance({ id, name, address, port: 8080 })
            })
          }))
      }
    }

    test("an entry is where and what others expect, on a lease, and goes with its scope", (given) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const registration = yield* Scope.provide(given.registry.register(given.instance("a")), scope)
        const kv = yield* get(registration.key)
        assert.strictEqual(registration.key, given.path + (given.moves ? String(kv.lease) : "a"))
        assert.strictEqual(text(kv), given.value(given.name))
        const status = yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseTimeToLive(kv.lease))
        assert.deepStrictEqual(status.keys, [registration.key])
        const found = yield* given.other.discover(given.name)
        assert.deepStrictEqual(found, [given.instance(given.moves ? String(kv.lease) : "a")])
        assert.include(yield* given.registry.services, given.name)
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(yield* keys({ prefix: given.path }), [])
      }))

    test("what others write is found, and a bad entry empties no list", ({ foreign, name, path, registry }) =>
      Effect.gen(function*() {
        const entries = foreign(name)
        for (const [key, value] of entries) yield* put(path + key, value)
        const found = yield* registry.discover(name)
        assert.deepStrictEqual(
          found.map(({ address, id, port }) => `${id} ${address} ${port}`).toSorted(),
          entries.flatMap(([, , read]) => read ?? []).toSorted()
        )
        for (const { id } of found) yield* registry.unregister(name, id)
        assert.deepStrictEqual(yield* registry.discover(name), [])
        assert.strictEqual((yield* keys({ prefix: path })).length, entries.length - found.length)
      }))

    test("others see instances come and go", ({ instance, name, other, registry }) =>
      Effect.gen(function*() {
        yield* registry.register(instance("a"))
        const events = yield* Effect.forkChild(
          until(Stream.map(other.watch(name), short), (event) => event === "-10.0.0.9")
        )
        const lists = yield* Effect.forkChild(until(other.instances(name), (list) => list.length === 2))
        const second = yield* registry.register(instance("b", "10.0.0.9"))
        yield* Fiber.join(lists)
        yield* second.unregister
        const seen = yield* Fiber.join(events)
        assert.deepStrictEqual(seen.filter((event) => event !== "="), ["+10.0.0.7", "+10.0.0.9", "-10.0.0.9"])
      }))

    test("a deleted key comes back on its lease", ({ instance, path, registry }) =>
      Effect.gen(function*() {
        const registration = yield* registry.register(instance("a"))
        const { key } = registration
        const { lease, modRevision } = yield* get(key)
        yield* remove(key)
        const [, again] = yield* batches({ key, startRevision: modRevision + 1n }, 2)
        assert.strictEqual(again?.events[0]?._tag, "Put")
        yield* untilStatus(registration, "Registered")
        assert.strictEqual((yield* get(key)).lease, lease)
        assert.strictEqual(registration.key, key)
        assert.deepStrictEqual(yield* keys({ prefix: path }), [key])
      }))

    test("a revoked lease is replaced, and there is one entry", ({ instance, moves, name, other, path, registry }) =>
      Effect.gen(function*() {
        const registration = yield* registry.register(instance("a"), { ttl: "2 seconds" })
        const { key } = registration
        const { lease, modRevision } = yield* get(key)
        yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseRevoke(lease))
        const [gone, again] = yield* batches({ prefix: path, startRevision: modRevision + 1n }, 2)
        assert.strictEqual(gone?.events[0]?._tag, "Delete")
        assert.strictEqual(again?.events[0]?._tag, "Put")
        yield* untilStatus(registration, "Registered")
        assert.strictEqual(registration.key === key, !moves)
        assert.deepStrictEqual(yield* keys({ prefix: path }), [registration.key])
        const kv = yield* get(registration.key)
        assert.notStrictEqual(kv.lease, lease)
        assert.deepStrictEqual(yield* other.discover(name), [instance(moves ? String(kv.lease) : "a")])
        yield* registration.unregister
        assert.deepStrictEqual(yield* keys({ prefix: path }), [])
      }))

    test("two processes with one id: the last one wins where the id is the key", (given) =>
      Effect.gen(function*() {
        const first = yield* given.registry.register(given.instance("a"))
        const second = yield* given.other.register(given.instance("a", "10.0.0.9"))
        const list = Effect.map(given.registry.discover(given.name), (found) => found.map(({ address }) => address))
        if (given.moves) {
          assert.deepStrictEqual((yield* list).toSorted(), ["10.0.0.7", "10.0.0.9"])
          assert.strictEqual(yield* first.status.get, "Registered")
        } else {
          yield* untilStatus(first, "Replaced")
          assert.deepStrictEqual(yield* list, ["10.0.0.9"])
        }
        assert.strictEqual(yield* second.status.get, "Registered")
      }))

    test("forty of one process live side by side", ({ instance, name, other, registry }) =>
      Effect.gen(function*() {
        const addresses = Array.from({ length: 40 }, (_, i) => `10.0.0.${100 + i}`)
        yield* Effect.forEach(addresses, (address) => registry.register(instance(address, address)), {
          concurrency: 8
        })
        const found = yield* other.discover(name)
        assert.deepStrictEqual(found.map(({ address }) => address).toSorted(), addresses)
      }))
  })
