/** Clusters of three whose members die, freeze, lose their leader or are removed, under load that is accounted for. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { Operation } from "../../src/index.ts"
import { type Cluster, makeCluster } from "../utils/Cluster.ts"
import { type EtcdServer, type EtcdVersion, makeEtcdServer } from "../utils/EtcdServer.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { type Client, connect, instance, ms, now, quiet, until } from "./clients.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] satisfies ReadonlyArray<EtcdVersion>

interface Call {
  readonly from: number
  to: number
  /** `Acknowledged`, or the reason of its error. */
  outcome: string
  /** For a write: what its error says. */
  detail: string
}

const decoder = new TextDecoder()
const prefix = "/load/"

/** Every put below the prefix up to a revision, as etcd tells it: value and revision. */
const collect = (
  { etcd }: Client,
  from: bigint,
  each: (value: string, revision: bigint) => void
) =>
  etcd.watch({ prefix, startRevision: from }).pipe(
    Stream.runForEach((item) =>
      Effect.sync(() => {
        if (item._tag === "Opened") return
        for (const event of item.events) if (event._tag === "Put") each(decoder.decode(event.kv.value), item.revision)
      })
    )
  )

/**
 * Numbered writes and reads at a fixed pace, whatever becomes of the earlier ones; watchers; a lock and registrations.
 */
