/** Elections under faults, in virtual time. */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { Election, LeadershipLost } from "../src/Election.ts"
import { Etcd, Operation } from "../src/Etcd.ts"
import { EtcdError, PermissionDenied } from "../src/EtcdError.ts"
import { clientOf } from "./utils/clientOf.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { failure, settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

type World = Effect.Success<typeof makeWorld>

const client = (world: World) =>
  Effect.map(clientOf(world, Election.layer()), (made) => ({ ...made, election: Context.get(made.context, Election) }))

const valueOf = (election: Election["Service"]) =>
  Effect.map(election.leader("job"), (leader) => Option.getOrUndefined(leader)?.value)

const entriesOf = (world: World) =>
  Effect.map(
    world.operator.range({ prefix: "/elections/job/", sort: { by: "create", order: "ascend" } }),
    ({ kvs }) => kvs
  )

/** Two clients that would both lead, for as long as it takes. */
const contend = Effect.fnUntraced(function*(world: World) {
  const [one, other] = yield* Effect.all([client(world), client(world)])
  const leading: Array<string> = []
  const log: Array<string> = []
  let most = 0
  const work = (name: string, { election }: typeof one) =>
    election.whileLeader("job", name, { ttl: "3 seconds" })(
      Effect.acquireUseRelease(
        Effect.sync(() => {
          leading.push(name)
          log.push(name)
          most = Math.max(most, leading.length)
        }),
        () => Effect.never,
        () => Effect.sync(() => leading.splice(leading.indexOf(name), 1))
      )
    )
  const first = yield* Effect.forkChild(work("one", one))
  yield* settle
  const second = yield* Effect.forkChild(work("other", other))
  yield* settle
  return { one, other, log, leading, most: () => most, stop: Fiber.interruptAll([first, second]) }
})

