import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import {
  Compare,
  type Etcd,
  type KeyValue,
  Operation,
  type RangeRequest,
  type TxnRequest,
  type WatchItem
} from "../src/Etcd.ts"
import {
  Compacted,
  EtcdError,
  type EtcdErrorReason,
  HistoryLost,
  LeaseNotFound,
  PermissionDenied,
  Timeout,
  Unavailable
} from "../src/EtcdError.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import type { Transport } from "../src/internal/Transport.ts"

const error = (reason: EtcdErrorReason) => new EtcdError({ operation: "fake", key: "its own", reason })
const notSent = error(new Unavailable({ detail: "No connection established", sent: false }))
const dropped = error(new Unavailable({ detail: "Connection dropped", sent: true }))
const timeout = error(new Timeout({ detail: "Deadline exceeded" }))
const denied = error(new PermissionDenied({}))

const kv = (key: string, modRevision = 1n): KeyValue => ({
  key,
  value: new Uint8Array(),
  createRevision: modRevision,
  modRevision,
  version: 1n,
  lease: 0n
})
const answer = { revision: 7n, kvs: [], count: 0, more: false }
const done = { revision: 7n, succeeded: true, responses: [] }
const put: TxnRequest = { success: [Operation.put("/a", "1")] }

const fake = (overrides: Partial<Transport>): Transport => ({
  range: () => Effect.succeed(answer),
  txn: () => Effect.succeed(done),
  leaseGrant: (_, ttl) => Effect.succeed({ ttl, exists: false }),
  leaseKeepAlive: () => Effect.succeed(Duration.seconds(10)),
  leaseRevoke: () => Effect.void,
  leaseTimeToLive: () => Effect.succeed({ remaining: Duration.seconds(10), keys: [], revision: 1n }),
  watch: () => Stream.never,
  members: Effect.succeed([]),
  ...overrides
})

/** Answers each call by the next of these; the last one for ever. */
const scripted = <A>(...outcomes: ReadonlyArray<Effect.Effect<A, EtcdError>>) => {
  const calls: Array<ReadonlyArray<unknown>> = []
  return {
    calls,
    call: (...args: ReadonlyArray<unknown>): Effect.Effect<A, EtcdError> =>
      Effect.suspend(() => {
        const outcome = outcomes[Math.min(calls.length, outcomes.length - 1)] ?? Effect.die("no outcome")
        calls.push(args)
        return outcome
      })
  }
}

const make = (overrides: Partial<Transport>, namespace = "") =>
  makeEtcd(fake(overrides), {
    retry: Schedule.exponential("100 millis").pipe(Schedule.upTo({ times: 3 })),
    timeout: Duration.seconds(5),
    namespace
  })

/** Runs to its end, time passing as fast as it can. */
const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("10 millis")
    return yield* Fiber.join(fiber)
  })

const reasonOf = <A>(effect: Effect.Effect<A, EtcdError>) =>
  Effect.map(Effect.flip(inTime(effect)), (error) => error.reason)

