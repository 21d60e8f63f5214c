/** From the instances of a service to the endpoints of a channel, in virtual time. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { EtcdError } from "../src/EtcdError.ts"
import * as EtcdReason from "../src/EtcdReason.ts"
import type { Resolution } from "../src/internal/grpc/resolver.ts"
import type { DiscoverySettings } from "../src/internal/grpc/settings.ts"
import { openSource } from "../src/internal/grpc/source.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { settle } from "./utils/virtual.ts"

const instance = (id: string, fields: Partial<ServiceInstance> = {}) =>
  new ServiceInstance({ id, name: "echo", address: `host-${id}`, port: 1, metadata: {}, ...fields })

const denied = new EtcdError({ operation: "watch", reason: new EtcdReason.PermissionDenied() })
const closed = new EtcdError({ operation: "watch", reason: new EtcdReason.Closed() })

/** A source whose lists the test gives, and what a listener hears. */
const makeWorld = Effect.fnUntraced(function*(
  settings: Partial<DiscoverySettings> = {},
  first: ReadonlyArray<ServiceInstance> = []
) {
  // A slow consumer sees the latest list, as with the registry's.
  let lists = yield* Queue.sliding<ReadonlyArray<ServiceInstance>, EtcdError>(1)
  let subscriptions = 0
  const warnings: Array<string> = []
  const context = yield* Effect.context<never>().pipe(
    Effect.provide(Logger.layer([Logger.make(({ message }) => {
      warnings.push(String([message].flat()[0]))
    })]))
  )
  yield* Queue.offer(lists, first)
  const subscribe = yield* openSource(
    "echo",
    Stream.suspend(() => {
      subscriptions++
      return Stream.fromQueue(lists)
    }),
    { filter: () => true, keepLast: false, subset: Infinity, ...settings },
    context
  )
  const heard: Array<Resolution> = []
  const end = subscribe((resolution) => heard.push(resolution))
  yield* settle
  return {
    heard,
    warnings,
    subscribe,
    end,
    keys: () => heard.map(({ endpoints }) => endpoints.map(({ key }) => key).join(" ")),
    subscriptions: () => subscriptions,
    offer: (...list: ReadonlyArray<ServiceInstance>) => Effect.andThen(Queue.offer(lists, list), settle),
    fail: Effect.fnUntraced(function*(error: EtcdError) {
      const failed = lists
      lists = yield* Queue.sliding<ReadonlyArray<ServiceInstance>, EtcdError>(1)
      yield* Queue.fail(failed, error)
      yield* settle
    })
  }
})

