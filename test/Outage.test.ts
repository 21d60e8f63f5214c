import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { ConfigCenter, Etcd, layerEtcd, Lock, Registry, ServiceInstance } from "../src/index.ts"
import { type EtcdVersion, makeEtcdServer } from "./utils/EtcdServer.ts"

const Value = Schema.Struct({ n: Schema.Int })

/** Everything that etcd says happened below a prefix, as `key@revision`. */
const history = (etcd: Etcd["Service"], prefix: string, count: number) =>
  etcd.watch({ prefix, startRevision: 1n }).pipe(
    Stream.flatMap((item) =>
      item._tag === "Batch"
        ? Stream.fromIterable(
          item.events.map((event) =>
            event._tag === "Put" ? `${event.kv.key}@${event.kv.modRevision}` : `${event.key}@${event.modRevision}`
          )
        )
        : Stream.empty
    ),
    Stream.take(count),
    Stream.runCollect,
    Effect.timeout("20 seconds")
  )

const outage = (version: EtcdVersion) =>
  it.live(
    `etcd ${version} killed under load and started 3 s later: nothing lost, doubled or left unregistered`,
    () =>
      Effect.gen(function*() {
        const unhandled: Array<unknown> = []
        const listener = (error: unknown) => void unhandled.push(error)
        yield* Effect.acquireRelease(
          Effect.sync(() => process.on("unhandledRejection", listener)),
          () => Effect.sync(() => process.off("unhandledRejection", listener))
        )
        const server = yield* makeEtcdServer({ version })
        const context = yield* Layer.build(Layer.fresh(layerEtcd({ endpoints: server.endpoint, timeout: "2 seconds" })))
        const etcd = Context.get(context, Etcd)
        const config = Context.get(context, ConfigCenter)
        const registry = Context.get(context, Registry)
        const lock = Context.get(context, Lock)

        const held = yield* lock.acquire("outage", { ttl: "30 seconds" })
        const registrations = yield* Effect.forEach([1, 2, 3], (i) =>
          registry.register(
            new ServiceInstance({ id: `i${i}`, name: "svc", address: "127.0.0.1", port: 9000 + i, metadata: {} }),
            { ttl: "5 seconds" }
          ))
        const seen: Array<Array<string>> = [[], []]
        for (const events of seen) {
          const synced = yield* Deferred.make<void>()
          yield* Effect.forkScoped(
            config.watchPrefix("load", Value).pipe(
              Stream.runForEach((event) => {
                if (event._tag === "Synced") return Deferred.succeed(synced, undefined)
                if (event._tag === "Put") events.push(`/config/${event.key}@${event.version}`)
                return Effect.void
              })
            )
          )
          yield* Deferred.await(synced)
        }
        const attempts = { acknowledged: 0, failed: 0 }
        const writer = yield* Effect.forkScoped(
          Effect.forEach(Array.from({ length: 8 }, (_, w) => w), (w) =>
            Effect.gen(function*() {
              for (let n = 0;; n++) {
                const written = yield* Effect.exit(config.set(`load/${w}`, Value, { n }))
                if (written._tag === "Success") attempts.acknowledged++
                else {
                  attempts.failed++
                  yield* Effect.sleep("50 millis")
                }
              }
            }), { concurrency: "unbounded", discard: true })
        )
        const reached = (count: number) =>
          Effect.suspend(() => attempts.acknowledged >= count ? Effect.void : Effect.fail("not yet")).pipe(
            Effect.retry(Schedule.spaced("20 millis")),
            Effect.timeout("30 seconds")
          )
        yield* reached(200)
        yield* server.kill
        yield* Effect.sleep("3 seconds")
        yield* server.start
        yield* reached(attempts.acknowledged + 400)
        yield* Fiber.interrupt(writer)

        // Whatever was written, acknowledged or not, every watcher has once and in order.
        const present = yield* etcd.range({ prefix: "/config/load/" })
        const puts = present.kvs.reduce((sum, kv) => sum + Number(kv.version), 0)
        const truth = yield* history(etcd, "/config/load/", puts)
        assert.isAtLeast(truth.length, attempts.acknowledged)
        for (const events of seen) {
          yield* Effect.suspend(() => events.length >= truth.length ? Effect.void : Effect.fail("not yet")).pipe(
            Effect.retry(Schedule.spaced("20 millis")),
            Effect.timeout("20 seconds"),
            Effect.ignore
          )
          assert.deepStrictEqual(events, truth)
        }

        yield* registry.discover("svc").pipe(
          Effect.filterOrFail((instances) => instances.length === 3),
          Effect.retry(Schedule.spaced("100 millis")),
          Effect.timeout("20 seconds")
        )
        for (const registration of registrations) {
          assert.strictEqual(yield* registration.status.get, "Registered")
        }
        yield* held.assertHeld
        assert.isAbove(attempts.failed, 0)
        assert.deepStrictEqual(unhandled, [])
      }),
    120_000
  )

describe("an outage", () => {
  outage("3.5")
  outage("3.4")
})
