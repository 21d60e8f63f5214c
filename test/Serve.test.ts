/** A server that is registered: what clients of it see from its start to its end. */
import { assert, describe, it } from "@effect/vitest"
import { type Client, Server, type ServiceError } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { service as Health } from "grpc-health-check"
import * as Net from "node:net"
import { advertisedAddress, hostPort, isWildcard } from "../src/internal/grpc/advertise.ts"
import { Registry } from "../src/Registry.ts"
import { BindFailed, serve, type ServeOptions } from "../src/Serve.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { greet, greeterClient, makeGreeter } from "./utils/greeter.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { makeRegistryWorld } from "./utils/registryWorld.ts"
import { failure } from "./utils/virtual.ts"

const onLoopback = { host: "127.0.0.1" } as const

/** Real sockets take real time; the test clock stands still meanwhile. */
const turn = Effect.promise(() => new Promise<void>((resume) => setTimeout(resume, 1)))

const until = <E = never>(holds: () => boolean | Effect.Effect<boolean, E>, what = holds.toString()) =>
  Effect.gen(function*() {
    for (let i = 0; i < 5000; i++) {
      const answer = holds()
      if (typeof answer === "boolean" ? answer : yield* answer) return
      yield* turn
    }
    return yield* Effect.die(new Error(`it never came to: ${what}`))
  })

/** For what waits for time at the end of a test. */
const whileTimePasses = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.raceFirst(effect, Effect.forever(Effect.andThen(TestClock.adjust("100 millis"), turn)))

const connects = (port: number): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    const socket = Net.connect(port, "127.0.0.1")
    socket.once("connect", () => {
      socket.destroy()
      resume(Effect.succeed(true))
    })
    socket.once("error", () => resume(Effect.succeed(false)))
  })

const started = Effect.fnUntraced(function*(options?: ServeOptions) {
  const world = yield* makeRegistryWorld
  const process = yield* world.process
  const greeter = makeGreeter("a")
  const scope = yield* Scope.fork(yield* Effect.scope)
  const serving = yield* serve("greeter", greeter.addTo, { ...onLoopback, id: "a", ...options }).pipe(
    Effect.provideService(Registry, process.registry),
    Scope.provide(scope)
  )
  yield* Effect.addFinalizer(() => whileTimePasses(Scope.close(scope, Exit.void)))
  const client = yield* greeterClient(serving.port)
  const found = Effect.map(process.registry.discover("greeter"), (instances) => instances.map(({ id }) => id))
  return { world, process, greeter, serving, client, found, scope, close: Scope.close(scope, Exit.void) }
})

const healthOf = (client: Client, service = ""): Effect.Effect<string> =>
  Effect.callback((resume) => {
    const { path, requestSerialize, responseDeserialize } = Health["Check"] ?? assert.fail("no Check")
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, { service }, (
      error: ServiceError | null,
      answer?: object
    ) => resume(Effect.succeed(error === null ? String(Object(answer).status) : error.details)))
  })

/** What a `Watch` of the health service has said, and its end. */
const watchHealth = (client: Client) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const { path, requestSerialize, responseDeserialize } = Health["Watch"] ?? assert.fail("no Watch")
      const seen: Array<string> = []
      client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, { service: "" })
        .on("data", ({ status }) => seen.push(status))
        .on("end", () => seen.push("end"))
        .on("error", ({ code }: ServiceError) => seen.push(String(code)))
      return seen
    }),
    () => Effect.void
  )

