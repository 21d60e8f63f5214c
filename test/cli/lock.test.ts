import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import { Etcd, layerEtcd, Lock, Operation } from "../../src/index.ts"
import { coord as command, coordBin, coordEnv } from "../utils/command.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { eventually } from "../utils/eventually.ts"
import { freePort } from "../utils/ports.ts"
import { run } from "../utils/processes.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { folder, sh, start, stubborn, untilFile } from "../utils/running.ts"

// Each command is a process: on a busy machine it takes seconds to start.
vi.setConfig({ testTimeout: 120_000 })

const coord = (...args: ReadonlyArray<string>) => Effect.flatMap(TestEtcd, ({ endpoint }) => command(endpoint, args))

const running = (...args: ReadonlyArray<string>) => Effect.flatMap(TestEtcd, ({ endpoint }) => start(endpoint, args))

/** A client of the test's own. */
const client = Effect.gen(function*() {
  const { endpoint } = yield* TestEtcd
  const context = yield* Layer.build(Layer.fresh(layerEtcd({ endpoints: endpoint })))
  return { lock: Context.get(context, Lock), etcd: Context.get(context, Etcd) }
})

/** Longer than what is alive takes to say so. */
const entering = "echo entered >> \"$1\"; sleep 0.3; echo left >> \"$1\""

