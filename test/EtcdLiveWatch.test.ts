import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { type Etcd, Operation, type WatchItem } from "../src/Etcd.ts"
import { LeaseNotFound } from "../src/EtcdError.ts"
import { type EtcdServer, makeEtcdServer } from "./utils/EtcdServer.ts"
import { attempts, connect } from "./utils/live.ts"
import { makeProxy } from "./utils/Proxy.ts"

type Port = Etcd["Service"]
const versions = ["3.5", "3.4"] as const

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([time, a]) => [Duration.toMillis(time), a] as const)

/** Collects what a watch delivers, up to a revision that is known later. */
const collect = Effect.fnUntraced(function*(etcd: Port, prefix: string, startRevision: bigint) {
  const seen: Array<WatchItem> = []
  let last: bigint | undefined
  const fiber = yield* etcd.watch({ prefix, startRevision, previousKv: true }).pipe(
    Stream.runForEach((item) => Effect.sync(() => seen.push(item))),
    Effect.forkChild({ startImmediately: true })
  )
  const reached = () => seen.some((item) => item._tag === "Batch" && item.revision === last)
  return {
    seen,
    until: (revision: bigint) =>
      Effect.gen(function*() {
        last = revision
        yield* Effect.sync(reached).pipe(
          Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("10 millis") }),
          Effect.timeout("20 seconds")
        )
        yield* Fiber.interrupt(fiber)
        return seen
      })
  }
})

const batches = (items: ReadonlyArray<WatchItem>) => items.flatMap((item) => item._tag === "Batch" ? [item] : [])
const revisionsFrom = (first: bigint, last: bigint) =>
  Array.from({ length: Number(last - first) + 1 }, (_, i) => first + BigInt(i))

const write = (etcd: Port, key: string, value = "x") =>
  Effect.map(etcd.txn({ success: [Operation.put(key, value)] }), (r) => r.revision)

const compact = (server: EtcdServer, revision: bigint) => server.etcdctl("compact", String(revision))