describe("serve", () => {
  it.effect("registers the port that it has bound, and answers", () =>
    Effect.gen(function*() {
      const { client, process, serving } = yield* started({ metadata: { zone: "north" } })
      assert.deepStrictEqual(yield* process.registry.discover("greeter"), [serving.instance])
      assert.deepStrictEqual(
        serving.instance,
        new ServiceInstance({
          id: "a",
          name: "greeter",
          address: "127.0.0.1",
          port: serving.port,
          metadata: { zone: "north" }
        })
      )
      assert.strictEqual(yield* serving.registration.status.get, "Registered")
      assert.deepStrictEqual(yield* greet(client), { greeting: "hello world", instance: "a" })
    }))

  it.effect("takes a server whose services were added, and names the instance by where it is", () =>
    Effect.gen(function*() {
      const { process } = yield* started()
      const server = new Server()
      makeGreeter("mine").addTo(server)
      const serving = yield* serve("other", server, { host: "localhost", propagation: 0 }).pipe(
        Effect.provideService(Registry, process.registry)
      )
      assert.strictEqual(serving.server, server)
      assert.strictEqual(serving.instance.id, `localhost:${serving.port}`)
      const client = yield* greeterClient(serving.port)
      assert.strictEqual((yield* greet(client)).instance, "mine")
    }))

  it.effect("drains: not serving, not registered, still answering, then refusing, while calls in flight end", () =>
    Effect.gen(function*() {
      const { client, close, found, greeter, serving } = yield* started()
      const health = yield* watchHealth(client)
      yield* until(() => health.length === 1)
      const held = yield* Effect.forkChild(greet(client, "held"))
      yield* until(() => greeter.inFlight() === 1)

      const closing = yield* Effect.forkChild(close)
      yield* until(() => Effect.map(found, (ids) => ids.length === 0))
      assert.strictEqual(yield* healthOf(client), "NOT_SERVING")
      assert.deepStrictEqual(health, ["SERVING", "NOT_SERVING"])
      yield* TestClock.adjust("1499 millis")
      assert.strictEqual((yield* greet(client)).instance, "a")
      assert.isTrue(yield* connects(serving.port))

      yield* TestClock.adjust("1 millis")
      yield* until(() => Effect.map(connects(serving.port), (connected) => !connected))
      yield* TestClock.adjust("9999 millis")
      assert.isUndefined(closing.pollUnsafe())
      greeter.release()
      assert.strictEqual((yield* Fiber.join(held)).instance, "a")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(health, ["SERVING", "NOT_SERVING", "end"])
    }))

  it.effect("cuts calls that outlast the grace period", () =>
    Effect.gen(function*() {
      const { client, close, greeter } = yield* started({ propagation: 0, grace: "2 seconds" })
      const held = yield* Effect.forkChild(Effect.flip(greet(client, "held")))
      yield* until(() => greeter.inFlight() === 1)
      const closing = yield* Effect.forkChild(close)
      yield* until(() => greeter.inFlight() === 1)
      yield* TestClock.adjust("1999 millis")
      yield* turn
      assert.isUndefined(held.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.include(["CANCELLED", "UNAVAILABLE"], yield* Fiber.join(held))
      yield* Fiber.join(closing)
    }))

  it.effect("health: whoever watches it does not hold up the end", () =>
    Effect.gen(function*() {
      const { client, close } = yield* started({ propagation: 0, grace: "1 hour" })
      const health = yield* watchHealth(client)
      yield* until(() => health.length === 1)
      yield* close
      yield* until(() => health.length === 3)
      assert.deepStrictEqual(health, ["SERVING", "NOT_SERVING", "end"])
    }))

  it.effect("health: serving while the registration recovers, not serving once it is replaced", () =>
    Effect.gen(function*() {
      const { client, process, serving, world } = yield* started({ health: ["greeter.Greeter"] })
      assert.strictEqual(yield* healthOf(client, "greeter.Greeter"), "SERVING")
      assert.include(yield* healthOf(client, "unheard.of"), "unknown")
      yield* process.link.refuse
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* serving.registration.status.get, "Recovering")
      assert.strictEqual(yield* healthOf(client), "SERVING")

      const other = yield* world.process
      yield* other.registry.register(new ServiceInstance({ ...serving.instance, address: "10.0.0.9" }))
      yield* process.link.accept
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* serving.registration.status.get, "Replaced")
      yield* until(() => Effect.map(healthOf(client), (status) => status === "NOT_SERVING"))
      assert.strictEqual(yield* healthOf(client, "greeter.Greeter"), "NOT_SERVING")
      assert.strictEqual((yield* greet(client)).instance, "a")
    }))

  it.effect("health: none where it is not wanted", () =>
    Effect.gen(function*() {
      const { client } = yield* started({ health: false })
      assert.include(yield* healthOf(client), "does not implement")
    }))

  it.effect("drains in a bounded time while etcd is away, and loses no call", () =>
    Effect.gen(function*() {
      const { client, close, greeter, process } = yield* started()
      const held = yield* Effect.forkChild(greet(client, "held"))
      yield* until(() => greeter.inFlight() === 1)
      yield* process.link.partition
      const closing = yield* Effect.forkChild(close)
      yield* until(() => Effect.map(healthOf(client), (status) => status === "NOT_SERVING"))
      // The request timeout of the world, then the propagation.
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* greet(client)).instance, "a")
      yield* TestClock.adjust("1500 millis")
      greeter.release()
      assert.strictEqual((yield* Fiber.join(held)).instance, "a")
      yield* Fiber.join(closing)
      yield* process.link.heal
    }))
})

