/** Members that freeze, are slow, or greet and say no more: here mostly one etcd behind three proxies. */
import { assert, describe, it } from "@effect/vitest"
import { Channel } from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type * as Dns from "node:dns/promises"
import * as Http2 from "node:http2"
import { vi } from "vitest"
import { type Etcd, Operation } from "../src/Etcd.ts"
import { makeCondition } from "../src/internal/etcd3/condition.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"
import { attempts, connect } from "./utils/live.ts"
import { freePort } from "./utils/ports.ts"
import { makeProxy, type Proxy } from "./utils/Proxy.ts"

/** What names resolve to; others are asked of the system. */
const names = new Map<string, ReadonlyArray<string> | "down">()

vi.mock("node:dns/promises", async (original) => {
  const dns = await original<typeof Dns>()
  const lookup = (name: string, options: { readonly all: true }) => {
    const found = names.get(name)
    if (found === "down") return Promise.reject(new Error(`getaddrinfo EAI_AGAIN ${name}`))
    return found === undefined
      ? dns.lookup(name, options)
      : Promise.resolve(found.map((address) => ({ address, family: 4 })))
  }
  return { ...dns, lookup }
})

type Port = Etcd["Service"]

/** What is promised, times three. */
const bound = 10_500

const put = (key: string) => ({ success: [Operation.put(key, "1")] })
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([time, a]) => [Duration.toMillis(time), a] as const)
const eventually = <E, R>(holds: Effect.Effect<boolean, E, R>) =>
  holds.pipe(
    Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("10 millis") }),
    Effect.timeout("20 seconds")
  )
const quiet = Effect.provide(Layer.fresh(Logger.layer([])))

const threeWays = Effect.gen(function*() {
  const server = yield* makeEtcdServer()
  const proxies = [yield* makeProxy(server), yield* makeProxy(server), yield* makeProxy(server)] as const
  return { server, proxies, endpoints: proxies.map(({ endpoint }) => endpoint) }
})

/** Asks until requests have gone to everybody. */
const allUsed = Effect.fnUntraced(function*(
  etcd: Pick<Port, "range">,
  proxies: ReadonlyArray<Proxy>
) {
  const ups = Effect.forEach(proxies, ({ bytes }) => Effect.map(bytes, ({ up }) => up))
  const before = yield* ups
  // More than a greeting.
  yield* eventually(Effect.andThen(
    Effect.ignore(etcd.range({ key: "/a" })),
    Effect.map(ups, (after) => after.every((up, i) => up > (before[i] ?? 0) + 500))
  ))
})

const accepted = (proxies: ReadonlyArray<Proxy>) => Effect.forEach(proxies, (proxy) => proxy.accepted)

/** A watch, and the revisions that it has delivered. */
const watching = Effect.fnUntraced(function*(etcd: Port, startRevision: bigint) {
  const seen: Array<bigint> = []
  let opened = false
  yield* etcd.watch({ prefix: "/", startRevision }).pipe(
    Stream.runForEach((item) =>
      Effect.sync(() => {
        if (item._tag === "Opened") opened = true
        else seen.push(item.revision)
      })
    ),
    Effect.forkScoped({ startImmediately: true })
  )
  yield* eventually(Effect.sync(() => opened))
  return seen
})

