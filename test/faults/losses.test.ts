/** Holder and server clocks: for every way to lose a lease, when the holder knew of it and when etcd gave the key away. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { type Lock, type LockHandle, LockLost, Operation } from "../../src/index.ts"
import { type EtcdServer, type EtcdVersion, makeEtcdServer } from "../utils/EtcdServer.ts"
import { run, type Running } from "../utils/processes.ts"
import type { Proxy } from "../utils/Proxy.ts"
import { connect, connectThroughProxy, deletions, ms, now, quiet, standstills, summary, until } from "./clients.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] satisfies ReadonlyArray<EtcdVersion>
const ttl = 3
const fixture = new URL("../fixtures/stoppedHolder.ts", import.meta.url).pathname

type Locks = Lock["Service"]

/** Holds a lock in `withLock` until it is lost. */
const hold = Effect.fnUntraced(function*(lock: Locks, key: string, seconds = ttl) {
  const held = yield* Deferred.make<LockHandle>()
  const lost = yield* lock.withLock(key, { ttl: seconds * 1000 })((handle) =>
    Effect.andThen(Deferred.succeed(held, handle), Effect.never)
  ).pipe(
    Effect.flip,
    Effect.map((error) => ({ error, at: now() })),
    Effect.forkChild
  )
  const handle = yield* Effect.raceFirst(Deferred.await(held), Effect.andThen(Fiber.join(lost), Effect.never))
  const [entry] = yield* lock.waiters(key)
  assert.strictEqual(entry?.fencingToken, handle.fencingToken)
  return { handle, lost: Fiber.join(lost), entryKey: entry?.entryKey ?? "", leaseId: entry?.leaseId ?? 0n }
})

/** Enters as soon as the lock is free. */
const enterNext = Effect.fnUntraced(function*(lock: Locks, key: string) {
  const entered = yield* Effect.forkChild(
    lock.withLock(key, { ttl: "60 seconds" })((handle) => Effect.succeed({ at: now(), token: handle.fencingToken }))
  )
  yield* until(`somebody waits for ${key}`, Effect.map(lock.waiters(key), ({ length }) => length === 2), 10_000)
  return { entered: Fiber.join(entered) }
})

interface Way {
  readonly name: string
  readonly lose: (server: EtcdServer, proxy: Proxy) => Effect.Effect<unknown>
  readonly mend: (server: EtcdServer, proxy: Proxy) => Effect.Effect<unknown>
  /** The server does nothing while it is not running. */
  readonly pause?: number
}

const longer = ttl * 2000

const ways: ReadonlyArray<Way> = [
  { name: "partition", lose: (_, proxy) => proxy.freeze, mend: (_, proxy) => proxy.thaw },
  // What it sends still arrives, so that its own revoke hands the lock on, long before the server's clock would.
  {
    name: "answers are lost, its own revoke is not",
    lose: (_, proxy) => proxy.dropResponses,
    mend: (_, proxy) => proxy.passResponses
  },
  {
    name: "connections are refused",
    lose: (_, proxy) => Effect.andThen(proxy.refuse, proxy.cut),
    mend: (_, proxy) => proxy.accept
  },
  { name: "frozen server", lose: (server) => server.pause, mend: (server) => server.resume, pause: longer },
  {
    name: "server restarted after twice the TTL",
    lose: (server) => server.kill,
    mend: (server) => server.start,
    pause: longer
  }
]

const said = (holder: Running, what: string) =>
  Effect.map(
    Effect.timeout(holder.line(`"what":"${what}"`), "30 seconds"),
    (line) => JSON.parse(line) as Record<string, string | number | boolean>
  )

const holderProcess = (server: EtcdServer, key: string, mode: string) =>
  run(process.execPath, [fixture, server.endpoint, key, "2", mode])

const refusals = { assertHeld: "LockLost", guard: "LockLost", guarded: false, fenced: "LockLost" }