describe("reads", () => {
  it.effect("are tried again while etcd is unavailable, sent or not", () =>
    Effect.gen(function*() {
      const script = scripted(Effect.fail(notSent), Effect.fail(dropped), Effect.succeed(answer))
      const etcd = yield* make({ range: script.call })
      assert.deepStrictEqual(yield* inTime(etcd.range({ key: "/a" })), answer)
      assert.strictEqual(script.calls.length, 3)
    }))

  it.effect("fail when the schedule is used up, in the caller's words", () =>
    Effect.gen(function*() {
      const script = scripted<typeof answer>(Effect.fail(dropped))
      const etcd = yield* make({ range: script.call }, "/ns")
      const failure = yield* Effect.flip(inTime(etcd.range({ prefix: "/a/" })))
      assert.strictEqual(script.calls.length, 4)
      assert.strictEqual(failure.operation, "range")
      assert.strictEqual(failure.key, "/a/")
      assert.deepStrictEqual(failure.reason, dropped.reason)
    }))

  it.effect("are not tried again for any other reason", () =>
    Effect.gen(function*() {
      for (const failure of [timeout, denied]) {
        const script = scripted<typeof answer>(Effect.fail(failure))
        const etcd = yield* make({ range: script.call })
        assert.deepStrictEqual(yield* reasonOf(etcd.range({ key: "/a" })), failure.reason)
        assert.strictEqual(script.calls.length, 1)
      }
    }))

  it.effect("are not tried again when one attempt has waited for the whole timeout", () =>
    Effect.gen(function*() {
      const late = Effect.delay(Effect.fail(dropped), "5 seconds")
      const read = scripted<typeof answer>(late)
      const grant = scripted<{ ttl: Duration.Duration; exists: boolean }>(late)
      const etcd = yield* make({ range: read.call, leaseGrant: grant.call })
      assert.deepStrictEqual(yield* reasonOf(etcd.range({ key: "/a" })), dropped.reason)
      // One, and its second.
      assert.strictEqual(read.calls.length, 2)
      assert.strictEqual(yield* Clock.monotonicTimeNanos, Duration.toNanosUnsafe("5 seconds"))
      // Whether a grant was applied is worth asking once.
      assert.deepStrictEqual(yield* reasonOf(etcd.leaseGrant(Duration.seconds(9))), dropped.reason)
      assert.strictEqual(grant.calls.length, 2)
    }))

  it.effect("are asked a second time when the first is not answered for 2 seconds, and the first may still answer", () =>
    Effect.gen(function*() {
      const frozen = scripted<typeof answer>(Effect.never, Effect.succeed(answer))
      const other = yield* make({ range: frozen.call })
      assert.deepStrictEqual(yield* inTime(other.range({ key: "/a" })), answer)
      assert.strictEqual(yield* Clock.monotonicTimeNanos, Duration.toNanosUnsafe("2 seconds"))

      const slow = scripted<typeof answer>(Effect.delay(Effect.succeed(answer), "3 seconds"), Effect.never)
      const same = yield* make({ range: slow.call })
      assert.deepStrictEqual(yield* inTime(same.range({ key: "/a" })), answer)
      assert.strictEqual(yield* Clock.monotonicTimeNanos, Duration.toNanosUnsafe("5 seconds"))
    }))

  it.effect("that are transactions of ranges only, nested too, are reads", () =>
    Effect.gen(function*() {
      const script = scripted(Effect.fail(dropped), Effect.succeed(done))
      const etcd = yield* make({ txn: script.call })
      const request: TxnRequest = {
        compare: [Compare.version("/a", ">", 0n)],
        success: [Operation.range("/a")],
        failure: [Operation.txn({ success: [Operation.range("/b")] })]
      }
      assert.deepStrictEqual(yield* inTime(etcd.txn(request)), done)
      assert.strictEqual(script.calls.length, 2)
    }))
})

describe("writes", () => {
  it.effect("are tried again where nothing was sent", () =>
    Effect.gen(function*() {
      const script = scripted(Effect.fail(notSent), Effect.fail(notSent), Effect.succeed(done))
      const etcd = yield* make({ txn: script.call })
      assert.deepStrictEqual(yield* inTime(etcd.txn(put)), done)
      assert.strictEqual(script.calls.length, 3)
    }))

  it.effect("stay Unavailable when they were never sent", () =>
    Effect.gen(function*() {
      const etcd = yield* make({ txn: () => Effect.fail(notSent) })
      assert.deepStrictEqual(yield* reasonOf(etcd.txn(put)), notSent.reason)
    }))

  it.effect("are ambiguous after a lost answer, and never sent again", () =>
    Effect.gen(function*() {
      for (const failure of [dropped, timeout]) {
        const script = scripted<typeof done>(Effect.fail(notSent), Effect.fail(failure))
        const etcd = yield* make({ txn: script.call })
        const nested: TxnRequest = { success: [Operation.txn({ failure: [Operation.delete("/b")] })] }
        for (const request of [put, nested]) {
          script.calls.length = 0
          const problem = yield* Effect.flip(inTime(etcd.txn(request)))
          assert.strictEqual(problem.reason._tag, "Ambiguous")
          assert.strictEqual(problem.operation, "txn")
          assert.strictEqual(problem.key, request === put ? "/a" : "/b")
          assert.strictEqual(script.calls.length, 2)
        }
      }
    }))

  it.effect("fail as etcd says for any other reason", () =>
    Effect.gen(function*() {
      const script = scripted<typeof done>(Effect.fail(denied))
      const etcd = yield* make({ txn: script.call })
      assert.deepStrictEqual(yield* reasonOf(etcd.txn(put)), denied.reason)
      assert.strictEqual(script.calls.length, 1)
    }))
})