describe("Election under faults", () => {
  it.effect("a leader that is cut off stops before the next one begins, and campaigns again when it can", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { leading, log, most, one, stop } = yield* contend(world)
      yield* one.link.partition
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(log, ["one", "other"])
      // Longer than any retry schedule.
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(leading, ["other"])
      yield* one.link.heal
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* entriesOf(world)).length, 2)
      assert.strictEqual(most(), 1)
      const [leader] = yield* entriesOf(world)
      yield* world.operator.leaseRevoke(leader?.lease ?? 0n)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(log, ["one", "other", "one"])
      yield* stop
      assert.deepStrictEqual(yield* entriesOf(world), [])
    }))

  it.effect("a refused connection, restarts and cuts cost no leadership while the lease lasts", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { log, one, other, stop } = yield* contend(world)
      for (let i = 0; i < 20; i++) {
        yield* one.link.cut
        yield* other.link.cut
        if (i % 3 === 0) world.store.restart()
        yield* one.link.refuse
        yield* TestClock.adjust("700 millis")
        yield* one.link.accept
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(log, ["one"])
      yield* stop
    }))

  it.effect("a restored snapshot that does not know the leader: it stops, and one leads", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const before = world.store.snapshot()
      const { leading, log, stop } = yield* contend(world)
      world.store.restore(before)
      // As after every other deletion by hand: within a third of the TTL.
      yield* TestClock.adjust("1100 millis")
      assert.strictEqual(leading.length, 1)
      assert.isAtLeast(log.length, 2)
      yield* stop
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* entriesOf(world), [])
    }))

  it.effect("a deleted key is noticed within a third of the TTL", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election } = yield* client(world)
      const leadership = yield* election.campaign("job", "a", { ttl: "9 seconds" })
      const [entry] = yield* entriesOf(world)
      yield* world.operator.txn({ success: [Operation.delete(entry?.key ?? "")] })
      const lost = yield* within("3100 millis", Effect.flip(leadership.lost))
      assert.deepInclude(lost, { name: "job", why: "Deleted", fencingToken: leadership.fencingToken })
      // Whoever lost it can campaign again, also while the old scope is open.
      yield* (yield* within("1 second", election.campaign("job", "b"))).assertLeading
      assert.strictEqual(yield* valueOf(election), "b")
    }))

  it.effect("a candidate whose lease has ended does not lead when its turn comes: it queues again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other, third] = yield* Effect.all([client(world), client(world), client(world)])
      const leading = yield* Scope.make()
      yield* Scope.provide(one.election.campaign("job", "one"), leading)
      const waiting = yield* Effect.forkChild(other.election.campaign("job", "other"))
      yield* settle
      const behind = yield* Effect.forkChild(third.election.campaign("job", "third"))
      yield* settle
      const entry = (yield* entriesOf(world)).find((kv) => new TextDecoder().decode(kv.value) === "other")
      yield* world.operator.leaseRevoke(entry?.lease ?? 0n)
      yield* TestClock.adjust("6 seconds")
      yield* Scope.close(leading, Exit.void)
      yield* TestClock.adjust("1 second")
      yield* (yield* within("1 second", Fiber.join(behind))).resign
      assert.strictEqual(yield* valueOf(one.election), "other")
      yield* (yield* within("1 second", Fiber.join(waiting))).assertLeading
    }))

  it.effect("a claim whose answer is lost leads once, and says what it was to say", () =>
    Effect.gen(function*() {
      for (const way of ["request", "response"]) {
        const world = yield* makeWorld
        const { election, link } = yield* client(world)
        let lost = 0
        yield* link.setFate((operation) => operation === "txn" && lost++ === 0 ? { [way]: "lost" } : {})
        const leadership = yield* within("7 seconds", election.campaign("job", "a"))
        const entries = yield* entriesOf(world)
        assert.deepStrictEqual(entries.map((kv) => kv.createRevision), [leadership.fencingToken])
        assert.strictEqual(yield* valueOf(election), "a")
      }
    }))

  it.effect("a stopped leader that goes on after its lease refuses everything at once", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election } = yield* client(world)
      const clock = yield* skewedClock
      yield* Effect.gen(function*() {
        const leadership = yield* election.campaign("job", "a", { ttl: "10 seconds" })
        clock.skip(Duration.seconds(11))
        for (
          const refused of [
            yield* Effect.flip(leadership.assertLeading),
            yield* Effect.flip(leadership.proclaim("late")),
            yield* Effect.flip(leadership.guard(Effect.die("it ran"))),
            yield* Effect.flip(leadership.fenced({ success: [Operation.put("data", "late")] })),
            yield* Effect.flip(leadership.ttl),
            yield* Effect.flip(leadership.lost)
          ]
        ) assert.strictEqual(refused._tag === "LeadershipLost" && refused.why, "Expired")
        assert.strictEqual(yield* valueOf(election), "a")
      }).pipe(Effect.provideService(Clock.Clock, clock.clock))
    }))

  it.effect("a layer that closes ends what is led and what waits, and leaves nothing", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* client(world)
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        Layer.provide(Election.layer(), Layer.succeed(Etcd, etcd)),
        scope
      )
      const election = Context.get(context, Election)
      const leading = yield* Effect.forkChild(Effect.exit(election.whileLeader("job", "a")(Effect.never)))
      yield* settle
      const waiting = yield* Effect.forkChild(Effect.exit(Effect.scoped(election.campaign("job", "b"))))
      const watching = yield* Effect.forkChild(Effect.exit(Stream.runDrain(election.observe("job"))))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("10 seconds")
      for (const fiber of [leading, waiting, watching]) {
        const error = failure(
          yield* within("1 second", Fiber.join(fiber as Fiber.Fiber<Exit.Exit<unknown, EtcdError>>))
        )
        assert.strictEqual(error?._tag === "EtcdError" && error.reason._tag, "Closed")
      }
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("who observes sees no change twice and misses no leader, over cuts, compaction and a restored snapshot", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, watcher] = yield* Effect.all([client(world), client(world)])
      const seen: Array<string | undefined> = []
      yield* watcher.election.observe("job").pipe(
        Stream.runForEach((leader) => Effect.sync(() => seen.push(Option.getOrUndefined(leader)?.value))),
        Effect.forkScoped
      )
      yield* settle
      const snapshot = world.store.snapshot()
      const leadership = yield* one.election.campaign("job", "0")
      for (let i = 1; i < 10; i++) {
        if (i % 3 === 0) yield* watcher.link.cut
        yield* leadership.proclaim(String(i))
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(seen, [undefined, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])
      yield* watcher.link.partition
      yield* leadership.proclaim("missed")
      yield* leadership.proclaim("last")
      world.store.compact(world.store.revision)
      yield* TestClock.adjust("11 seconds")
      yield* watcher.link.heal
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(seen.slice(11).filter((value) => value !== "missed"), ["last"])
      world.store.restore(snapshot)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(seen.at(-1), undefined)
    }))
})

