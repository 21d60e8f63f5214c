/** Every example runs as a reader runs it, and shows what it says it shows. */
import { assert, describe, it, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { TestEtcd } from "./utils/EtcdServer.ts"

const root = Path.join(import.meta.dirname, "..")

interface Ended {
  readonly code: number
  readonly out: string
  readonly err: string
}

const runExample = (name: string, endpoints?: string): Effect.Effect<Ended> =>
  Effect.callback((resume) => {
    const { ETCD_ENDPOINTS: _, ...env } = process.env
    const child = execFile(
      process.execPath,
      [Path.join("examples", `${name}.ts`)],
      { cwd: root, env: endpoints === undefined ? env : { ...env, ETCD_ENDPOINTS: endpoints }, timeout: 60_000 },
      (error, out, err) =>
        resume(Effect.succeed({ code: error === null ? 0 : Number(error.code ?? Number.NaN), out, err }))
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** In this order; other lines may come between them. */
const shows = (ended: Ended, lines: ReadonlyArray<string | RegExp>): void => {
  const everything = `${ended.out}${ended.err}`
  assert.strictEqual(ended.code, 0, everything)
  const rest = ended.out.split("\n").map((line) => line.trim())
  for (const expected of lines) {
    const at = rest.findIndex((line) => typeof expected === "string" ? line === expected : expected.test(line))
    assert.notStrictEqual(at, -1, `no line ${expected} (any more) in\n${everything}`)
    rest.splice(0, at + 1)
  }
}

/** What each example shows, wherever it runs. */
const shown: Record<string, ReadonlyArray<string | RegExp>> = {
  quickstart: [
    /^1\. A lock/,
    /^worker A holds the lock, fencing token \d+$/,
    "tryAcquire does not wait. It answers LockHeld",
    "in line: worker A, worker B",
    "worker A has done its work and releases it",
    /^worker B holds the lock, fencing token \d+$/,
    "B's token is greater than A's: true",
    /^2\. A lock that is lost/,
    "the teller writes 0 and is refused: LockLost (Deleted)",
    "the balance is 100",
    /^3\. A registry/,
    "> Put orders-1 at 10.0.0.7:8081, zone north",
    "> Synced: that is all for now",
    "> Put orders-2 at 10.0.0.7:8082, zone south",
    "discovered: 10.0.0.7:8081, 10.0.0.7:8082",
    "> Put orders-2 at 10.0.0.7:8082, zone west",
    "> Delete orders-1 at 10.0.0.7:8081, zone north",
    /^4\. gRPC/,
    "greeter-1 and greeter-2 serve, each on a port of its own",
    "greeter-3 starts, and has its share",
    /^greeter-1 has ended/,
    /^who answered: greeter-1 \d+, greeter-2 \d+, greeter-3 \d+$/,
    /^calls: \d{2,}, of which failed: 0$/,
    /^5\. Configuration/,
    "> Put 200/s, burst 20, before: 100/s, burst 20",
    "the same over the old version: VersionConflict, nothing was written",
    "> Invalid: Expected number at perSecond",
    "a live reference keeps the last good value: 200/s, burst 20",
    "> Delete",
    /^6\. The end/,
    "keys left in etcd: 0"
  ],
  lock: [
    "replica-1 runs the report",
    "replica-2 skips it: replica-1 runs it",
    "replica-3 skips it: replica-1 runs it",
    "the balance is 15",
    "its write arrives at last and is refused: the token is old",
    "its handle knows: Released",
    "the balance is 100"
  ],
  election: [
    "job 1 of replica-1",
    "job 2 of replica-1",
    "job 1 of replica-2",
    "job 2 of replica-3",
    "who has led: replica-1, replica-2, replica-3",
    "replica-4 at 10.0.0.7:8080 leads",
    "its write is refused: Deleted"
  ],
  "instance-id": [
    "worker 0, worker 1, worker 2",
    "3000 ids, all different: true",
    /^no id of "example\/orders" is free/,
    "worker 1 has ended, and its number goes to the next one: 1",
    "a write is refused: Deleted",
    "the generator that has lost its number makes no more: InstanceIdLost (Deleted)"
  ],
  config: [
    /^written as version \d+: \{ perSecond: 100, burst: 20 \}$/,
    /^updated to version \d+: burst 40$/,
    /^not written: "example\/limits" has version \d+, expected version \d+$/,
    "still in use: { perSecond: 100, burst: 40 }",
    "deleted, so the default: { perSecond: 10, burst: 1 }"
  ],
  "config-history": [
    "primary db-2, replicas [ 'db-3' ]",
    "nothing written, changed meanwhile: example/db/primary, example/db/replicas",
    "what the primary was:",
    "db-2",
    "db-1",
    "Created",
    "back to db-2"
  ],
  reloadable: [
    "8 connections to mail-1 are open",
    "8 connections to mail-2 are open",
    "the connections to mail-1 are closed",
    "a size that is none: the pool before stays, until somebody mends it",
    "16 connections to mail-2 are open",
    "answered: mail-1 true, mail-2 true",
    "failed: 0"
  ],
  observability: [
    "ready: 200 {\"leader\":true,\"alarms\":[],\"members\":1}",
    "coord_operation_duration_count{operation=\"Lock.acquire\",outcome=\"ok\"} 2",
    "coord_operation_duration_count{operation=\"Lock.tryAcquire\",outcome=\"LockHeld\"} 1",
    "coord_lock_hold_duration_count 2",
    "metrics: coord_operation_duration",
    "traces: Lock.acquire",
    "traces: nightly"
  ],
  semaphore: [
    "all are done; more than two at a time: false",
    /^no permit of semaphore .* is free: there are 1$/,
    "held by: night shift",
    "a reader that comes later does not pass the writer",
    "the writer is alone"
  ],
  "config-provider": [
    "in etcd: port 8080, level debug",
    "replicas: db-1:5432, db-2:5433",
    "from the environment, as nobody has put it into etcd: region eu-1",
    "no such port, and no default instead of it: SchemaError"
  ],
  cluster: [
    "2 runners, and all 20 shards are held",
    "ann: apples",
    "ann: apples, pears",
    "1 runner, and it has all 20 shards",
    "bob: bread",
    "keys left in etcd: 0"
  ],
  "key-value-store": [
    "stored: { user: 'ann', visits: 1 }",
    "visits: 5",
    "bytes: 255 216 255",
    "keys: avatar, sessions/ann, visits",
    "all of them have expired"
  ],
  http: [
    `before: no instance of "greetings" to send a request to, 0 registered`,
    "three servers: hello from one, hello from three, hello from two",
    "one that nobody reaches, and no request lost: hello from one, hello from three, hello from two",
    "one has left: hello from three, hello from two"
  ],
  registry: [
    "the client knows: nobody",
    "the client knows: billing-1 (9001)",
    "the client knows: billing-1 (9001), billing-2 (9002)",
    "billing-1 is Registered",
    "it has registered itself again",
    "discovered: billing-1",
    /^invalid instance "billing-3": port must be/
  ],
  "grpc-proto-loader": [
    /^client: hello ann, from greeter-[12]$/,
    /^channel: hello bob, from greeter-[12]$/,
    /^target: hello eve, from greeter-[12]$/
  ],
  "grpc-ts-proto": ["answered by greeter-1 and greeter-2", "good morning bob", "good evening bob"],
  "grpc-nice-grpc": [/^hello ann, from greeter-[12]$/, "good morning bob", "good evening bob"],
  "grpc-connect": [/^hello ann, from greeter-[12]$/, "hello bob", "hello eve"]
}

it("has an expectation for every example", () => {
  const files = Fs.readdirSync(Path.join(root, "examples")).filter((file) => file.endsWith(".ts")).map((file) =>
    Path.parse(file).name
  )
  assert.deepStrictEqual(files.toSorted(), Object.keys(shown).toSorted())
})

describe("on memory", () => {
  for (const [name, lines] of Object.entries(shown)) {
    it.live(`${name} shows its steps`, () => Effect.map(runExample(name), (ended) => shows(ended, lines)), 90_000)
  }
})

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("on a real etcd", (it) => {
  for (const [name, lines] of Object.entries(shown)) {
    it.effect(`${name} shows its steps, and leaves no key and no lease`, () =>
      Effect.gen(function*() {
        const server = yield* TestEtcd
        const ended = yield* runExample(name, server.endpoint)
        shows(ended, [new RegExp(`${server.endpoint}`), ...lines])
        assert.strictEqual(yield* server.etcdctl("get", "", "--prefix", "--keys-only"), "", "keys left")
        assert.strictEqual((yield* server.etcdctl("lease", "list")).trim(), "found 0 leases", "leases left")
      }), { timeout: 90_000 })
  }
})

it.live("the quick start says which etcd it cannot reach, and fails", () =>
  Effect.gen(function*() {
    // Nothing listens on the port of tcpmux, and nobody but root could.
    const { code, err } = yield* runExample("quickstart", "127.0.0.1:1")
    assert.strictEqual(code, 1)
    assert.match(err, /127\.0\.0\.1:1: .*ECONNREFUSED.*Is etcd running there/)
  }))

it.live("the quick start says which option makes no sense, and fails", () =>
  Effect.gen(function*() {
    const { code, err } = yield* runExample("quickstart", "localhost")
    assert.strictEqual(code, 1)
    assert.match(err, /invalid option endpoints: must be host:port.*"localhost"/)
  }))