describe("leaseGrant", () => {
  const ttl = Duration.seconds(10)
  const granted = { ttl, exists: false }
  const exists = { ttl: Duration.zero, exists: true }

  it.effect("counts the deadline from when the answered attempt was sent", () =>
    Effect.gen(function*() {
      const script = scripted(Effect.fail(notSent), Effect.delay(Effect.succeed(granted), "2 seconds"))
      const etcd = yield* make({ leaseGrant: script.call })
      const lease = yield* inTime(etcd.leaseGrant(ttl))
      assert.strictEqual(lease.deadline, Duration.toNanosUnsafe("10100 millis"))
      assert.isTrue(lease.id > 0n && lease.id < 2n ** 63n)
    }))

  it.effect("is sent again with the same id after a lost answer", () =>
    Effect.gen(function*() {
      const script = scripted(Effect.fail(dropped), Effect.fail(timeout), Effect.succeed(granted))
      const etcd = yield* make({ leaseGrant: script.call })
      const lease = yield* inTime(etcd.leaseGrant(ttl))
      assert.deepStrictEqual(script.calls.map(([id]) => id), [lease.id, lease.id, lease.id])
    }))

  it.effect("that had been applied after all is settled by one beat", () =>
    Effect.gen(function*() {
      const script = scripted(Effect.fail(dropped), Effect.succeed(exists))
      const beats: Array<bigint> = []
      let beatAt = 0n
      const etcd = yield* make({
        leaseGrant: script.call,
        leaseKeepAlive: (id) =>
          Effect.gen(function*() {
            beats.push(id)
            beatAt = yield* Clock.monotonicTimeNanos
            yield* Effect.sleep("1 second")
            return Duration.seconds(9)
          })
      })
      const lease = yield* inTime(etcd.leaseGrant(ttl))
      assert.deepStrictEqual(beats, [lease.id])
      assert.strictEqual(lease.deadline, beatAt + Duration.toNanosUnsafe("9 seconds"))
      assert.deepStrictEqual(lease.ttl, Duration.seconds(9))
    }))

  it.effect("takes a new id when somebody else's lease has it, or when the lost one has expired", () =>
    Effect.gen(function*() {
      const foreign = scripted(Effect.succeed(exists), Effect.succeed(granted))
      const beats: Array<bigint> = []
      const leaseKeepAlive: Transport["leaseKeepAlive"] = (leaseId) =>
        Effect.suspend(() => {
          beats.push(leaseId)
          return Effect.fail(error(new LeaseNotFound({ leaseId })))
        })
      const first = yield* make({ leaseGrant: foreign.call, leaseKeepAlive })
      yield* inTime(first.leaseGrant(ttl))
      assert.notStrictEqual(foreign.calls[0]?.[0], foreign.calls[1]?.[0])
      assert.deepStrictEqual(beats, [])

      const expired = scripted(Effect.fail(dropped), Effect.succeed(exists), Effect.succeed(granted))
      const second = yield* make({ leaseGrant: expired.call, leaseKeepAlive })
      const lease = yield* inTime(second.leaseGrant(ttl))
      assert.strictEqual(expired.calls[0]?.[0], expired.calls[1]?.[0])
      assert.deepStrictEqual(beats, [expired.calls[0]?.[0] as bigint])
      assert.strictEqual(lease.id, expired.calls[2]?.[0])
      assert.notStrictEqual(lease.id, expired.calls[0]?.[0])
    }))

  it.effect("fails with what went wrong last: a lease that nobody knows is no ambiguity", () =>
    Effect.gen(function*() {
      const etcd = yield* make({ leaseGrant: () => Effect.fail(dropped) })
      assert.deepStrictEqual(yield* reasonOf(etcd.leaseGrant(ttl)), dropped.reason)
    }))
})

