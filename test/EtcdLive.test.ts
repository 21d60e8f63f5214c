import { assert, describe, it } from "@effect/vitest"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { execFileSync, spawn } from "node:child_process"
import * as Http2 from "node:http2"
import * as Net from "node:net"
import { fileURLToPath } from "node:url"
import { ConfigCenter } from "../src/ConfigCenter.ts"
import { Compare, Operation } from "../src/Etcd.ts"
import type { EtcdError } from "../src/EtcdError.ts"
import { EtcdLive, layerEtcd, layerEtcdConfig } from "../src/EtcdLive.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import { Lock } from "../src/Lock.ts"
import { type EtcdServer, makeEtcdServer } from "./utils/EtcdServer.ts"
import { attempts, connect } from "./utils/live.ts"
import { makeProxy } from "./utils/Proxy.ts"

const versions = ["3.5", "3.4"] as const
const once = { retry: { maxAttempts: 1 } } as const

const reasonOf = <A, R>(effect: Effect.Effect<A, EtcdError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.reason)
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([time, a]) => [Duration.toMillis(time), a] as const)
const put = (key: string, value = "1") => ({ success: [Operation.put(key, value)] })

const switchAuthOn = Effect.fnUntraced(function*(server: EtcdServer) {
  yield* server.etcdctl("user", "add", "root:secret")
  yield* Effect.ignore(server.etcdctl("role", "add", "root"))
  yield* server.etcdctl("user", "grant-role", "root", "root")
  yield* server.etcdctl("user", "add", "guest:secret")
  yield* server.etcdctl("role", "add", "guest")
  yield* server.etcdctl("role", "grant-permission", "guest", "readwrite", "--prefix=true", "/guest/")
  yield* server.etcdctl("user", "grant-role", "guest", "guest")
  yield* server.etcdctl("auth", "enable")
})
const as = (username: string, password = "secret") => ({ username, password: Redacted.make(password) })

/** A server that accepts and never says a word. */
const silentServer = Effect.acquireRelease(
  Effect.callback<{ readonly port: number; readonly sockets: Set<Net.Socket>; readonly close: () => void }>(
    (resume) => {
      const sockets = new Set<Net.Socket>()
      const server = Net.createServer((socket) => {
        sockets.add(socket)
        socket.on("close", () => sockets.delete(socket)).on("error", () => {}).resume()
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = address !== null && typeof address === "object" ? address.port : 0
        resume(Effect.succeed({ port, sockets, close: () => server.close() }))
      })
    }
  ),
  ({ close, sockets }) =>
    Effect.sync(() => {
      close()
      for (const socket of sockets) socket.destroy()
    })
)

const until = (condition: () => boolean) =>
  Effect.sync(condition).pipe(
    Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("10 millis") }),
    Effect.timeout("10 seconds")
  )

describe("a layer that cannot connect", () => {
  it.live("names a refused endpoint, and what to look at", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(connect({ endpoints: "127.0.0.1:1", ...once }))
      assert.strictEqual(error._tag, "EtcdError")
      assert.match(
        error.message,
        /^connect: etcd is unavailable: no connection to 127\.0\.0\.1:1: .*ECONNREFUSED.*endpoints/
      )
    }))

  it.live("names an unknown host", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(connect({ endpoints: "no-such-host.invalid:2379", ...once }))
      assert.match(error.message, /no-such-host\.invalid:2379: .*(ENOTFOUND|EAI_AGAIN).*host name/)
    }))

  it.live("gives up within dialTimeout on a peer that says nothing, and leaves no connection", () =>
    Effect.gen(function*() {
      const { port, sockets } = yield* silentServer
      const options = { endpoints: `127.0.0.1:${port}`, dialTimeout: "1 second", timeout: "300 millis" } as const
      const [time, error] = yield* timed(Effect.scoped(Effect.flip(connect(options))))
      assert.isBelow(time, 1500)
      assert.include(error.message, `127.0.0.1:${port}`)
      yield* until(() => sockets.size === 0)
    }))

  it.live("uses what is there of several endpoints, by name and by address", () =>
    Effect.gen(function*() {
      const { port } = yield* makeEtcdServer()
      const etcd = yield* connect({ endpoints: ["127.0.0.1:1", `localhost:${port}`, "no-such-host.invalid:2379"] })
      for (let i = 0; i < 10; i++) yield* etcd.range({ key: "/a" })
      const http = yield* connect({ endpoints: `http://127.0.0.1:${port}` })
      yield* http.range({ key: "/a" })
    }))

  for (const version of versions) {
    it.live(`says what is wrong with the credentials (${version})`, () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const fails = (options: object, message: RegExp) =>
          Effect.gen(function*() {
            const error = yield* Effect.flip(connect({ endpoints: server.endpoint, ...options }))
            assert.strictEqual(error._tag === "EtcdError" ? error.reason._tag : error._tag, "Unauthenticated")
            assert.include(error.message, server.endpoint)
            assert.match(error.message, message)
            assert.notInclude(error.message, "secret")
          })
        yield* fails(as("root"), /switched off/)
        yield* switchAuthOn(server)
        yield* fails({}, /username/)
        yield* fails(as("root", "secret!"), /"root".*wrong/)
        yield* fails(as("nobody"), /"nobody".*wrong/)
        yield* connect({ endpoints: server.endpoint, ...as("guest") })
      }))
  }
})