for (const version of versions) {
  describe(`holder and server clocks, etcd ${version}`, () => {
    const expiry = (what: string, known: number, given: number, entered: number, stoodStill = 0) => {
      record({
        what: `loss by expiry: ${what}`,
        bar: "known before etcd gives the lock away",
        measured: `${ms(given - known)} before the key is deleted, ${ms(entered - known)} before the next one enters`,
        ok: known < given && known < entered,
        version
      })
      assert.isBelow(known - stoodStill, given)
      assert.isBelow(known - stoodStill, entered)
    }

    for (const { lose, mend, name, pause } of ways) {
      it.live(`${name}: the holder knows before the next one can enter`, () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const stoodStill = yield* standstills
          const { lock, proxy } = yield* connectThroughProxy(server)
          const other = yield* connect({ endpoints: server.endpoint })
          const deleted = yield* deletions(server.endpoint, "/locks/clocks/")
          const holder = yield* hold(lock, "clocks")
          const { entered: next } = yield* enterNext(other.lock, "clocks")
          yield* lose(server, proxy)
          if (pause !== undefined) {
            yield* Effect.sleep(pause)
            yield* mend(server, proxy)
          }
          const { at, error } = yield* holder.lost
          assert.deepInclude(error, { _tag: "LockLost", why: "Expired" })
          const entered = yield* Effect.timeout(next, "30 seconds")
          const given = yield* deleted.of(holder.entryKey)
          if (pause === undefined) yield* mend(server, proxy)
          expiry(name, at, given.at, entered.at, stoodStill(at))
          assert.isAbove(Number(entered.token), Number(holder.handle.fencingToken))
        }).pipe(quiet), 90_000)
    }

    it.live("server restarted within the TTL: the lock is held all the time", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const { lock } = yield* connect({ endpoints: server.endpoint, timeout: "2 seconds" })
        const other = yield* connect({ endpoints: server.endpoint })
        const holder = yield* hold(lock, "clocks", 8)
        const next = yield* Effect.forkChild((yield* enterNext(other.lock, "clocks")).entered)
        const down = now()
        yield* server.kill
        yield* Effect.sleep("1 second")
        yield* server.start
        const up = now()
        // Longer than a TTL: what is held then has been renewed.
        yield* Effect.sleep("12 seconds")
        yield* holder.handle.assertHeld
        assert.strictEqual(next.pollUnsafe(), undefined)
        record({
          what: "server restarted within the TTL",
          bar: "held",
          measured: `held over ${ms(up - down)} without a server (TTL 8 s)`,
          ok: true,
          version
        })
      }).pipe(quiet), 60_000)

    it.live(
      "an event loop that is blocked for longer than the TTL: by the clock the holder knows first",
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const other = yield* connect({ endpoints: server.endpoint })
          const deleted = yield* deletions(server.endpoint, "/locks/blocked/")
          const holder = yield* holderProcess(server, "blocked", "block")
          yield* said(holder, "blocked")
          const [entry] = yield* other.lock.waiters("blocked")
          const entered = yield* Effect.timeout((yield* enterNext(other.lock, "blocked")).entered, "30 seconds")
          const given = yield* deleted.of(entry?.entryKey ?? "")
          const known = yield* said(holder, "known")
          expiry("event loop blocked for twice the TTL", Number(known["at"]), given.at, entered.at)
          assert.deepInclude(known, refusals)
          assert.deepInclude(yield* said(holder, "unblocked"), refusals)
          // What the body came to after the loss is no success.
          assert.strictEqual((yield* said(holder, "ended"))["outcome"], "LockLost")
        }).pipe(quiet),
      60_000
    )

    it.live(
      "a process stopped for longer than the TTL refuses from its first instruction",
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const other = yield* connect({ endpoints: server.endpoint })
          const holder = yield* holderProcess(server, "stopped", "spin")
          yield* said(holder, "spinning")
          yield* holder.kill("SIGSTOP")
          const entered = yield* Effect.timeout((yield* enterNext(other.lock, "stopped")).entered, "30 seconds")
          yield* holder.kill("SIGCONT")
          const asked = yield* said(holder, "asked")
          record({
            what: "SIGSTOP beyond the TTL, then SIGCONT: assertHeld, guard and fenced",
            bar: "refuse from the first instruction",
            measured: `${asked["assertHeld"]}, ${asked["guard"]}, ${asked["fenced"]}`,
            ok: asked["fenced"] === "LockLost",
            version
          })
          assert.isAbove(Number(asked["at"]), entered.at)
          assert.deepInclude(asked, refusals)
          assert.strictEqual((yield* said(holder, "ended"))["outcome"], "LockLost")
          assert.strictEqual((yield* other.etcd.range({ key: "/stopped/fenced" })).count, 0)
        }).pipe(quiet),
      60_000
    )

    it.live("a process stopped in the middle of its steps takes at most one more", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const other = yield* connect({ endpoints: server.endpoint })
        const deleted = yield* deletions(server.endpoint, "/locks/")
        const more: Array<number> = []
        for (let round = 0; round < 5; round++) {
          const key = `steps${round}`
          const holder = yield* holderProcess(server, key, "steps")
          yield* said(holder, "held")
          const [entry] = yield* other.lock.waiters(key)
          const { entered: next } = yield* enterNext(other.lock, key)
          yield* until(
            "it takes steps",
            Effect.map(holder.lines, (lines) => lines.filter((line) => line.includes("\"step\"")).length >= 5),
            30_000
          )
          // In the middle of whatever it does.
          yield* Effect.sleep(20 + round * 7)
          yield* holder.kill("SIGSTOP")
          yield* Effect.timeout(next, "30 seconds")
          const given = yield* deleted.of(entry?.entryKey ?? "")
          const before = (yield* holder.lines).length
          yield* holder.kill("SIGCONT")
          yield* said(holder, "ended")
          yield* holder.ended
          const lines = (yield* holder.lines).slice(before).map((line) => JSON.parse(line))
          assert.deepInclude(lines.at(-1), { what: "ended", outcome: "LockLost" })
          const steps = lines.filter(({ what }) => what === "step").length
          const writes = yield* historyOf(other, `/${key}/`)
          const late = writes.filter(({ revision }) => revision > given.revision)
          assert.isAbove(writes.length, 4)
          assert.deepStrictEqual(late.filter((write) => write.key.endsWith("/fenced")), [])
          assert.isAtMost(steps, 1)
          assert.isAtMost(late.length, 1)
          more.push(steps)
        }
        record({
          what: "SIGSTOP of a holder beyond its TTL, then SIGCONT: steps that its body still takes",
          bar: "at most 1, none of them fenced",
          measured: `${more.join(", ")} in ${more.length} runs; 0 fenced`,
          ok: true,
          version
        })
      }).pipe(quiet), 120_000)

    const operators: ReadonlyArray<
      readonly [
        string,
        LockLost["why"],
        (server: EtcdServer, holder: { entryKey: string; leaseId: bigint }) => Effect.Effect<unknown, unknown>
      ]
    > = [
      ["revoked lease", "Revoked", (server, { leaseId }) => server.etcdctl("lease", "revoke", leaseId.toString(16))],
      ["deleted key", "Deleted", (server, { entryKey }) => server.etcdctl("del", entryKey)]
    ]
    for (const [name, why, remove] of operators) {
      it.live(
        `${name}: noticed within a third of the TTL and a second, and fenced commits nothing`,
        () =>
          Effect.gen(function*() {
            const server = yield* makeEtcdServer({ version })
            const [client, busy, other] = yield* Effect.all([
              connect({ endpoints: server.endpoint }),
              connect({ endpoints: server.endpoint }),
              connect({ endpoints: server.endpoint })
            ])
            const deleted = yield* deletions(server.endpoint, "/locks/")
            const times: Array<number> = []
            const seconds = 6
            for (let round = 0; round < 4; round++) {
              const key = `operator/${round}`
              const holder = yield* hold(client.lock, key, seconds)
              yield* Effect.sleep(round * 500)
              yield* remove(server, holder)
              const given = yield* deleted.of(holder.entryKey)
              const { at, error } = yield* Effect.timeout(holder.lost, "30 seconds")
              assert.deepInclude(error, { _tag: "LockLost", why })
              times.push(at - given.at)
            }
            // Another one, which writes all the while, and has somebody waiting behind it.
            const committed: Array<bigint> = []
            let writer: Effect.Effect<unknown, unknown> = Effect.void
            {
              const holder = yield* hold(busy.lock, "busy", seconds)
              const { entered: next } = yield* enterNext(other.lock, "busy")
              writer = Fiber.join(
                yield* holder.handle.fenced({ success: [Operation.put("/fenced", "1")] }).pipe(
                  Effect.tap((answer) => Effect.sync(() => committed.push(answer.revision))),
                  Effect.forever,
                  Effect.flip,
                  Effect.forkChild
                )
              )
              yield* Effect.sleep("300 millis")
              yield* remove(server, holder)
              const refused = yield* Effect.timeout(writer, "30 seconds")
              assert.deepInclude(refused, { _tag: "LockLost" })
              const given = yield* deleted.of(holder.entryKey)
              yield* Effect.timeout(next, "30 seconds")
              assert.deepInclude(
                yield* Effect.flip(holder.handle.fenced({ success: [Operation.put("/fenced", "2")] })),
                { _tag: "LockLost" }
              )
              const [last] = (yield* other.etcd.range({ key: "/fenced" })).kvs
              assert.isAbove(committed.length, 10)
              assert.isTrue(committed.every((revision) => revision < given.revision))
              assert.strictEqual(last?.modRevision, committed.at(-1))
            }
            const bar = seconds * 1000 / 3 + 1000
            const worst = Math.max(...times)
            record({
              what: `loss by an operator: ${name}`,
              bar: `noticed within TTL/3 + 1 s (${ms(bar)}); fenced commits nothing`,
              measured: `${summary(times)}; 0 of ${committed.length} fenced writes after it`,
              ok: worst < bar,
              version
            })
            assert.isBelow(worst, bar * 3)
          }).pipe(quiet),
        120_000
      )
    }

    it.live(
      "a thousand losses with somebody waiting behind each: never two holders at once",
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const locks = 100
          // In one of three its own revoke arrives and hands the lock on: a thousand are left to etcd's clock.
          const rounds = 15
          const stoodStill = yield* standstills
          const deleted = yield* deletions(server.endpoint, "/locks/many/")
          const waiting = yield* Effect.all(Array.from({ length: 4 }, () => connect({ endpoints: server.endpoint })))
          const holders = yield* Effect.forEach(
            Array.from({ length: locks }, (_, i) => i),
            () => connectThroughProxy(server, { timeout: "1 second" }),
            { concurrency: 8 }
          )
          const intervals: Array<{ readonly key: string; readonly token: bigint; readonly from: number; to: number }> =
            []
          const margins: Array<{ readonly by: "etcd" | "holder"; readonly margin: number }> = []
          const standing: Array<number> = []
          const body = (key: string, handle: LockHandle, use: Effect.Effect<void>) =>
            Effect.suspend(() => {
              const interval = { key, token: handle.fencingToken, from: now(), to: Number.POSITIVE_INFINITY }
              intervals.push(interval)
              return Effect.onExit(use, () =>
                Effect.sync(() => {
                  interval.to = now()
                }))
            })
          let lost = 0
          let tooLate = 0
          yield* Effect.forEach(holders, ({ lock, proxy }, i) =>
            Effect.gen(function*() {
              const key = `many/${i}`
              const next = waiting[i % waiting.length]
              if (next === undefined) return
              for (let round = 0; round < rounds; round++) {
                const held = yield* Deferred.make<void>()
                const holder = yield* Effect.forkChild(
                  lock.withLock(key, { ttl: "2 seconds" })((handle) =>
                    body(key, handle, Effect.andThen(Deferred.succeed(held, undefined), Effect.never))
                  ).pipe(
                    // A hundred clients that connect anew at once may take longer than the timeout, or than the lease: then nothing was
                    // held yet by a body.
                    Effect.retry({
                      while: ({ _tag }) => Effect.map(Deferred.isDone(held), (is) => _tag === "EtcdError" || !is)
                    }),
                    Effect.exit,
                    Effect.map((exit) => ({ exit, at: now() }))
                  )
                )
                yield* Effect.raceFirst(Deferred.await(held), Fiber.join(holder))
                const [entry] = yield* next.lock.waiters(key)
                const waiter = yield* Effect.forkChild(
                  next.lock.withLock(key, { ttl: "60 seconds" })((handle) =>
                    body(key, handle, Effect.sleep("5 millis"))
                  )
                )
                yield* Effect.sleep(Math.random() * 700)
                yield* [proxy.freeze, proxy.dropResponses, Effect.andThen(proxy.refuse, proxy.cut)][round % 3] ??
                  Effect.void
                const { at, exit } = yield* Fiber.join(holder)
                yield* Fiber.join(waiter)
                const error = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
                if (error?._tag !== "Fail" || !(error.error instanceof LockLost)) return assert.fail(String(exit))
                assert.strictEqual(error.error.why, "Expired")
                lost++
                const margin = (yield* deleted.of(entry?.entryKey ?? "")).at - at
                margins.push({ by: round % 3 === 1 ? "holder" : "etcd", margin })
                standing.push(stoodStill(at))
                // Nobody knows anything while the process has no turn on the machine.
                if (margin + stoodStill(at) <= 0) tooLate++
                yield* Effect.all([proxy.thaw, proxy.passResponses, proxy.accept])
              }
            }), { concurrency: "unbounded", discard: true })

          let overlapping = 0
          const gaps: Array<number> = []
          for (let i = 0; i < locks; i++) {
            const own = intervals.filter(({ key }) => key === `many/${i}`).sort((a, b) => a.from - b.from)
            assert.strictEqual(own.length, rounds * 2)
            own.slice(1).forEach((later, index) => {
              const earlier = own[index]
              if (earlier === undefined || later.from < earlier.to || later.token <= earlier.token) overlapping++
              else if (index % 2 === 0) gaps.push(later.from - earlier.to)
            })
          }
          const of = (by: "etcd" | "holder") => margins.flatMap((one) => one.by === by ? [one.margin] : [])
          record({
            what: `${lost} losses by expiry of leases of 2 s, ${locks} at a time, with somebody waiting for each lock`,
            bar: "never two holders at once",
            measured: `${overlapping} overlaps; ${of("etcd").length} times etcd's clock deleted the key, known ` +
              `${summary(of("etcd"))} before; ${of("holder").length} times the holder's own revoke did, ` +
              `${summary(of("holder"))} after it knew; the next one entered ${
                summary(gaps)
              } after the body had ended; ` +
              `the process stood still for up to ${ms(Math.max(...standing))}`,
            ok: overlapping === 0 && tooLate === 0,
            version
          })
          assert.deepStrictEqual({ lost, tooLate }, { lost: locks * rounds, tooLate: 0 })
          assert.strictEqual(overlapping, 0)
        }).pipe(quiet),
      300_000
    )
  })
}

/** Every put below a prefix, in order. */
const historyOf = ({ etcd }: Effect.Success<ReturnType<typeof connect>>, prefix: string) =>
  Effect.gen(function*() {
    const { revision } = yield* etcd.txn({ success: [Operation.put(`${prefix}end`, "")] })
    const puts: Array<{ readonly key: string; readonly revision: bigint }> = []
    yield* etcd.watch({ prefix, startRevision: 1n }).pipe(
      Stream.takeUntil((item) => item._tag === "Batch" && item.revision >= revision),
      Stream.runForEach((item) =>
        Effect.sync(() => {
          if (item._tag === "Opened" || item.revision === revision) return
          for (const event of item.events) {
            if (event._tag === "Put") puts.push({ key: event.kv.key, revision: item.revision })
          }
        })
      ),
      Effect.timeout("20 seconds")
    )
    return puts
  })