describe("leases", () => {
  const gone = error(new LeaseNotFound({ leaseId: 5n }))

  it.effect("beats are sent again after a lost answer", () =>
    Effect.gen(function*() {
      const beat = scripted(Effect.fail(dropped), Effect.succeed(Duration.seconds(5)))
      const etcd = yield* make({ leaseKeepAlive: beat.call })
      assert.deepStrictEqual(yield* inTime(etcd.leaseKeepAlive(5n)), Duration.seconds(5))
    }))

  it.effect("one that is gone after the answer to its revocation was lost has been revoked", () =>
    Effect.gen(function*() {
      const revoke = scripted<void>(Effect.fail(dropped), Effect.fail(gone))
      const etcd = yield* make({ leaseRevoke: revoke.call })
      yield* inTime(etcd.leaseRevoke(5n))
      assert.strictEqual(revoke.calls.length, 2)
    }))

  it.effect("one that was gone before has not", () =>
    Effect.gen(function*() {
      const revoke = scripted<void>(Effect.fail(notSent), Effect.fail(gone))
      const etcd = yield* make({ leaseRevoke: revoke.call })
      assert.deepStrictEqual(yield* inTime(reasonOf(etcd.leaseRevoke(5n))), gone.reason)
    }))
})

describe("namespace", () => {
  it.effect("is put before every key that goes out and cut off every key that comes back", () =>
    Effect.gen(function*() {
      const ranges: Array<RangeRequest> = []
      const txns: Array<TxnRequest> = []
      const watches: Array<unknown> = []
      const etcd = yield* make({
        range: (request) => Effect.sync(() => (ranges.push(request), { ...answer, kvs: [kv("ns/x")] })),
        txn: (request) =>
          Effect.sync(() => {
            txns.push(request)
            return {
              ...done,
              responses: [
                { _tag: "Put", previous: kv("ns/p") },
                { _tag: "Put", previous: undefined },
                { _tag: "Delete", deleted: 1, previous: [kv("ns/d")] },
                { _tag: "Txn", succeeded: true, responses: [{ _tag: "Range", ...answer, kvs: [kv("ns/r")] }] }
              ]
            }
          }),
        leaseTimeToLive: () => Effect.succeed({ remaining: Duration.zero, keys: ["ns/k", "other/k"], revision: 7n }),
        watch: (request) => {
          watches.push(request)
          return Stream.make<Array<WatchItem>>(
            { _tag: "Opened", revision: 1n },
            {
              _tag: "Batch",
              revision: 2n,
              events: [
                { _tag: "Put", kv: kv("ns/w"), previous: kv("ns/w") },
                { _tag: "Delete", key: "ns/v", modRevision: 2n, previous: undefined }
              ]
            }
          )
        }
      }, "ns/")

      assert.deepStrictEqual((yield* etcd.range({ key: "x" })).kvs, [kv("x")])
      yield* etcd.range({ prefix: "" })
      yield* etcd.range({ from: "", to: "z" })
      assert.deepStrictEqual(ranges, [{ key: "ns/x" }, { prefix: "ns/" }, { from: "ns/", to: "ns/z" }])

      const answered = yield* etcd.txn({
        compare: [Compare.version({ prefix: "" }, "=", 0n)],
        success: [Operation.put("p", "1"), Operation.delete({ prefix: "d" }), Operation.range({ from: "a", to: "b" })],
        failure: [Operation.txn({ compare: [Compare.value("v", "=", "1")], success: [Operation.put("q", "2")] })]
      })
      assert.deepStrictEqual(answered.responses, [
        { _tag: "Put", previous: kv("p") },
        { _tag: "Put", previous: undefined },
        { _tag: "Delete", deleted: 1, previous: [kv("d")] },
        { _tag: "Txn", succeeded: true, responses: [{ _tag: "Range", ...answer, kvs: [kv("r")] }] }
      ])
      assert.deepStrictEqual(txns, [{
        compare: [Compare.version({ prefix: "ns/" }, "=", 0n)],
        success: [
          Operation.put("ns/p", "1"),
          Operation.delete({ prefix: "ns/d" }),
          Operation.range({ from: "ns/a", to: "ns/b" })
        ],
        failure: [{
          _tag: "Txn",
          compare: [Compare.value("ns/v", "=", "1")],
          success: [Operation.put("ns/q", "2")],
          failure: undefined
        }]
      }])

      assert.deepStrictEqual((yield* etcd.leaseTimeToLive(1n)).keys, ["k"])
      const [, batch] = yield* Stream.runCollect(etcd.watch({ prefix: "" }))
      assert.deepStrictEqual(watches, [{ prefix: "ns/" }])
      assert.deepStrictEqual(batch?._tag === "Batch" ? batch.events : [], [
        { _tag: "Put", kv: kv("w"), previous: kv("w") },
        { _tag: "Delete", key: "v", modRevision: 2n, previous: undefined }
      ])
    }))
})

