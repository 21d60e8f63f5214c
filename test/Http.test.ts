import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { FetchHttpClient, HttpClient, HttpClientError, HttpClientRequest, HttpClientResponse } from "effect/http"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { createServer, type RequestListener, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { EtcdMemory, layerMemory } from "../src/EtcdMemory.ts"
import {
  layerServiceHttpClient,
  makeServiceHttpClient,
  NoInstances,
  type ServiceHttpClientOptions
} from "../src/Http.ts"
import { Registry } from "../src/Registry.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { makeRegistryWorld } from "./utils/registryWorld.ts"

// -----------------------------------------------------------------------------
// Without a network: a client that writes down where requests go
// -----------------------------------------------------------------------------

const instance = (id: string, address: string, metadata: Record<string, string> = {}, name = "orders") =>
  new ServiceInstance({ id, name, address, port: 8080, metadata })

const failed = <A>(exit: Exit.Exit<A, HttpClientError.HttpClientError>) => {
  const error = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined
  if (error === undefined) assert.fail(`it succeeded: ${String(exit)}`)
  return error
}

/** What Node's fetch fails with where nobody listens. */
const refusal = (): Error =>
  new TypeError("fetch failed", {
    cause: Object.assign(new Error("connect ECONNREFUSED"), { syscall: "connect", code: "ECONNREFUSED" })
  })

const reset = (): Error =>
  new TypeError("fetch failed", {
    cause: Object.assign(new Error("ECONNRESET"), { syscall: "read", code: "ECONNRESET" })
  })

const world = (
  options: ServiceHttpClientOptions = {},
  answer: (url: URL) => Response = (url) => new Response(url.href)
) =>
  Effect.gen(function*() {
    const world = yield* makeRegistryWorld
    const server = yield* world.process
    const process = yield* world.process
    const sent: Array<string> = []
    const broken = new Map<string, () => Error>()
    const inner = HttpClient.make((request, url) =>
      Effect.suspend(() => {
        sent.push(url.host)
        const cause = broken.get(url.hostname)?.()
        return cause === undefined
          ? Effect.succeed(HttpClientResponse.fromWeb(request, answer(url)))
          : Effect.fail(
            new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) })
          )
      })
    )
    const scope = yield* Scope.fork(yield* Effect.scope)
    const client = yield* makeServiceHttpClient(inner, options).pipe(
      Scope.provide(scope),
      Effect.provideService(Registry, process.registry)
    )
    return {
      ...world,
      server: server.registry,
      process,
      client,
      sent,
      broken,
      close: Scope.close(scope, Exit.void),
      /** Where so many requests go, in this order. */
      hosts: (count: number, url = "http://orders/") =>
        Effect.gen(function*() {
          sent.length = 0
          for (let i = 0; i < count; i++) yield* client.get(url)
          return sent.splice(0)
        })
    }
  })

const three = Effect.fnUntraced(function*(registry: Registry["Service"]) {
  return yield* Effect.forEach(
    ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
    (address) => registry.register(instance(address, address, { zone: address }))
  )
})

