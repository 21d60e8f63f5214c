import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Ref from "effect/Ref"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { InvalidOption } from "../src/Errors.ts"
import { Etcd, Operation } from "../src/Etcd.ts"
import { makeLeaseSession } from "../src/internal/session/LeaseSession.ts"
import { makeSession } from "../src/Session.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { skewedClock } from "./utils/skewedClock.ts"
import { makeWorld } from "./utils/world.ts"

/** A client whose beats are noted, by the millisecond at which they are sent. */
const makeClient = Effect.gen(function*() {
  const world = yield* makeWorld
  const { etcd, link } = yield* world.client
  const beats: Array<number> = []
  const counted: Etcd["Service"] = {
    ...etcd,
    leaseKeepAlive: (id) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        beats.push(now)
        return etcd.leaseKeepAlive(id)
      })
  }
  const session = (ttl: Duration.Input) => Effect.provideService(makeSession(ttl), Etcd, counted)
  const leases = Effect.sync(() => world.store.snapshot().leases.size)
  return { beats, counted, leases, link, operator: world.operator, session, world }
})

const millis = (duration: Duration.Duration) => Math.round(Duration.toMillis(duration))

describe("Session", () => {
  it.effect("beats every third of its TTL and holds its lease and keys for as long as its scope", () =>
    Effect.gen(function*() {
      const { beats, leases, operator, session } = yield* makeClient
      const scope = yield* Scope.make()
      const { isAlive, leaseId } = yield* Scope.provide(session("9 seconds"), scope)
      yield* operator.txn({ success: [Operation.put("mine", "", { lease: leaseId })] })
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(beats.slice(0, 3), [3000, 6000, 9000])
      assert.strictEqual(beats.length, 200)
      assert.isTrue(yield* isAlive)
      assert.strictEqual((yield* operator.range({ key: "mine" })).kvs.length, 1)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* leases, 0)
      assert.strictEqual((yield* operator.range({ key: "mine" })).kvs.length, 0)
      assert.isFalse(yield* isAlive)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(beats.length, 200)
    }))

  it.effect("that shares its origin with others beats with those that began soon before it, and never later than a third of its TTL", () =>
    Effect.gen(function*() {
      const { beats, counted } = yield* makeClient
      for (const pause of [100, 120, 130, 140, 3_000]) {
        yield* TestClock.adjust(pause)
        yield* makeLeaseSession(counted, Duration.seconds(15), { origin: 30_000_000n })
      }
      yield* TestClock.adjust("10 seconds")
      // Begun at 100, 220, 350, 490 and 3,490: due at 5,100, 5,220, 5,350, 5,490 and 8,490.
      const first = [5030, 5030, 5030, 5030, 8030]
      assert.deepStrictEqual(beats, [...first, ...first.map((time) => time + 5000)])
    }))

  it.effect("beats no later under a clock that is behind the origin", () =>
    Effect.gen(function*() {
      const { beats, counted } = yield* makeClient
      yield* makeLeaseSession(counted, Duration.seconds(15), { origin: 60_200_000_000n })
      yield* TestClock.adjust("11 seconds")
      assert.deepStrictEqual(beats, [5000, 10_000])
    }))

  it.effect("does not take a key that was put anew, while it was read, for a lost one", () =>
    Effect.gen(function*() {
      const { counted, link, operator } = yield* makeClient
      const session = yield* makeLeaseSession(counted, Duration.seconds(15))
      const [again, gone] = ["again", "gone"].map((key) => session.open(key, key, { gone: () => {}, left: () => {} }))
      const put = (slot: typeof again) =>
        Effect.map(
          operator.txn({ success: [Operation.put(slot?.key ?? "", "", { lease: session.leaseId })] }),
          ({ revision }) => slot?.present(revision)
        )
      yield* put(again)
      yield* put(gone)
      yield* operator.txn({ success: [Operation.delete("again"), Operation.delete("gone")] })
      yield* link.setFate((operation) => operation === "range" ? { response: "1 second" } : {})
      yield* TestClock.adjust("5500 millis")
      yield* put(again)
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(again?.lossUnsafe(), undefined)
      assert.strictEqual(gone?.lossUnsafe(), "Deleted")
      yield* link.setFate(() => ({}))
    }))

  it.effect("keeps its pace when timers are early by a part of a millisecond, as they are on some systems", () =>
    Effect.gen(function*() {
      const { beats, counted } = yield* makeClient
      const { clock, skip } = yield* skewedClock
      skip(Duration.micros(600n))
      const early: Clock.Clock = {
        ...clock,
        sleep: (duration) => clock.sleep(Duration.millis(Duration.toMillis(duration) - 1))
      }
      yield* Effect.provideService(
        makeLeaseSession(counted, Duration.seconds(15), { origin: 0n }),
        Clock.Clock,
        early
      )
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(beats.map(Math.floor), [4999, 9999, 14_999, 19_999])
    }))

  it.effect("refuses a TTL that makes no sense, and rounds up to whole seconds", () =>
    Effect.gen(function*() {
      const { leases, session } = yield* makeClient
      for (const ttl of ["999 millis", Duration.infinity, -1] as const) {
        assert.instanceOf(yield* Effect.flip(Effect.scoped(session(ttl))), InvalidOption)
      }
      assert.strictEqual(yield* leases, 0)
      const { remaining } = yield* session("4001 millis")
      assert.strictEqual(millis(yield* remaining), 4900)
    }))

  it.effect("ends by its own clock, before the server gives its keys away, by the margin", () =>
    Effect.gen(function*() {
      for (const [ttl, margin] of [[2, 100], [3, 100], [10, 200], [60, 1200]] as const) {
        const { leases, link, session } = yield* makeClient
        const { isAlive, lost, remaining } = yield* session(`${ttl} seconds`)
        assert.strictEqual(millis(yield* remaining), ttl * 1000 - margin)
        const loss = yield* Effect.forkChild(Effect.flip(lost))
        yield* link.setFate(() => ({ request: "lost" }))
        yield* TestClock.adjust(ttl * 1000 - margin - 1)
        assert.strictEqual(loss.pollUnsafe(), undefined, `${ttl}`)
        assert.strictEqual(millis(yield* remaining), 1)
        assert.isTrue(yield* isAlive)
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* Fiber.join(loss)).why, "Expired")
        assert.isFalse(yield* isAlive)
        assert.strictEqual((yield* Effect.flip(remaining)).why, "Expired")
        assert.strictEqual(yield* leases, 1)
        yield* TestClock.adjust(margin)
        assert.strictEqual(yield* leases, 0)
        yield* link.setFate(() => ({}))
      }
    }))

  it.effect("counts its time from when a grant or a beat was sent, not from when it was answered", () =>
    Effect.gen(function*() {
      const { link, session } = yield* makeClient
      yield* link.setFate((operation) => operation === "leaseGrant" ? { response: "2 seconds" } : {})
      const granting = yield* Effect.forkScoped(session("12 seconds"))
      yield* TestClock.adjust("2 seconds")
      const { remaining } = yield* Fiber.join(granting)
      assert.strictEqual(millis(yield* remaining), 12_000 - 240 - 2000)
      // The beat at 6 s is answered at 9 s.
      yield* link.setFate((operation) => operation === "leaseKeepAlive" ? { response: "3 seconds" } : {})
      yield* TestClock.adjust("7 seconds")
      assert.strictEqual(millis(yield* remaining), 12_000 - 240 - 3000)
    }))

  it.effect("is not revived by an answer that comes after its end", () =>
    Effect.gen(function*() {
      const { link, session } = yield* makeClient
      const clock = yield* skewedClock
      const { isAlive, lost } = yield* Effect.provideService(session("12 seconds"), Clock.Clock, clock.clock)
      yield* link.setFate((operation) => operation === "leaseKeepAlive" ? { response: "3 seconds" } : {})
      yield* TestClock.adjust("4 seconds")
      // The process stands still while the answer is on its way.
      clock.skip(Duration.seconds(8))
      yield* TestClock.adjust("3 seconds")
      assert.isFalse(yield* isAlive)
      assert.strictEqual((yield* Effect.flip(lost)).why, "Expired")
      yield* TestClock.adjust("1 minute")
      assert.isFalse(yield* isAlive)
    }))

  it.effect("survives lost beats, refused connections and cuts that end in time", () =>
    Effect.gen(function*() {
      const { link, session } = yield* makeClient
      const { isAlive, lost } = yield* session("9 seconds")
      const loss = yield* Effect.forkChild(Effect.flip(lost))
      for (let i = 0; i < 5; i++) {
        yield* link.partition
        yield* TestClock.adjust("5 seconds")
        yield* link.heal
        yield* TestClock.adjust("5 seconds")
        yield* link.refuse
        yield* TestClock.adjust("5 seconds")
        yield* link.accept
        yield* TestClock.adjust("5 seconds")
        yield* link.cut
      }
      assert.isTrue(yield* isAlive)
      assert.strictEqual(loss.pollUnsafe(), undefined)
    }))

  it.effect("that etcd has revoked is noticed within a third of its TTL, and is not revoked again", () =>
    Effect.gen(function*() {
      const { operator, session } = yield* makeClient
      const scope = yield* Scope.make()
      const { leaseId, lost } = yield* Scope.provide(session("9 seconds"), scope)
      const loss = yield* Effect.forkChild(Effect.flip(lost))
      yield* operator.leaseRevoke(leaseId)
      yield* TestClock.adjust("3 seconds")
      const noticed = yield* Fiber.join(loss)
      assert.strictEqual(noticed.why, "Revoked")
      assert.strictEqual(noticed.leaseId, leaseId)
      assert.include(noticed.message, leaseId.toString(16))
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Effect.flip(lost)).why, "Revoked")
    }))

  it.effect("is known to be over in the first instruction after the process was stopped", () =>
    Effect.gen(function*() {
      const { session } = yield* makeClient
      const clock = yield* skewedClock
      const { isAlive, remaining } = yield* Effect.provideService(session("10 seconds"), Clock.Clock, clock.clock)
      clock.skip(Duration.millis(9799))
      assert.isTrue(yield* isAlive)
      clock.skip(Duration.millis(1))
      assert.isFalse(yield* isAlive)
      assert.strictEqual((yield* Effect.flip(remaining)).why, "Expired")
    }))

  it.effect("asks the server after the machine was suspended, and waits for its answer", () =>
    Effect.gen(function*() {
      const { beats, link, operator, session } = yield* makeClient
      const clock = yield* skewedClock
      const { isAlive, leaseId } = yield* Effect.provideService(session("12 seconds"), Clock.Clock, clock.clock)
      // Clocks that are set by less than a second are no suspension.
      clock.suspend(Duration.millis(900))
      assert.isTrue(yield* isAlive)
      assert.strictEqual(beats.length, 0)
      clock.suspend(Duration.minutes(1))
      assert.isTrue(yield* isAlive)
      assert.strictEqual(beats.length, 1)
      assert.isTrue(yield* isAlive)
      assert.strictEqual(beats.length, 1)
      clock.suspend(Duration.minutes(1))
      yield* operator.leaseRevoke(leaseId)
      yield* link.setFate((operation) => operation === "leaseKeepAlive" ? { request: "1 second" } : {})
      const asked = yield* Effect.forkChild(isAlive)
      yield* TestClock.adjust("900 millis")
      assert.strictEqual(asked.pollUnsafe(), undefined)
      yield* TestClock.adjust("100 millis")
      assert.isFalse(yield* Fiber.join(asked))
    }))

  it.effect("that is suspect and gets no answer is over at its deadline", () =>
    Effect.gen(function*() {
      const { link, session } = yield* makeClient
      const clock = yield* skewedClock
      const { isAlive } = yield* Effect.provideService(session("12 seconds"), Clock.Clock, clock.clock)
      clock.suspend(Duration.minutes(1))
      yield* link.partition
      const asked = yield* Effect.forkChild(isAlive)
      yield* TestClock.adjust("11700 millis")
      assert.strictEqual(asked.pollUnsafe(), undefined)
      yield* TestClock.adjust("100 millis")
      assert.isFalse(yield* Fiber.join(asked))
      yield* link.heal
    }))

  it.effect("with a TTL of two seconds lives through answers that take half a second", () =>
    Effect.gen(function*() {
      const { link, session } = yield* makeClient
      yield* link.setFate(() => ({ request: "250 millis", response: "250 millis" }))
      const granting = yield* Effect.forkScoped(session("2 seconds"))
      yield* TestClock.adjust("500 millis")
      const { isAlive } = yield* Fiber.join(granting)
      yield* TestClock.adjust("1 minute")
      yield* link.setFate(() => ({}))
      assert.isTrue(yield* isAlive)
    }))

  it.effect("with a TTL of months beats in time and does not spin", () =>
    Effect.gen(function*() {
      const { beats, session } = yield* makeClient
      const { isAlive } = yield* session("12 weeks")
      yield* TestClock.adjust("24 weeks")
      assert.isTrue(yield* isAlive)
      assert.strictEqual(beats.length, 6)
    }))

  it.effect("closes within the request timeout when nobody answers", () =>
    Effect.gen(function*() {
      const { link, session } = yield* makeClient
      const scope = yield* Scope.make()
      yield* Scope.provide(session("60 seconds"), scope)
      yield* link.partition
      const closed = yield* Ref.make(false)
      yield* Effect.forkChild(Effect.andThen(Scope.close(scope, Exit.void), Ref.set(closed, true)))
      yield* TestClock.adjust("5 seconds")
      assert.isTrue(yield* Ref.get(closed))
      yield* link.heal
    }))

  it.effect("interrupted at any step, it leaves no lease", () =>
    Effect.gen(function*() {
      const steps = yield* interruptAtEveryStep({
        setup: makeClient,
        run: ({ session }) => Effect.scoped(Effect.andThen(session("3 seconds"), Effect.sleep("2 seconds"))),
        check: ({ leases }, exit) =>
          Effect.gen(function*() {
            assert.isFalse(Exit.hasDies(exit))
            // Interrupted while the grant was on its way: nobody keeps that lease alive.
            yield* TestClock.adjust("3 seconds")
            assert.strictEqual(yield* leases, 0)
          })
      })
      assert.isAbove(steps, 30)
    }), 60_000)
})