describe("one of three members is frozen", () => {
  it.live(
    "writes in flight on it are ambiguous in seconds, others go on, and it is used again when it answers",
    () =>
      Effect.gen(function*() {
        const { endpoints, proxies, server } = yield* threeWays
        const etcd = yield* connect({ endpoints, timeout: "30 seconds", batching: false })
        yield* allUsed(etcd, proxies)
        const [frozen, ...living] = proxies
        yield* frozen.freeze
        const [time, results] = yield* timed(Effect.forEach(
          Array.from({ length: 30 }, (_, i) => `/w/${i}`),
          (key) => Effect.result(etcd.txn(put(key))),
          { concurrency: "unbounded" }
        ))
        const failures = results.flatMap((result) => result._tag === "Failure" ? [result.failure.reason] : [])
        assert.isAtLeast(failures.length, 1)
        assert.isAtMost(failures.length, 10)
        for (const reason of failures) {
          assert.deepInclude(reason, { _tag: "Ambiguous", detail: `${frozen.endpoint} does not answer` })
        }
        assert.isBelow(time, bound)
        // Nobody meets it any more: it takes connections, and says nothing.
        yield* Effect.forEach(Array.from({ length: 30 }), () => etcd.txn(put("/x")), { concurrency: "unbounded" })
        assert.deepStrictEqual(yield* accepted(living), [1, 1])

        yield* frozen.thaw
        const direct = yield* connect({ endpoints: server.endpoint })
        yield* direct.txn(put("/x"))
        const used = (yield* frozen.bytes).up
        yield* eventually(Effect.gen(function*() {
          yield* etcd.range({ key: "/x" })
          return (yield* frozen.bytes).up > used + 2000
        }))
      }).pipe(quiet),
    60_000
  )

  it.live("watches that nobody calls beside go on with what others write", () =>
    Effect.gen(function*() {
      const { endpoints, proxies, server } = yield* threeWays
      const direct = yield* connect({ endpoints: server.endpoint })
      const etcd = yield* connect({ endpoints })
      yield* allUsed(etcd, proxies)
      const { revision: first } = yield* direct.txn(put("/first"))
      const watches = yield* Effect.forEach(Array.from({ length: 6 }), () => watching(etcd, first))
      const [frozen, ...living] = proxies
      yield* frozen.freeze
      const { revision } = yield* direct.txn(put("/second"))
      const [time] = yield* timed(
        eventually(Effect.sync(() => watches.every((seen) => seen.at(-1) === revision)))
      )
      assert.isBelow(time, bound)
      for (const seen of watches) assert.deepStrictEqual(seen, [first, revision])
      assert.deepStrictEqual(yield* accepted(living), [1, 1])
    }).pipe(quiet), 60_000)

  it.live("beats are answered by another", () =>
    Effect.gen(function*() {
      const { endpoints, proxies } = yield* threeWays
      const etcd = yield* connect({ endpoints, timeout: "30 seconds", batching: false })
      yield* allUsed(etcd, proxies)
      const { id } = yield* etcd.leaseGrant(Duration.seconds(60))
      yield* etcd.leaseKeepAlive(id)
      const before = yield* Effect.forEach(proxies, ({ bytes }) => bytes)
      yield* Effect.forEach(Array.from({ length: 20 }), () => etcd.leaseKeepAlive(id))
      const after = yield* Effect.forEach(proxies, ({ bytes }) => bytes)
      const carrier = proxies.find((_, i) => (after[i]?.up ?? 0) - (before[i]?.up ?? 0) > 200)
      assert.isDefined(carrier)
      yield* carrier?.freeze ?? Effect.void
      const [time, ttl] = yield* timed(etcd.leaseKeepAlive(id))
      assert.deepStrictEqual(ttl, Duration.seconds(60))
      assert.isBelow(time, bound)
    }).pipe(quiet), 60_000)

  it.live(
    "also when it greets, and then says no more: writes do not go there until it answers",
    () =>
      Effect.gen(function*() {
        const { endpoints, proxies, server } = yield* threeWays
        const paths: Array<string> = []
        let talks = true
        const mute = Http2.createServer().on("stream", (stream, headers) => {
          paths.push(String(headers[":path"]))
          stream.on("error", () => {}).resume()
          if (!talks) return
          stream.respond({ ":status": 200, "content-type": "application/grpc", "grpc-status": "7" }, {
            endStream: true
          })
        })
        const port = yield* Effect.acquireRelease(
          Effect.callback<number>((resume) => {
            mute.listen(0, "127.0.0.1", () => {
              const address = mute.address()
              resume(Effect.succeed(address !== null && typeof address === "object" ? address.port : 0))
            })
          }),
          () => Effect.sync(() => mute.close())
        )
        const direct = yield* connect({ endpoints: server.endpoint })
        const { revision: first } = yield* direct.txn(put("/first"))
        const etcd = yield* connect({
          endpoints: [`127.0.0.1:${port}`, ...endpoints],
          timeout: "30 seconds",
          batching: false
        })
        yield* allUsed(etcd, proxies)
        const denied = Effect.map(Effect.result(etcd.range({ key: "/a" })), ({ _tag }) => _tag === "Failure")
        yield* eventually(denied)
        talks = false
        // Some of them there, in vain.
        const watches = yield* Effect.forEach(Array.from({ length: 8 }), () => watching(etcd, first), {
          concurrency: "unbounded"
        })
        assert.isAtLeast(paths.filter((path) => path.endsWith("/Watch")).length, 1)
        const write = Effect.forEach(Array.from({ length: 8 }), () => etcd.txn(put("/x")), { concurrency: "unbounded" })
        const asked = paths.length
        yield* eventually(Effect.andThen(write, Effect.sync(() => paths.length > asked + 1)))
        assert.strictEqual(paths.filter((path) => path.endsWith("/Txn")).length, 0)
        const { revision } = yield* etcd.txn(put("/last"))
        yield* eventually(Effect.sync(() => watches.every((seen) => seen.at(-1) === revision)))
        talks = true
        yield* eventually(denied)
      }).pipe(quiet),
    60_000
  )
})

