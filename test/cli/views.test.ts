import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { vi } from "vitest"
import { Election } from "../../src/Election.ts"
import { layerEtcd } from "../../src/EtcdLive.ts"
import { Lock } from "../../src/Lock.ts"
import { Registry } from "../../src/Registry.ts"
import { ServiceInstance } from "../../src/ServiceInstance.ts"
import { coord as command, coordBin, coordEnv } from "../utils/command.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { run } from "../utils/processes.ts"
import { onTerminal } from "../utils/terminal.ts"

// Each command is a process: on a busy machine it takes seconds to start.
vi.setConfig({ testTimeout: 120_000 })

const coord = (args: ReadonlyArray<string>) => Effect.flatMap(TestEtcd, ({ endpoint }) => command(endpoint, args))

/** The services of the library, as another process would have them. */
const library = Effect.gen(function*() {
  const { endpoint } = yield* TestEtcd
  const context = yield* Layer.build(Layer.fresh(layerEtcd({ endpoints: endpoint })))
  return {
    lock: Context.get(context, Lock),
    registry: Context.get(context, Registry),
    election: Context.get(context, Election)
  }
})

interface LockObject {
  readonly lock: string
  readonly holder: { readonly ttlLeftSeconds?: number }
  readonly waiting: ReadonlyArray<{ readonly key: string }>
}

const instance = (name: string, id: string, port = 8080) =>
  new ServiceInstance({ id, name, address: "10.0.0.7", port, metadata: { zone: "north" } })

const watching = (args: ReadonlyArray<string>) =>
  Effect.flatMap(
    TestEtcd,
    ({ endpoint }) => run(process.execPath, [coordBin, ...args], coordEnv({ ETCD_ENDPOINTS: endpoint }))
  )

