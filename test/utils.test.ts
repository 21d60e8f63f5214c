import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as ChildProcess from "node:child_process"
import * as Net from "node:net"
import { findEtcd } from "../scripts/etcd.ts"
import { makeCluster } from "./utils/Cluster.ts"
import { makeEtcdServer, makeMember, retryTakenPort, TestEtcd } from "./utils/EtcdServer.ts"
import { freePort } from "./utils/ports.ts"
import { makeProxy } from "./utils/Proxy.ts"

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const until = (what: string, condition: Effect.Effect<boolean>): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let attempt = 0; attempt < 500; attempt++) {
      if (yield* condition) return
      yield* Effect.sleep(20)
    }
    return yield* Effect.die(new Error(`still waiting: ${what}`))
  })

describe("EtcdServer", () => {
  for (const version of ["3.5", "3.4"] as const) {
    it.live(`${version} keeps its data over a kill, and is gone with its scope`, () =>
      Effect.gen(function*() {
        const pid = yield* Effect.scoped(Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          assert.include(yield* server.etcdctl("version"), `etcdctl version: ${version}.`)
          yield* server.etcdctl("put", "a", "1")
          const first = yield* server.pid
          yield* server.kill
          assert.isFalse(isAlive(first))
          const error = yield* Effect.flip(server.etcdctl("--dial-timeout=1s", "--command-timeout=1s", "get", "a"))
          assert.strictEqual(error._tag, "EtcdctlError")
          yield* server.start
          assert.strictEqual(yield* server.etcdctl("get", "a", "--print-value-only"), "1\n")
          yield* server.pause
          const get = yield* Effect.forkChild(server.etcdctl("get", "a", "--print-value-only"), {
            startImmediately: true
          })
          yield* Effect.sleep(200)
          assert.isUndefined(get.pollUnsafe())
          yield* server.resume
          assert.strictEqual(yield* Fiber.join(get), "1\n")
          return yield* server.pid
        }))
        assert.isFalse(isAlive(pid))
      }), 60_000)
  }

  it.live("does not outlive a test process that is killed", () =>
    Effect.gen(function*() {
      const script = `
        import * as Effect from "effect/Effect"
        import { makeEtcdServer } from "${new URL("utils/EtcdServer.ts", import.meta.url).href}"
        setInterval(() => {}, 1000)
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const server = yield* makeEtcdServer()
          console.log(yield* server.pid)
          yield* Effect.never
        })))`
      const child = ChildProcess.spawn(process.execPath, ["--input-type=module-typescript", "--eval", script], {
        cwd: import.meta.dirname,
        stdio: ["ignore", "pipe", "inherit"]
      })
      const pid = yield* Effect.promise(() =>
        new Promise<number>((resume) => child.stdout.once("data", (text) => resume(Number(text))))
      )
      assert.isTrue(isAlive(pid))
      child.kill("SIGKILL")
      yield* until("etcd is killed", Effect.sync(() => !isAlive(pid)))
    }), 60_000)

  it.effect("starts under a test clock", () =>
    Effect.gen(function*() {
      const server = yield* TestEtcd
      yield* server.etcdctl("put", "a", "1")
    }).pipe(Effect.provide(TestEtcd.layer())), 60_000)

  it.live("leaves a port that is taken to its owner, and tries another", () =>
    Effect.gen(function*() {
      const owner = yield* makeEtcdServer()
      const binary = yield* findEtcd("3.5")
      let port = owner.port
      const server = yield* retryTakenPort(Effect.gen(function*() {
        const peerPort = yield* freePort
        const initialCluster = `test=http://127.0.0.1:${peerPort}`
        const made = yield* makeMember({ binary, name: "test", port, peerPort, initialCluster, args: [] })
        port = yield* freePort
        yield* made.start
        return made.server
      }))
      assert.notStrictEqual(server.port, owner.port)
      yield* owner.etcdctl("put", "a", "1")
      assert.strictEqual(yield* server.etcdctl("get", "a"), "")
    }), 60_000)

  it.live("a server that cannot start says why", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(makeEtcdServer({ args: ["--no-such-flag"] }))
      assert.strictEqual(error._tag, "EtcdStartFailed")
      assert.include(error.message, "no-such-flag")
    }))
})

