import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Operation } from "../../src/Etcd.ts"
import { EtcdError } from "../../src/EtcdError.ts"
import { ServiceInstance } from "../../src/ServiceInstance.ts"
import { makeEtcdServer } from "../utils/EtcdServer.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { connect, ms, now, until } from "./clients.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] as const

const put = (key: string, value: string | Uint8Array = "1") => ({ success: [Operation.put(key, value)] })

const reasonOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(
    Effect.flip(effect),
    (error) => error instanceof EtcdError ? error.reason._tag : String(error)
  )

const instance = (id: string) => new ServiceInstance({ id, name: "orders", address: "127.0.0.1", port: 80 })

describe("a full store", () => {
  for (const version of versions) {
    it.live(
      `refuses writes as NoSpace; what is held, read and watched goes on; and all is well once there is room (${version})`,
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version, args: [`--quota-backend-bytes=${4 * 1024 * 1024}`] })
          const { config, etcd, lock, registry } = yield* connect({ endpoints: server.endpoint })
          const handles = yield* Scope.make()
          const handle = yield* Scope.provide(lock.acquire("job", { ttl: "3 seconds" }), handles)
          const registration = yield* registry.register(instance("one"), { ttl: "3 seconds" })
          const lease = yield* etcd.leaseGrant(Duration.seconds(60))
          yield* config.set("limit", Schema.Int, 1)
          const live = yield* config.live("limit", Schema.Int)
          const seen: Array<string> = []
          yield* config.watchPrefix("", Schema.String).pipe(
            Stream.runForEach((event) => Effect.sync(() => void seen.push(event._tag))),
            Effect.forkScoped
          )
          const { revision } = yield* etcd.txn(put("/config/small", "1"))

          const big = new Uint8Array(256 * 1024)
          let failure: EtcdError | undefined
          for (let i = 0; failure === undefined && i < 200; i++) {
            failure = yield* etcd.txn(put(`/big/${i % 4}`, big)).pipe(
              Effect.as(undefined),
              Effect.catch(Effect.succeed)
            )
          }
          assert.strictEqual(failure?.reason._tag, "NoSpace")
          assert.match(String(failure?.message), /compact, defragment and disarm/)

          yield* until(
            "the alarm is raised",
            Effect.map(server.etcdctl("alarm", "list"), (text) => text.includes("NOSPACE")),
            10_000
          )

          const refused: Record<string, Effect.Effect<unknown, unknown, Scope.Scope>> = {
            put: etcd.txn(put("/a")),
            leaseGrant: etcd.leaseGrant(Duration.seconds(10)),
            lock: lock.acquire("other"),
            tryAcquire: lock.tryAcquire("other"),
            register: registry.register(instance("two")),
            set: config.set("limit", Schema.Int, 2),
            compareAndSet: config.compareAndSet("new", Schema.Int, 2, 0n),
            update: config.update("limit", Schema.Int, (n) => n + 1),
            metadata: registration.update({ zone: "north" })
          }
          for (const [name, effect] of Object.entries(refused)) {
            const reason = yield* reasonOf(Effect.timeout(Effect.scoped(effect), "10 seconds"))
            assert.strictEqual(reason, "NoSpace", name)
          }
          // etcd counts nested transactions, which these are, as free: they pass, and are as good as any.
          const fenced = yield* Effect.result(handle.fenced(put("/b")))
          record({
            what: "NOSPACE: `fenced`",
            bar: "NoSpace, or applied (etcd does not count nested transactions)",
            measured: fenced._tag === "Success" ? "applied" : String(fenced.failure),
            ok: fenced._tag === "Success" ||
              (fenced.failure instanceof EtcdError && fenced.failure.reason._tag === "NoSpace"),
            version
          })
          assert.strictEqual((yield* etcd.range({ key: "/b" })).count, fenced._tag === "Success" ? 1 : 0)
          // An operator takes the registration away: there is no room to put it back.
          yield* server.etcdctl("del", registration.key)
          yield* until("recovering", Effect.map(registration.status.get, (is) => is === "Recovering"), 10_000)

          // Reads, beats, deletes and releases need no room; nothing that is held is lost meanwhile.
          yield* Effect.sleep("5 seconds")
          yield* handle.assertHeld
          yield* etcd.leaseKeepAlive(lease.id)
          assert.strictEqual(yield* config.get("limit", Schema.Int), 1)
          assert.strictEqual(yield* live.get, 1)
          const opened = yield* etcd.watch({ prefix: "/config/", startRevision: revision }).pipe(
            Stream.filter((item) => item._tag === "Batch"),
            Stream.runHead
          )
          assert.strictEqual(opened._tag, "Some")
          yield* config.delete("small")
          yield* until("the deletion is seen", Effect.sync(() => seen.at(-1) === "Delete"), 10_000)
          yield* Scope.close(handles, Exit.void)
          assert.deepStrictEqual(yield* lock.waiters("job"), [])

          const current = (yield* etcd.range({ key: "/a" })).revision
          yield* server.etcdctl("del", "--prefix", "/big/")
          yield* server.etcdctl("compaction", String(current))
          yield* server.etcdctl("defrag")
          yield* server.etcdctl("alarm", "disarm")
          const start = now()
          yield* etcd.txn(put("/a"))
          yield* config.set("limit", Schema.Int, 2)
          yield* until("the live value follows", Effect.map(live.get, (value) => value === 2), 10_000)
          yield* lock.withLock("other")(Effect.void)
          yield* until("registered", Effect.map(registration.status.get, (is) => is === "Registered"), 20_000)
          record({
            what: "NOSPACE: everything works again after disarm, a lost registration too",
            bar: "0 lost; 5 s, the longest pause between tries",
            measured: `0 lost; ${ms(now() - start)}`,
            ok: now() - start <= 5000,
            version
          })
        }),
      90_000
    )
  }
})

