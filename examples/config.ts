/**
 * Typed configuration: write, read, compare and set, watch, and follow a value that others change.
 *
 *     npx node examples/config.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/config.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Fiber, Latch, Layer, Option, Schema, Stream } from "effect"
import { ConfigCenter, EtcdLive, EtcdMemory } from "../src/index.ts"

const Limits = Schema.Struct({
  perSecond: Schema.Int.check(Schema.isGreaterThan(0)),
  burst: Schema.Int,
  message: Schema.optionalKey(Schema.String)
})

const program = Effect.gen(function*() {
  const config = yield* ConfigCenter
  const key = "example/limits"

  // A value is an object in JSON, as Go services read and write it: {"perSecond":100,"burst":20}
  const written = yield* config.set(key, Limits, { perSecond: 100, burst: 20 })
  yield* Console.log(`written as version ${written}:`, yield* config.get(key, Limits))

  // A reference that follows etcd: reading it asks nobody.
  const limits = yield* config.live(key, Limits, { onDelete: { default: { perSecond: 10, burst: 1 } } })
  const until = (status: string) => Stream.runHead(Stream.filter(limits.statusChanges, ({ _tag }) => _tag === status))

  // Every change of everything in the folder, beginning with the present.
  const watching = yield* Latch.make()
  const events = yield* config.watchPrefix("example", Limits).pipe(
    Stream.takeUntil((event) => event._tag === "Delete"),
    Stream.runForEach((event) => {
      switch (event._tag) {
        case "Put":
          return Console.log(`  event: ${event.key} is`, event.value, "and was", event.previous ?? "unknown")
        case "Delete":
          return Console.log(`  event: ${event.key} is gone, it was`, event.previous ?? "no such value")
        case "Invalid":
          return Console.log(`  event: ${event.key} is invalid: ${event.error.issue.replaceAll("\n", ", ")}`)
        case "Synced":
          return Effect.andThen(Console.log("  event: that is all for now"), watching.open)
      }
    }),
    Effect.forkScoped
  )
  yield* watching.await

  // Read, change, write, and again if somebody else was faster.
  const updated = yield* config.update(key, Limits, (limits) => ({ ...limits, burst: limits.burst * 2 }))
  yield* Console.log(`updated to version ${updated.version}: burst ${updated.value.burst}`)

  // Over the version that was read, or not at all.
  yield* config.compareAndSet(key, Limits, { perSecond: 1, burst: 1 }, written).pipe(
    Effect.catchTag("VersionConflict", (conflict) => Console.log(`not written: ${conflict.message}`))
  )

  // Another program, or a person, writes what is no such value: the last good one stays.
  yield* config.set(key, Schema.Struct({ perSecond: Schema.String }), { perSecond: "many" })
  yield* until("Invalid")
  yield* Console.log("still in use:", yield* limits.get)

  yield* config.delete(key)
  yield* until("Deleted")
  yield* Fiber.join(events)
  yield* Console.log("deleted, so the default:", yield* limits.get)
}).pipe(Effect.scoped)

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, layer))