describe("Cluster", () => {
  it.live("elects another leader when its leader is killed, and takes it back", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      assert.strictEqual(new Set(cluster.endpoints).size, 3)
      const first = yield* cluster.leader
      yield* first.kill
      const second = yield* cluster.leader
      assert.notStrictEqual(second.endpoint, first.endpoint)
      yield* second.etcdctl("put", "a", "1")
      yield* first.start
      assert.strictEqual(yield* first.etcdctl("get", "a", "--print-value-only"), "1\n")
    }), 60_000)
})

describe("Proxy", () => {
  const echo = Effect.acquireRelease(
    Effect.callback<{ readonly server: Net.Server; readonly port: number; readonly received: () => string }>(
      (resume) => {
        let received = ""
        const server = Net.createServer((socket) => {
          socket.on("error", () => {})
          socket.on("data", (data) => {
            received += String(data)
            socket.write(data)
          })
        })
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          const port = typeof address === "object" && address !== null ? address.port : 0
          resume(Effect.succeed({ server, port, received: () => received }))
        })
      }
    ),
    ({ server }) => Effect.sync(() => server.close())
  )

  interface Client {
    readonly send: (text: string) => void
    readonly text: () => string
    readonly closed: () => boolean
  }

  const connect = (port: number) =>
    Effect.acquireRelease(
      Effect.callback<Client & { readonly socket: Net.Socket }, Error>((resume) => {
        let text = ""
        let closed = false
        const socket = Net.connect(port, "127.0.0.1")
        socket.on("connect", () =>
          resume(Effect.succeed({
            socket,
            send: (data) => socket.write(data),
            text: () => text,
            closed: () => closed
          })))
        socket.on("error", (error) => resume(Effect.fail(error)))
        socket.on("close", () => {
          closed = true
        })
        socket.on("data", (data) => {
          text += String(data)
        })
      }),
      ({ socket }) => Effect.sync(() => socket.destroy())
    )

  const receives = (client: Client, text: string) =>
    until(`the answer ${text}`, Effect.sync(() => client.text() === text))

  it.live("passes on, cuts and refuses", () =>
    Effect.gen(function*() {
      const target = yield* echo
      const proxy = yield* makeProxy(target)
      const first = yield* connect(proxy.port)
      first.send("hello")
      yield* receives(first, "hello")
      assert.deepStrictEqual(yield* proxy.bytes, { up: 5, down: 5 })
      assert.strictEqual(yield* proxy.connections, 1)
      yield* proxy.refuse
      yield* Effect.flip(connect(proxy.port))
      first.send("!")
      yield* receives(first, "hello!")
      yield* proxy.accept
      const second = yield* connect(proxy.port)
      second.send("x")
      yield* receives(second, "x")
      yield* proxy.cut
      yield* until("both are closed", Effect.sync(() => first.closed() && second.closed()))
      assert.strictEqual(yield* proxy.connections, 0)
    }))

  it.live("freezes old and new connections, and loses nothing", () =>
    Effect.gen(function*() {
      const target = yield* echo
      const proxy = yield* makeProxy(target)
      const first = yield* connect(proxy.port)
      first.send("a")
      yield* receives(first, "a")
      yield* proxy.freeze
      const second = yield* connect(proxy.port)
      first.send("b")
      second.send("c")
      yield* Effect.sleep(200)
      assert.strictEqual(target.received(), "a")
      yield* proxy.thaw
      yield* receives(first, "ab")
      yield* receives(second, "c")
    }))

  it.live("drops responses of requests that arrived", () =>
    Effect.gen(function*() {
      const target = yield* echo
      const proxy = yield* makeProxy(target)
      const first = yield* connect(proxy.port)
      const idle = yield* connect(proxy.port)
      yield* proxy.dropResponses
      first.send("a")
      yield* until("it arrives", Effect.sync(() => target.received() === "a"))
      yield* Effect.sleep(100)
      assert.strictEqual(first.text(), "")
      assert.isFalse(first.closed())
      yield* proxy.passResponses
      yield* until("the one with a gap is closed", Effect.sync(first.closed))
      idle.send("b")
      yield* receives(idle, "b")
    }))

  it.live("delays, in order", () =>
    Effect.gen(function*() {
      const target = yield* echo
      const proxy = yield* makeProxy(target)
      const client = yield* connect(proxy.port)
      yield* proxy.delay(150)
      const start = performance.now()
      client.send("a")
      client.send("b")
      yield* receives(client, "ab")
      assert.isAtLeast(performance.now() - start, 149)
    }))
})