for (const version of versions) {
  describe(`a watch from a revision (${version})`, () => {
    it.live("loses, doubles and swaps nothing over random cuts", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const proxy = yield* makeProxy({ port: server.port })
        const direct = yield* connect({ endpoints: server.endpoint })
        const etcd = yield* connect({ endpoints: proxy.endpoint })
        const first = yield* write(direct, "/w/first")
        const watches = yield* Effect.forEach([1, 2, 3], () => collect(etcd, "/w/", first))
        let last = first
        for (let round = 0; round < 25; round++) {
          // Between the confirmation and the first event, between events, and while nothing is connected.
          const writes = Math.floor(Math.random() * 40)
          for (let i = 0; i < writes; i++) {
            // Several keys in one revision, which must stay together.
            const success = Array.from({ length: 1 + i % 3 }, (_, key) => Operation.put(`/w/${key}`, "x".repeat(2000)))
            last = (yield* direct.txn({ success })).revision
          }
          yield* proxy.cut
          yield* Effect.sleep(Math.random() * 150)
        }
        last = yield* write(direct, "/w/last")
        for (const { until } of watches) {
          const seen = yield* until(last)
          assert.deepStrictEqual(batches(seen).map(({ revision }) => revision), revisionsFrom(first, last))
          assert.isAbove(seen.length - batches(seen).length, 5, "it was opened again and again")
          for (const { events, revision } of batches(seen)) {
            for (const event of events) assert.strictEqual(event._tag === "Put" && event.kv.modRevision, revision)
          }
        }
      }), 60_000)

    it.live("goes on after the server was killed and started again", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const etcd = yield* connect({ endpoints: server.endpoint, retry: Schedule.spaced("100 millis") })
        const first = yield* write(etcd, "/w/first")
        const watch = yield* collect(etcd, "/w/", first)
        yield* server.kill
        yield* server.start
        // A write could go to the old connection, and be ambiguous; a read is sent again.
        yield* etcd.range({ key: "/w/a" })
        yield* write(etcd, "/w/a")
        const last = yield* write(etcd, "/w/b")
        const seen = yield* watch.until(last)
        assert.deepStrictEqual(batches(seen).map(({ revision }) => revision), revisionsFrom(first, last))
      }))

    it.live("says what is left when its start was compacted, at once and while it was cut", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const proxy = yield* makeProxy({ port: server.port })
        const direct = yield* connect({ endpoints: server.endpoint })
        const etcd = yield* connect({ endpoints: proxy.endpoint })
        const first = yield* write(direct, "/w/first")
        const watching = yield* etcd.watch({ prefix: "/w/", startRevision: first }).pipe(
          Stream.runDrain,
          Effect.flip,
          Effect.forkChild({ startImmediately: true })
        )
        yield* proxy.refuse
        yield* proxy.cut
        let last = first
        for (let i = 0; i < 5; i++) last = yield* write(direct, "/w/a")
        yield* compact(server, last)
        yield* proxy.accept
        const late = yield* Fiber.join(watching)
        const early = yield* Effect.flip(Stream.runDrain(direct.watch({ prefix: "/w/", startRevision: first })))
        for (const error of [late, early]) {
          assert.deepInclude(error.reason, { _tag: "Compacted", compactRevision: last })
          assert.deepInclude(error, { operation: "watch", key: "/w/" })
        }
      }))

    it.live("does not lose a deletion whose revision was compacted while it was cut", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const proxy = yield* makeProxy({ port: server.port })
        const direct = yield* connect({ endpoints: server.endpoint })
        const etcd = yield* connect({ endpoints: proxy.endpoint })
        const put = yield* write(direct, "/w/a")
        const seen = yield* Latch.make()
        const watching = yield* etcd.watch({ prefix: "/w/", startRevision: put }).pipe(
          Stream.filter((item) => item._tag === "Batch"),
          Stream.tap(() => seen.open),
          Stream.take(2),
          Stream.runCollect,
          Effect.flip,
          Effect.forkChild({ startImmediately: true })
        )
        yield* seen.await
        yield* proxy.refuse
        yield* proxy.cut
        const { revision } = yield* direct.txn({ success: [Operation.delete("/w/a")] })
        yield* compact(server, revision)
        yield* write(direct, "/w/b")
        yield* proxy.accept
        const error = yield* Fiber.join(watching)
        assert.deepInclude(error.reason, { _tag: "Compacted", compactRevision: revision })
      }))

    it.live("brings large revisions whole, however the server fragments them", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version, args: ["--max-request-bytes=4000000"] })
        const etcd = yield* connect({ endpoints: server.endpoint, timeout: "20 seconds" })
        const keys = Array.from({ length: 120 }, (_, i) => `/w/${String(i).padStart(3, "0")}`)
        const first = (yield* etcd.range({ key: "/w/" })).revision + 1n
        let last = first
        for (let i = 0; i < 5; i++) {
          const success = keys.map((key) => Operation.put(key, String(i).repeat(30_000)))
          last = (yield* etcd.txn({ success })).revision
          last = yield* write(etcd, "/w/small", String(i))
        }
        const seen = batches(yield* (yield* collect(etcd, "/w/", first)).until(last))
        assert.deepStrictEqual(seen.map(({ revision }) => revision), revisionsFrom(first, last))
        for (const [i, { events }] of seen.entries()) {
          const round = Math.floor(i / 2)
          const expected = i % 2 === 0 ? keys : ["/w/small"]
          assert.deepStrictEqual(events.map((event) => event._tag === "Put" ? event.kv.key : undefined), expected)
          const values = events.map((event) => event._tag === "Put" ? event.kv.value : new Uint8Array())
          assert.isTrue(values.every((value) => value.length === (i % 2 === 0 ? 30_000 : 1) && value[0] === 48 + round))
          const previous = events.map(({ previous }) => previous?.value[0])
          assert.isTrue(previous.every((byte) => byte === (round === 0 ? undefined : 47 + round)))
        }
      }), 60_000)

    it.live("waits for a slow consumer, and calls and leases do not", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const etcd = yield* connect({ endpoints: server.endpoint })
        const lease = yield* etcd.leaseGrant(Duration.seconds(5))
        const first = yield* write(etcd, "/w/first")
        const pull = yield* Stream.toPull(etcd.watch({ prefix: "/w/", startRevision: first }))
        const seen: Array<WatchItem> = [...yield* pull]
        // 40 MB, of which nobody reads anything.
        let last = first
        for (let i = 0; i < 400; i++) {
          last = yield* write(etcd, "/w/a", "x".repeat(100_000))
          if (i % 100 === 0) {
            const [time] = yield* timed(etcd.leaseKeepAlive(lease.id))
            assert.isBelow(time, 1000)
          }
        }
        // Bounded: what is not asked for stays on the server.
        const memory = process.memoryUsage()
        assert.isBelow(memory.external + memory.arrayBuffers, 200e6)
        while (batches(seen).at(-1)?.revision !== last) seen.push(...yield* pull)
        assert.deepStrictEqual(batches(seen).map(({ revision }) => revision), revisionsFrom(first, last))
      }), 60_000)
  })
}