describe("nobody is cut off", () => {
  it.live("who is slow, and answers", () =>
    Effect.gen(function*() {
      const { endpoints, proxies, server } = yield* threeWays
      const etcd = yield* connect({ endpoints })
      yield* allUsed(etcd, proxies)
      const { revision: first } = yield* (yield* connect({ endpoints: server.endpoint })).txn(put("/first"))
      const watches = yield* Effect.forEach([1, 2, 3], () => watching(etcd, first))
      yield* proxies[0].delay(600)
      yield* Effect.sleep("4 seconds")
      for (let i = 0; i < 6; i++) yield* etcd.txn(put(`/w/${i}`))
      yield* Effect.sleep("4 seconds")
      assert.deepStrictEqual(yield* accepted(proxies), [1, 1, 1])
      for (const seen of watches) assert.strictEqual(seen.length, 7)
    }), 60_000)

  it.live(
    "when no member answers: calls have their whole time, and all goes on where it was",
    () =>
      Effect.gen(function*() {
        const { endpoints, proxies } = yield* threeWays
        const etcd = yield* connect({ endpoints, timeout: "4 seconds", batching: false })
        yield* allUsed(etcd, proxies)
        const { revision: first } = yield* etcd.txn(put("/first"))
        const watches = yield* Effect.forEach([1, 2, 3], () => watching(etcd, first))
        yield* Effect.forEach(proxies, ({ freeze }) => freeze)
        const reasons = yield* Effect.forEach(
          [etcd.txn(put("/a")), etcd.txn(put("/b")), etcd.txn(put("/c"))],
          (write) => Effect.map(Effect.flip(write), ({ reason }) => reason),
          { concurrency: "unbounded" }
        )
        for (const reason of reasons) {
          assert.strictEqual(reason._tag, "Ambiguous")
          assert.notInclude(reason.message, "does not answer")
        }
        yield* Effect.forEach(proxies, ({ thaw }) => thaw)
        const { revision } = yield* etcd.txn(put("/last"))
        // What was given up on may still come after it.
        yield* eventually(Effect.sync(() => watches.every((seen) => seen.includes(revision))))
        assert.deepStrictEqual(yield* accepted(proxies), [1, 1, 1])
      }),
    60_000
  )

  it.live("when it was this process that stood still", () =>
    Effect.gen(function*() {
      const said: Array<string> = []
      const logger = Logger.make(({ message }) => void said.push(String(message)))
      const { endpoints, proxies } = yield* threeWays
      const etcd = yield* Effect.provide(connect({ endpoints }), Layer.fresh(Logger.layer([logger])))
      yield* allUsed(etcd, proxies)
      yield* Effect.forEach([1, 2, 3], () => watching(etcd, 1n))
      yield* Effect.sleep("1 second")
      // Slow enough that the others are asked in the meantime, and answer sooner.
      yield* proxies[0].delay(500)
      for (let i = 0; i < 4; i++) {
        // Its question is halfway there, which is when the others get theirs.
        const { up } = yield* proxies[0].bytes
        yield* eventually(Effect.map(proxies[0].bytes, (now) => now.up > up))
        yield* Effect.sleep("150 millis")
        yield* Effect.sync(() => {
          for (const end = performance.now() + 2400; performance.now() < end;);
        })
      }
      yield* Effect.sleep("1 second")
      // Not of connections: grpc-js's own keepalive may take the blocked loop for a silent peer.
      assert.deepStrictEqual(said.filter((line) => line.includes("does not answer")), [])
    }), 60_000)
})