describe("one bad call", () => {
  for (const version of versions) {
    it.live(
      `too large, too late or given up: no other call, watch or beat notices (${version})`,
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const { config, etcd } = yield* connect({ endpoints: server.endpoint, retry: { maxAttempts: 1 } })
          const lease = yield* etcd.leaseGrant(Duration.seconds(30))
          const { revision } = yield* etcd.txn(put("/load/0"))
          const revisions: Array<bigint> = []
          let reopened = -1
          yield* etcd.watch({ prefix: "/load/", startRevision: revision + 1n }).pipe(
            Stream.runForEach((item) =>
              Effect.sync(() => item._tag === "Batch" ? void revisions.push(item.revision) : reopened++)
            ),
            Effect.forkScoped
          )
          const stop = yield* Deferred.make<void>()
          const acknowledged: Array<bigint> = []
          let longest = 0
          const load = yield* Effect.forEach(Array.from({ length: 10 }, (_, i) => i), (i) =>
            Effect.gen(function*() {
              const start = now()
              yield* etcd.range({ key: "/load/0" })
              acknowledged.push((yield* etcd.txn(put(`/load/${i}`))).revision)
              yield* etcd.leaseKeepAlive(lease.id)
              longest = Math.max(longest, now() - start)
              if (yield* Deferred.isDone(stop)) return yield* Effect.interrupt
            }).pipe(Effect.forever, Effect.exit), { concurrency: "unbounded" }).pipe(
              Effect.forkChild({ startImmediately: true })
            )
          const huge = new Uint8Array(2 * 1024 * 1024)
          for (let i = 0; i < 20; i++) {
            assert.strictEqual(yield* reasonOf(etcd.txn(put("/huge", huge))), "TooLarge")
            assert.strictEqual(yield* reasonOf(config.set("huge", Schema.String, "x".repeat(3 << 20))), "TooLarge")
            yield* Effect.exit(Effect.timeout(etcd.range({ prefix: "" }), "1 millis"))
            yield* Effect.exit(Effect.timeout(etcd.txn(put("/given-up")), "1 millis"))
            yield* Effect.exit(
              Effect.timeout(Stream.runDrain(etcd.watch({ prefix: "/", startRevision: 1n })), "5 millis")
            )
          }
          yield* Deferred.succeed(stop, undefined)
          const ends = yield* Fiber.join(load)
          // They end by interruption of themselves, not with an error.
          assert.isTrue(ends.every((exit) => Exit.hasInterrupts(exit)), String(ends))
          // Writes that shared a call share a revision.
          const written = [...new Set(acknowledged)].sort((a, b) => (a < b ? -1 : 1))
          yield* until("all events", Effect.sync(() => revisions.length >= written.length), 10_000)
          assert.deepStrictEqual(revisions, written)
          assert.strictEqual(reopened, 0)
          record({
            what: `100 bad calls beside ${acknowledged.length * 3} good ones`,
            bar: "0 of the others fail",
            measured: `0 failed; the slowest round took ${ms(longest)}`,
            ok: true,
            version
          })
        }),
      60_000
    )

    it.live(`a deadline that is too short for the network is told for each call, and over with the slowness (${version})`, () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const proxy = yield* makeProxy({ port: server.port })
        // Too short for a machine that is busy, too: only what is asked below has to take longer.
        const { etcd } = yield* Effect.retry(
          connect({ endpoints: proxy.endpoint, timeout: "100 millis", retry: { maxAttempts: 1 } }),
          { times: 20 }
        )
        yield* Effect.retry(etcd.txn(put("/a")), { times: 20 })
        yield* proxy.delay(400)
        const reasons = yield* Effect.all([
          reasonOf(etcd.range({ key: "/a" })),
          reasonOf(etcd.txn(put("/a"))),
          reasonOf(etcd.leaseGrant(Duration.seconds(5)))
        ], { concurrency: "unbounded" })
        assert.deepStrictEqual(reasons, ["Timeout", "Ambiguous", "Timeout"])
        yield* proxy.delay(0)
        const start = now()
        yield* Effect.retry(etcd.txn(put("/a")), { times: 20 })
        const time = now() - start
        record({
          what: "calls after a deadline that was too short",
          bar: "1 s",
          measured: ms(time),
          ok: time <= 1000,
          version
        })
        assert.isBelow(time, 3000)
      }))
  }
})