describe("authentication", () => {
  for (const version of versions) {
    it.live(`outlives the loss of all tokens, in calls, beats and watches (${version})`, () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        yield* switchAuthOn(server)
        const etcd = yield* connect({ endpoints: server.endpoint, ...as("root") })
        const lease = yield* etcd.leaseGrant(Duration.seconds(60))
        yield* etcd.leaseKeepAlive(lease.id)
        const { revision } = yield* etcd.txn(put("/first"))
        const watch = yield* etcd.watch({ prefix: "/", startRevision: revision }).pipe(
          Stream.takeUntil((item) => item._tag === "Batch" && item.revision > revision),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        // Simple tokens live in memory.
        yield* server.kill
        yield* server.start
        yield* Effect.forEach(Array.from({ length: 20 }), () => etcd.range({ key: "/a" }), { concurrency: "unbounded" })
        yield* etcd.txn(put("/second"))
        yield* etcd.leaseKeepAlive(lease.id)
        const seen = yield* Fiber.join(watch)
        assert.deepStrictEqual(seen.flatMap((item) => item._tag === "Batch" ? [item.revision] : []), [
          revision,
          revision + 1n
        ])
      }))

    it.live(`denies what a role does not allow, and nothing else is disturbed (${version})`, () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        yield* switchAuthOn(server)
        const etcd = yield* connect({ endpoints: server.endpoint, ...as("guest") })
        const denied = [
          etcd.range({ key: "/other" }),
          etcd.txn(put("/other")),
          Stream.runDrain(etcd.watch({ key: "/other", startRevision: 1n })),
          Stream.runDrain(etcd.watch({ key: "/other" }))
        ]
        for (const effect of denied) {
          const error = yield* Effect.flip(effect as Effect.Effect<unknown, EtcdError>)
          assert.strictEqual(error.reason._tag, "PermissionDenied")
          assert.strictEqual(error.key, "/other")
        }
        const { revision } = yield* etcd.txn(put("/guest/a"))
        const seen = yield* etcd.watch({ prefix: "/guest/", startRevision: revision }).pipe(
          Stream.take(2),
          Stream.runCollect
        )
        assert.strictEqual(seen[1]?._tag, "Batch")
      }))
  }
})