const makeLoad = Effect.fnUntraced(function*(client: Client, watchers = 6, seconds = 10) {
  const held = yield* client.lock.acquire("load", { ttl: seconds * 1000 })
  const registrations = yield* Effect.forEach(
    ["a", "b", "c"],
    (id) => client.registry.register(instance("load", id), { ttl: seconds * 1000 })
  )
  const { revision } = yield* client.etcd.txn({ success: [Operation.put(`${prefix}start`, "start")] })
  const writes: Array<Call> = []
  const reads: Array<Call> = []
  const seen = Array.from(
    { length: watchers },
    () => new Array<{ readonly value: string; readonly revision: bigint; readonly at: number }>()
  )
  const watching = yield* Effect.forEach(seen, (events) =>
    Effect.forkScoped(
      collect(client, revision, (value, revision) => void events.push({ value, revision, at: now() })),
      { startImmediately: true }
    ))
  const call = <A, E extends { readonly _tag: string }>(
    calls: Array<Call>,
    effect: (n: number) => Effect.Effect<A, E>
  ) =>
    Effect.suspend(() => {
      const mine: Call = { from: now(), to: Number.POSITIVE_INFINITY, outcome: "Running", detail: "" }
      const n = calls.push(mine) - 1
      return Effect.onExit(effect(n), (exit) =>
        Effect.sync(() => {
          mine.to = now()
          const failure = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
          const error: unknown = failure?._tag === "Fail" ? failure.error : undefined
          const reason = error !== undefined && typeof error === "object" && error !== null && "reason" in error
            ? error.reason as { readonly _tag: string; readonly message: string }
            : undefined
          mine.outcome = Exit.isSuccess(exit) ? "Acknowledged" : reason?._tag ?? "Died"
          mine.detail = reason?.message ?? ""
        }))
    }).pipe(Effect.ignore, Effect.forkScoped({ startImmediately: true }))
  const pace = yield* Effect.forkScoped(
    Effect.gen(function*() {
      yield* call(writes, (n) => client.etcd.txn({ success: [Operation.put(`${prefix}${n % 16}`, String(n))] }))
      yield* call(reads, () => client.etcd.range({ key: `${prefix}start` }))
      yield* Effect.sleep("15 millis")
    }).pipe(Effect.forever)
  )
  const settled = Effect.sync(() => [...writes, ...reads].every(({ to }) => Number.isFinite(to)))

  return {
    held,
    writes,
    reads,
    seen,
    /** Stops, waits for what is open, and accounts for everything that was acknowledged, refused or uncertain. */
    account: Effect.fnUntraced(function*(judge: Client) {
      yield* Fiber.interrupt(pace)
      yield* until("every call has ended", settled, 30_000)
      const last = yield* judge.etcd.txn({ success: [Operation.put(`${prefix}end`, "end")] }).pipe(
        Effect.retry({ times: 5 })
      )
      // An ambiguous write may come true even later than this.
      const upToEnd = (events: ReadonlyArray<string>) => events.slice(0, events.indexOf(`end@${last.revision}`) + 1)
      const history: Array<string> = []
      const judging = yield* Effect.forkChild(
        collect(judge, revision, (value, revision) => void history.push(`${value}@${revision}`))
      )
      yield* Effect.raceFirst(
        until("the history is read", Effect.sync(() => history.includes(`end@${last.revision}`)), 60_000),
        Effect.andThen(Fiber.join(judging), Effect.never)
      )
      yield* Fiber.interrupt(judging)
      const truth = upToEnd(history)
      const applied = new Map<string, number>()
      for (const event of truth) {
        const value = event.slice(0, event.indexOf("@"))
        applied.set(value, (applied.get(value) ?? 0) + 1)
      }
      const times = (n: number) => applied.get(String(n)) ?? 0
      const count = (outcome: string) => writes.filter((write) => write.outcome === outcome).length
      const lost = writes.filter(({ outcome }, n) => outcome === "Acknowledged" && times(n) === 0).length
      const doubled = writes.filter((_, n) => times(n) > 1).length
      const wronglyRefused = writes.filter(({ outcome }, n) =>
        outcome !== "Acknowledged" && outcome !== "Ambiguous" && times(n) > 0
      )
      assert.deepStrictEqual({ lost, doubled, wronglyRefused }, { lost: 0, doubled: 0, wronglyRefused: [] })
      assert.deepStrictEqual(
        [...new Set([...writes, ...reads].map(({ outcome }) => outcome))].filter((outcome) =>
          !["Acknowledged", "Ambiguous", "Unavailable", "Timeout"].includes(outcome)
        ),
        []
      )
      for (const events of seen) {
        const texts = () => events.map(({ revision, value }) => `${value}@${revision}`)
        yield* until("a watcher has seen the end", Effect.sync(() => upToEnd(texts()).length > 0), 30_000)
        assert.deepStrictEqual(upToEnd(texts()), truth)
      }
      yield* Fiber.interruptAll(watching)
      yield* held.assertHeld
      for (const registration of registrations) {
        yield* until(
          "every instance is registered",
          Effect.map(registration.status.get, (status) => status === "Registered"),
          30_000
        )
      }
      assert.strictEqual((yield* judge.registry.discover("load")).length, 3)
      return `${count("Acknowledged")} writes acknowledged, ${count("Ambiguous")} ambiguous, ` +
        `${
          writes.length - count("Acknowledged") - count("Ambiguous")
        } refused; 0 lost, 0 doubled, ${watchers} watchers complete`
    })
  }
})

const others = (cluster: Cluster, member: EtcdServer) => cluster.members.filter((one) => one !== member)

const isAcknowledged = ({ outcome }: Call) => outcome === "Acknowledged"

/** How long the slowest call took of those that ended in a time. */
const slowest = (calls: ReadonlyArray<Call>, from: number): number =>
  Math.max(0, ...calls.filter((call) => call.to >= from).map((call) => call.to - call.from))

