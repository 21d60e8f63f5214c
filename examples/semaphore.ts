/**
 * A pool of workers in which at most two export at a time, over a catalog that many read and one replaces.
 *
 *     npx node examples/semaphore.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/semaphore.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Exit, Fiber, Layer, Option, Scope } from "effect"
import { EtcdLive, EtcdMemory, ReadWriteLock, Semaphore } from "../src/index.ts"

const name = "example/exports"
const catalog = "example/catalog"

const program = Effect.gen(function*() {
  const semaphore = yield* Semaphore
  const lock = yield* ReadWriteLock

  yield* Console.log("Five workers, two permits:")
  let inside = 0
  let most = 0
  const work = (worker: number) =>
    semaphore.withPermit(name, { permits: 2, label: `worker ${worker}` })(
      Effect.sync(() => {
        most = Math.max(most, ++inside)
      }).pipe(Effect.andThen(Effect.sleep("20 millis")), Effect.ensuring(Effect.sync(() => inside--)))
    )
  yield* Effect.forEach([1, 2, 3, 4, 5], work, { concurrency: "unbounded" })
  yield* Console.log(`  all are done; more than two at a time: ${most > 2}`)

  yield* Effect.scoped(Effect.gen(function*() {
    yield* semaphore.acquire(name, { permits: 1, label: "night shift" })
    yield* semaphore.tryAcquire(name, { permits: 1 }).pipe(
      Effect.catchTag("NoPermit", (error) => Console.log(`  ${error.message}`))
    )
    const [holder] = yield* semaphore.entries(name)
    yield* Console.log(`  held by: ${holder?.label}`)
  }))

  yield* Console.log("Readers, and a writer that waits for them:")
  const readers = yield* Scope.make()
  yield* Scope.provide(Effect.all([lock.readLock(catalog), lock.readLock(catalog)]), readers)
  const writing = yield* Effect.forkChild(lock.withWriteLock(catalog)(Console.log("  the writer is alone")))
  yield* Effect.repeat(lock.entries(catalog), { until: (entries) => entries.length === 3 })
  yield* Effect.scoped(lock.tryReadLock(catalog)).pipe(
    Effect.catchTag("ReadWriteLockHeld", () => Console.log("  a reader that comes later does not pass the writer"))
  )
  yield* Scope.close(readers, Exit.void)
  yield* Fiber.join(writing)
})

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, layer))