describe("a client for names of services", () => {
  it.effect("puts instances in the place of the name, each in turn", () =>
    Effect.gen(function*() {
      const { client, hosts, server } = yield* world()
      yield* three(server)
      const seen = yield* hosts(6)
      assert.deepStrictEqual(seen.slice(0, 3), seen.slice(3))
      assert.deepStrictEqual(seen.slice(0, 3).toSorted(), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"])
      const url = yield* client.get("http://user:pw@Orders/a/b%20c?x=1&x=2#h", { urlParams: { y: "é" } }).pipe(
        Effect.flatMap((response) => response.text)
      )
      assert.match(url, /^http:\/\/user:pw@10\.0\.0\.[123]:8080\/a\/b%20c\?x=1&x=2&y=%C3%A9#h$/)
    }))

  it.effect("follows instances that come and go, also IPv6 ones; one discovery for each service", () =>
    Effect.gen(function*() {
      const { hosts, process, server } = yield* world()
      const first = yield* server.register(instance("a", "::1"))
      yield* server.register(instance("p", "10.0.0.9", {}, "payments"))
      assert.deepStrictEqual(yield* hosts(2), ["[::1]:8080", "[::1]:8080"])
      yield* server.register(instance("b", "host-2"))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* hosts(2)).toSorted(), ["[::1]:8080", "host-2:8080"])
      yield* first.unregister
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* hosts(1), ["host-2:8080"])
      assert.deepStrictEqual(yield* hosts(1, "http://payments/"), ["10.0.0.9:8080"])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(process.port.watches().open, 2)
    }))

  it.effect("an empty list fails with the service and how many were seen, and with a retry waits for one", () =>
    Effect.gen(function*() {
      const { client, sent, server } = yield* world({ filter: ({ metadata }) => metadata["zone"] !== "b" })
      const none = failed(yield* Effect.exit(client.get("http://orders/")))
      assert.strictEqual(none.reason._tag, "TransportError")
      assert.deepStrictEqual(none.cause, new NoInstances({ service: "orders", seen: 0 }))
      assert.include(none.message, `no instance of "orders" to send a request to, 0 registered`)
      yield* server.register(instance("b", "10.0.0.2", { zone: "b" }))
      yield* server.register(instance("c", "not a host".replaceAll(" ", "/")))
      yield* TestClock.adjust("1 second")
      const filtered = failed(yield* Effect.exit(client.get("http://orders/")))
      assert.deepStrictEqual(filtered.cause, new NoInstances({ service: "orders", seen: 2 }))
      const patient = yield* HttpClient.retryTransient(client, { schedule: Schedule.spaced("1 second") })
        .get("http://orders/").pipe(Effect.forkChild)
      yield* TestClock.adjust("10 seconds")
      assert.isUndefined(patient.pollUnsafe())
      yield* server.register(instance("a", "10.0.0.1"))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(patient)).status, 200)
      assert.deepStrictEqual(sent, ["10.0.0.1:8080"])
    }))

  it.effect("what is no service passes through, or fails, as chosen", () =>
    Effect.gen(function*() {
      const { hosts, process } = yield* world()
      for (
        const url of [
          "http://example.com/",
          "http://localhost/",
          "http://127.0.0.1/",
          "http://[::1]/",
          "http://orders:8080/",
          "ftp://orders/"
        ]
      ) assert.deepStrictEqual(yield* hosts(1, url), [new URL(url).host])
      assert.strictEqual(process.port.watches().total, 0)

      const strict = yield* world({
        others: "fail",
        service: (url) => url.hostname.endsWith(".svc") ? url.hostname.slice(0, -4) : undefined
      })
      yield* strict.server.register(instance("a", "10.0.0.1", {}, "user.rpc"))
      assert.deepStrictEqual(yield* strict.hosts(1, "http://user.rpc.svc:80/x"), ["10.0.0.1:8080"])
      const error = failed(yield* Effect.exit(strict.client.get("http://example.com/")))
      assert.strictEqual(error.reason._tag, "InvalidUrlError")
      assert.include(error.message, `"example.com" is no service`)
      const invalid = failed(yield* Effect.exit(strict.client.get("http://a..svc/")))
      assert.strictEqual(invalid.reason._tag, "TransportError", "a. is a name, of nobody")
      assert.strictEqual(failed(yield* Effect.exit(strict.client.get("nonsense"))).reason._tag, "InvalidUrlError")
    }))

  it.effect("a name that no service can have says which rule it breaks", () =>
    Effect.gen(function*() {
      const { client, process } = yield* world({ service: () => "a/b" })
      const error = failed(yield* Effect.exit(client.get("http://x/")))
      assert.strictEqual(error.reason._tag, "InvalidUrlError")
      assert.match(error.message, /must not contain "\/"/)
      assert.strictEqual(process.port.watches().total, 0)
    }))

  it.effect("an instance that refuses connections is passed over for a while, and no request is lost to it", () =>
    Effect.gen(function*() {
      const { broken, client, hosts, sent, server } = yield* world({ avoidFor: "10 seconds" })
      yield* three(server)
      broken.set("10.0.0.2", refusal)
      const first = yield* hosts(9)
      assert.strictEqual(first.length, 10)
      assert.strictEqual(first.filter((host) => host === "10.0.0.2:8080").length, 1)
      yield* TestClock.adjust("9 seconds")
      assert.notInclude(yield* hosts(6), "10.0.0.2:8080")
      yield* TestClock.adjust("2 seconds")
      broken.clear()
      assert.strictEqual((yield* hosts(6)).filter((host) => host === "10.0.0.2:8080").length, 2)
      // All refuse: each is asked once, and the request fails as it did there.
      for (const host of ["10.0.0.1", "10.0.0.2", "10.0.0.3"]) broken.set(host, refusal)
      for (let i = 0; i < 2; i++) {
        const error = failed(yield* Effect.exit(client.get("http://orders/")))
        assert.strictEqual(error.reason._tag, "TransportError")
        assert.strictEqual(new Set(sent).size, 3)
        assert.strictEqual(sent.splice(0).length, 3)
      }
      broken.clear()
      assert.strictEqual((yield* hosts(1)).length, 1)
    }))

  it.effect("what may have been sent is not sent again, nor is a body that can be read but once", () =>
    Effect.gen(function*() {
      const { broken, client, sent, server } = yield* world()
      yield* three(server)
      for (const host of ["10.0.0.1", "10.0.0.2", "10.0.0.3"]) broken.set(host, reset)
      failed(yield* Effect.exit(client.get("http://orders/")))
      assert.strictEqual(sent.splice(0).length, 1)
      for (const host of ["10.0.0.1", "10.0.0.2", "10.0.0.3"]) broken.set(host, refusal)
      const stream = HttpClientRequest.post("http://orders/").pipe(
        HttpClientRequest.bodyStream(Stream.make(new Uint8Array(3)))
      )
      failed(yield* Effect.exit(client.execute(stream)))
      assert.strictEqual(sent.splice(0).length, 1)
      failed(
        yield* Effect.exit(client.execute(HttpClientRequest.bodyText(HttpClientRequest.post("http://orders/"), "x")))
      )
      assert.strictEqual(sent.splice(0).length, 3)
      // A name with several addresses that all refuse is a refusal, one of them that broke is none.
      const several = (...errors: Array<unknown>) => () => new TypeError("x", { cause: new AggregateError(errors) })
      broken.set("10.0.0.1", several(refusal().cause, refusal().cause))
      broken.set("10.0.0.2", several(refusal().cause, refusal().cause))
      broken.set("10.0.0.3", several(refusal().cause, reset().cause))
      failed(yield* Effect.exit(client.get("http://orders/")))
      assert.strictEqual(sent.at(-1), "10.0.0.3:8080")
    }))

  it.effect("retries over it go to other instances", () =>
    Effect.gen(function*() {
      const { broken, client, sent, server } = yield* world()
      yield* three(server)
      for (const host of ["10.0.0.1", "10.0.0.2", "10.0.0.3"]) broken.set(host, reset)
      failed(yield* Effect.exit(HttpClient.retryTransient(client, { times: 2 }).get("http://orders/")))
      assert.strictEqual(new Set(sent).size, 3)
    }))

  it.effect("a URL that is put in front later names the service, and what changes requests costs no attempt", () =>
    Effect.gen(function*() {
      const { broken, client, sent, server } = yield* world({ others: "fail" })
      yield* three(server)
      broken.set("10.0.0.1", refusal)
      const orders = client.pipe(
        HttpClient.mapRequest(HttpClientRequest.prependUrl("http://orders")),
        HttpClient.mapRequest(HttpClientRequest.bearerToken("secret"))
      )
      for (let i = 0; i < 3; i++) {
        const url = yield* Effect.flatMap(orders.get("/42?x=1"), (response) => response.text)
        assert.match(url, /^http:\/\/10\.0\.0\.[23]:8080\/42\?x=1$/)
      }
      assert.deepStrictEqual([...new Set(sent)].toSorted(), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"])
    }))

  it.effect("a redirect to a path stays with the instance, one to a service goes to one of its instances", () =>
    Effect.gen(function*() {
      const { client, sent, server } = yield* world({}, (url) =>
        url.pathname === "/old"
          ? new Response(null, { status: 302, headers: { location: "/new" } })
          : url.pathname === "/new"
          ? new Response(null, { status: 302, headers: { location: "http://payments/" } })
          : new Response(url.href))
      yield* server.register(instance("a", "10.0.0.1"))
      yield* server.register(instance("p", "10.0.0.9", {}, "payments"))
      const response = yield* HttpClient.followRedirects(client).get("http://orders/old")
      assert.strictEqual(yield* response.text, "http://10.0.0.9:8080/")
      assert.deepStrictEqual(sent, ["10.0.0.1:8080", "10.0.0.1:8080", "10.0.0.9:8080"])
    }))

  it.effect("a filter that throws leaves that instance out; what is odd is told once", () =>
    Effect.gen(function*() {
      const warnings: Array<string> = []
      yield* Effect.gen(function*() {
        const { hosts, server } = yield* world({
          filter: ({ id }) => {
            if (id === "b") throw new Error("boom")
            return true
          }
        })
        yield* server.register(instance("a", "10.0.0.1"))
        yield* server.register(instance("b", "10.0.0.2"))
        yield* server.register(instance("c", "no/host"))
        assert.deepStrictEqual(yield* hosts(2), ["10.0.0.1:8080", "10.0.0.1:8080"])
        yield* server.register(instance("d", "10.0.0.4"))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual((yield* hosts(2)).toSorted(), ["10.0.0.1:8080", "10.0.0.4:8080"])
      }).pipe(Effect.provide(
        Logger.layer([Logger.make(({ message }) => {
          if (String(message).startsWith("instance")) warnings.push(String(message))
        })])
      ))
      assert.deepStrictEqual(warnings, [
        "instance \"b\" is not used: the filter failed (Error: boom)",
        "instance \"c\" is not used: its address is no host of a URL"
      ])
    }))

  it.effect("an outage keeps the last instances; without any it is an error that the next request does not inherit", () =>
    Effect.gen(function*() {
      const { client, hosts, process, server } = yield* world()
      yield* three(server)
      yield* hosts(1)
      yield* process.link.refuse
      yield* TestClock.adjust("3 minutes")
      assert.strictEqual(new Set(yield* hosts(3)).size, 3)
      const unknown = yield* Effect.forkChild(Effect.exit(client.get("http://payments/")))
      yield* TestClock.adjust("30 seconds")
      const error = failed(yield* Fiber.join(unknown))
      assert.strictEqual(error.reason._tag, "TransportError")
      assert.strictEqual((error.cause as { _tag?: string })._tag, "EtcdError")
      yield* process.link.accept
      yield* server.register(instance("p", "10.0.0.9", {}, "payments"))
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(yield* hosts(1, "http://payments/"), ["10.0.0.9:8080"])
    }))

  it.effect("a service that nobody asks for is let go, and all are when the scope closes", () =>
    Effect.gen(function*() {
      const { close, hosts, process, server } = yield* world()
      yield* three(server)
      yield* hosts(1)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(process.port.watches().open, 1)
      yield* TestClock.adjust("6 minutes")
      assert.strictEqual(process.port.watches().open, 0)
      yield* hosts(1)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(process.port.watches().open, 1)
      yield* close
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(process.port.watches().open, 0)
    }))

  it.effect("an interrupted first request leaves nothing, and the next one works", () =>
    Effect.gen(function*() {
      const { client, hosts, process, server } = yield* world()
      yield* three(server)
      yield* process.link.partition
      const first = yield* Effect.forkChild(client.get("http://orders/"))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(first)
      yield* process.link.heal
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* hosts(3)).length, 3)
    }))

  it.effect("options that make no sense are refused", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(world({ avoidFor: "0 seconds" }))
      assert.strictEqual((error as { option?: string }).option, "avoidFor")
    }))
})