for (const version of versions) {
  describe(`a cluster of three, etcd ${version}`, () => {
    it.live(
      "leader killed under load: writes resume, watches and leases live, nothing acknowledged is lost",
      () =>
        Effect.gen(function*() {
          const cluster = yield* makeCluster({ version })
          const client = yield* connect({ endpoints: cluster.endpoints })
          const load = yield* makeLoad(client)
          const resumed: Array<number> = []
          const elected: Array<number> = []
          const watched: Array<number> = []
          for (let round = 0; round < 3; round++) {
            yield* Effect.sleep("2 seconds")
            const leader = yield* cluster.leader
            const killed = now()
            yield* leader.kill
            yield* cluster.leader
            const led = now()
            elected.push(led - killed)
            const first = () => load.writes.find((write) => write.from >= led && isAcknowledged(write))
            yield* until("a write is acknowledged", Effect.sync(() => first() !== undefined), 30_000, 2)
            const acknowledged = first()?.to ?? Number.NaN
            resumed.push(acknowledged - led)
            // Each of them, not the first.
            yield* until(
              "every watcher goes on",
              Effect.sync(() => load.seen.every((events) => (events.at(-1)?.at ?? 0) > led)),
              30_000,
              2
            )
            watched.push(now() - led)
            yield* Effect.sleep("2 seconds")
            yield* leader.start
          }
          yield* Effect.sleep("1 second")
          const judge = yield* connect({ endpoints: cluster.endpoints })
          const accounts = yield* load.account(judge)
          const worst = Math.max(...resumed)
          record({
            what: "leader killed under load, three times: writes resume",
            bar: "within 1 s of the new leader; nothing acknowledged lost",
            measured:
              `${resumed.map(ms).join(", ")} (elections: ${elected.map(ms).join(", ")}; all watches went on after ` +
              `${watched.map(ms).join(", ")}); ${accounts}; a 10 s lease held`,
            ok: worst <= 1000,
            version
          })
          assert.isBelow(worst, 3000)
        }).pipe(quiet),
      120_000
    )

    for (const role of ["follower", "leader"] as const) {
      it.live(
        `${role} frozen under load: calls and watches pause, a lease of 10 s is held`,
        () =>
          Effect.gen(function*() {
            const cluster = yield* makeCluster({ version })
            const client = yield* connect({ endpoints: cluster.endpoints })
            const load = yield* makeLoad(client, 9)
            yield* Effect.sleep("3 seconds")
            const leader = yield* cluster.leader
            const [follower = leader] = others(cluster, leader)
            const frozen = role === "leader" ? leader : follower
            const at = now()
            yield* frozen.pause
            yield* Effect.sleep("15 seconds")
            yield* load.held.assertHeld
            yield* frozen.resume
            yield* Effect.sleep("1 second")
            const judge = yield* connect({ endpoints: cluster.endpoints })
            const accounts = yield* load.account(judge)
            // How much later a watcher saw a write than its writer had its answer.
            const answered = new Map(load.writes.map((write, n) => [String(n), write]))
            const lags = load.seen.map((events) =>
              Math.max(...events.map(({ at, value }) => {
                const write = answered.get(value)
                return write !== undefined && isAcknowledged(write) ? at - write.to : 0
              }))
            )
            const reading = slowest(load.reads, at)
            const writing = slowest(load.writes.filter(isAcknowledged), at)
            const uncertain = slowest(load.writes.filter((write) => !isAcknowledged(write)), at)
            const watching = Math.max(...lags)
            const worst = Math.max(reading, writing, watching, uncertain)
            record({
              what: `one of three frozen, a ${role}: pauses`,
              bar: "at most 3.5 s for calls, watches and writes in flight; a 10 s lease is held",
              measured: `reads ${ms(reading)}, writes ${ms(writing)}, watches ${ms(watching)}, ` +
                `writes that were in flight ${ms(uncertain)}; ${accounts}; lease held`,
              ok: worst <= 3500,
              version
            })
            assert.isBelow(worst, 10_500)
          }).pipe(quiet),
        120_000
      )
    }

    it.live(
      "no majority: calls fail in time and with their type, and everything goes on afterwards",
      () =>
        Effect.gen(function*() {
          const cluster = yield* makeCluster({ version })
          const client = yield* connect({ endpoints: cluster.endpoints })
          const load = yield* makeLoad(client, 6, 20)
          yield* Effect.sleep("1 second")
          const leader = yield* cluster.leader
          const at = now()
          for (const member of others(cluster, leader)) yield* member.pause
          yield* Effect.sleep("7 seconds")
          for (const member of others(cluster, leader)) yield* member.resume
          const back = now()
          yield* until(
            "a write is acknowledged",
            Effect.sync(() => load.writes.some((write) => write.from >= back && isAcknowledged(write))),
            30_000
          )
          const again = now()
          yield* Effect.sleep("1 second")
          const judge = yield* connect({ endpoints: cluster.endpoints })
          const accounts = yield* load.account(judge)
          const failed = [...load.writes, ...load.reads].filter((call) => !isAcknowledged(call) && call.from >= at)
          const worst = slowest(failed, at)
          record({
            what: "two of three frozen for 7 s: calls to a node without leader",
            bar: "a typed error, within two requests' time (10 s)",
            measured: `${failed.length} failed, the slowest after ${ms(worst)}; writes again ${
              ms(again - back)
            } after the thaw; ${accounts}`,
            ok: worst <= 10_500,
            version
          })
          assert.isAbove(failed.length, 0)
          assert.isBelow(worst, 31_500)
        }).pipe(quiet),
      120_000
    )

    it.live("a member without a leader that alone is known: no leader, and no hanging", () =>
      Effect.gen(function*() {
        const cluster = yield* makeCluster({ version })
        const leader = yield* cluster.leader
        const client = yield* connect({ endpoints: leader.endpoint, timeout: "15 seconds", retry: { maxAttempts: 2 } })
        yield* client.etcd.txn({ success: [Operation.put("/a", "before")] })
        for (const member of others(cluster, leader)) yield* member.pause
        // The server itself gives these up, after seven seconds: they are in its log, and may come true.
        const start = now()
        const answers = yield* Effect.forEach(
          [1, 2, 3, 4, 5],
          (n) => Effect.exit(client.etcd.txn({ success: [Operation.put(`/server-side/${n}`, "1")] })),
          { concurrency: "unbounded" }
        )
        const server = now() - start
        // On a machine that is slow to send them, the leader has stepped down by then, and refuses.
        const refused = answers.flatMap((answer, n) => {
          const failure = Exit.isFailure(answer) ? answer.cause.reasons[0] : undefined
          if (failure?._tag !== "Fail") return assert.fail("it was answered")
          const { reason } = failure.error
          if (reason._tag === "Ambiguous") return []
          assert.deepInclude(reason, { _tag: "Unavailable", sent: false })
          return [`/server-side/${n + 1}`]
        })
        const asked = now()
        const refusals = [
          yield* Effect.flip(client.etcd.range({ key: "/a" })),
          yield* Effect.flip(client.etcd.txn({ success: [Operation.put("/a", "now")] }))
        ]
        for (const { reason } of refusals) {
          assert.deepInclude(reason, { _tag: "Unavailable", detail: "etcdserver: no leader", sent: false })
        }
        const told = now() - asked
        for (const member of others(cluster, leader)) yield* member.resume
        yield* until(
          "it leads or follows again",
          Effect.map(client.etcd.range({ key: "/a" }), ({ kvs: [kv] }) => decoder.decode(kv?.value) === "before"),
          30_000
        )
        const { kvs } = yield* client.etcd.range({ prefix: "/server-side/" })
        assert.isTrue(kvs.every(({ key, version }) => version === 1n && !refused.includes(key)))
        record({
          what: "puts that the server itself gives up",
          bar: "Ambiguous, applied at most once",
          measured:
            `${5 - refused.length} of 5 Ambiguous after ${ms(server)}, ${refused.length} refused; ${kvs.length} ` +
            `applied in the end, none twice; then "no leader" within ${ms(told)} for two calls`,
          ok: true,
          version
        })
      }).pipe(quiet), 120_000)

    it.live("members removed under load, a follower and then the leader: nothing lost", () =>
      Effect.gen(function*() {
        const cluster = yield* makeCluster({ version, args: ["--strict-reconfig-check=false"] })
        const client = yield* connect({ endpoints: cluster.endpoints })
        const load = yield* makeLoad(client)
        let alive = cluster.members
        for (const role of ["follower", "leader"] as const) {
          yield* Effect.sleep("2 seconds")
          const leader = yield* cluster.leader
          const gone = role === "leader" ? leader : alive.find((member) => member !== leader) ?? leader
          alive = alive.filter((member) => member !== gone)
          const status = yield* gone.etcdctl("endpoint", "status", "--write-out=json")
          const id = BigInt(/"member_id":(\d+)/.exec(status)?.[1] ?? 0)
          yield* (alive[0] ?? gone).etcdctl("member", "remove", id.toString(16))
          const at = now()
          yield* until(
            "a write is acknowledged",
            Effect.sync(() => load.writes.some((write) => write.from >= at && isAcknowledged(write))),
            30_000
          )
          yield* Effect.sleep("3 seconds")
        }
        const judge = yield* connect({ endpoints: alive.map(({ endpoint }) => endpoint) })
        const accounts = yield* load.account(judge)
        record({
          what: "two of three members removed under load",
          bar: "nothing lost",
          measured: accounts,
          ok: true,
          version
        })
      }).pipe(quiet), 120_000)
  })
}