it.effect("a start that etcd does not answer can be interrupted", () =>
  Effect.gen(function*() {
    const world = yield* makeRegistryWorld
    const { link, registry } = yield* world.process
    yield* link.partition
    const starting = yield* serve("greeter", makeGreeter("a").addTo, onLoopback).pipe(
      Effect.provideService(Registry, registry),
      Effect.forkChild
    )
    yield* until(() => listening() === 1)
    const interrupted = yield* Effect.forkChild(Fiber.interrupt(starting))
    // The request timeout, then the propagation: what was sent may arrive.
    yield* TestClock.adjust("6500 millis")
    yield* Fiber.join(interrupted)
    yield* until(() => listening() === 0)
  }))

describe("serve, bad input", () => {
  const errorOf = (options: ServeOptions, server: Server | ((server: Server) => void) = makeGreeter("x").addTo) =>
    Effect.gen(function*() {
      const { process, serving } = yield* started()
      const given = options.port === -2 ? { ...options, port: serving.port } : options
      const exit = yield* Effect.exit(
        whileTimePasses(
          Effect.scoped(Effect.provideService(serve("greeter", server, given), Registry, process.registry))
        )
      )
      const error = failure(exit)
      assert.isDefined(error)
      return { message: error.message, tag: error._tag, taken: serving.port }
    })

  it.effect("a port that is taken", () =>
    Effect.gen(function*() {
      const { message, tag, taken } = yield* errorOf({ ...onLoopback, port: -2 })
      assert.strictEqual(tag, "BindFailed")
      assert.include(message, `cannot listen on 127.0.0.1:${taken}: `)
      assert.include(message, "EADDRINUSE")
    }))

  it.effect("a host that is none", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* errorOf({ host: "not a host" })).tag, "BindFailed")
      assert.strictEqual((yield* errorOf({ host: "198.51.100.1" })).tag, "BindFailed")
    }))

  it.effect("a server that was shut down", () =>
    Effect.gen(function*() {
      const server = new Server()
      server.forceShutdown()
      assert.include((yield* errorOf(onLoopback, server)).message, "after shutdown")
    }))

  it.effect("a server that has a health service", () =>
    Effect.gen(function*() {
      const server = new Server()
      server.addService(Health, {})
      const { message, tag } = yield* errorOf(onLoopback, server)
      assert.strictEqual(tag, "InvalidOption")
      assert.include(message, "invalid option health: must be false")
    }))

  it.effect("ports, times, addresses, ids", () =>
    Effect.gen(function*() {
      for (
        const [options, tag, text] of [
          [{ port: 70_000 }, "InvalidOption", "option port: must be a whole number from 0 to 65535, got 70000"],
          [{ port: 0.5 }, "InvalidOption", "option port"],
          [{ grace: Infinity }, "InvalidOption", "option grace"],
          [{ propagation: -5 }, "InvalidOption", "option propagation"],
          [{ address: "0.0.0.0" }, "InvalidOption", "option address: must not be 0.0.0.0"],
          [{ id: "a" }, "AlreadyRegistered", "\"a\""],
          [{ id: "a/b" }, "InvalidInstance", "id must not contain"],
          [{ ttl: "1 milli" }, "InvalidOption", "ttl"]
        ] as const
      ) {
        const error = yield* errorOf({ ...onLoopback, ...options })
        assert.strictEqual(error.tag, tag, JSON.stringify(options))
        assert.include(error.message, text)
      }
    }))

  it.effect("an attempt that fails leaves no socket in a scope that lives on", () =>
    Effect.gen(function*() {
      const { process, serving } = yield* started()
      const before = listening()
      const error = yield* Effect.flip(
        Effect.provideService(
          serve("greeter", makeGreeter("x").addTo, { ...onLoopback, id: "a" }),
          Registry,
          process.registry
        )
      )
      assert.strictEqual(error._tag, "AlreadyRegistered")
      yield* until(() => listening() === before)
      assert.isTrue(yield* connects(serving.port))
      assert.notInstanceOf(error, BindFailed)
    }))
})

const listening = () => process.getActiveResourcesInfo().filter((name) => name === "TCPServerWrap").length

