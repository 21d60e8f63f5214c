import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Readable } from "node:stream"
import { setTimeout } from "node:timers/promises"
import { vi } from "vitest"
import { coord as command, coordBin, coordEnv } from "../utils/command.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { run } from "../utils/processes.ts"
import { coord, patience } from "./configSupport.ts"

const bytes = Buffer.from([0, 255, 10, 27, 91, 51, 49, 109, 128])

vi.setConfig({ testTimeout: patience })

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord config", (it) => {
  it.effect("what is set is got: as an object in a pipe, as it is on a terminal, as bytes with --value", () =>
    Effect.gen(function*() {
      const set = yield* coord(["set", "a/greeting", "hello\nworld"])
      assert.strictEqual(set.code, 0, set.stderr)
      const [written] = set.objects
      assert.deepStrictEqual((yield* coord(["get", "a/greeting"])).objects, [
        { key: "a/greeting", value: "hello\nworld", version: written?.["version"] }
      ])
      assert.strictEqual(typeof written?.["version"], "string")
      assert.strictEqual((yield* coord(["get", "a/greeting", "--value"])).text, "hello\nworld")
      assert.strictEqual((yield* coord(["get", "a/greeting", "--no-json"])).text, "hello\nworld\n")
      const { etcdctl } = yield* TestEtcd
      assert.strictEqual(yield* etcdctl("get", "--print-value-only", "/config/a/greeting"), "hello\nworld\n")
    }))

  it.effect("a value that is no text comes and goes byte for byte, and no terminal obeys it", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* coord(["set", "a/bytes", "-"], { input: bytes })).code, 0)
      assert.deepStrictEqual((yield* coord(["get", "--value", "a/bytes"])).stdout, bytes)
      const [object] = (yield* coord(["get", "a/bytes"])).objects
      assert.deepStrictEqual(object?.["value"], { base64: bytes.toString("base64") })
      assert.strictEqual((yield* coord(["get", "--no-json", "a/bytes"])).text, "\\x00\\xff\\x0a\\x1b[31m\\x80\n")
      yield* coord(["set", "a/colour", "\u001b[31mred"])
      assert.strictEqual((yield* coord(["get", "--no-json", "a/colour"])).text, "\\x1b[31mred\n")
      const listed = yield* coord(["ls", "--values", "--no-json"])
      assert.include(listed.text, "\\x1b[31mred")
      assert.notInclude(listed.text, "\u001b")
    }))

  it.effect("a value that is still being written to standard input is waited for", () =>
    Effect.gen(function*() {
      const input = Readable.from((async function*() {
        yield "first, "
        // Long after the command has begun to read, on a machine that is not too busy: else it proves nothing.
        await setTimeout(2000)
        yield "second"
      })())
      const set = yield* coord(["set", "a/slow", "-"], { input })
      assert.strictEqual(set.code, 0, set.stderr)
      assert.strictEqual((yield* coord(["get", "--value", "a/slow"])).text, "first, second")
    }))

  it.effect("the value of a file, an empty one, and one that begins with a dash", () =>
    Effect.gen(function*() {
      const file = Path.join(Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-cli-")), "value")
      yield* Effect.addFinalizer(() => Effect.sync(() => Fs.rmSync(Path.dirname(file), { recursive: true })))
      Fs.writeFileSync(file, bytes)
      assert.strictEqual((yield* coord(["set", "a/file", "--file", file])).code, 0)
      assert.deepStrictEqual((yield* coord(["get", "--value", "a/file"])).stdout, bytes)
      yield* coord(["set", "a/empty", ""])
      assert.strictEqual((yield* coord(["get", "--value", "a/empty"])).text, "")
      yield* coord(["set", "a/dash", "--", "--verbose"])
      assert.strictEqual((yield* coord(["get", "--value", "a/dash"])).text, "--verbose")
      assert.strictEqual((yield* coord(["set", "a/number", "-5"])).code, 0)
      assert.strictEqual((yield* coord(["get", "--value", "a/number"])).text, "-5")
    }))

  it.effect("--if-version writes and deletes only what nobody else has changed, and says so with 3", () =>
    Effect.gen(function*() {
      const created = yield* coord(["set", "v/key", "one", "--if-version", "0"])
      assert.strictEqual(created.code, 0, created.stderr)
      const again = yield* coord(["set", "v/key", "two", "--if-version", "0"])
      assert.strictEqual(again.code, 3)
      const version = String(created.objects[0]?.["version"])
      assert.strictEqual(again.stderr, `coord: "v/key" has version ${version}, expected no value\n`)
      assert.strictEqual(again.text, "")
      assert.strictEqual((yield* coord(["get", "--value", "v/key"])).text, "one")
      assert.strictEqual((yield* coord(["set", "v/key", "two", "--if-version", version])).code, 0)
      assert.strictEqual((yield* coord(["rm", "v/key", "--if-version", version])).code, 3)
      const [now] = (yield* coord(["get", "v/key"])).objects
      assert.strictEqual((yield* coord(["rm", "v/key", "--if-version", String(now?.["version"])])).code, 0)
      assert.strictEqual((yield* coord(["rm", "v/key", "--if-version", String(now?.["version"])])).code, 3)
    }))

  it.effect("a key that is not there is exit code 1 and one line", () =>
    Effect.gen(function*() {
      for (const args of [["get", "none/key"], ["get", "--value", "none/key"], ["rm", "none/key"]]) {
        const ended = yield* coord(args)
        assert.strictEqual(ended.code, 1)
        assert.strictEqual(ended.stderr, "coord: there is no configuration value \"none/key\"\n")
        assert.strictEqual(ended.text, "")
      }
    }))

  it.effect("ls shows the keys below a folder, values only where asked for", () =>
    Effect.gen(function*() {
      yield* coord(["set", "ls/one", "s3cret-1"])
      yield* coord(["set", "ls/two/deep", "s3cret-2"])
      yield* coord(["set", "lsx", "s3cret-3"])
      const keys = [{ key: "ls/one" }, { key: "ls/two/deep" }]
      assert.deepStrictEqual((yield* coord(["ls", "ls"])).objects, keys)
      assert.deepStrictEqual((yield* coord(["ls", "ls/"])).objects, keys)
      assert.strictEqual((yield* coord(["ls", "ls", "--no-json"])).text, "KEY\nls/one\nls/two/deep\n")
      const values = (yield* coord(["ls", "ls", "--values"])).objects
      assert.deepStrictEqual(values.map(({ key, value }) => [key, value]), [["ls/one", "s3cret-1"], [
        "ls/two/deep",
        "s3cret-2"
      ]])
      const all = (yield* coord(["ls"])).text
      assert.include(all, "lsx")
      assert.notInclude(all, "s3cret")
      const none = yield* coord(["ls", "nothing/here"])
      assert.deepStrictEqual([none.code, none.text], [0, ""])
    }))

  it.effect("--check-json refuses what is not JSON, and shows nothing of it", () =>
    Effect.gen(function*() {
      const refused = yield* coord(["set", "j/limits", "{\"password\": s3cret}", "--check-json"])
      assert.strictEqual(refused.code, 2)
      assert.strictEqual(refused.stderr, "coord: the value is not JSON: nothing was written\n")
      assert.strictEqual((yield* coord(["get", "j/limits"])).code, 1)
      assert.strictEqual((yield* coord(["set", "j/limits", "{\"max\": 1}", "--check-json"])).code, 0)
    }))

  it.effect("mistakes are one line and exit code 2", () =>
    Effect.gen(function*() {
      const mistakes = [
        [["set", "m/key"], "there is no VALUE"],
        [["set", "m/key", "value", "--file", "x"], "not both"],
        [["set", "m/key", "--file", "/does/not/exist"], "/does/not/exist"],
        [["set", "m/key", "value", "--if-version", "two"], "a number"],
        [["set", "/m/key", "value"], "must not start with \"/\""],
        [["get", "m/../key"], "must not have a segment \"..\""],
        [["get"], "key"],
        [["get", "key", "--vlaue"], "--value"],
        [["rm", "m/key", "--if-version", "0"], "nothing to delete"],
        [["ls", "m//x"], "empty segment"],
        [["nonsense"], "nonsense"]
      ] as const
      yield* Effect.forEach(mistakes, ([args, says]) =>
        Effect.map(coord(args), ({ code, stderr, text }) => {
          assert.strictEqual(code, 2, args.join(" "))
          assert.include(stderr, says)
          assert.match(stderr, /^coord: [^\n]*\n$/)
          assert.strictEqual(text, "")
        }), { concurrency: 2 })
    }))

  it.effect("who reads only the first lines of a long list ends it", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const set = yield* coord(["set", "pipe/long", "-"], { input: "x".repeat(1_000_000) })
      assert.strictEqual(set.code, 0, set.stderr)
      const shell = yield* run("sh", [
        "-c",
        `"$0" "$1" config ls pipe --values | head -c 10; echo`,
        process.execPath,
        coordBin
      ], coordEnv({ ETCD_ENDPOINTS: endpoint }))
      assert.strictEqual(yield* shell.ended, 0)
      assert.deepStrictEqual(yield* shell.lines, ["{\"key\":\"pi"], yield* shell.errors)
    }))

  it.effect("without etcd: one line, exit code 125", () =>
    Effect.gen(function*() {
      const ended = yield* command("127.0.0.1:1", ["config", "get", "a"], { env: { ETCD_DIAL_TIMEOUT: "500 millis" } })
      assert.strictEqual(ended.code, 125)
      assert.match(ended.stderr, /^coord: [^\n]*127\.0\.0\.1:1[^\n]*\n$/)
    }))
})
