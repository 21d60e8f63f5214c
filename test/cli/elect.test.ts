import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import { Election, Etcd, layerEtcd, Operation, Semaphore } from "../../src/index.ts"
import { coord as command } from "../utils/command.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { eventually } from "../utils/eventually.ts"
import { folder, sh, start, untilFile } from "../utils/running.ts"

// Each command is a process: on a busy machine it takes seconds to start.
vi.setConfig({ testTimeout: 120_000 })

const client = Effect.gen(function*() {
  const { endpoint } = yield* TestEtcd
  const context = yield* Layer.build(Layer.fresh(layerEtcd({ endpoints: endpoint })))
  return {
    election: Context.get(context, Election),
    semaphore: Context.get(context, Semaphore),
    etcd: Context.get(context, Etcd)
  }
})

const running = (...args: ReadonlyArray<string>) => Effect.flatMap(TestEtcd, ({ endpoint }) => start(endpoint, args))

/** Says the token of each time that it runs, and goes on until the file is there. */
const term = "echo \"token $COORD_FENCING_TOKEN\"; while [ ! -e \"$1\" ]; do sleep 0.02; done; exit 5"

const tokens = (lines: ReadonlyArray<string>) =>
  lines.filter((line) => line.startsWith("token")).map((line) => Number(line.slice(6)))

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord elect", (it) => {
  it.effect("leads while its command runs, which finds the key and the token; the next one follows with its end", () =>
    Effect.gen(function*() {
      const { election } = yield* client
      const go = Path.join(yield* folder, "go")
      const script =
        "echo \"$COORD_ELECTION_KEY $COORD_FENCING_TOKEN\"; while [ ! -e \"$1\" ]; do sleep 0.02; done; exit 4"
      const first = yield* running("elect", "leads", "10.0.0.1:80", ...sh(script, go))
      const [key, token] = (yield* first.line("/elections/leads/")).split(" ")
      const leader = Option.getOrThrow(yield* election.leader("leads"))
      assert.deepStrictEqual([leader.entryKey, String(leader.fencingToken), leader.value], [key, token, "10.0.0.1:80"])
      const second = yield* running("elect", "leads", "10.0.0.2:80", ...untilFile(go, 0))
      yield* eventually("the second one stands", Effect.map(election.candidates("leads"), ({ length }) => length === 2))
      Fs.writeFileSync(go, "")
      assert.deepStrictEqual(yield* Effect.all([first.ended, second.ended]), [4, 0])
      assert.isTrue(Option.isNone(yield* election.leader("leads")))
    }))

  it.effect("an operator takes the leadership away: the command is stopped, and runs again with a greater token", () =>
    Effect.gen(function*() {
      const { election, etcd } = yield* client
      const go = Path.join(yield* folder, "go")
      const one = yield* running("elect", "again", "me", "--ttl", "3s", ...sh(term, go))
      const first = Number((yield* one.line("token")).slice(6))
      const { entryKey } = Option.getOrThrow(yield* election.leader("again"))
      yield* etcd.txn({ success: [Operation.delete(entryKey)] })
      yield* eventually("it leads again", Effect.map(one.lines, (lines) => tokens(lines).length === 2))
      Fs.writeFileSync(go, "")
      assert.strictEqual(yield* one.ended, 5)
      assert.isAbove(tokens(yield* one.lines)[1] ?? 0, first)
      assert.match(yield* one.errors, /coord: election "again" .* no longer led: Deleted: stopping the command\n/)
    }))

  it.effect("Ctrl-C while it stands", () =>
    Effect.gen(function*() {
      const { election } = yield* client
      const first = yield* running("elect", "stands", "a", ...sh("echo up; sleep 60"))
      yield* first.line("up")
      const second = yield* running("elect", "stands", "b", "--", "echo", "ran")
      yield* eventually("it stands", Effect.map(election.candidates("stands"), ({ length }) => length === 2))
      yield* second.kill("SIGINT")
      assert.strictEqual(yield* second.ended, 130)
      assert.strictEqual((yield* election.candidates("stands")).length, 1)
      assert.deepStrictEqual(yield* second.lines, [])
    }))

  it.effect("a command that is none ends it", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const ended = yield* command(endpoint, ["elect", "none", "me", "--", "nowhere-to-be-found"])
      assert.strictEqual(ended.code, 127)
    }))
})

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord elect and its etcd", (it) => {
  it.effect(
    "an outage longer than the TTL: the command is stopped, and runs again when etcd is back",
    () =>
      Effect.gen(function*() {
        const server = yield* TestEtcd
        const go = Path.join(yield* folder, "go")
        const one = yield* running("elect", "outage", "me", "--ttl", "2s", ...sh(term, go))
        yield* one.line("token")
        yield* server.kill
        yield* eventually("it is stopped", Effect.map(one.errors, (errors) => errors.includes("stopping the command")))
        // So long that the campaigns after it have failed for good, if anything can make them.
        yield* Effect.sleep("8 seconds")
        yield* server.start
        yield* eventually("it leads again", Effect.map(one.lines, (lines) => tokens(lines).length === 2), 30_000)
        Fs.writeFileSync(go, "")
        assert.strictEqual(yield* one.ended, 5)
      }),
    60_000
  )
})

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("coord semaphore", (it) => {
  it.effect("so many at a time; who does not wait ends with 124", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      const { semaphore } = yield* client
      const go = Path.join(yield* folder, "go")
      const args = ["semaphore", "two", "2", "--label", "me"]
      const first = yield* running(...args, ...sh("echo \"$COORD_SEMAPHORE_KEY $COORD_FENCING_TOKEN\"; sleep 60"))
      const second = yield* running(...args, ...untilFile(go, 3))
      const [key, token] = (yield* first.line("/semaphores/two/")).split(" ")
      yield* second.line("up")
      const entries = yield* semaphore.entries("two")
      assert.deepStrictEqual(entries.map(({ holds }) => holds), [true, true])
      assert.isTrue(entries.some((entry) => entry.entryKey === key && String(entry.fencingToken) === token))
      const third = yield* running(...args, "--", "echo", "third")
      yield* eventually("it waits", Effect.map(semaphore.entries("two"), ({ length }) => length === 3))
      const tried = yield* command(endpoint, ["semaphore", "--try", "two", "2", "--", "true"])
      assert.strictEqual(tried.code, 124)
      const waited = yield* command(endpoint, ["semaphore", "--wait", "200ms", "two", "2", "--", "true"])
      assert.strictEqual(waited.code, 124)
      assert.match(waited.stderr, /^coord: a permit of semaphore "two" could not be had within 200ms\n$/)
      assert.deepStrictEqual(yield* third.lines, [])
      Fs.writeFileSync(go, "")
      assert.strictEqual(yield* second.ended, 3)
      yield* third.line("third")
      assert.strictEqual(yield* third.ended, 0)
    }))

  it.effect("a number of permits that makes no sense is one line and 125", () =>
    Effect.gen(function*() {
      const { endpoint } = yield* TestEtcd
      for (const permits of ["0", "-1", "1.5", "many"]) {
        const ended = yield* command(endpoint, ["semaphore", "x", permits, "--", "true"])
        assert.strictEqual(ended.code, 125, permits)
        assert.match(ended.stderr, /^coord: .+\n$/)
      }
    }))
})
