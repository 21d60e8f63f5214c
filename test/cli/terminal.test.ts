import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import { layerEtcd, Lock } from "../../src/index.ts"
import { coordBin, coordEnv } from "../utils/command.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { eventually } from "../utils/eventually.ts"
import { run } from "../utils/processes.ts"
import { folder, sh } from "../utils/running.ts"

// Each command is a process: on a busy machine it takes seconds to start.
vi.setConfig({ testTimeout: 120_000 })

const fixture = new URL("../fixtures/terminal.py", import.meta.url).pathname
const without = ChildProcess.spawnSync("python3", ["-c", "import pty"]).status !== 0
if (without) process.stderr.write("no python3 here: what coord does on a terminal is not tested\n")

/** What is typed when something is shown. */
type Steps = ReadonlyArray<readonly [expected: string, typed: string]>

const terminal = Effect.fnUntraced(function*(steps: Steps, args: ReadonlyArray<string>) {
  const { endpoint } = yield* TestEtcd
  const running = yield* run(
    "python3",
    [fixture, JSON.stringify(steps), process.execPath, coordBin, ...args],
    coordEnv({ ETCD_ENDPOINTS: endpoint })
  )
  return JSON.parse(yield* running.line("\"shown\"")) as { readonly shown: string; readonly code: number }
})

const ctrlC = "\u0003"
const ctrlZ = "\u001a"
const count = (text: string, part: string) => text.split(part).length - 1

/** Ends at Ctrl-C with 5, after a while in which a second one would be noticed. */
const server =
  "trap 'echo interrupted; sleep 0.3; exit 5' INT; trap 'echo continued' CONT; echo \"pid $$\"; while :; do sleep 0.02; done"

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord on a terminal", (it) => {
  const test = it.effect.skipIf(without)

  test("Ctrl-C reaches the command once, which decides", () =>
    Effect.gen(function*() {
      for (const flags of [[], ["--foreground"]]) {
        const { code, shown } = yield* terminal([["pid", ctrlC]], ["lock", "ctrl-c", ...flags, ...sh(server)])
        assert.strictEqual(code, 5, flags.join())
        assert.strictEqual(count(shown, "interrupted"), 1, shown)
      }
    }))

  test("Ctrl-C while it waits in line", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const holder = yield* run(
        process.execPath,
        [coordBin, "lock", "line", ...sh("echo up; sleep 60")],
        coordEnv({ ETCD_ENDPOINTS: endpoint })
      )
      yield* holder.line("up")
      const context = yield* Layer.build(Layer.fresh(layerEtcd({ endpoints: endpoint })))
      const waiters = Context.get(context, Lock).waiters("line")
      const waits = Path.join(yield* folder, "waits")
      const [{ code, shown }] = yield* Effect.all([
        terminal([["", `FILE ${waits}`], ["", ctrlC]], ["lock", "line", "--", "echo", "ran"]),
        Effect.andThen(
          eventually("it waits", Effect.map(waiters, ({ length }) => length === 2)),
          Effect.sync(() => Fs.writeFileSync(waits, ""))
        )
      ], { concurrency: 2 })
      assert.strictEqual(code, 130)
      assert.notInclude(shown, "ran")
      assert.strictEqual((yield* waiters).length, 1)
    }))

  test("--foreground: the command can ask for a password on the terminal; otherwise it has none", () =>
    Effect.gen(function*() {
      const asking = "printf 'password: ' > /dev/tty && read -r word < /dev/tty && echo \"it was $word\""
      const asked = yield* terminal([["password: ", "secret\n"]], ["lock", "ask", "--foreground", ...sh(asking)])
      assert.include(asked.shown, "it was secret")
      assert.strictEqual(asked.code, 0)
      const not = yield* terminal([], ["lock", "ask", ...sh(asking)])
      assert.notStrictEqual(not.code, 0)
      assert.notInclude(not.shown, "password")
    }))

  test("Ctrl-Z stops the command as well, and both go on", () =>
    Effect.gen(function*() {
      const steps: Steps = [["pid", ctrlZ], ["", "STOPPED"], ["", "CONT"], ["continued", ctrlC]]
      const { code, shown } = yield* terminal(steps, ["lock", "ctrl-z", ...sh(server)])
      assert.strictEqual(code, 5, shown)
    }))

  test("the terminal is closed: the command is told, and coord ends as it does", () =>
    Effect.gen(function*() {
      const log = Path.join(yield* folder, "log")
      const script = "trap 'echo hup >> \"$1\"; exit 6' HUP; echo up; while :; do sleep 0.02; done"
      const { code } = yield* terminal([["up", "HANGUP"]], ["lock", "hangup", ...sh(script, log)])
      yield* eventually("it was told", Effect.sync(() => Fs.existsSync(log)))
      assert.strictEqual(Fs.readFileSync(log, "utf8"), "hup\n")
      assert.strictEqual(code, 6)
    }))
})