describe("a peer that accepts and never answers", () => {
  it.live("among three: reconnecting into it costs a bounded pause", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      const proxies = yield* Effect.forEach(cluster.members, makeProxy)
      const client = yield* connect({ endpoints: proxies.map(({ endpoint }) => endpoint) })
      const load = yield* makeLoad(client, 9)
      yield* Effect.sleep("2 seconds")
      const at = now()
      const [silent] = proxies
      if (silent === undefined) return
      yield* silent.freeze
      yield* silent.cut
      yield* Effect.sleep("12 seconds")
      yield* load.held.assertHeld
      yield* silent.thaw
      yield* Effect.sleep("1 second")
      const judge = yield* connect({ endpoints: cluster.endpoints })
      const accounts = yield* load.account(judge)
      const worst = Math.max(slowest(load.reads, at), slowest(load.writes, at))
      record({
        what: "reconnecting into a member that accepts and never answers, one of three",
        bar: "a pause of at most 3.5 s",
        measured: `slowest call ${ms(worst)}; ${accounts}; lease held`,
        ok: worst <= 3500
      })
      assert.isBelow(worst, 10_500)
    }).pipe(quiet), 120_000)

  it.live("the only one: calls fail in time, and all goes on when it answers again", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const proxy = yield* makeProxy(server)
      const client = yield* connect({ endpoints: proxy.endpoint, timeout: "2 seconds" })
      const load = yield* makeLoad(client)
      yield* Effect.sleep("1 second")
      const at = now()
      yield* proxy.freeze
      yield* proxy.cut
      yield* Effect.sleep("6 seconds")
      yield* proxy.thaw
      const thawed = now()
      yield* until(
        "a write is acknowledged",
        Effect.sync(() => load.writes.some((write) => write.from >= thawed && isAcknowledged(write))),
        30_000
      )
      const again = now() - thawed
      yield* Effect.sleep("1 second")
      const judge = yield* connect({ endpoints: server.endpoint })
      const accounts = yield* load.account(judge)
      const worst = Math.max(slowest(load.reads, at), slowest(load.writes, at))
      record({
        what: "reconnecting into the only server, which accepts and never answers for 6 s",
        bar: "calls end within two requests' time (4 s); calls again within 3.5 s",
        measured: `slowest call ${ms(worst)}; answered ${ms(again)} after the thaw; ${accounts}`,
        ok: worst <= 4500 && again <= 3500
      })
      assert.isBelow(worst, 12_000)
      assert.isBelow(again, 10_500)
    }).pipe(quiet), 120_000)
})