const inLine = (name: string, wanted: number) =>
  Effect.flatMap(
    client,
    ({ lock }) =>
      eventually(`${wanted} in line for ${name}`, Effect.map(lock.waiters(name), ({ length }) => length === wanted))
  )

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord lock", (it) => {
  it.effect("ends as the command did: with its code, with the signal that ended it, or because it is no command", () =>
    Effect.gen(function*() {
      const endings = [
        [["sh", "-c", "exit 7"], 7, ""],
        [["true"], 0, ""],
        [["sh", "-c", "kill -s KILL $$"], 137, ""],
        [["nowhere-to-be-found", "-v"], 127, "coord: nowhere-to-be-found: command not found\n"],
        [["/etc/passwd"], 126, "coord: /etc/passwd: cannot be run (EACCES)\n"],
        [["/etc/passwd/x"], 126, "coord: /etc/passwd/x: cannot be run (ENOTDIR)\n"]
      ] as const
      for (const [args, code, stderr] of endings) {
        const ended = yield* coord("lock", "endings", "--", ...args)
        assert.deepStrictEqual([ended.code, ended.stderr, ended.text], [code, stderr, ""], args.join(" "))
      }
      yield* inLine("endings", 0)
    }))

  it.effect("a mistake, and an etcd that is not there, are one line and 125", () =>
    Effect.gen(function*() {
      const mistakes = [
        ["lock", "x"],
        ["lock", "--ttl", "soon", "x", "--", "true"],
        ["lock", "--grace", "40s", "x", "--", "true"],
        ["lock", "--try", "--wait", "1s", "x", "--", "true"],
        ["lock", "a//b", "--", "true"],
        ["lock", "--user", "root:secret", "x", "--", "true"]
      ]
      for (const args of mistakes) {
        const ended = yield* coord(...args)
        assert.strictEqual(ended.code, 125, args.join(" "))
        assert.match(ended.stderr, /^coord: .+\n$/)
        assert.strictEqual(ended.text, "")
      }
      const nobody = yield* freePort
      const ended = yield* command(`127.0.0.1:${nobody}`, ["lock", "x", "--", "true"])
      assert.strictEqual(ended.code, 125)
      assert.match(ended.stderr, new RegExp(`^coord: .*127.0.0.1:${nobody}.*\n$`))
    }))

  it.effect("its command finds the key and the token in its environment, as etcd has them", () =>
    Effect.gen(function*() {
      const { etcdctl } = yield* TestEtcd
      const held = yield* running(
        "--namespace",
        "/team",
        "lock",
        "jobs/a",
        "--label",
        "me",
        ...sh("echo \"$COORD_LOCK_KEY $COORD_FENCING_TOKEN\"; sleep 30")
      )
      const [key = "", token] = (yield* held.line("/team/locks/jobs/a/")).split(" ")
      const { kvs } = JSON.parse(yield* etcdctl("get", key, "-w", "json"))
      assert.strictEqual(String(kvs[0].create_revision), token)
      yield* held.kill("SIGTERM")
      assert.strictEqual(yield* held.ended, 143)
      assert.strictEqual(yield* etcdctl("get", "--prefix", "/team/"), "")
    }))

  it.effect("one at a time, in the order of arrival; who does not wait, or not so long, ends with 124 and is not in line", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      const log = Path.join(dir, "log")
      const first = yield* running("lock", "line", ...untilFile(Path.join(dir, "go"), 0))
      yield* first.line("up")
      const second = yield* running("lock", "line", ...sh("echo second >> \"$1\"", log))
      yield* inLine("line", 2)
      const third = yield* running("lock", "line", ...sh("echo third >> \"$1\"", log))
      yield* inLine("line", 3)
      const tried = yield* coord("lock", "--try", "line", "--", "true")
      assert.strictEqual(tried.code, 124)
      assert.match(tried.stderr, /^coord: lock "line" is held by .*\n$/)
      const waited = yield* coord("lock", "--wait", "300ms", "line", "--", "true")
      assert.strictEqual(waited.code, 124)
      assert.match(waited.stderr, /^coord: lock "line" could not be had within 300ms \(`coord locks line` shows who/)
      yield* inLine("line", 3)
      Fs.writeFileSync(Path.join(dir, "go"), "")
      assert.deepStrictEqual(yield* Effect.all([first.ended, second.ended, third.ended]), [0, 0, 0])
      assert.strictEqual(Fs.readFileSync(log, "utf8"), "second\nthird\n")
    }))

  it.effect("Ctrl-C while it waits leaves the line at once", () =>
    Effect.gen(function*() {
      const first = yield* running("lock", "leave", ...sh("echo up; sleep 60"))
      yield* first.line("up")
      const second = yield* running("lock", "leave", "--", "echo", "ran")
      yield* inLine("leave", 2)
      yield* second.kill("SIGINT")
      assert.strictEqual(yield* second.ended, 130)
      assert.deepStrictEqual(yield* second.lines, [])
      yield* inLine("leave", 1)
    }))

  it.effect("Ctrl-C while it connects", () =>
    Effect.gen(function*() {
      const { port } = yield* TestEtcd
      const proxy = yield* makeProxy({ port })
      yield* proxy.freeze
      const connecting = yield* start(proxy.endpoint, ["lock", "connecting", "--", "true"])
      yield* eventually("it connects", Effect.map(proxy.accepted, (accepted) => accepted > 0))
      yield* connecting.kill("SIGINT")
      assert.strictEqual(yield* connecting.ended, 130)
    }))

  it.effect("whenever a signal comes it ends by it, with no command and no entry left", () =>
    Effect.gen(function*() {
      const { lock } = yield* client
      for (let batch = 0; batch < 4; batch++) {
        const codes = yield* Effect.forEach([0, 1, 2, 3], (number) =>
          Effect.gen(function*() {
            const one = yield* running("lock", `whenever/${batch}/${number}`, "--", "sleep", "60")
            // From before its first instruction until after the start of its command.
            yield* Effect.sleep((batch * 4 + number) * 70)
            yield* one.kill("SIGTERM")
            return yield* one.ended
          }), { concurrency: "unbounded" })
        for (const [number, code] of codes.entries()) {
          // By the signal itself, before it listens.
          assert.include([undefined, 143], code)
          assert.deepStrictEqual(yield* lock.waiters(`whenever/${batch}/${number}`), [])
        }
      }
    }), 60_000)

  it.effect("signals reach the command and all that it has started; how it ends is its own business", () =>
    Effect.gen(function*() {
      const script = `
        ( trap '' USR1 USR2; trap 'echo grandchild hup; exit' HUP; while :; do sleep 0.02; done ) &
        trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo winch' WINCH; trap 'echo hup' HUP
        trap 'echo term; exit 9' TERM
        echo up; while :; do sleep 0.02; done`
      const held = yield* running("lock", "signals", ...sh(script))
      yield* held.line("up")
      for (const [signal, text] of [["USR1", "usr1"], ["USR2", "usr2"], ["WINCH", "winch"]] as const) {
        yield* held.kill(`SIG${signal}`)
        yield* held.line(text)
      }
      yield* held.kill("SIGHUP")
      yield* Effect.all([held.line("hup"), held.line("grandchild hup")])
      yield* held.kill("SIGTERM")
      assert.strictEqual(yield* held.ended, 9)
    }))

  it.effect("a command that ignores the first signal is given the second one", () =>
    Effect.gen(function*() {
      const script = "trap 'echo int; trap \"exit 5\" INT' INT; echo up; while :; do sleep 0.02; done"
      const held = yield* running("lock", "second", ...sh(script))
      yield* held.line("up")
      yield* held.kill("SIGINT")
      yield* held.line("int")
      // A second one within a tenth of a second is npm's copy of the first.
      yield* Effect.sleep("150 millis")
      yield* held.kill("SIGINT")
      assert.strictEqual(yield* held.ended, 5)
    }))

  it.effect("an operator takes the lock away: the command is stopped, killed if it must be, and the code is 123", () =>
    Effect.gen(function*() {
      const { etcd, lock } = yield* client
      const polite = yield* running(
        "lock",
        "taken/a",
        "--ttl",
        "3s",
        ...sh("trap 'echo term; exit' TERM; echo up; while :; do sleep 0.02; done")
      )
      const rude = yield* running("lock", "taken/b", "--ttl", "3s", ...sh(stubborn))
      yield* Effect.all([polite.line("up"), rude.line("up")])
      for (const name of ["taken/a", "taken/b"]) {
        const [entry] = yield* lock.waiters(name)
        yield* etcd.txn({ success: [Operation.delete(entry?.entryKey ?? "")] })
      }
      // Also what they have started: it would write to where they wrote.
      assert.deepStrictEqual(yield* Effect.all([polite.ended, rude.ended], { concurrency: 2 }), [123, 123])
      assert.include(yield* polite.lines, "term")
      assert.match(
        yield* polite.errors,
        /coord: lock "taken\/a" .* no longer held: Deleted: stopping the command\n/
      )
    }))

  it.effect("etcd stops answering: the command and all that it has started are gone before the next holder enters", () =>
    Effect.gen(function*() {
      const { endpoint, port } = yield* TestEtcd
      const log = Path.join(yield* folder, "log")
      const proxy = yield* makeProxy({ port })
      const alive =
        "trap '' TERM; live() { while :; do echo alive >> \"$1\"; sleep 0.01; done; }; live \"$1\" & echo up; live \"$1\""
      const held = yield* start(proxy.endpoint, ["lock", "silence", "--ttl", "3s", "--grace", "1s", ...sh(alive, log)])
      yield* held.line("up")
      const next = yield* start(endpoint, ["lock", "silence", ...sh(entering, log)])
      yield* inLine("silence", 2)
      yield* proxy.freeze
      assert.strictEqual(yield* next.ended, 0)
      yield* proxy.thaw
      assert.strictEqual(yield* held.ended, 123)
      assert.match(
        yield* held.errors,
        /coord: etcd has not renewed lock "silence" for too long, and it is about to be lost: stopping the command\n/
      )
      const lines = Fs.readFileSync(log, "utf8").trim().split("\n")
      assert.deepStrictEqual(lines.slice(-2), ["entered", "left"])
      assert.isAbove(lines.length, 10)
    }))

  it.effect("coord is killed: so is what it ran, and all that this had started, before the next holder enters", () =>
    Effect.gen(function*() {
      const held = yield* running("lock", "killed", "--ttl", "3s", ...sh(stubborn))
      yield* held.line("up")
      const next = yield* running("lock", "killed", "--", "echo", "entered")
      yield* inLine("killed", 2)
      yield* held.kill("SIGKILL")
      const first = yield* Effect.raceFirst(
        Effect.as(held.ended, "gone"),
        Effect.as(next.line("entered"), "entered")
      )
      assert.strictEqual(first, "gone")
      yield* next.line("entered")
    }))

  it.effect("coord is stopped for longer than the lock lives: what it ran is killed before the next holder enters", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      const log = Path.join(dir, "log")
      const alive = "while :; do echo alive >> \"$1\"; sleep 0.01; done"
      const held = yield* running("lock", "stopped", "--ttl", "3s", ...sh(`echo up; ${alive}`, log))
      yield* held.line("up")
      const next = yield* running(
        "lock",
        "stopped",
        ...sh(entering, log)
      )
      yield* inLine("stopped", 2)
      yield* held.kill("SIGSTOP")
      assert.strictEqual(yield* next.ended, 0)
      yield* held.kill("SIGCONT")
      assert.strictEqual(yield* held.ended, 123)
      const lines = Fs.readFileSync(log, "utf8").trim().split("\n")
      assert.deepStrictEqual(lines.slice(-2), ["entered", "left"])
      assert.isAbove(lines.length, 10)
    }))

  it.effect("coord is stopped, and the command ends meanwhile: it may have done so too late, and the code is 123", () =>
    Effect.gen(function*() {
      const go = Path.join(yield* folder, "go")
      const done = yield* running("lock", "late/a", "--ttl", "2s", ...untilFile(go, 0))
      const failed = yield* running("lock", "late/b", "--ttl", "2s", ...untilFile(go, 9))
      yield* Effect.all([done.line("up"), failed.line("up")])
      yield* Effect.all([done.kill("SIGSTOP"), failed.kill("SIGSTOP")])
      Fs.writeFileSync(go, "")
      for (const name of ["late/a", "late/b"]) yield* inLine(name, 0)
      yield* Effect.all([done.kill("SIGCONT"), failed.kill("SIGCONT")])
      assert.deepStrictEqual(yield* Effect.all([done.ended, failed.ended]), [123, 123])
      assert.match(yield* done.errors, /coord: lock "late\/a" .* no longer held: Expired/)
    }))

  it.effect("coord is stopped for less than that: the command goes on", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      const held = yield* running("lock", "paused", "--ttl", "6s", ...untilFile(Path.join(dir, "go"), 4))
      yield* held.line("up")
      yield* held.kill("SIGSTOP")
      yield* Effect.sleep("2 seconds")
      yield* held.kill("SIGCONT")
      // Longer than what was left when it was stopped.
      yield* Effect.sleep("6 seconds")
      Fs.writeFileSync(Path.join(dir, "go"), "")
      assert.strictEqual(yield* held.ended, 4)
    }))

  it.effect("who reads the output of the command reads no more: it ends as it would by itself", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const env = { ETCD_ENDPOINTS: endpoint }
      const pipe = (script: string) => run("sh", ["-c", script, "sh", process.execPath, coordBin], coordEnv(env))
      const head = yield* pipe("{ \"$1\" \"$2\" lock pipe -- yes; echo \"ended $?\" >&2; } | head -1")
      yield* head.ended
      assert.deepStrictEqual(yield* head.lines, ["y"])
      assert.strictEqual(yield* head.errors, "ended 141\n")
      const closed = yield* pipe("\"$1\" \"$2\" lock pipe -- sh -c 'exit 6' >&- 2>&- <&-; echo \"ended $?\"")
      yield* closed.line("ended 6")
    }))

  it.effect("--foreground: signals reach the command alone", () =>
    Effect.gen(function*() {
      const script =
        "(trap 'echo grandchild' TERM; sleep 1.5; echo left) & trap 'echo term; wait; exit 8' TERM; echo up; wait; wait"
      const held = yield* running("lock", "foreground", "--foreground", ...sh(script))
      yield* held.line("up")
      yield* held.kill("SIGTERM")
      yield* held.line("term")
      assert.strictEqual(yield* held.ended, 8)
      assert.notInclude(yield* held.lines, "grandchild")
    }))
})

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord lock and its etcd", (it) => {
  it.effect(
    "a restart that is shorter than what is left of the lock is not noticed by the command",
    () =>
      Effect.gen(function*() {
        const server = yield* TestEtcd
        const dir = yield* folder
        const held = yield* running("lock", "restart", "--ttl", "12s", ...untilFile(Path.join(dir, "go"), 3))
        yield* held.line("up")
        yield* server.kill
        yield* Effect.sleep("2 seconds")
        yield* server.start
        // Past the deadline that it had when etcd went.
        yield* Effect.sleep("11 seconds")
        Fs.writeFileSync(Path.join(dir, "go"), "")
        assert.strictEqual(yield* held.ended, 3)
      }),
    60_000
  )

  it.effect("etcd is gone when the command ends: its code is what counts", () =>
    Effect.gen(function*() {
      const server = yield* TestEtcd
      const dir = yield* folder
      const held = yield* running("lock", "gone", ...untilFile(Path.join(dir, "go"), 7))
      yield* held.line("up")
      yield* server.kill
      Fs.writeFileSync(Path.join(dir, "go"), "")
      assert.strictEqual(yield* held.ended, 7)
      yield* server.start
    }), 60_000)

  it.effect("etcd is gone for longer than the TTL: the command is stopped", () =>
    Effect.gen(function*() {
      const server = yield* TestEtcd
      const held = yield* running("lock", "outage", "--ttl", "2s", ...sh("echo up; sleep 60"))
      yield* held.line("up")
      yield* server.kill
      assert.strictEqual(yield* held.ended, 123)
      yield* server.start
    }), 60_000)
})