const viewing = (args: ReadonlyArray<string>, rows?: number) =>
  Effect.flatMap(TestEtcd, ({ endpoint }) =>
    onTerminal([process.execPath, coordBin, ...args], {
      env: coordEnv({ ETCD_ENDPOINTS: endpoint }),
      ...rows !== undefined && { rows }
    }))

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord views", (it) => {
  it.effect("services, and the instances of one, as tables and as objects", () =>
    Effect.gen(function*() {
      const { registry } = yield* library
      assert.strictEqual((yield* coord(["services", "--no-json"])).text, "no services\n")
      yield* registry.register(instance("orders", "orders-1"))
      yield* registry.register(instance("orders", "orders-2", 8081))
      assert.deepStrictEqual((yield* coord(["services"])).objects, [{ service: "orders", instances: 2 }])
      assert.strictEqual((yield* coord(["services", "--no-json"])).text, "SERVICE  INSTANCES\norders   2\n")
      assert.deepStrictEqual((yield* coord(["services", "orders"])).objects[1], {
        service: "orders",
        id: "orders-2",
        address: "10.0.0.7",
        port: 8081,
        metadata: { zone: "north" }
      })
      assert.strictEqual(
        (yield* coord(["services", "orders", "--no-json"])).text,
        "ID        ADDRESS        METADATA\norders-1  10.0.0.7:8080  zone=north\norders-2  10.0.0.7:8081  zone=north\n"
      )
      assert.strictEqual((yield* coord(["services", "nobody", "--no-json"])).text, "no instances of nobody\n")
      assert.strictEqual((yield* coord(["services", "a//b"])).code, 2)
    }))

  it.effect("instances that come and go are told to a program once each", () =>
    Effect.gen(function*() {
      const { registry } = yield* library
      const watched = yield* watching(["services", "come-and-go", "--watch"])
      yield* watched.line("synced")
      const registration = yield* registry.register(instance("come-and-go", "one"))
      yield* watched.line("\"put\"")
      yield* registration.unregister
      yield* watched.line("\"delete\"")
      assert.deepStrictEqual(
        (yield* watched.lines).map((line) => (JSON.parse(line) as { event: string }).event),
        ["synced", "put", "delete"]
      )
      yield* watched.kill("SIGINT")
      assert.strictEqual(yield* watched.ended, 130)
    }))

  it.effect("a live view draws what changes, and leaves what was last seen on the terminal", () =>
    Effect.gen(function*() {
      const { registry } = yield* library
      const terminal = yield* viewing(["services", "--watch"])
      yield* terminal.until(({ screen }) => screen().includes("(Ctrl-C ends)"))
      yield* registry.register(instance("drawn", "one"))
      yield* terminal.until(({ screen }) => /^drawn +1$/m.test(screen()))
      yield* registry.register(instance("drawn", "two"))
      yield* terminal.until(({ screen }) => /^drawn +2$/m.test(screen()))
      terminal.type("\u0003")
      assert.strictEqual(yield* terminal.ended, 130)
      const [drawn = "", left = ""] = terminal.written().split("\u001b[?1049l")
      assert.include(drawn, "\u001b[?1049h")
      assert.match(left, /drawn +2/)
      assert.include(terminal.written(), "\u001b[?25h")
    }))

  it.effect("a list that is longer than the terminal says how much longer", () =>
    Effect.gen(function*() {
      const { registry } = yield* library
      for (let i = 0; i < 12; i++) yield* registry.register(instance("long", `long-${i}`, 9000 + i))
      const terminal = yield* viewing(["services", "long", "--watch"], 8)
      yield* terminal.until(({ screen }) => screen().includes("... 8 more"))
      assert.isAtMost(terminal.screen().split("\n").length, 8)
      terminal.type("\u0003")
      assert.strictEqual(yield* terminal.ended, 130)
    }))

  it.effect("locks: who holds, with which token, and who waits", () =>
    Effect.gen(function*() {
      const { lock } = yield* library
      const handle = yield* lock.acquire("jobs/nightly", { label: "first" })
      const other = yield* library
      const waiter = yield* Effect.forkChild(Effect.scoped(other.lock.acquire("jobs/nightly", { label: "second" })))
      const waits = (yield* Effect.repeat(lock.waiters("jobs/nightly"), { until: (all) => all.length === 2 }))[1]
      yield* lock.acquire("jobs", { label: "shallow" })
      yield* lock.acquire("jobsearch")
      const [shallow, nightly] = (yield* coord(["locks", "jobs"])).objects as unknown as ReadonlyArray<LockObject>
      assert.strictEqual(shallow?.lock, "jobs")
      const { ttlLeftSeconds, ...holder } = nightly?.holder ?? {}
      assert.deepStrictEqual(holder, {
        key: handle.entryKey,
        lease: handle.entryKey.split("/").at(-1),
        token: String(handle.fencingToken),
        label: "first"
      })
      assert.isTrue(Number(ttlLeftSeconds) > 8 && Number(ttlLeftSeconds) <= 15)
      assert.strictEqual(nightly?.waiting[0]?.key, waits?.entryKey)
      const table = (yield* coord(["locks", "--no-json"])).text.split("\n")
      assert.match(table[0] ?? "", /^LOCK +HOLDER +SINCE +TOKEN +TTL LEFT +WAITING$/)
      assert.match(table[2] ?? "", new RegExp(`^jobs/nightly +first +- +${handle.fencingToken} +1\\ds +1: second$`))
      yield* Fiber.interrupt(waiter)
      assert.strictEqual((yield* coord(["locks", "free", "--no-json"])).text, "free is not locked\n")
    }))

  it.effect("the leader, as it changes; exit code 1 when there is none", () =>
    Effect.gen(function*() {
      const { election } = yield* library
      const none = yield* coord(["leader", "boss"])
      assert.deepStrictEqual([none.code, none.stderr], [1, "coord: nobody leads \"boss\"\n"])
      const watched = yield* watching(["leader", "boss", "--watch"])
      yield* watched.line("synced")
      const leadership = yield* election.campaign("boss", "10.0.0.7:8080")
      yield* watched.line("10.0.0.7:8080")
      yield* leadership.proclaim("10.0.0.8:8080")
      yield* watched.line("10.0.0.8:8080")
      const [led] = (yield* coord(["leader", "boss"])).objects
      assert.include(led?.["leader"] as object, { value: "10.0.0.8:8080", token: String(leadership.fencingToken) })
      yield* leadership.resign
      yield* watched.line("\"delete\"")
    }))

  it.effect("values of others cannot talk to the terminal", () =>
    Effect.gen(function*() {
      const { lock } = yield* library
      yield* lock.acquire("hostile", { label: "\u001b[2J\u0007owned" })
      const { text } = yield* coord(["locks", "hostile", "--no-json"])
      assert.include(text, "\\x1b[2J\\x07owned")
      assert.notInclude(text, "\u001b")
    }))

  it.effect("a watch that nobody reads any more ends with its next line", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const { registry } = yield* library
      // `head` ends after the first line, and says so by its own.
      const shell = yield* run("sh", [
        "-c",
        `exec 4>&1; { { "$0" "$1" services piped --watch; echo "code $?" >&4; } | head -n 1; } `,
        process.execPath,
        coordBin
      ], coordEnv({ ETCD_ENDPOINTS: endpoint }))
      yield* shell.line("synced")
      yield* registry.register(instance("piped", "one"))
      assert.strictEqual(yield* shell.line("code"), "code 141")
    }))

  it.effect("an outage is told once, and the view goes on after it", () =>
    Effect.gen(function*() {
      const server = yield* TestEtcd
      const terminal = yield* viewing(["locks", "--watch", "--timeout", "1s"])
      yield* terminal.until(({ screen }) => screen().includes("(Ctrl-C ends)"))
      yield* server.kill
      yield* terminal.until(({ screen }) => screen().includes("etcd does not answer"))
      yield* server.start
      const { lock } = yield* library
      yield* lock.acquire("after-the-outage")
      yield* terminal.until(({ screen }) =>
        screen().includes("after-the-outage") && !screen().includes("does not answer")
      )
      terminal.type("\u0003")
      assert.strictEqual(yield* terminal.ended, 130)
    }), { timeout: 120_000 })
})