describe("endpoints", () => {
  it.effect("are sorted, and one for each address", () =>
    Effect.gen(function*() {
      const { heard, keys } = yield* makeWorld({}, [
        instance("c"),
        instance("a"),
        instance("b", { address: "host-a", metadata: { weight: "7" } })
      ])
      assert.deepStrictEqual(keys(), ["host-a:1 host-c:1"])
      assert.deepStrictEqual(heard[0]?.endpoints.map(({ weight }) => weight), [1, 1])
    }))

  it.effect("of IPv6 and IPv4 addresses, with and without brackets", () =>
    Effect.gen(function*() {
      const { heard, keys } = yield* makeWorld({}, [
        instance("a", { address: "::1" }),
        instance("b", { address: "[2001:db8::1]", port: 2 }),
        instance("c", { address: "10.0.0.1", port: 3 })
      ])
      assert.deepStrictEqual(keys(), ["10.0.0.1:3 [2001:db8::1]:2 [::1]:1"])
      assert.deepStrictEqual(heard[0]?.endpoints.map(({ addresses }) => addresses), [
        [{ host: "10.0.0.1", port: 3 }],
        [{ host: "2001:db8::1", port: 2 }],
        [{ host: "::1", port: 1 }]
      ])
    }))

  it.effect("of addresses that do not parse are left out, with one warning for each", () =>
    Effect.gen(function*() {
      const bad = ["10.0.0.300", "http://host", "host:80", "[::1", "[host]", "-host", "a..b", "1.2.3"]
      const instances = bad.map((address, index) => instance(`bad-${index}`, { address }))
      const world = yield* makeWorld({}, [...instances, instance("good")])
      yield* world.offer(...instances, instance("good"), instance("better"))
      // The same entry again under a new lease.
      yield* world.offer(instance("bad-0", { address: bad[0] ?? "" }), instance("good"))
      assert.deepStrictEqual(world.keys(), ["host-good:1", "host-better:1 host-good:1", "host-good:1"])
      assert.strictEqual(world.warnings.length, bad.length)
      assert.match(world.warnings[0] ?? "", /^instance "bad-0": its address is neither a host name nor an IP address/)
    }))

  it.effect("weights that are none are ignored with a warning", () =>
    Effect.gen(function*() {
      const { heard, warnings } = yield* makeWorld({}, [
        instance("a", { metadata: { weight: "3" } }),
        instance("b", { metadata: { weight: "much" } })
      ])
      assert.deepStrictEqual(heard[0]?.endpoints.map(({ weight }) => weight), [3, 1])
      assert.strictEqual(warnings.length, 1)
      assert.match(warnings[0] ?? "", /^instance "b": its metadata.weight/)
    }))

  it.effect("pass the filter, which is asked once for each instance", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const [v1, v2] = [instance("a", { metadata: { version: "1" } }), instance("b", { metadata: { version: "2" } })]
      const world = yield* makeWorld({
        filter: ({ id, metadata }) => {
          asked.push(id)
          return metadata["version"] === "2"
        }
      }, [v1, v2])
      yield* world.offer(v1, v2, instance("c"))
      assert.deepStrictEqual(asked, ["a", "b", "c"])
      assert.deepStrictEqual(world.keys(), ["host-b:1"])
      yield* world.offer(v1, instance("c"))
      assert.strictEqual(world.heard.at(-1)?.note, "no instance of \"echo\": 2 known, 2 filtered out")
    }))

  it.effect("a filter that throws leaves that instance out, with a warning", () =>
    Effect.gen(function*() {
      const { keys, warnings } = yield* makeWorld({
        filter: ({ id }) => {
          if (id === "a") throw new Error("no version")
          return true
        }
      }, [instance("a"), instance("b")])
      assert.deepStrictEqual(keys(), ["host-b:1"])
      assert.deepStrictEqual(warnings, ["instance \"a\": the filter failed: it is not called (Error: no version)"])
    }))

  it.effect("a subset is kept where possible, and differs between channels", () =>
    Effect.gen(function*() {
      const all = Array.from({ length: 100 }, (_, index) => instance(`${index}`))
      const world = yield* makeWorld({ subset: 10 }, all)
      const before = world.heard[0]?.endpoints ?? []
      assert.strictEqual(before.length, 10)
      const gone = before[0]?.key
      yield* world.offer(...all.filter(({ address, port }) => `${address}:${port}` !== gone))
      const after = world.heard[1]?.endpoints.map(({ key }) => key) ?? []
      assert.strictEqual(after.length, 10)
      assert.deepStrictEqual(before.filter(({ key }) => !after.includes(key)).map(({ key }) => key), [gone])
      const other = yield* makeWorld({ subset: 10 }, all)
      assert.notDeepEqual(other.keys()[0], world.keys()[0])
    }))
})

describe("updates", () => {
  it.effect("that change nothing are dropped", () =>
    Effect.gen(function*() {
      const { keys, offer } = yield* makeWorld({}, [instance("a"), instance("b")])
      yield* offer(instance("b"), instance("a"))
      yield* offer(instance("a", { metadata: { build: "7" } }), instance("b"))
      assert.strictEqual(keys().length, 1)
      yield* offer(instance("a", { metadata: { weight: "7" } }), instance("b"))
      yield* offer(instance("a", { metadata: { zone: "eu" } }), instance("b"))
      assert.strictEqual(keys().length, 3)
    }))

  it.effect("a few at once pass at once; many are at most ten a second, and the last one is not lost", () =>
    Effect.gen(function*() {
      const { keys, offer } = yield* makeWorld()
      yield* TestClock.adjust("10 seconds")
      yield* offer(instance("0"))
      assert.strictEqual(keys().at(-1), "host-0:1")
      for (let index = 1; index < 1000; index++) {
        yield* offer(instance(`${index}`))
        yield* TestClock.adjust("5 millis")
      }
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(keys().at(-1), "host-999:1")
      // The empty list at first, five at once, and fifty in five seconds.
      assert.isAtMost(keys().length, 58)
      assert.isAtLeast(keys().length, 50)
    }))

  it.effect("a change after a quiet time does not wait", () =>
    Effect.gen(function*() {
      const { keys, offer } = yield* makeWorld({}, [instance("a"), instance("b")])
      yield* TestClock.adjust("1 second")
      yield* offer(instance("a"))
      assert.deepStrictEqual(keys(), ["host-a:1 host-b:1", "host-a:1"])
    }))
})

