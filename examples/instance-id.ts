/**
 * Snowflake ids: each generator holds a worker number that no other one has, and makes no id when it has lost it.
 *
 *     npx node examples/instance-id.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/instance-id.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Clock, Config, Console, Effect, Exit, Layer, Option, Scope } from "effect"
import { Etcd, EtcdLive, EtcdMemory, InstanceId, type InstanceIdHandle, Operation } from "../src/index.ts"

const service = "example/orders"
const epoch = 1_700_000_000_000

/** 41 bits of milliseconds, 10 of the worker, 12 of a sequence. */
const makeGenerator = (worker: InstanceIdHandle) => {
  let last = 0
  let sequence = 0
  return Effect.gen(function*() {
    // Each time: the number may be somebody else's by now.
    yield* worker.assertHeld
    const now = yield* Clock.currentTimeMillis
    // A clock that goes back, or a full millisecond, borrows from the next one.
    if (now > last) {
      last = now
      sequence = 0
    } else if (++sequence === 4096) {
      last++
      sequence = 0
    }
    return (BigInt(last - epoch) << 22n) | (BigInt(worker.id) << 12n) | BigInt(sequence)
  })
}

const program = Effect.gen(function*() {
  const ids = yield* InstanceId
  const etcd = yield* Etcd

  yield* Console.log("Three workers of one service:")
  const start = Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const handle = yield* Scope.provide(ids.acquire(service, { max: 3 }), scope)
    return { handle, end: Scope.close(scope, Exit.void) }
  })
  const workers = yield* Effect.all([start, start, start])
  yield* Console.log(`  ${workers.map(({ handle }) => `worker ${handle.id}`).join(", ")}`)
  const made = yield* Effect.forEach(
    workers,
    ({ handle }) => Effect.replicateEffect(makeGenerator(handle), 1000),
    { concurrency: "unbounded" }
  )
  const all = made.flat()
  yield* Console.log(`  ${all.length} ids, all different: ${new Set(all).size === all.length}`)

  yield* Effect.scoped(ids.acquire(service, { max: 3 })).pipe(
    Effect.catchTag("IdsExhausted", (error) => Console.log(`  ${error.message}`))
  )
  yield* workers[1].end
  const next = yield* ids.acquire(service, { max: 3 })
  yield* Console.log(`  worker 1 has ended, and its number goes to the next one: ${next.id}`)

  yield* Console.log("A number that an operator takes away:")
  const generate = makeGenerator(next)
  yield* etcd.txn({ success: [Operation.delete({ prefix: "/allocators/example/orders/" })] })
  // Noticed within a third of the TTL, or by the next write that depends on it.
  yield* next.fenced({ success: [Operation.put("/example/last-worker", String(next.id))] }).pipe(
    Effect.catchTag("InstanceIdLost", ({ why }) => Console.log(`  a write is refused: ${why}`))
  )
  yield* generate.pipe(
    Effect.catchTag(
      "InstanceIdLost",
      ({ why }) => Console.log(`  the generator that has lost its number makes no more: InstanceIdLost (${why})`)
    )
  )
})

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(Effect.scoped(program), layer))
