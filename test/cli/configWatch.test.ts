import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import { coord as command, coordBin, coordEnv } from "../utils/command.ts"
import { makeEtcdServer, TestEtcd } from "../utils/EtcdServer.ts"
import { run, type Running } from "../utils/processes.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { folder, patience } from "./configSupport.ts"

const watch = (endpoint: string, ...args: ReadonlyArray<string>) =>
  run(process.execPath, [coordBin, "config", "watch", ...args], coordEnv({ ETCD_ENDPOINTS: endpoint }))

/** With standard error in the place of standard output. */
const watchErrors = (endpoint: string, ...args: ReadonlyArray<string>) =>
  run(
    "sh",
    ["-c", `exec "$@" 2>&1 >/dev/null`, "sh", process.execPath, coordBin, "config", "watch", ...args],
    coordEnv({ ETCD_ENDPOINTS: endpoint })
  )

const events = (watching: Running) =>
  Effect.map(watching.lines, (lines) => lines.map((line) => JSON.parse(line) as Record<string, unknown>))

vi.setConfig({ testTimeout: patience })

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord config watch", (it) => {
  it.effect("shows what there is, then each change, and Ctrl-C ends it with 130", () =>
    Effect.gen(function*() {
      const { endpoint, etcdctl } = yield* TestEtcd
      yield* etcdctl("put", "/config/w/one", "1")
      const watching = yield* watch(endpoint, "w/")
      yield* watching.line("synced")
      yield* etcdctl("put", "/config/w/one", "2")
      yield* etcdctl("put", "/config/wx", "elsewhere")
      yield* etcdctl("del", "/config/w/one")
      yield* watching.line("\"delete\"")
      yield* watching.kill("SIGINT")
      assert.strictEqual(yield* watching.ended, 130)
      const seen = yield* events(watching)
      assert.deepStrictEqual(seen.map((event): object => ({ ...event, version: undefined })), [
        { event: "put", key: "w/one", value: "1", version: undefined },
        { event: "synced", version: undefined },
        { event: "put", key: "w/one", value: "2", previous: "1", version: undefined },
        { event: "delete", key: "w/one", previous: "2", version: undefined }
      ])
      const versions = seen.map(({ version }) => version)
      assert.isTrue(versions.every((version) => typeof version === "string"))

      const resumed = yield* watch(endpoint, "w/one", "--from", String(versions[2]))
      yield* resumed.line("delete")
      assert.deepStrictEqual((yield* events(resumed)).map(({ event }) => event), ["delete"])
    }))

  it.effect("people see a line for each event, which no value can break", () =>
    Effect.gen(function*() {
      const { endpoint, etcdctl } = yield* TestEtcd
      yield* etcdctl("put", "/config/p/key", "two\nlines\u001b[2J")
      const watching = yield* watch(endpoint, "p/key", "--no-json")
      const synced = yield* watching.line("synced")
      assert.match(synced, /^synced \(version \d+\)$/)
      assert.match((yield* watching.lines)[0] ?? "", /^put {4}p\/key = two\\x0alines\\x1b\[2J \(version \d+\)$/)
    }))

  it.effect("runs a command for each event, one after the other, with the event as JSON on its standard input", () =>
    Effect.gen(function*() {
      const { endpoint, etcdctl } = yield* TestEtcd
      yield* etcdctl("put", "/config/c/one", "1")
      const script = "echo \"$COORD_EVENT $COORD_KEY $COORD_VERSION $(cat)\""
      const watching = yield* watch(endpoint, "c/", "--", "sh", "-c", script)
      yield* watching.line("synced")
      yield* etcdctl("put", "/config/c/one", "2")
      yield* watching.line("put c/one")
      yield* etcdctl("del", "/config/c/one")
      yield* watching.line("delete c/one")
      yield* watching.kill("SIGTERM")
      assert.strictEqual(yield* watching.ended, 143)
      const lines = (yield* watching.lines).map((line) => {
        const [, said, json] = /^(.*?) (\{.*\})$/.exec(line) ?? []
        return [said, JSON.parse(json ?? "null") as Record<string, unknown>] as const
      })
      assert.deepStrictEqual(lines.map(([, { event }]) => event), ["put", "synced", "put", "delete"])
      for (const [said, { event, key = "", version }] of lines) {
        assert.strictEqual(said, [event, key, version].join(" "))
      }
    }))

  it.effect("a command that fails ends the watch with its exit code, whatever that is", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      for (const code of [1, 2, 3, 42]) {
        const ended = yield* command(endpoint, ["config", "watch", "f/", "--", "sh", "-c", `exit ${code}`])
        assert.deepStrictEqual([ended.code, ended.text, ended.stderr], [code, "", ""])
      }
      const killed = yield* command(endpoint, ["config", "watch", "f/", "--", "sh", "-c", "kill -9 $$"])
      assert.strictEqual(killed.code, 137)
      const unknown = yield* command(endpoint, ["config", "watch", "f/", "--keep-going", "--", "no-such-program"])
      assert.deepStrictEqual([unknown.code, unknown.stderr], [127, "coord: no-such-program: command not found\n"])
    }))

  it.effect("with --keep-going it says which event a command failed for, and goes on", () =>
    Effect.gen(function*() {
      const { endpoint, etcdctl } = yield* TestEtcd
      const watching = yield* watchErrors(endpoint, "k/key", "--keep-going", "--", "sh", "-c", "exit 4")
      yield* watching.line("ended with 4 (synced, version ")
      yield* etcdctl("put", "/config/k/key", "v")
      yield* watching.line("coord: the command ended with 4 (put of \"k/key\", version ")
      yield* watching.kill("SIGINT")
      assert.strictEqual(yield* watching.ended, 130)
    }))

  it.effect("Ctrl-C goes to the running command, and the watch ends when that has ended", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const gate = Path.join(yield* folder, "gate")
      const script =
        `trap 'echo told; read -r _ < "$0"; echo over; exit 0' INT; echo started; while :; do sleep 0.01; done`
      yield* (yield* run("mkfifo", [gate])).ended
      const watching = yield* watch(endpoint, "g/", "--keep-going", "--", "sh", "-c", script, gate)
      yield* watching.line("started")
      yield* watching.kill("SIGINT")
      yield* watching.line("told")
      yield* Effect.sync(() => Fs.writeFileSync(gate, "go\n"))
      assert.strictEqual(yield* watching.ended, 130)
      assert.deepStrictEqual(yield* watching.lines, ["started", "told", "over"])
    }))

  it.effect("a reader that has seen enough ends it with the next event", () =>
    Effect.gen(function*() {
      const { endpoint, etcdctl } = yield* TestEtcd
      const script = `exec 3>&1; { "$0" "$1" config watch h/; echo "ended with $?" >&3; } | head -n 1`
      const env = coordEnv({ ETCD_ENDPOINTS: endpoint })
      const shell = yield* run("sh", ["-c", script, process.execPath, coordBin], env)
      yield* shell.line("synced")
      yield* Effect.forkChild(Effect.forever(etcdctl("put", "/config/h/key", "v")))
      yield* shell.line("ended with 141")
      yield* shell.ended
    }))

  it.effect("mistakes end with 125, as 2 may be the command's own", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      for (const args of [[], ["/absolute"], ["key", "--from", "x"], ["a//b/"]]) {
        const ended = yield* command(endpoint, ["config", "watch", ...args])
        assert.strictEqual(ended.code, 125, args.join(" "))
        assert.match(ended.stderr, /^coord: [^\n]*\n$/)
      }
      const compacting = yield* command(endpoint, ["config", "set", "z", "1"])
      const version = String(compacting.objects[0]?.["version"])
      const { etcdctl } = yield* TestEtcd
      yield* etcdctl("put", "/config/z", "2")
      yield* etcdctl("put", "/config/z", "3")
      yield* etcdctl("compact", String(Number(version) + 2))
      const compacted = yield* command(endpoint, ["config", "watch", "z", "--from", "1"])
      assert.strictEqual(compacted.code, 125)
      assert.match(compacted.stderr, /^coord: [^\n]*compacted[^\n]*ask for a later one, or for none[^\n]*\n$/)
    }))

  it.effect("connections that are cut and an etcd that is killed lose no event, and tell none twice", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const proxy = yield* makeProxy(server)
      const watching = yield* watch(proxy.endpoint, "r/")
      yield* watching.line("synced")
      const put = (value: number) => server.etcdctl("put", "/config/r/key", String(value))
      yield* put(1)
      yield* watching.line("\"value\":\"1\"")
      yield* proxy.refuse
      yield* proxy.cut
      yield* put(2)
      yield* put(3)
      yield* proxy.accept
      yield* watching.line("\"value\":\"3\"")
      yield* server.kill
      yield* server.start
      yield* put(4)
      yield* watching.line("\"value\":\"4\"")
      yield* put(5)
      yield* watching.line("\"value\":\"5\"")
      const puts = (yield* events(watching)).filter(({ event }) => event === "put")
      assert.deepStrictEqual(puts.map(({ value }) => value), ["1", "2", "3", "4", "5"])
    }))
})