describe("an empty list", () => {
  it.effect("is told, with what was seen", () =>
    Effect.gen(function*() {
      const { heard, offer } = yield* makeWorld({}, [instance("a")])
      yield* offer()
      yield* offer(instance("a", { address: "a b" }))
      assert.deepStrictEqual(heard.slice(1).map(({ note }) => note), [
        "no instance of \"echo\": 0 known",
        "no instance of \"echo\": 1 known, 1 without a usable address"
      ])
    }))

  it.effect("keepLast keeps the last instances, but cannot invent any", () =>
    Effect.gen(function*() {
      const { heard, keys, offer, warnings } = yield* makeWorld({ keepLast: true })
      assert.strictEqual(heard[0]?.note, "no instance of \"echo\": 0 known")
      yield* offer(instance("a"))
      yield* offer()
      assert.deepStrictEqual(keys(), ["", "host-a:1"])
      assert.deepStrictEqual(warnings, ["no instance of \"echo\": 0 known: the last instances are kept"])
      yield* offer(instance("b"))
      assert.deepStrictEqual(keys(), ["", "host-a:1", "host-b:1"])
    }))
})

describe("failures", () => {
  it.effect("before the first list: typed", () =>
    Effect.gen(function*() {
      const settings = { filter: () => true, keepLast: false, subset: Infinity }
      const exit = yield* Effect.exit(openSource("echo", Stream.fail(denied), settings, yield* Effect.context<never>()))
      assert.deepStrictEqual(exit, Exit.fail(denied))
    }))

  it.effect("later: the last list is kept, and lists come again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld({}, [instance("a")])
      yield* world.fail(denied)
      assert.deepStrictEqual(world.keys(), ["host-a:1"])
      assert.deepStrictEqual(world.warnings, ["discovery failed: the last instances are kept"])
      assert.strictEqual(world.subscriptions(), 1)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(world.subscriptions(), 2)
      yield* world.offer(instance("b"))
      assert.deepStrictEqual(world.keys(), ["host-a:1", "host-b:1"])
    }))

  it.effect("the registry is closed: nothing is tried again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld({}, [instance("a")])
      yield* world.fail(closed)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(world.subscriptions(), 1)
      assert.deepStrictEqual(world.keys(), ["host-a:1"])
      assert.deepStrictEqual(world.warnings, [])
    }))

  it.effect("interrupted while the first list is awaited: it ends, and nothing follows on", () =>
    Effect.gen(function*() {
      let open = 0
      const instances = Stream.unwrap(Effect.acquireRelease(
        Effect.sync(() => {
          open++
          return Stream.never
        }),
        () => Effect.sync(() => open--)
      ))
      const scope = yield* Scope.make()
      const settings = { filter: () => true, keepLast: false, subset: Infinity }
      const started = yield* Deferred.make<void>()
      const fiber = yield* Deferred.succeed(started, undefined).pipe(
        Effect.andThen(openSource("echo", instances, settings, yield* Effect.context<never>())),
        Scope.provide(scope),
        Effect.forkChild
      )
      yield* Deferred.await(started)
      yield* settle
      assert.strictEqual(open, 1)
      yield* Fiber.interrupt(fiber)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(open, 0)
    }))
})

describe("listeners", () => {
  it.effect("hear the newest list, later than they subscribe, and nothing after their end", () =>
    Effect.gen(function*() {
      const { end, keys, offer, subscribe } = yield* makeWorld({}, [instance("a")])
      end()
      yield* offer(instance("b"))
      assert.deepStrictEqual(keys(), ["host-a:1"])
      const heard: Array<string> = []
      const again = subscribe(({ endpoints }) => heard.push(String(endpoints[0]?.key)))
      assert.deepStrictEqual(heard, [])
      yield* settle
      assert.deepStrictEqual(heard, ["host-b:1"])
      again()
      const never = subscribe(() => heard.push("never"))
      never()
      yield* settle
      assert.deepStrictEqual(heard, ["host-b:1"])
    }))
})