describe("a watch from now", () => {
  it.live("sees what comes, and ends when it is cut", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const proxy = yield* makeProxy({ port: server.port })
      const etcd = yield* connect({ endpoints: proxy.endpoint })
      const seen: Array<WatchItem> = []
      const watching = yield* etcd.watch({ key: "/a" }).pipe(
        Stream.runForEach((item) => Effect.sync(() => seen.push(item))),
        Effect.forkChild({ startImmediately: true })
      )
      const arrived = (tag: WatchItem["_tag"]) =>
        Effect.sync(() => seen.some(({ _tag }) => _tag === tag)).pipe(
          Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("10 millis") }),
          Effect.timeout("10 seconds")
        )
      yield* arrived("Opened")
      const revision = yield* write(etcd, "/a")
      yield* arrived("Batch")
      assert.deepStrictEqual(batches(seen).map((batch) => batch.revision), [revision])
      yield* proxy.cut
      yield* Fiber.join(watching)
    }))
})

describe("silence", () => {
  it.live(
    "is noticed within 10 seconds, by an open watch and by one that is being opened",
    () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer()
        const proxy = yield* makeProxy({ port: server.port })
        const transport = yield* attempts(proxy.port, { dialTimeout: Duration.seconds(2) })
        const pull = yield* Stream.toPull(transport.watch({ key: "/a", startRevision: 1n }))
        assert.strictEqual((yield* pull)[0]._tag, "Opened")
        // An idle watch on a server that lives goes on.
        const idle = yield* Effect.forkChild(Effect.exit(pull), { startImmediately: true })
        yield* Effect.sleep("6 seconds")
        assert.isUndefined(idle.pollUnsafe())
        yield* proxy.freeze
        const [time] = yield* timed(Fiber.join(idle)).pipe(Effect.timeout("11 seconds"))
        assert.isBelow(time, 10_000)
        const [opening, error] = yield* timed(Effect.flip(Stream.runDrain(transport.watch({ key: "/a" }))))
        assert.isBelow(opening, 3000)
        assert.strictEqual(error._tag, "EtcdError")
        yield* proxy.thaw
        yield* transport.range({ key: "/a" }).pipe(
          Effect.retry({ schedule: Schedule.spaced("100 millis") }),
          Effect.timeout("10 seconds")
        )
      }),
    60_000
  )
})

describe("beats", () => {
  it.live(
    "share one stream, each gets the answer of its own lease, and a new stream is opened when one is not answered",
    () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer()
        const proxy = yield* makeProxy({ port: server.port })
        const etcd = yield* connect({ endpoints: proxy.endpoint })
        const ttls = Array.from({ length: 50 }, (_, i) => Duration.seconds(6 + i))
        const leases = yield* Effect.forEach(ttls, (ttl) => etcd.leaseGrant(ttl), { concurrency: "unbounded" })
        const beats = yield* Effect.forEach(leases, ({ id }) => etcd.leaseKeepAlive(id), { concurrency: "unbounded" })
        assert.deepStrictEqual(beats, ttls)
        const [revoked = 0n, kept = 0n] = leases.map(({ id }) => id)
        yield* etcd.leaseRevoke(revoked)
        const gone = yield* Effect.flip(etcd.leaseKeepAlive(revoked))
        assert.deepStrictEqual(gone.reason, new LeaseNotFound({ leaseId: revoked }))
        yield* proxy.freeze
        const beat = yield* Effect.forkChild(timed(etcd.leaseKeepAlive(kept)), {
          startImmediately: true
        })
        // A third of its 7 seconds; then again, on a stream of its own.
        yield* Effect.sleep("2500 millis")
        yield* proxy.cut
        yield* proxy.thaw
        const [time, ttl] = yield* Fiber.join(beat)
        assert.deepStrictEqual(ttl, Duration.seconds(7))
        assert.isBelow(time, 5000)
      }),
    30_000
  )
})