describe("Election.proclaim", () => {
  /** The fate of the first transaction from now on. */
  const first = (fate: { request?: Duration.Input | "lost"; response?: Duration.Input | "lost" }) => {
    let count = 0
    return (operation: string) => operation === "txn" && count++ === 0 ? fate : {}
  }

  it.effect("is said once its answer was lost, whichever way", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election, link } = yield* client(world)
      const leadership = yield* election.campaign("job", "a", { ttl: "60 seconds" })
      for (const [fate, value] of [[{ request: "lost" }, "b"], [{ response: "lost" }, "c"]] as const) {
        yield* link.setFate(first(fate))
        yield* within("7 seconds", leadership.proclaim(value))
        assert.strictEqual(yield* valueOf(election), value)
      }
      yield* leadership.proclaim("d")
      assert.strictEqual(yield* valueOf(election), "d")
      assert.strictEqual((yield* entriesOf(world))[0]?.version, 4n)
    }))

  it.effect("that is applied late undoes no later one", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election, link } = yield* client(world)
      const leadership = yield* election.campaign("job", "a", { ttl: "60 seconds" })
      yield* link.setFate(first({ request: "12 seconds" }))
      yield* within("7 seconds", leadership.proclaim("b"))
      yield* within("1 second", leadership.proclaim("c"))
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* valueOf(election), "c")
    }))

  it.effect("that was interrupted undoes no later one, applied before or after it", () =>
    Effect.gen(function*() {
      for (const request of ["1 second", "3 seconds"] as const) {
        const world = yield* makeWorld
        const { election, link } = yield* client(world)
        const leadership = yield* election.campaign("job", "a", { ttl: "60 seconds" })
        yield* link.setFate(first({ request }))
        const interrupted = yield* Effect.forkChild(leadership.proclaim("b"))
        yield* settle
        yield* Fiber.interrupt(interrupted)
        yield* TestClock.adjust("2 seconds")
        yield* within("1 second", leadership.proclaim("c"))
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* valueOf(election), "c")
      }
    }))

  it.effect("one after the other: the last one that was asked for stays", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election, link } = yield* client(world)
      const leadership = yield* election.campaign("job", "a", { ttl: "60 seconds" })
      let sent = 0
      yield* link.setFate(() => ({ request: sent++ === 0 ? "1 second" : "1 millis" }))
      const all = yield* Effect.forkChild(
        Effect.forEach(["b", "c", "d"], (value) => leadership.proclaim(value), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("3 seconds")
      yield* within("1 second", Fiber.join(all))
      yield* link.setFate(() => ({}))
      assert.strictEqual(yield* valueOf(election), "d")
    }))

  it.effect("ends with the leadership, not with the outage", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election, link } = yield* client(world)
      const leadership = yield* election.campaign("job", "a", { ttl: "30 seconds" })
      yield* link.partition
      const saying = yield* Effect.forkChild(Effect.exit(leadership.proclaim("b")))
      yield* TestClock.adjust("15 seconds")
      assert.isUndefined(saying.pollUnsafe())
      yield* TestClock.adjust("15 seconds")
      assert.instanceOf(failure(yield* within("1 second", Fiber.join(saying))), LeadershipLost)
    }))

  it.effect("over what somebody else wrote, and after a resignation", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election } = yield* client(world)
      const leadership = yield* election.campaign("job", "a")
      const [entry] = yield* entriesOf(world)
      yield* world.operator.txn({ success: [Operation.put(entry?.key ?? "", "by hand", { lease: entry?.lease })] })
      yield* leadership.proclaim("b")
      assert.strictEqual(yield* valueOf(election), "b")
      yield* leadership.resign
      yield* leadership.resign
      const refused = yield* Effect.flip(leadership.proclaim("c"))
      assert.strictEqual(refused._tag === "LeadershipLost" && refused.why, "Resigned")
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("fails as etcd refuses it, and the leadership goes on", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* client(world)
      const denying: Etcd["Service"] = {
        ...etcd,
        txn: (request) =>
          JSON.stringify(request, (_, value) => typeof value === "bigint" ? String(value) : value).includes(
              "modRevision"
            )
            ? Effect.fail(new EtcdError({ operation: "txn", reason: new PermissionDenied({}) }))
            : etcd.txn(request)
      }
      const context = yield* Layer.build(Layer.provide(Election.layer(), Layer.succeed(Etcd, denying)))
      const leadership = yield* Context.get(context, Election).campaign("job", "a")
      const error = yield* Effect.flip(leadership.proclaim("b"))
      assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "PermissionDenied")
      yield* leadership.assertLeading
    }))
})

