/** `Etcd.health` where something is wrong. Where nothing is: the contract. */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { TestClock } from "effect/testing"
import { Etcd, type Health, type MemberHealth, Operation } from "../src/Etcd.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { healthOf } from "../src/internal/client/health.ts"
import { Store } from "../src/internal/memory/Store.ts"
import { makeTransport } from "../src/internal/memory/transport.ts"
import type { Transport } from "../src/internal/Transport.ts"
import { EtcdTest, layer } from "../src/testing.ts"
import { makeCluster } from "./utils/Cluster.ts"
import { makeConfigClient } from "./utils/configClient.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { connect } from "./utils/live.ts"
import { within } from "./utils/virtual.ts"

const tags = ({ members }: Health) => members.map(({ _tag }) => _tag)

describe("health", () => {
  it.effect("of a store that cannot be reached fails when the request timeout is over", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const faults = yield* EtcdTest
      assert.deepStrictEqual(tags(yield* etcd.health), ["Known"])
      yield* faults.partition
      const asking = yield* Effect.forkChild(Effect.flip(etcd.health), { startImmediately: true })
      yield* TestClock.adjust(etcd.settings.timeout)
      const error = yield* Fiber.join(asking)
      assert.strictEqual(error.operation, "health")
      assert.strictEqual(error.reason._tag, "Timeout")
      yield* faults.heal
      assert.deepStrictEqual(tags(yield* etcd.health), ["Known"])
    }).pipe(Effect.provide(layer())))

  it.effect("an outage that ends while it is asked costs only time", () =>
    Effect.gen(function*() {
      const { link, port } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* link.refuse
      const asking = yield* Effect.forkChild(port.etcd.health, { startImmediately: true })
      yield* TestClock.adjust("150 millis")
      yield* link.accept
      assert.deepStrictEqual(tags(yield* within("150 millis", Fiber.join(asking))), ["Known"])
    }))

  it.effect("who is interrupted while he asks is gone at once, and the next one is answered", () =>
    Effect.gen(function*() {
      const steps = yield* interruptAtEveryStep({
        setup: Effect.gen(function*() {
          const context = yield* Layer.build(layer())
          yield* Context.get(context, EtcdTest).delay("100 millis")
          return { etcd: Context.get(context, Etcd), faults: Context.get(context, EtcdTest) }
        }),
        run: ({ etcd }) => etcd.health,
        check: ({ etcd, faults }, exit) =>
          Effect.gen(function*() {
            if (Exit.isFailure(exit)) assert.isTrue(Cause.hasInterruptsOnly(exit.cause))
            assert.deepStrictEqual(tags(yield* within("1 second", etcd.health)), ["Known"])
            yield* faults.partition
            const asking = yield* Effect.forkChild(etcd.health, { startImmediately: true })
            yield* TestClock.adjust("1 second")
            // No time passes.
            yield* Fiber.interrupt(asking)
            yield* faults.heal
          })
      })
      assert.isAbove(steps, 20)
    }))
})

/** Three members that say different things, each after its time. */
const saying = (members: ReadonlyArray<Partial<Extract<MemberHealth, { readonly _tag: "Known" }>>>): Transport => ({
  ...makeTransport(new Store(Clock.Clock.defaultValue())),
  range: () => Effect.succeed({ revision: 7n, kvs: [], count: 0, more: false }).pipe(Effect.delay("1 second")),
  members: Effect.delay(
    Effect.succeed(members.map((member, index) => ({
      _tag: "Known" as const,
      endpoint: `member-${index}`,
      id: BigInt(index + 1),
      version: "3.5.30",
      leader: 1n,
      isLearner: false,
      raftTerm: 1n,
      raftIndex: 1n,
      dbSize: 0,
      dbSizeInUse: 0,
      errors: [],
      latency: Duration.zero,
      ...member
    }))),
    "1 second"
  )
})

