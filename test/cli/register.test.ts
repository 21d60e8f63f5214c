import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import { layerEtcd, Registry, ServiceInstance } from "../../src/index.ts"
import { coord as command } from "../utils/command.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { eventually } from "../utils/eventually.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { folder, sh, start, untilFile } from "../utils/running.ts"

// Each command is a process: on a busy machine it takes seconds to start.
vi.setConfig({ testTimeout: 120_000 })

const client = Effect.gen(function*() {
  const { endpoint } = yield* TestEtcd
  return Context.get(yield* Layer.build(Layer.fresh(layerEtcd({ endpoints: endpoint }))), Registry)
})

const args = (name: string, ...more: ReadonlyArray<string>) => [
  "register",
  name,
  "--id",
  `${name}-1`,
  "--address",
  "10.0.0.7:8080",
  ...more
]

const register = (name: string, ...more: ReadonlyArray<string>) =>
  Effect.flatMap(TestEtcd, ({ endpoint }) => start(endpoint, args(name, ...more)))

const instances = (registry: Registry["Service"], name: string, wanted: number) =>
  eventually(
    `${wanted} instances of ${name}`,
    Effect.map(registry.discover(name), ({ length }) => length === wanted)
  )

/** Says what it is sent, and ends at SIGTERM with 9. */
const server = "trap 'echo term; exit 9' TERM; trap 'echo hup' HUP; echo up; while :; do sleep 0.02; done"

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord register", (it) => {
  it.effect("registered while its command runs, which finds the key in its environment; ends with its code", () =>
    Effect.gen(function*() {
      const registry = yield* client
      const go = Path.join(yield* folder, "go")
      const script = "echo \"key $COORD_INSTANCE_KEY\"; while [ ! -e \"$1\" ]; do sleep 0.02; done; exit 6"
      const running = yield* register("plain", "--meta", "zone=north", "--meta", "note=a=b", ...sh(script, go))
      assert.strictEqual(yield* running.line("key"), "key /services/plain/plain-1")
      yield* instances(registry, "plain", 1)
      assert.deepStrictEqual(yield* registry.discover("plain"), [
        new ServiceInstance({
          id: "plain-1",
          name: "plain",
          address: "10.0.0.7",
          port: 8080,
          metadata: { zone: "north", note: "a=b" }
        })
      ])
      Fs.writeFileSync(go, "")
      assert.strictEqual(yield* running.ended, 6)
      assert.deepStrictEqual(yield* registry.discover("plain"), [])
      assert.strictEqual(yield* running.errors, "")
    }))

  it.effect("what is no address, no instance or no command is one line and 125, or 127, and nothing is run", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const registry = yield* client
      const wrong = [
        [["register", "x", "--id", "x", "--address", "10.0.0.7", "--", "echo", "ran"], 125],
        [["register", "x", "--id", "x", "--address", "10.0.0.7:99999", "--", "echo", "ran"], 125],
        [["register", "x", "--id", "x/y", "--address", "10.0.0.7:1", "--", "echo", "ran"], 125],
        [["register", "x", "--id", "x", "--address", "10.0.0.7:1", "--meta", "zone", "--", "echo", "ran"], 125],
        [["register", "x", "--id", "x", "--address", "10.0.0.7:1", "--ttl", "0s", "--", "echo", "ran"], 125],
        [["register", "x", "--address", "10.0.0.7:1", "--", "echo", "ran"], 125],
        [["register", "x", "--id", "x", "--address", "10.0.0.7:1", "--", "nowhere-to-be-found"], 127]
      ] as const
      for (const [args, code] of wrong) {
        const ended = yield* command(endpoint, args)
        assert.deepStrictEqual([ended.code, ended.text], [code, ""], args.join(" "))
        assert.match(ended.stderr, /^coord: .+\n$/)
      }
      assert.deepStrictEqual(yield* registry.discover("x"), [])
    }))

  it.effect("a signal to end: first it is out of the registry, then its calls have time, then the signal is passed on", () =>
    Effect.gen(function*() {
      const registry = yield* client
      const running = yield* register("drained", "--drain", "2s", ...sh(server))
      yield* instances(registry, "drained", 1)
      // Many programs read their configuration again at this one.
      yield* running.kill("SIGHUP")
      yield* running.line("hup")
      assert.strictEqual((yield* registry.discover("drained")).length, 1)
      yield* running.kill("SIGTERM")
      yield* instances(registry, "drained", 0)
      assert.notInclude(yield* running.lines, "term")
      yield* running.line("term")
      assert.strictEqual(yield* running.ended, 9)
    }))

  it.effect("a second signal does not wait for the end of the drain", () =>
    Effect.gen(function*() {
      const registry = yield* client
      const running = yield* register("hurried", "--drain", "10m", ...sh(server))
      yield* instances(registry, "hurried", 1)
      yield* running.kill("SIGTERM")
      yield* instances(registry, "hurried", 0)
      // Within a tenth of a second it is npm's copy of the first.
      yield* Effect.sleep("150 millis")
      yield* running.kill("SIGTERM")
      assert.strictEqual(yield* running.ended, 9)
    }))

  it.effect("in the registry only while its check passes, with a line at each change", () =>
    Effect.gen(function*() {
      const registry = yield* client
      const dir = yield* folder
      const healthy = Path.join(dir, "healthy")
      const go = Path.join(dir, "go")
      const check = `test -e '${healthy}' || { echo not yet there; exit 3; }`
      const running = yield* register("checked", "--check", check, "--every", "200ms", ...untilFile(go, 0))
      const said = (text: string) => eventually(text, Effect.map(running.errors, (errors) => errors === text))
      const failing = "coord: not registered until the check passes (exit code 3: not yet there)\n"
      yield* said(failing)
      assert.deepStrictEqual(yield* registry.discover("checked"), [])
      Fs.writeFileSync(healthy, "")
      yield* instances(registry, "checked", 1)
      yield* said(`${failing}coord: the check passes\n`)
      Fs.rmSync(healthy)
      yield* instances(registry, "checked", 0)
      yield* said(`${failing}coord: the check passes\n${failing}`)
      Fs.writeFileSync(healthy, "")
      yield* instances(registry, "checked", 1)
      Fs.writeFileSync(go, "")
      assert.strictEqual(yield* running.ended, 0)
      assert.deepStrictEqual(yield* registry.discover("checked"), [])
    }))

  it.effect("a check that does not answer fails, and is ended with all that it has started", () =>
    Effect.gen(function*() {
      const registry = yield* client
      const pids = Path.join(yield* folder, "pids")
      const check = `echo $$ >> '${pids}'; sleep 60 & echo $! >> '${pids}'; wait`
      const running = yield* register("hanging", "--check", check, "--every", "300ms", ...sh("echo up; sleep 60"))
      yield* running.line("up")
      yield* eventually(
        "it fails",
        Effect.map(running.errors, (errors) => errors.includes("check passes (no answer within 300ms)"))
      )
      assert.deepStrictEqual(yield* registry.discover("hanging"), [])
      yield* running.kill("SIGTERM")
      assert.strictEqual(yield* running.ended, 143)
      const alive = () =>
        Fs.readFileSync(pids, "utf8").trim().split("\n").filter((pid) => {
          try {
            return process.kill(Number(pid), 0)
          } catch {
            return false
          }
        })
      yield* eventually("nothing of the checks is left", Effect.sync(() => alive().length === 0))
    }))

  it.effect("somebody else registers the same id: the command is stopped, and the code is 123", () =>
    Effect.gen(function*() {
      const registry = yield* client
      const first = yield* register("twice", ...sh(server))
      yield* instances(registry, "twice", 1)
      const second = yield* register("twice", ...sh("echo up; sleep 60"))
      yield* second.line("up")
      assert.strictEqual(yield* first.ended, 123)
      assert.include(yield* first.lines, "term")
      assert.match(yield* first.errors, /coord: instance "twice-1" of "twice" has been registered by somebody else/)
      assert.strictEqual((yield* registry.discover("twice")).length, 1)
      yield* second.kill("SIGTERM")
      assert.strictEqual(yield* second.ended, 143)
    }))

  it.effect("etcd stops answering for longer than the TTL: the command goes on, and is back afterwards", () =>
    Effect.gen(function*() {
      const { port } = yield* TestEtcd
      const registry = yield* client
      const proxy = yield* makeProxy({ port })
      const running = yield* start(proxy.endpoint, args("outage", "--ttl", "2s", ...sh(server)))
      yield* instances(registry, "outage", 1)
      yield* proxy.freeze
      yield* instances(registry, "outage", 0)
      yield* proxy.thaw
      yield* instances(registry, "outage", 1)
      yield* running.kill("SIGTERM")
      assert.strictEqual(yield* running.ended, 9)
    }))

  it.effect("coord is killed: the command is stopped, and its entry goes with its lease", () =>
    Effect.gen(function*() {
      const registry = yield* client
      const running = yield* register("killed", "--ttl", "2s", ...sh(server))
      yield* instances(registry, "killed", 1)
      yield* running.kill("SIGKILL")
      yield* running.ended
      assert.include(yield* running.lines, "term")
      yield* instances(registry, "killed", 0)
    }))
})