describe("Election.whileLeader", () => {
  it.effect("fails at once with what time does not mend", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* client(world)
      const denying: Etcd["Service"] = {
        ...etcd,
        txn: () => Effect.fail(new EtcdError({ operation: "txn", reason: new PermissionDenied({}) }))
      }
      const context = yield* Layer.build(Layer.provide(Election.layer(), Layer.succeed(Etcd, denying)))
      const fiber = yield* Effect.forkChild(
        Effect.flip(Context.get(context, Election).whileLeader("job", "a")(Effect.never))
      )
      yield* TestClock.adjust("1 second")
      const error = yield* within("1 second", Fiber.join(fiber))
      assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "PermissionDenied")
    }))

  it.effect("does not begin again because of another election that was lost", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { election } = yield* client(world)
      const error = yield* Effect.flip(
        election.whileLeader("job", "a")(({ fencingToken }) =>
          Effect.fail(new LeadershipLost({ name: "another", fencingToken, why: "Expired" }))
        )
      )
      assert.deepInclude(error, { _tag: "LeadershipLost", name: "another" })
    }))

  it.effect("an effect that resigns lets the next one lead, and ends as usual", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([client(world), client(world)])
      const first = yield* Effect.forkChild(
        one.election.whileLeader("job", "one")(({ resign }) => Effect.as(Effect.delay(resign, "1 second"), "done"))
      )
      yield* settle
      const second = yield* Effect.forkChild(other.election.campaign("job", "other"))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* within("1 second", Fiber.join(first)), "done")
      yield* (yield* within("1 second", Fiber.join(second))).assertLeading
    }))
})

describe("Election, interrupted at any step", () => {
  const setup = Effect.gen(function*() {
    const world = yield* makeWorld
    return { world, one: yield* client(world), other: yield* client(world) }
  })

  it.effect("of campaign, proclaim and resign leaves no key, and the next one leads", () =>
    Effect.gen(function*() {
      const steps = yield* interruptAtEveryStep({
        setup,
        run: ({ one }) =>
          Effect.scoped(Effect.flatMap(one.election.campaign("job", "a", { ttl: "3 seconds" }), (leadership) =>
            Effect.andThen(leadership.proclaim("b"), leadership.resign))),
        check: ({ other, world }) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* world.keys, [])
            yield* Effect.scoped(within("1 second", other.election.campaign("job", "next")))
          })
      })
      assert.isAbove(steps, 100)
    }), 120_000)

  it.effect("of whileLeader that loses its lease leaves no key, and the next one leads", () =>
    Effect.gen(function*() {
      const steps = yield* interruptAtEveryStep({
        setup,
        run: ({ one, world }) => {
          let terms = 0
          return one.election.whileLeader("job", "a", { ttl: "3 seconds" })(
            Effect.suspend(() =>
              terms++ > 0 ? Effect.void : Effect.andThen(
                Effect.flatMap(entriesOf(world), ([entry]) => world.operator.leaseRevoke(entry?.lease ?? 0n)),
                Effect.never
              )
            )
          )
        },
        check: ({ other, world }) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* world.keys, [])
            yield* Effect.scoped(within("1 second", other.election.campaign("job", "next")))
          })
      })
      assert.isAbove(steps, 100)
    }), 120_000)
})