// -----------------------------------------------------------------------------
// Over real connections
// -----------------------------------------------------------------------------

const serve = (listener: RequestListener) =>
  Effect.acquireRelease(
    Effect.callback<Server>((resume) => {
      const server = createServer(listener)
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )

const portOf = (server: Server): number => (server.address() as AddressInfo).port

const clients = {
  fetch: FetchHttpClient.layer,
  undici: NodeHttpClient.layerUndici,
  "node:http": NodeHttpClient.layerNodeHttp
}

describe("over real connections", () => {
  for (const [name, inner] of Object.entries(clients)) {
    it.live(`${name}: three servers in turn, and none of 60 requests is lost when one of them is gone`, () =>
      Effect.gen(function*() {
        const store = yield* EtcdMemory.make()
        const registry = Context.get(yield* Layer.build(layerMemory(store)), Registry)
        const scopes = yield* Effect.forEach(["a", "b", "c"], (id) =>
          Effect.gen(function*() {
            const scope = yield* Scope.fork(yield* Effect.scope)
            const server = yield* Scope.provide(
              serve((request, response) => {
                // What is sent on a connection that is kept, and ends at this moment, is lost for good reason.
                response.setHeader("connection", "close")
                let body = ""
                request.on("data", (chunk) => body += String(chunk))
                request.on("end", () => response.end(`${id} ${request.method} ${request.url} ${body}`))
              }),
              scope
            )
            yield* registry.register(
              new ServiceInstance({ id, name: "echo", address: "127.0.0.1", port: portOf(server) })
            )
            return scope
          }))
        yield* Effect.gen(function*() {
          const ask = HttpClient.post("http://echo/path?x=1", {
            body: HttpClientRequest.bodyText(HttpClientRequest.empty, "hi").body
          }).pipe(Effect.flatMap((response) => response.text))
          const answers = yield* Effect.replicateEffect(ask, 30)
          const count = (id: string) => answers.filter((answer) => answer === `${id} POST /path?x=1 hi`).length
          assert.deepStrictEqual([count("a"), count("b"), count("c")], [10, 10, 10])
          // It ends without a word: it stays registered.
          const [, second] = scopes
          if (second !== undefined) yield* Scope.close(second, Exit.void)
          const rest = yield* Effect.replicateEffect(
            HttpClient.get("http://echo/").pipe(Effect.flatMap((response) => response.text)),
            30
          )
          assert.strictEqual(rest.length, 30)
          assert.isFalse(rest.some((answer) => answer.startsWith("b")))
        }).pipe(Effect.provide(
          layerServiceHttpClient().pipe(Layer.provide(Layer.merge(inner, Layer.succeed(Registry, registry))))
        ))
      }).pipe(Effect.scoped))
  }
})