describe("waiting for a connection", () => {
  it.effect("is not looked after any more when it is interrupted", () =>
    Effect.gen(function*() {
      const condition = makeCondition()
      let looks = 0
      const fiber = yield* Effect.forkChild(
        condition.until(() => {
          looks++
          return false
        }),
        { startImmediately: true }
      )
      yield* Fiber.interrupt(fiber)
      condition.changed()
      assert.strictEqual(looks, 1)
    }))

  it.live("leaves nothing behind when it is interrupted, and ends with the connection", () =>
    Effect.gen(function*() {
      const { proxies } = yield* threeWays
      yield* Effect.forEach(proxies, ({ freeze }) => freeze)
      const watched = vi.spyOn(Channel.prototype, "watchConnectivityState")
      const transport = yield* attempts(0, {
        endpoints: proxies.map(({ port }) => ({ host: "127.0.0.1", port })),
        timeout: Duration.seconds(20),
        dialTimeout: Duration.seconds(20)
      })
      yield* Effect.sleep("300 millis")
      const before = watched.mock.calls.length
      const calls = Array.from({ length: 50 }, () => transport.range({ key: "/a" }))
      for (let i = 0; i < 10; i++) {
        const fibers = yield* Effect.forEach(calls, (call) => Effect.forkChild(call, { startImmediately: true }))
        yield* Fiber.interruptAll(fibers)
      }
      assert.strictEqual(watched.mock.calls.length, before)
      watched.mockRestore()
      const waiting = yield* Effect.forkChild(transport.range({ key: "/a" }), { startImmediately: true })
      yield* proxies[1].thaw
      yield* Fiber.join(waiting)
    }), 30_000)

  it.live(
    "leaves a call its own time, also when the clock of the machine is set back meanwhile",
    () =>
      Effect.gen(function*() {
        const port = yield* freePort
        const mute = Http2.createServer().on("stream", (stream) => stream.on("error", () => {}).resume())
        yield* Effect.acquireRelease(
          Effect.callback<void>((resume) => void mute.listen(port, "127.0.0.1", () => resume(Effect.void))),
          () => Effect.sync(() => mute.close())
        )
        const proxy = yield* makeProxy({ port })
        yield* proxy.freeze
        const transport = yield* attempts(proxy.port, { timeout: Duration.seconds(2) })
        const call = yield* Effect.forkChild(Effect.flip(transport.txn(put("/a"))), { startImmediately: true })
        yield* eventually(Effect.map(proxy.accepted, (times) => times > 0))
        yield* Effect.acquireRelease(
          Effect.sync(() => vi.setSystemTime(Date.now() - 3_600_000)),
          () => Effect.sync(() => vi.useRealTimers())
        )
        yield* proxy.thaw
        const { reason } = yield* Fiber.join(call).pipe(Effect.timeout("6 seconds"))
        assert.strictEqual(reason._tag, "Timeout")
      }),
    30_000
  )

  it.live("ends in time, and says that nothing was sent", () =>
    Effect.gen(function*() {
      const { proxies } = yield* threeWays
      yield* Effect.forEach(proxies, ({ freeze }) => freeze)
      const transport = yield* attempts(0, {
        endpoints: proxies.map(({ port }) => ({ host: "127.0.0.1", port })),
        timeout: Duration.millis(500)
      })
      const { reason } = yield* Effect.flip(transport.txn(put("/a")))
      const where = proxies.map(({ endpoint }) => endpoint).join(", ")
      assert.deepInclude(reason, {
        _tag: "Unavailable",
        detail: `no connection to ${where} within the timeout`,
        sent: false
      })
    }))

  it.live(
    "is given up after dialTimeout where nothing is said, whatever came before, and begins anew",
    () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer()
        const proxy = yield* makeProxy(server)
        yield* proxy.refuse
        const transport = yield* attempts(proxy.port, { dialTimeout: Duration.seconds(1) })
        // Refused, so that grpc-js goes on behind the failure that it knows.
        yield* Effect.flip(transport.range({ key: "/a" }))
        yield* proxy.freeze
        yield* proxy.accept
        yield* eventually(Effect.map(proxy.accepted, (times) => times >= 3))
        yield* proxy.thaw
        yield* eventually(Effect.map(Effect.result(transport.range({ key: "/a" })), ({ _tag }) => _tag === "Success"))
      }),
    30_000
  )
})

describe("a name", () => {
  it.live("of two addresses is one endpoint, and a DNS outage does not lose it", () =>
    Effect.gen(function*() {
      const { proxies, server } = yield* threeWays
      const [named, other] = proxies
      names.set("two.test", ["127.0.0.2", "127.0.0.1"])
      const transport = yield* attempts(0, {
        endpoints: [{ host: "two.test", port: named.port }, { host: "127.0.0.1", port: other.port }]
      })
      yield* allUsed(transport, [named, other])
      yield* Effect.forEach(Array.from({ length: 6 }), () => transport.range({ key: "/a" }))
      assert.deepStrictEqual(yield* accepted([named, other]), [1, 1])
      names.set("two.test", "down")
      yield* other.refuse
      yield* Effect.forEach([named, other], ({ cut }) => cut)
      yield* eventually(Effect.map(Effect.result(transport.range({ key: "/a" })), ({ _tag }) => _tag === "Success"))
      assert.isAtLeast(yield* named.accepted, 2)
      assert.isAbove(server.port, 0)
    }), 30_000)
})