const batch = (revision: bigint): WatchItem => ({
  _tag: "Batch",
  revision,
  events: [{ _tag: "Put", kv: kv("/a", revision), previous: undefined }]
})
const opened = (revision: bigint): WatchItem => ({ _tag: "Opened", revision })
const revisions = (items: ReadonlyArray<WatchItem>) =>
  items.flatMap((item) => item._tag === "Batch" ? [item.revision] : [])

describe("watch from a revision", () => {
  it.effect("delivers every revision once and in order over random cuts", () =>
    Effect.gen(function*() {
      const history = Array.from({ length: 200 }, (_, i) => BigInt(i + 1))
      const samples = fc.sample(
        fc.record({
          start: fc.integer({ min: 1, max: 190 }),
          cuts: fc.infiniteStream(fc.record({
            length: fc.integer({ min: 0, max: 40 }),
            early: fc.integer({ min: 0, max: 3 }),
            chunk: fc.integer({ min: 1, max: 7 }),
            end: fc.constantFrom("Unavailable", "NotSent", "Timeout", "end")
          }))
        }),
        { numRuns: 60, seed: 1 }
      )
      for (const { start, cuts } of samples) {
        const etcd = yield* make({
          watch: (request) => {
            const cut = cuts.next().value
            // As old servers do: some events from before the start.
            const from = Number(request.startRevision ?? 1n) - 1 - cut.early
            const items = history.slice(Math.max(0, from), Math.max(0, from) + cut.length).map(batch)
            const cause = cut.end === "Timeout" ? timeout : cut.end === "NotSent" ? notSent : dropped
            return Stream.make(opened(200n), ...items).pipe(
              Stream.rechunk(cut.chunk),
              Stream.concat(cut.end === "end" ? Stream.empty : Stream.fail(cause))
            )
          }
        })
        const seen = yield* etcd.watch({ prefix: "/", startRevision: BigInt(start) }).pipe(
          Stream.takeUntil((item) => item._tag === "Batch" && item.revision === 200n),
          Stream.runCollect,
          inTime
        )
        assert.deepStrictEqual(revisions(seen), history.slice(start - 1))
      }
    }))

  it.effect("does not move on before a revision was handed on", () =>
    Effect.gen(function*() {
      const starts: Array<bigint | undefined> = []
      const etcd = yield* make({
        watch: (request) => {
          starts.push(request.startRevision)
          const start = request.startRevision ?? 0n
          return Stream.fromArrays([opened(9n)], [batch(start)], [batch(start + 1n)]).pipe(
            Stream.concat(Stream.fail(dropped))
          )
        }
      })
      const pull = yield* Stream.toPull(etcd.watch({ key: "/a", startRevision: 3n }))
      assert.deepStrictEqual(yield* pull, [opened(9n)])
      assert.deepStrictEqual(yield* pull, [batch(3n)])
      // Asked for the revision before, etcd says so when what is wanted may have been compacted.
      assert.deepStrictEqual(starts, [2n])
      assert.deepStrictEqual(yield* inTime(pull), [opened(9n)])
      assert.deepStrictEqual(yield* pull, [batch(4n)])
      assert.deepStrictEqual(starts, [2n, 3n])
    }))

  it.effect("says so at each reopen", () =>
    Effect.gen(function*() {
      let attempts = 0
      const etcd = yield* make({
        watch: () =>
          Stream.suspend(() => ++attempts === 2 ? Stream.fail(notSent) : Stream.make(opened(BigInt(attempts))))
      })
      const seen = yield* inTime(etcd.watch({ key: "/a", startRevision: 1n }).pipe(Stream.take(3), Stream.runCollect))
      assert.deepStrictEqual(seen, [opened(1n), opened(3n), opened(4n)])
    }))

  it.effect("never gives up and never spins while etcd is unavailable, and is quick again once it was open", () =>
    Effect.gen(function*() {
      let attempts = 0
      let up = false
      const etcd = yield* make({
        watch: () =>
          Stream.suspend(() => {
            attempts++
            return up ? Stream.make(opened(1n)) : Stream.fail(notSent)
          })
      })
      yield* etcd.watch({ key: "/a", startRevision: 1n }).pipe(
        Stream.runDrain,
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("10 minutes")
      assert.isTrue(attempts > 250 && attempts < 400, `${attempts} attempts`)

      up = true
      yield* TestClock.adjust("3 seconds")
      up = false
      attempts = 0
      yield* TestClock.adjust("100 millis")
      assert.isTrue(attempts >= 1 && attempts <= 3, `${attempts} attempts`)
    }))

  it.effect("fails for what a new connection does not mend", () =>
    Effect.gen(function*() {
      for (const reason of [new Compacted({ compactRevision: 8n }), new PermissionDenied({})]) {
        let attempts = 0
        const etcd = yield* make({ watch: () => Stream.suspend(() => (attempts++, Stream.fail(error(reason)))) })
        const failure = yield* Effect.flip(Stream.runDrain(etcd.watch({ key: "/a", startRevision: 1n })))
        assert.deepStrictEqual(failure, new EtcdError({ operation: "watch", key: "/a", reason }))
        assert.strictEqual(attempts, 1)
      }
    }))

  const restored = (options: { readonly reopenedAt: bigint; readonly readAt: bigint }) => {
    const reads: Array<RangeRequest> = []
    let attempts = 0
    return Effect.map(
      make({
        range: (request) => Effect.sync(() => (reads.push(request), { ...answer, revision: options.readAt })),
        watch: () =>
          Stream.suspend(() =>
            ++attempts === 1
              ? Stream.make(opened(10n), batch(11n), batch(12n))
              : Stream.concat(Stream.make(opened(options.reopenedAt)), Stream.never)
          )
      }),
      (etcd) => ({ etcd, reads })
    )
  }

  it.effect("notices a store that went back, by a header and a read", () =>
    Effect.gen(function*() {
      const { etcd, reads } = yield* restored({ reopenedAt: 7n, readAt: 8n })
      const seen: Array<WatchItem> = []
      const watch = etcd.watch({ prefix: "/a", startRevision: 5n, previousKv: true })
      const reason = yield* reasonOf(Stream.runForEach(watch, (item) => Effect.sync(() => seen.push(item))))
      assert.deepStrictEqual(reason, new HistoryLost({ expected: 12n, actual: 8n }))
      assert.deepStrictEqual(seen, [opened(10n), batch(11n), batch(12n)])
      assert.deepStrictEqual(reads, [{ prefix: "/a", limit: 1, keysOnly: true }])
    }))

  it.effect("does not take a server that lags behind for a restored store", () =>
    Effect.gen(function*() {
      const { etcd } = yield* restored({ reopenedAt: 7n, readAt: 12n })
      const seen = yield* inTime(etcd.watch({ key: "/a", startRevision: 5n }).pipe(Stream.take(4), Stream.runCollect))
      assert.deepStrictEqual(seen, [opened(10n), batch(11n), batch(12n), opened(7n)])
    }))

  it.effect("notices a store that went back behind what the client was told elsewhere, once", () =>
    Effect.gen(function*() {
      const cuts = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      let opens = 0
      let revision = 4n
      const etcd = yield* make({
        range: () => Effect.sync(() => ({ ...answer, revision })),
        txn: () => Effect.sync(() => ({ ...done, revision })),
        watch: () =>
          Stream.suspend(() => {
            const cut = cuts[opens++]
            return Stream.concat(
              Stream.make(opened(revision)),
              cut === undefined ? Stream.never : Stream.fromEffectDrain(Effect.andThen(Deferred.await(cut), dropped))
            )
          })
      })
      const watch = etcd.watch({ key: "/a", startRevision: 5n })
      const watching = Effect.forkChild(reasonOf(Stream.runDrain(watch)), { startImmediately: true })
      const [one, other] = yield* Effect.all([watching, watching])
      revision = 9n
      yield* etcd.txn(put)
      // What neither of them has seen is lost.
      revision = 6n
      yield* Effect.forEach(cuts, (cut) => Deferred.succeed(cut, undefined))
      const reasons = yield* inTime(Effect.all([Fiber.join(one), Fiber.join(other)]))
      const lost = new HistoryLost({ expected: 9n, actual: 6n })
      assert.deepStrictEqual(reasons, [lost, lost])
      const seen = yield* inTime(etcd.watch({ key: "/a", startRevision: 7n }).pipe(Stream.take(1), Stream.runCollect))
      assert.deepStrictEqual(seen, [opened(6n)])
    }))

  it.effect("takes the revision before its start as seen", () =>
    Effect.gen(function*() {
      const etcd = yield* make({
        range: () => Effect.succeed({ ...answer, revision: 3n }),
        watch: () => Stream.concat(Stream.make(opened(3n)), Stream.never)
      })
      const reason = yield* reasonOf(Stream.runDrain(etcd.watch({ key: "/a", startRevision: 5n })))
      assert.deepStrictEqual(reason, new HistoryLost({ expected: 4n, actual: 3n }))
      const seen = yield* etcd.watch({ key: "/a", startRevision: 4n }).pipe(Stream.take(1), Stream.runCollect)
      assert.deepStrictEqual(seen, [opened(3n)])
    }))

  it.effect("frees each connection before the next one", () =>
    Effect.gen(function*() {
      let open = 0
      let most = 0
      const etcd = yield* make({
        watch: () =>
          Stream.scoped(Stream.unwrap(Effect.gen(function*() {
            yield* Effect.acquireRelease(
              Effect.sync(() => (most = Math.max(most, ++open))),
              () => Effect.sync(() => open--)
            )
            return Stream.concat(Stream.make(opened(1n)), Stream.fail(dropped))
          })))
      })
      yield* inTime(etcd.watch({ key: "/a", startRevision: 1n }).pipe(Stream.take(5), Stream.runDrain))
      assert.deepStrictEqual([open, most], [0, 1])
    }))
})

describe("watch from now", () => {
  it.effect("ends when it is cut, and fails otherwise", () =>
    Effect.gen(function*() {
      for (const cut of [dropped, timeout]) {
        const etcd = yield* make({ watch: () => Stream.concat(Stream.make(opened(3n), batch(4n)), Stream.fail(cut)) })
        const seen = yield* Stream.runCollect(etcd.watch({ key: "/a" }))
        assert.deepStrictEqual(seen, [opened(3n), batch(4n)])
      }
      const etcd = yield* make({ watch: () => Stream.fail(denied) })
      assert.deepStrictEqual(yield* reasonOf(Stream.runDrain(etcd.watch({ key: "/a" }))), denied.reason)
    }))
})

describe("after its scope is closed", () => {
  it.effect("every call fails with Closed, and so does what was waiting", () =>
    Effect.gen(function*() {
      let calls = 0
      const scope = yield* Scope.make()
      const etcd: Etcd["Service"] = yield* make({
        range: () => Effect.suspend(() => (calls++, Effect.fail(notSent))),
        watch: () => Stream.suspend(() => (calls++, Stream.never))
      }).pipe(Scope.provide(scope))
      const waiting: Array<Fiber.Fiber<unknown, EtcdError>> = [
        yield* Effect.forkChild(etcd.range({ key: "/a" }), { startImmediately: true }),
        yield* Effect.forkChild(Stream.runDrain(etcd.watch({ key: "/a", startRevision: 1n })), {
          startImmediately: true
        })
      ]
      assert.strictEqual(calls, 2)
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("1 minute")
      for (const fiber of waiting) assert.strictEqual((yield* reasonOf(Fiber.join(fiber)))._tag, "Closed")
      const after = [
        etcd.range({ key: "/a" }),
        etcd.txn(put),
        etcd.leaseGrant(Duration.seconds(1)),
        etcd.leaseKeepAlive(1n),
        etcd.leaseRevoke(1n),
        etcd.leaseTimeToLive(1n),
        Stream.runDrain(etcd.watch({ key: "/a" })),
        Stream.runDrain(etcd.watch({ key: "/a", startRevision: 1n }))
      ]
      for (const call of after) {
        assert.strictEqual((yield* reasonOf(call as Effect.Effect<unknown, EtcdError>))._tag, "Closed")
      }
      assert.strictEqual(calls, 2)
    }))

  it.effect("a watch between two connections fails at once, and opens no other", () =>
    Effect.gen(function*() {
      let opens = 0
      const scope = yield* Scope.make()
      const etcd: Etcd["Service"] = yield* make({
        watch: () => Stream.suspend(() => (opens++, Stream.fail(notSent))),
        endsWatches: true
      }).pipe(Scope.provide(scope))
      const fiber = yield* Effect.forkChild(Stream.runDrain(etcd.watch({ key: "/a", startRevision: 1n })), {
        startImmediately: true
      })
      assert.strictEqual(opens, 1)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* reasonOf(Fiber.join(fiber)))._tag, "Closed")
      assert.strictEqual(opens, 1)
    }))

  it.effect("a watch leaves no connection open, neither after a cut nor at its end", () =>
    Effect.gen(function*() {
      let open = 0
      let opens = 0
      const etcd = yield* make({
        watch: () =>
          Stream.unwrap(Effect.gen(function*() {
            yield* Effect.acquireRelease(Effect.sync(() => ++open), () => Effect.sync(() => --open))
            assert.strictEqual(open, 1)
            const items = Stream.make(opened(1n))
            return ++opens < 3 ? Stream.concat(items, Stream.fail(notSent)) : Stream.concat(items, Stream.never)
          }))
      })
      const fiber = yield* Effect.forkChild(Stream.runDrain(etcd.watch({ key: "/a", startRevision: 1n })))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([opens, open], [3, 1])
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(open, 0)
    }))
})
