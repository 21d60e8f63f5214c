/** Writes whose answer is lost, and writes that are applied after their caller has given up. */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { type EtcdError, Operation } from "../../src/index.ts"
import { makeCluster } from "../utils/Cluster.ts"
import { type EtcdVersion, makeEtcdServer } from "../utils/EtcdServer.ts"
import type { Proxy } from "../utils/Proxy.ts"
import {
  type Client,
  connect,
  connectThroughProxy,
  instance,
  ms,
  now,
  ownScope,
  quiet,
  summary,
  until
} from "./clients.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] satisfies ReadonlyArray<EtcdVersion>

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i)

/** `Success`, or the tag of the failure; the reason of an `EtcdError`. */
const outcome = (exit: Exit.Exit<unknown, { readonly _tag: string } | EtcdError>): string => {
  if (Exit.isSuccess(exit)) return "Success"
  const [failure] = exit.cause.reasons
  if (failure?._tag !== "Fail") return failure?._tag ?? "Empty"
  return "reason" in failure.error ? failure.error.reason._tag : failure.error._tag
}

const tally = (outcomes: ReadonlyArray<string>): string =>
  [...new Set(outcomes)].sort().map((one) => `${outcomes.filter((other) => other === one).length} ${one}`).join(", ")

/** Nothing more has gone out for a while. */
const sent = (proxy: Proxy) =>
  Effect.gen(function*() {
    let before = yield* proxy.bytes
    for (let quietFor = 0; quietFor < 4;) {
      yield* Effect.sleep("20 millis")
      const after = yield* proxy.bytes
      quietFor = after.up === before.up ? quietFor + 1 : 0
      before = after
    }
  })

// -----------------------------------------------------------------------------
// Frozen followers
// -----------------------------------------------------------------------------

const perFreeze = 25
const freezes = 4
const ttl = 6

/** A client that knows only a follower, which others do not need. */
const followerClient = Effect.fnUntraced(function*(version: EtcdVersion) {
  const cluster = yield* makeCluster({ version })
  const leader = yield* cluster.leader
  const follower = cluster.members.find((member) => member !== leader) ?? leader
  const through = yield* connectThroughProxy(follower, { timeout: "1 second", retry: { maxAttempts: 2 } })
  const other = yield* connect({ endpoints: leader.endpoint })
  /**
   * What the effects send arrives at the follower while it is frozen, and is read when they have ended: that they gave up is not told,
   * as their connection is frozen too by then. Answers how they ended, and when the follower went on.
   */
  const applyLate = Effect.fnUntraced(function*<A, E>(effects: ReadonlyArray<Effect.Effect<A, E>>) {
    yield* until("it is connected", Effect.as(through.etcd.range({ key: "/none" }), true), 20_000)
    yield* follower.pause
    const fibers = yield* Effect.forEach(effects, (effect) => Effect.forkChild(Effect.exit(effect)))
    yield* sent(through.proxy)
    yield* through.proxy.freeze
    const exits = yield* Effect.forEach(fibers, Fiber.join)
    const gaveUp = now()
    yield* follower.resume
    yield* Effect.sleep("400 millis")
    yield* through.proxy.cut
    yield* through.proxy.thaw
    return { exits, gaveUp }
  })
  return { through, other, applyLate }
})

const created = ({ etcd }: Client, prefix: string) =>
  Effect.map(etcd.range({ prefix, keysOnly: true }), ({ kvs }) => kvs)