describe("health of members that do not agree", () => {
  const of = (transport: Transport) => within("1 second", healthOf(transport))

  it.effect("the leader is that of the latest term, also where one knows of none", () =>
    Effect.gen(function*() {
      const cutOff = { leader: 2n, raftTerm: 4n }
      const leading = { leader: 3n, raftTerm: 5n }
      const orphan = { leader: 0n, raftTerm: 9n }
      for (const members of [[cutOff, leading, orphan], [orphan, leading, cutOff], [leading, cutOff, orphan]]) {
        assert.strictEqual((yield* of(saying(members))).leader, 3n)
      }
      assert.isUndefined((yield* of(saying([orphan]))).leader)
    }))

  it.effect("an alarm counts once, whoever tells of it, and the time is that of the read", () =>
    Effect.gen(function*() {
      const errors = ["memberID:2 alarm:NOSPACE", "etcdserver: no leader"]
      const { alarms, latency, revision } = yield* of(
        saying([{ errors }, { errors }, { errors: [...errors, "memberID:3 alarm:NOSPACE"] }])
      )
      assert.deepStrictEqual(alarms, [{ member: 2n, alarm: "NOSPACE" }, { member: 3n, alarm: "NOSPACE" }])
      assert.deepStrictEqual([Duration.toMillis(latency), revision], [1000, 7n])
    }))
})

for (const version of ["3.5", "3.4"] as const) {
  describe(`health (${version})`, () => {
    it.live(
      "of three: nothing is known of who is dead or frozen, and the others say who leads",
      () =>
        Effect.gen(function*() {
          const cluster = yield* makeCluster({ version })
          const etcd = yield* connect({ endpoints: cluster.endpoints, timeout: "2 seconds" })
          const whole = yield* etcd.health
          assert.deepStrictEqual(tags(whole), ["Known", "Known", "Known"])
          assert.deepStrictEqual(whole.members.map(({ endpoint }) => endpoint), cluster.endpoints)
          const leaderAt = whole.members.findIndex((member) => member._tag === "Known" && member.id === whole.leader)
          const leader = yield* cluster.leader
          assert.strictEqual(cluster.members[leaderAt], leader)

          const [dead, frozen] = cluster.members.filter((member) => member !== leader)
          if (dead === undefined || frozen === undefined) return assert.fail("there are three")
          const expected = (unknown: ReadonlyArray<unknown>) =>
            cluster.members.map((member) => unknown.includes(member) ? "Unknown" : "Known")
          yield* dead.kill
          const two = yield* etcd.health
          assert.deepStrictEqual([tags(two), two.leader], [expected([dead]), whole.leader])

          yield* dead.start
          yield* Effect.repeat(etcd.health, { until: (health) => !tags(health).includes("Unknown"), times: 200 })
          yield* frozen.pause
          // Until it is known for frozen, the read may be sent there.
          const partly = yield* Effect.retry(etcd.health, { times: 3 })
          assert.deepStrictEqual([tags(partly), partly.leader], [expected([frozen]), whole.leader])
          yield* dead.pause
          const error = yield* Effect.flip(etcd.health)
          assert.include(["Unavailable", "Timeout"], error.reason._tag)
          yield* dead.resume
          yield* frozen.resume
        }),
      60_000
    )

    it.live("of one that is full: the alarm", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version, args: ["--quota-backend-bytes=2000000"] })
        const etcd = yield* connect({ endpoints: server.endpoint })
        const fill = Effect.suspend(() =>
          etcd.txn({ success: [Operation.put(`big${Math.random()}`, "x".repeat(100_000))] })
        )
        yield* Effect.flip(Effect.repeat(fill, { times: 300 }))
        const { alarms, leader } = yield* etcd.health
        assert.deepStrictEqual(alarms.map(({ alarm, member }) => [alarm, member === leader]), [["NOSPACE", true]])
      }), 60_000)

    it.live("for a user without rights: served, and no revision is told", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        yield* server.etcdctl("user", "add", "root:root")
        yield* server.etcdctl("user", "grant-role", "root", "root")
        yield* server.etcdctl("user", "add", "nobody:pass")
        yield* server.etcdctl("auth", "enable")
        const etcd = yield* connect({ endpoints: server.endpoint, username: "nobody", password: Redacted.make("pass") })
        const health = yield* etcd.health
        assert.strictEqual(health.revision, undefined)
        const [member] = health.members
        if (version === "3.4") return assert.strictEqual(member?._tag, "Known")
        // What this one refuses, older ones tell everybody.
        assert.strictEqual(member?._tag === "Unknown" && member.error.reason._tag, "PermissionDenied")
      }), 60_000)
  })
}
