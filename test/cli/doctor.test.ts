import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { password, setUpAuth } from "../utils/auth.ts"
import { coord } from "../utils/command.ts"
import { makeEtcdServer } from "../utils/EtcdServer.ts"
import { freePort } from "../utils/ports.ts"

interface Finding {
  readonly check: string
  readonly status: string
  readonly detail: string
  readonly advice?: string
}

const doctor = (endpoint: string, args: ReadonlyArray<string> = [], env: NodeJS.ProcessEnv = {}) =>
  Effect.map(coord(endpoint, ["doctor", ...args], { env }), (ended) => ({
    ...ended,
    findings: ended.objects as unknown as ReadonlyArray<Finding>,
    problems: (ended.objects as unknown as ReadonlyArray<Finding>).filter(({ status }) => status === "problem")
  }))

for (const version of ["3.5", "3.4"] as const) {
  it.live(`coord doctor: nothing is wrong with a new etcd ${version}`, () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer({ version })
      const { code, findings, stderr } = yield* doctor(server.endpoint)
      assert.deepStrictEqual([code, stderr], [0, ""])
      assert.deepStrictEqual(new Set(findings.map(({ status }) => status)), new Set(["ok"]))
      assert.include(findings.find(({ check }) => check.startsWith("member"))?.detail, `etcd ${version}.`)
      assert.deepStrictEqual(
        findings.map(({ check }) => check).filter((check) => !check.includes(" ")),
        [
          "connection",
          "latency",
          "leader",
          "alarms",
          "clock",
          "locks",
          "elections",
          "semaphores",
          "ids",
          "services",
          "configuration"
        ]
      )
    }), { timeout: 120_000 })
}

it.live(
  "coord doctor finds entries that nobody will remove and configuration that is broken, and writes nothing",
  () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer({})
      yield* server.etcdctl("put", "/app/locks/nightly/1", "")
      yield* server.etcdctl("put", "/app/config/limits", "{\"perSecond\":")
      yield* server.etcdctl("put", "/app/config/fine", "{\"perSecond\":1}")
      const { code, problems } = yield* doctor(server.endpoint, ["--namespace", "/app"])
      assert.strictEqual(code, 1)
      assert.deepStrictEqual(problems.map(({ check, detail }) => [check, detail]), [
        ["locks without a lease", "/app/locks/nightly/1: whoever asks for its lock waits for ever"],
        ["configuration", "/app/config/limits begins as JSON and is none"]
      ])
      for (const { advice } of problems) assert.isDefined(advice)
      assert.include(yield* server.etcdctl("get", "", "--prefix", "--keys-only", "-w", "json"), "\"revision\":4")
      const { text } = yield* coord(server.endpoint, ["doctor", "--no-json", "--namespace", "/app"])
      assert.match(text, /^PROBLEM {2}locks without a lease: .*\n +-> .*etcdctl del/m)
    }),
  { timeout: 60_000 }
)

it.live("coord doctor says which rights a user lacks, and shows no password", () =>
  Effect.gen(function*() {
    const server = yield* makeEtcdServer({})
    yield* setUpAuth(server, { locker: ["/locks/"] })
    const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-cli-"))
    yield* Effect.addFinalizer(() => Effect.sync(() => Fs.rmSync(folder, { recursive: true })))
    Fs.writeFileSync(Path.join(folder, "password"), `${password}\n`)
    const asked = yield* doctor(server.endpoint, ["--user", "locker", "--password-file", Path.join(folder, "password")])
    assert.strictEqual(asked.code, 1)
    const rights = asked.findings.filter(({ check }) => check.startsWith("rights"))
    assert.deepStrictEqual(rights.filter(({ status }) => status === "ok").map(({ check }) => check), [
      "rights of locks"
    ])
    assert.include(
      rights.find(({ check }) => check === "rights of configuration")?.detail,
      "locker may do nothing below /config/"
    )
    assert.notInclude(asked.text + asked.stderr, password)

    const wrong = yield* doctor(server.endpoint, [], { ETCD_USERNAME: "locker", ETCD_PASSWORD: "not this" })
    assert.strictEqual(wrong.code, 1)
    assert.deepStrictEqual(wrong.problems.map(({ check }) => check), ["connection"])
    assert.notInclude(wrong.text + wrong.stderr, "not this")
    const shown = yield* coord(server.endpoint, ["locks", "--user", `locker:${password}`])
    assert.strictEqual(shown.code, 2)
    assert.match(shown.stderr, /^coord: --user takes the name alone.*--password-file\n$/)
    assert.notInclude(shown.stderr, password)
  }), { timeout: 120_000 })

it.live("coord doctor says where it looked in vain", () =>
  Effect.gen(function*() {
    const endpoint = `127.0.0.1:${yield* freePort}`
    const { code, problems } = yield* doctor(endpoint, ["--timeout", "1s"])
    assert.strictEqual(code, 1)
    assert.strictEqual(problems.length, 1)
    assert.include(problems[0]?.detail, endpoint)
    const listed = yield* coord(endpoint, ["services", "--timeout", "1s"])
    assert.strictEqual(listed.code, 125)
    assert.match(listed.stderr, new RegExp(`^coord: [^\\n]*${endpoint}[^\\n]*\\n$`))
  }), { timeout: 120_000 })

it.live("a member that is down, and a store that is full, are found", () =>
  Effect.gen(function*() {
    const server = yield* makeEtcdServer({ args: ["--quota-backend-bytes=131072"] })
    const value = "x".repeat(30_000)
    yield* Effect.ignore(
      Effect.repeat(server.etcdctl("put", "/config/big", value), { times: 20 })
    )
    const down = `127.0.0.1:${yield* freePort}`
    const { code, problems } = yield* doctor(`${server.endpoint},${down}`)
    assert.strictEqual(code, 1)
    const alarm = problems.find(({ check }) => check === "alarm")
    assert.include(alarm?.detail, "NOSPACE")
    assert.include(alarm?.advice, "alarm disarm")
    assert.isDefined(problems.find(({ check }) => check === `member ${down}`))
  }), { timeout: 120_000 })