for (const version of versions) {
  describe(`applied by a frozen follower after its caller gave up, etcd ${version}`, () => {
    it.live("a claim: no entry outlives the next beats, no lock is blocked", () =>
      Effect.gen(function*() {
        const { applyLate, other, through } = yield* followerClient(version)
        let applied = 0
        const cleared: Array<number> = []
        for (let round = 0; round < freezes; round++) {
          // Keeps the lease in use, so that orphans on it would live as long.
          const bystander = yield* through.lock.acquire(`bystander/${round}`, { ttl: `${ttl} seconds` })
          const before = (yield* other.etcd.range({ key: "/none" })).revision
          const { exits, gaveUp } = yield* applyLate(
            numbers(perFreeze).map((i) =>
              Effect.scoped(
                Effect.timeout(
                  through.lock[i % 2 === 0 ? "acquire" : "tryAcquire"](`late/${round}/${i}`, { ttl: `${ttl} seconds` }),
                  "300 millis"
                )
              )
            )
          )
          assert.strictEqual(tally(exits.map(outcome)), `${perFreeze} TimeoutError`)
          const path = `/locks/late/${round}/`
          // Whatever came true has come true by now: this is read after it.
          const history = yield* other.etcd.txn({ success: [Operation.put("/now", "")] })
          for (let revision = before + 1n; revision < history.revision; revision++) {
            const at = yield* other.etcd.range({ prefix: path, atRevision: revision, keysOnly: true })
            applied += at.kvs.filter(({ modRevision }) => modRevision === revision).length
          }
          const free = yield* Effect.forEach(
            numbers(perFreeze),
            (i) => Effect.scoped(Effect.timeout(other.lock.acquire(`late/${round}/${i}`), "30 seconds")),
            { concurrency: "unbounded", discard: true }
          ).pipe(Effect.andThen(Effect.sync(() => now() - gaveUp)))
          cleared.push(free)
          yield* until("no entry is left", Effect.map(created(other, path), ({ length }) => length === 0), 5000)
          // The lease of the session lives on: it was its beats that cleared the entries away.
          yield* bystander.assertHeld
          yield* bystander.unlock
        }
        // Sent, read by nobody, applied at some time: within two beats and what it takes to connect again.
        const bar = 2 * ttl * 1000 / 3 + 1000
        const worst = Math.max(...cleared)
        record({
          what: "claims applied by a frozen follower after their caller gave up",
          bar: `no entry outlives the next beats (${ms(bar)}), no lock blocked`,
          measured: `${applied} of ${perFreeze * freezes} came true late; all locks free ${summary(cleared)} after`,
          ok: worst <= bar,
          version
        })
        assert.isAbove(applied, perFreeze * freezes / 2)
        assert.isBelow(worst, 3 * bar)
      }).pipe(quiet), 180_000)

    it.live("a registration: no instance outlives the next beats", () =>
      Effect.gen(function*() {
        const { applyLate, other, through } = yield* followerClient(version)
        let applied = 0
        const cleared: Array<number> = []
        const bystander = yield* through.registry.register(instance("late", "bystander"), { ttl: `${ttl} seconds` })
        for (let round = 0; round < freezes; round++) {
          const prefix = `/services/late/${round}-`
          yield* Effect.scoped(Effect.gen(function*() {
            // A lease that takes new keys, and keeps them.
            yield* through.registry.register(instance("late", `bystander${round}`), { ttl: `${ttl} seconds` })
            const before = (yield* other.etcd.range({ key: "/none" })).revision
            const { exits, gaveUp } = yield* applyLate(
              numbers(perFreeze).map((i) =>
                Effect.scoped(
                  Effect.timeout(
                    through.registry.register(instance("late", `${round}-${i}`), { ttl: `${ttl} seconds` }),
                    "300 millis"
                  )
                )
              )
            )
            assert.strictEqual(tally(exits.map(outcome)), `${perFreeze} TimeoutError`)
            const { revision } = yield* other.etcd.txn({ success: [Operation.put("/now", "")] })
            for (let at = before + 1n; at < revision; at++) {
              const { kvs } = yield* other.etcd.range({ prefix, atRevision: at, keysOnly: true })
              applied += kvs.filter(({ modRevision }) => modRevision === at).length
            }
            yield* until(
              "no instance is left",
              Effect.map(created(other, prefix), ({ length }) => length === 0),
              30_000
            )
            cleared.push(now() - gaveUp)
          }))
        }
        assert.strictEqual(yield* bystander.status.get, "Registered")
        const bar = 2 * ttl * 1000 / 3 + 1000
        const worst = Math.max(...cleared)
        record({
          what: "registrations applied by a frozen follower after their caller gave up",
          bar: `no instance outlives the next beats (${ms(bar)})`,
          measured: `${applied} of ${perFreeze * freezes} came true late; all gone ${summary(cleared)} after`,
          ok: worst <= bar,
          version
        })
        assert.isAbove(applied, perFreeze * freezes / 2)
        assert.isBelow(worst, 3 * bar)
      }).pipe(quiet), 180_000)

    it.live("a put: said to be ambiguous, applied once or never", () =>
      Effect.gen(function*() {
        const { applyLate, other, through } = yield* followerClient(version)
        const outcomes: Array<string> = []
        for (let round = 0; round < freezes; round++) {
          const { exits } = yield* applyLate(
            numbers(perFreeze).map((i) => through.config.set(`late/${round}/${i}`, Schema.Int, i))
          )
          outcomes.push(...exits.map(outcome))
        }
        const { kvs } = yield* other.etcd.range({ prefix: "/config/late/" })
        const twice = kvs.filter(({ version }) => version !== 1n).length
        record({
          what: "puts applied by a frozen follower after their caller gave up",
          bar: "Ambiguous, never applied twice",
          measured: `${tally(outcomes)}; ${kvs.length} of ${perFreeze * freezes} came true late, ${twice} twice`,
          ok: twice === 0,
          version
        })
        assert.strictEqual(tally(outcomes), `${perFreeze * freezes} Ambiguous`)
        assert.strictEqual(twice, 0)
        assert.isAbove(kvs.length, perFreeze * freezes / 2)
      }).pipe(quiet), 120_000)

    it.live("a release: the next one enters, and stays", () =>
      Effect.gen(function*() {
        const { applyLate, other, through } = yield* followerClient(version)
        const outcomes: Array<string> = []
        const times: Array<number> = []
        for (let round = 0; round < freezes; round++) {
          const scope = yield* ownScope
          const handles = yield* Effect.forEach(
            numbers(perFreeze),
            (i) => Scope.provide(through.lock.acquire(`late/${round}/${i}`, { ttl: `${ttl} seconds` }), scope)
          )
          const entering = yield* Effect.forEach(
            numbers(perFreeze),
            (i) =>
              Effect.forkScoped(
                Effect.map(other.lock.acquire(`late/${round}/${i}`), (handle) => ({ handle, at: now() }))
              )
          )
          yield* until(
            "all of them have somebody waiting",
            Effect.map(created(other, `/locks/late/${round}/`), ({ length }) => length === 2 * perFreeze),
            10_000
          )
          const { exits, gaveUp } = yield* applyLate(handles.map(({ unlock }) => unlock))
          outcomes.push(...exits.map(outcome))
          const next = yield* Effect.timeout(Effect.forEach(entering, Fiber.join), "30 seconds")
          times.push(Math.max(...next.map(({ at }) => at)) - gaveUp)
          // The release was repeated, and its first copy applied: neither touches the next holder.
          yield* Effect.sleep(ttl * 1000 / 3 + 500)
          for (const { handle } of next) {
            yield* handle.assertHeld
            yield* handle.fenced({ success: [Operation.put("/fenced", "1")] })
          }
          assert.strictEqual((yield* created(other, `/locks/late/${round}/`)).length, perFreeze)
        }
        const worst = Math.max(...times)
        record({
          what: "releases applied by a frozen follower after their caller gave up",
          bar: `no lock blocked (free within the TTL, ${ttl} s)`,
          measured: `${tally(outcomes)}; ${perFreeze * freezes} locks handed on ${summary(times)} after`,
          ok: worst < ttl * 1000,
          version
        })
        assert.strictEqual(outcomes.filter((one) => one !== "Success" && one !== "Ambiguous").length, 0)
        assert.isBelow(worst, 3 * ttl * 1000)
      }).pipe(quiet), 180_000)
  })
}