describe("a lost answer", () => {
  for (const version of versions) {
    it.live(`makes a write ambiguous, is asked for again by a read, and a grant makes one lease (${version})`, () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const proxy = yield* makeProxy({ port: server.port })
        const etcd = yield* connect({ endpoints: proxy.endpoint, timeout: "2 seconds" })
        const direct = yield* connect({ endpoints: server.endpoint })

        /** The request arrives, its answer does not, and the connection is cut. */
        const losing = <A>(effect: Effect.Effect<A, EtcdError>, applied: Effect.Effect<boolean, EtcdError>) =>
          Effect.gen(function*() {
            // Connected first: a connection cannot be made without answers.
            yield* etcd.range({ key: "/a" })
            yield* proxy.dropResponses
            const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
            yield* applied.pipe(
              Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("10 millis") }),
              Effect.timeoutOrElse({
                duration: "5 seconds",
                orElse: () => Effect.die("not applied")
              })
            )
            yield* proxy.passResponses
            return yield* Effect.result(Fiber.join(fiber))
          })
        const exists = (key: string) => Effect.map(direct.range({ key }), ({ count }) => count === 1)

        const lost = yield* losing(etcd.txn(put("/a")), exists("/a"))
        assert.strictEqual(lost._tag === "Failure" && lost.failure.reason._tag, "Ambiguous")
        const set = { compare: [Compare.value("/a", "=", "1")], success: [Operation.put("/b", "2")] }
        const compared = yield* losing(etcd.txn(set), exists("/b"))
        assert.strictEqual(compared._tag === "Failure" && compared.failure.reason._tag, "Ambiguous")
        for (const key of ["/a", "/b"]) assert.strictEqual((yield* direct.range({ key })).kvs[0]?.version, 1n)

        yield* proxy.dropResponses
        const reading = yield* Effect.forkChild(etcd.range({ key: "/a" }), { startImmediately: true })
        yield* Effect.sleep("100 millis")
        yield* proxy.passResponses
        assert.strictEqual((yield* Fiber.join(reading)).count, 1)

        const leases = Effect.map(
          Effect.orDie(server.etcdctl("lease", "list")),
          (text) => text.match(/^[0-9a-f]+$/gm) ?? []
        )
        assert.deepStrictEqual(yield* leases, [])
        const granted = yield* losing(
          etcd.leaseGrant(Duration.seconds(30)),
          Effect.map(leases, ({ length }) => length === 1)
        )
        assert.strictEqual(granted._tag, "Success")
        if (granted._tag === "Success") {
          assert.deepStrictEqual((yield* leases).map((id) => BigInt(`0x${id}`)), [granted.success.id])
          assert.deepStrictEqual(granted.success.ttl, Duration.seconds(30))
        }
      }))
  }

  it.live("cannot be when nothing was sent: writes wait for a server that comes back", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const proxy = yield* makeProxy({ port: server.port })
      const transport = yield* attempts(proxy.port)
      const etcd = yield* makeEtcd(transport, {
        retry: Schedule.spaced("50 millis"),
        timeout: Duration.seconds(5),
        namespace: ""
      })
      yield* etcd.range({ key: "/a" })
      yield* proxy.refuse
      yield* proxy.cut
      // Until the cut is noticed, a request may still be written to the old connection.
      const unsent = { _tag: "Unavailable", sent: false } as const
      yield* reasonOf(transport.range({ key: "/a" })).pipe(
        Effect.repeat({ until: (reason) => reason._tag === "Unavailable" && !reason.sent })
      )
      assert.deepInclude(yield* reasonOf(transport.txn(put("/a"))), unsent)
      const writing = yield* Effect.forkChild(etcd.txn(put("/a")), { startImmediately: true })
      yield* Effect.sleep("500 millis")
      yield* proxy.accept
      yield* Fiber.join(writing)
      assert.strictEqual((yield* etcd.range({ key: "/a" })).kvs[0]?.version, 1n)
    }))
})

describe("a frozen server", () => {
  for (const version of versions) {
    it.live(`costs a call its timeout, and no more (${version})`, () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const etcd = yield* connect({ endpoints: server.endpoint, timeout: "500 millis" })
        yield* server.pause
        const [time, reasons] = yield* timed(Effect.all([
          reasonOf(etcd.range({ key: "/a" })),
          reasonOf(etcd.txn(put("/a"))),
          reasonOf(etcd.leaseGrant(Duration.seconds(5)))
        ], { concurrency: "unbounded" }))
        assert.deepStrictEqual(reasons.map(({ _tag }) => _tag), ["Timeout", "Ambiguous", "Timeout"])
        assert.isBelow(time, 2000)
        yield* server.resume
        yield* etcd.range({ key: "/a" })
      }))
  }
})