const oneProcess = Effect.gen(function*() {
  const world = yield* makeRegistryWorld
  const { registry } = yield* world.process
  return { world, registry }
})

it.effect("interrupted at whatever step, it leaves no socket and no entry", () =>
  Effect.gen(function*() {
    const ends = { interrupted: 0, completed: 0 }
    yield* until(() => listening() === 0, "the other tests are over")
    const count = yield* interruptAtEveryStep({
      setup: oneProcess,
      run: ({ registry }) =>
        serve("greeter", makeGreeter("a").addTo, { ...onLoopback, id: "a", propagation: "50 millis" }).pipe(
          Effect.andThen(Effect.yieldNow),
          Effect.provideService(Registry, registry),
          Effect.scoped
        ),
      check: ({ world }, exit) =>
        Effect.gen(function*() {
          if (Exit.isSuccess(exit)) {
            ends.completed++
          } else ends.interrupted++
          yield* until(() => listening() === 0, "no socket is left")
          assert.deepStrictEqual([...(yield* world.entries).keys()], [])
        })
    })
    assert.isAbove(count, 100)
    assert.isAbove(ends.interrupted, 50)
    assert.isAtLeast(ends.completed, 1)
  }), { timeout: 180_000 })

describe("The address that is registered", () => {
  const address = (host: string, given: string | undefined, own: ReadonlyArray<string>) =>
    Effect.exit(advertisedAddress(host, given, () => own))

  it.effect("is the one given, or the one listened on, or the only one of the machine", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* address("0.0.0.0", "10.1.2.3", []), Exit.succeed("10.1.2.3"))
      assert.deepStrictEqual(yield* address("127.0.0.1", undefined, ["10.1.2.3"]), Exit.succeed("127.0.0.1"))
      assert.deepStrictEqual(yield* address("::1", undefined, []), Exit.succeed("::1"))
      assert.deepStrictEqual(yield* address("0.0.0.0", undefined, ["10.1.2.3"]), Exit.succeed("10.1.2.3"))
      assert.deepStrictEqual(yield* address("::", undefined, ["10.1.2.3"]), Exit.succeed("10.1.2.3"))
    }))

  it.effect("is never guessed, and the error says what to give", () =>
    Effect.gen(function*() {
      const several = failure(yield* address("0.0.0.0", undefined, ["10.1.2.3", "172.17.0.1"]))
      assert.include(several?.message, "invalid option address: must be given")
      assert.include(several?.message, "several addresses (10.1.2.3, 172.17.0.1)")
      assert.include(several?.message, "the IP of the pod")
      const none = failure(yield* address("::", undefined, []))
      assert.include(none?.message, "no address but loopback")
    }))

  it.effect("is not one that means all", () =>
    Effect.gen(function*() {
      for (
        const all of ["0.0.0.0", "::", "[::]", "0", "0:0:0:0:0:0:0:0", "::0", "0::", "::ffff:0.0.0.0", "000.0.0.0"]
      ) {
        assert.isTrue(isWildcard(all), all)
        assert.strictEqual(failure(yield* address("127.0.0.1", all, []))?._tag, "InvalidOption", all)
      }
      for (
        const one of ["127.0.0.1", "::1", "10.0.0.0", "0.0.0.1", "host", "::ffff:10.0.0.1", "fe80::", "1::", "f::0"]
      ) {
        assert.isFalse(isWildcard(one), one)
      }
    }))

  it.effect("is not one that no channel would call", () =>
    Effect.gen(function*() {
      for (const none of ["10.1.2.3:50051", "http://orders", "10.1.2", "", "a b"]) {
        const error = failure(yield* address("127.0.0.1", none, []))
        assert.strictEqual(
          error?.message,
          `invalid option address: must be a host name or an IP address, without a port, got ${JSON.stringify(none)}`
        )
      }
      for (const one of ["orders.internal", "10.1.2.3", "fd00::1", "[fd00::1]"]) {
        assert.deepStrictEqual(yield* address("127.0.0.1", one, []), Exit.succeed(one))
      }
    }))

  it("an IPv6 address is bracketed before its port", () => {
    assert.strictEqual(hostPort("::1", 80), "[::1]:80")
    assert.strictEqual(hostPort("10.0.0.1", 80), "10.0.0.1:80")
    assert.strictEqual(hostPort("host", 80), "host:80")
  })
})