// -----------------------------------------------------------------------------
// Lost answers
// -----------------------------------------------------------------------------

const tries = 20

for (const version of versions) {
  describe(`the answer is lost, etcd ${version}`, () => {
    const setUp = Effect.gen(function*() {
      const server = yield* makeEtcdServer({ version })
      const through = yield* connectThroughProxy(server)
      const other = yield* connect({ endpoints: server.endpoint })
      /** All of them arrive and are applied, and the connection breaks before an answer is through. */
      const loseAnswers = Effect.fnUntraced(function*<A, E>(effects: ReadonlyArray<Effect.Effect<A, E>>) {
        yield* through.proxy.dropResponses
        const fibers = yield* Effect.forEach(effects, (effect) => Effect.forkChild(Effect.exit(effect)))
        yield* sent(through.proxy)
        yield* through.proxy.passResponses
        return yield* Effect.forEach(fibers, Fiber.join)
      })
      const versionsOf = (prefix: string) =>
        Effect.map(other.etcd.range({ prefix }), ({ kvs }) => kvs.map(({ version }) => Number(version)))
      return { server, through, other, loseAnswers, versionsOf }
    })

    const each = (times: number) => numbers(tries).map(() => times)

    const report = (what: string, outcomes: ReadonlyArray<string>, allowed: ReadonlyArray<string>) => {
      const wrong = outcomes.filter((one) => !allowed.includes(one))
      record({
        what: `answer lost: ${what}`,
        bar: `never applied twice; ${allowed.join(" or ")}`,
        measured: `${tally(outcomes)}; each applied once`,
        ok: wrong.length === 0,
        version
      })
      assert.deepStrictEqual(wrong, [])
    }

    it.live("of a put", () =>
      Effect.gen(function*() {
        const { loseAnswers, through, versionsOf } = yield* setUp
        const exits = yield* loseAnswers(numbers(tries).map((i) => through.config.set(`put/${i}`, Schema.Int, i)))
        assert.deepStrictEqual(yield* versionsOf("/config/put/"), each(1))
        report("put", exits.map(outcome), ["Ambiguous"])
      }).pipe(quiet))

    it.live("of a deletion: never that there was nothing to delete", () =>
      Effect.gen(function*() {
        const { loseAnswers, other, through, versionsOf } = yield* setUp
        yield* Effect.forEach(numbers(tries), (i) => other.config.set(`gone/${i}`, Schema.Int, i))
        const exits = yield* loseAnswers(numbers(tries).map((i) => through.config.delete(`gone/${i}`)))
        assert.deepStrictEqual(yield* versionsOf("/config/gone/"), [])
        report("delete", exits.map(outcome), ["Ambiguous"])
      }).pipe(quiet))

    it.live("of a compare-and-set that won: not a conflict", () =>
      Effect.gen(function*() {
        const { loseAnswers, other, through, versionsOf } = yield* setUp
        const versions = yield* Effect.forEach(numbers(tries), (i) => other.config.set(`cas/${i}`, Schema.Int, i))
        const exits = yield* loseAnswers(
          versions.map((version, i) => through.config.compareAndSet(`cas/${i}`, Schema.Int, 1000 + i, version))
        )
        assert.deepStrictEqual(yield* versionsOf("/config/cas/"), each(2))
        report("compare-and-set that won", exits.map(outcome), ["Success", "Ambiguous"])
      }).pipe(quiet))

    it.live("of a compare-and-set that came too late: not a success", () =>
      Effect.gen(function*() {
        const { loseAnswers, other, through, versionsOf } = yield* setUp
        const versions = yield* Effect.forEach(numbers(tries), (i) => other.config.set(`cas/${i}`, Schema.Int, i))
        yield* Effect.forEach(numbers(tries), (i) => other.config.set(`cas/${i}`, Schema.Int, -i - 1))
        const exits = yield* loseAnswers(
          versions.map((version, i) => through.config.compareAndSet(`cas/${i}`, Schema.Int, 1000 + i, version))
        )
        assert.deepStrictEqual(yield* versionsOf("/config/cas/"), each(2))
        for (const i of numbers(tries)) assert.strictEqual(yield* other.config.get(`cas/${i}`, Schema.Int), -i - 1)
        report("compare-and-set that came too late", exits.map(outcome), ["VersionConflict", "Ambiguous"])
      }).pipe(quiet))

    it.live("of an update: the function has run once", () =>
      Effect.gen(function*() {
        const { loseAnswers, other, through, versionsOf } = yield* setUp
        yield* Effect.forEach(numbers(tries), (i) => other.config.set(`update/${i}`, Schema.Int, i))
        // The reads before it are answered: only what comes after the function is lost.
        const runs = numbers(tries).map(() => 0)
        yield* Effect.forEach(numbers(tries), (i) => through.config.get(`update/${i}`, Schema.Int))
        const gate = yield* Effect.forEach(numbers(tries), (i) =>
          Effect.gen(function*() {
            let open = () => {}
            const opened = new Promise<void>((resume) => {
              open = resume
            })
            const fiber = yield* Effect.forkChild(
              Effect.exit(
                through.config.update(`update/${i}`, Schema.Int, (n) =>
                  Effect.as(
                    Effect.promise(() => {
                      runs[i] = (runs[i] ?? 0) + 1
                      return opened
                    }),
                    n + 1000
                  ))
              )
            )
            return { fiber, open }
          }))
        yield* until("all functions run", Effect.sync(() => runs.every((n) => n === 1)), 10_000)
        const [exits] = yield* loseAnswers([
          Effect.gen(function*() {
            for (const { open } of gate) open()
            return yield* Effect.forEach(gate, ({ fiber }) => Fiber.join(fiber))
          })
        ])
        assert.deepStrictEqual(yield* versionsOf("/config/update/"), each(2))
        assert.deepStrictEqual(runs, each(1))
        for (const i of numbers(tries)) assert.strictEqual(yield* other.config.get(`update/${i}`, Schema.Int), 1000 + i)
        report("update", exits !== undefined && Exit.isSuccess(exits) ? exits.value.map(outcome) : ["Died"], [
          "Success",
          "Ambiguous"
        ])
      }).pipe(quiet))

    it.live("of a lease grant: one lease each", () =>
      Effect.gen(function*() {
        const { loseAnswers, server, through } = yield* setUp
        const leases = Effect.map(
          server.etcdctl("lease", "list"),
          (text) => text.split("\n").filter((line) => /^[0-9a-f]{8,}$/.test(line)).length
        )
        const before = yield* leases
        const exits = yield* loseAnswers(numbers(tries).map(() => through.etcd.leaseGrant(Duration.seconds(60))))
        assert.strictEqual((yield* leases) - before, tries)
        const ids = exits.flatMap((exit) => Exit.isSuccess(exit) ? [exit.value] : [])
        for (const { deadline, id } of ids) {
          // What is promised is not longer than what is left (in whole seconds).
          const { remaining } = yield* through.etcd.leaseTimeToLive(id)
          assert.isAtMost(Number(deadline) / 1e6 - now(), Duration.toMillis(remaining) + 1000)
        }
        assert.strictEqual(new Set(ids.map(({ id }) => id)).size, tries)
        report("lease grant", exits.map(outcome), ["Success"])
      }).pipe(quiet))

    for (const operation of ["acquire", "tryAcquire"] as const) {
      it.live(`of ${operation}: the lock is held once, and free afterwards`, () =>
        Effect.gen(function*() {
          const { loseAnswers, other, through, versionsOf } = yield* setUp
          // The lease is there; what is lost is the claim.
          yield* through.lock.acquire("warm")
          const scope = yield* ownScope
          const exits = yield* loseAnswers(
            numbers(tries).map((i) => Scope.provide(through.lock[operation](`once/${i}`), scope))
          )
          assert.deepStrictEqual(yield* versionsOf("/locks/once/"), each(1))
          for (const exit of exits) {
            if (Exit.isFailure(exit)) continue
            const [holder] = yield* other.lock.waiters(exit.value.key)
            assert.strictEqual(holder?.fencingToken, exit.value.fencingToken)
            yield* exit.value.assertHeld
          }
          yield* Scope.close(scope, Exit.void)
          assert.deepStrictEqual(yield* versionsOf("/locks/once/"), [])
          report(operation, exits.map(outcome), ["Success"])
        }).pipe(quiet))
    }

    it.live("of a release: it is free, and says so", () =>
      Effect.gen(function*() {
        const { loseAnswers, through, versionsOf } = yield* setUp
        const handles = yield* Effect.forEach(numbers(tries), (i) => through.lock.acquire(`free/${i}`))
        const exits = yield* loseAnswers(handles.map(({ unlock }) => unlock))
        assert.deepStrictEqual(yield* versionsOf("/locks/free/"), [])
        report("release", exits.map(outcome), ["Success"])
      }).pipe(quiet))

    it.live("of a registration, of its update and of its end", () =>
      Effect.gen(function*() {
        const { loseAnswers, other, through, versionsOf } = yield* setUp
        yield* through.registry.register(instance("warm", "warm"))
        const scope = yield* ownScope
        const registered = yield* loseAnswers(
          numbers(tries).map((i) => Scope.provide(through.registry.register(instance("once", `${i}`)), scope))
        )
        assert.deepStrictEqual(yield* versionsOf("/services/once/"), each(1))
        report("register", registered.map(outcome), ["Success"])
        const registrations = registered.flatMap((exit) => Exit.isSuccess(exit) ? [exit.value] : [])
        const updated = yield* loseAnswers(registrations.map(({ update }, i) => update({ n: `${i}` })))
        assert.deepStrictEqual(yield* versionsOf("/services/once/"), each(2))
        for (const { status } of registrations) {
          yield* until("registered", Effect.map(status.get, (status) => status === "Registered"), 10_000)
        }
        assert.deepStrictEqual(yield* versionsOf("/services/once/"), each(2))
        const found = (yield* other.registry.discover("once")).map(({ id, metadata }) => metadata["n"] === id)
        assert.deepStrictEqual(found, each(1).map(() => true))
        report("update of a registration", updated.map(outcome), ["Success", "Ambiguous"])
        const ended = yield* loseAnswers(registrations.map(({ unregister }) => unregister))
        assert.deepStrictEqual(yield* versionsOf("/services/once/"), [])
        report("end of a registration", ended.map(outcome), ["Success"])
      }).pipe(quiet))
  })
}