describe("interruption", () => {
  it.live("cancels the call and the watch on the wire, and the connection stays", () =>
    Effect.gen(function*() {
      // gRPC's shape without its answers: what matters is what the server is told.
      const server = Http2.createServer()
      const streams: Array<{ readonly path: string; closed: number | undefined }> = []
      let sessions = 0
      server.on("session", () => sessions++)
      server.on("stream", (stream, headers) => {
        const entry = { path: String(headers[":path"]), closed: undefined as number | undefined }
        streams.push(entry)
        stream.on("error", () => {}).on("close", () => {
          entry.closed = stream.rstCode
        }).resume()
      })
      const port = yield* Effect.acquireRelease(
        Effect.callback<number>((resume) => {
          server.listen(0, "127.0.0.1", () => {
            const address = server.address()
            resume(Effect.succeed(address !== null && typeof address === "object" ? address.port : 0))
          })
        }),
        () => Effect.sync(() => server.close())
      )
      yield* Effect.scoped(Effect.gen(function*() {
        const transport = yield* attempts(port)
        const calls: ReadonlyArray<Effect.Effect<unknown, EtcdError>> = [
          transport.range({ key: "/a" }),
          transport.txn(put("/a")),
          Stream.runDrain(transport.watch({ key: "/a" }))
        ]
        for (const call of calls) {
          const before = streams.length
          const fiber = yield* Effect.forkChild(call, { startImmediately: true })
          yield* until(() => streams.length > before)
          const [time] = yield* timed(Fiber.interrupt(fiber))
          assert.isBelow(time, 200)
          yield* until(() => streams[before]?.closed !== undefined)
          assert.strictEqual(streams[before]?.closed, Http2.constants.NGHTTP2_CANCEL)
        }
        assert.strictEqual(sessions, 1)
      }))
    }))
})

describe("close", () => {
  it.live("ends a watch, a call and a beat that nobody answers, and the process", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const proxy = yield* makeProxy({ port: server.port })
      const script = fileURLToPath(new URL("./fixtures/closeWhileBusy.ts", import.meta.url))
      const child = yield* Effect.acquireRelease(
        Effect.sync(() => spawn(process.execPath, [script, proxy.endpoint], { stdio: ["pipe", "pipe", "inherit"] })),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      let output = ""
      child.stdout.on("data", (chunk) => {
        output += String(chunk)
      })
      yield* until(() => output.includes("watching"))
      yield* proxy.freeze
      const exit = Effect.callback<number | null>((resume) => {
        child.on("exit", (code) => resume(Effect.succeed(code)))
      })
      const exited = yield* Effect.forkChild(exit, { startImmediately: true })
      child.stdin.write("go\n")
      const [time, code] = yield* timed(Fiber.join(exited)).pipe(Effect.timeout("10 seconds"))
      assert.deepStrictEqual([code, output], [0, "watching\nClosed\nClosed\nClosed\n"])
      assert.isBelow(time, 2000)
    }))
})

describe("first use", () => {
  it.live("reads, writes, leases and watches keys without the description of etcd's protocol, which the state of a member needs", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const script = fileURLToPath(new URL("./fixtures/firstUse.ts", import.meta.url))
      const output = execFileSync(process.execPath, [script], {
        env: { ...process.env, ETCD_ENDPOINTS: server.endpoint },
        encoding: "utf8"
      })
      assert.strictEqual(
        output,
        "keys: 1, not loaded\nlease: 60 s, not loaded\nwatch: Opened, not loaded\nmembers: Known, loaded\n"
      )
    }))
})

describe("the layers with all services", () => {
  it.live("take their options from a record, from configuration, and from the environment", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const env = ConfigProvider.layer(
        ConfigProvider.fromEnv({ env: { ETCD_ENDPOINTS: server.endpoint, ETCD_NAMESPACE: "ns" } })
      )
      const layers = [
        layerEtcd({ endpoints: server.endpoint, namespace: "ns" }),
        layerEtcdConfig({ endpoints: Config.String("ETCD_ENDPOINTS"), namespace: Config.succeed("ns") }),
        EtcdLive
      ]
      for (const [i, layer] of layers.entries()) {
        const version = yield* Effect.gen(function*() {
          const lock = yield* Lock
          const config = yield* ConfigCenter
          return yield* lock.withLock("a")(config.set("a", Schema.Number, i))
        }).pipe(Effect.provide(Layer.provide(Layer.fresh(layer), env)))
        const { kvs } = yield* (yield* connect({ endpoints: server.endpoint })).range({ prefix: "" })
        assert.deepStrictEqual(kvs.map(({ key, modRevision }) => [key, modRevision]), [["ns/config/a", version]])
      }
    }))

  it.live("refuse before they connect", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Layer.build(layerEtcd({ endpoints: "127.0.0.1:1", lockPrefix: "locks" })))
      assert.deepInclude(error, { _tag: "InvalidOption", option: "lockPrefix" })
    }))
})
