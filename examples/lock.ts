/**
 * Locks in a cluster: a job that one replica runs, workers that change a shared balance, and a store that refuses the writes of whoever has
 * lost the lock.
 *
 *     npx node examples/lock.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/lock.ts     # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Data, Effect, Fiber, Latch, Layer, Option } from "effect"
import { EtcdLive, EtcdMemory, Lock } from "../src/index.ts"

// A store that etcd knows nothing of: a database, a file server, a queue. All that it asks for is a number that does not go back.
class StaleToken extends Data.TaggedError("StaleToken")<{ readonly token: bigint; readonly seen: bigint }> {}

const makeAccount = Effect.sync(() => {
  let balance = 0
  let seen = 0n
  return {
    read: Effect.sync(() => balance),
    write: (amount: number, token: bigint) =>
      Effect.suspend(() => {
        if (token < seen) return Effect.fail(new StaleToken({ token, seen }))
        seen = token
        balance = amount
        return Effect.void
      })
  }
})

const program = Effect.gen(function*() {
  const lock = yield* Lock

  yield* Console.log("A job for one replica:")
  // Every replica comes at the same time, as with cron. Who finds the lock taken leaves it at that.
  const replica = (name: string, job: Effect.Effect<void>) =>
    lock.tryAcquire("example/nightly-report", { label: name }).pipe(
      Effect.andThen(Console.log(`  ${name} runs the report`)),
      Effect.andThen(job),
      Effect.catchTag(
        "LockHeld",
        ({ holder }) => Console.log(`  ${name} skips it: ${holder?.label ?? "somebody"} runs it`)
      ),
      Effect.scoped
    )
  const running = yield* Latch.make()
  const finish = yield* Latch.make()
  const first = yield* Effect.forkChild(replica("replica-1", Effect.andThen(running.open, finish.await)))
  yield* running.await
  yield* replica("replica-2", Effect.void)
  yield* replica("replica-3", Effect.void)
  yield* finish.open
  yield* Fiber.join(first)

  yield* Console.log("Five workers that add to one balance:")
  const account = yield* makeAccount
  const deposit = (amount: number) =>
    lock.withLock("example/account", { ttl: "10 seconds" })((handle) =>
      Effect.gen(function*() {
        const balance = yield* account.read
        yield* Effect.sleep("5 millis") // in which another would read the same balance
        yield* account.write(balance + amount, handle.fencingToken)
      })
    )
  yield* Effect.forEach([1, 2, 3, 4, 5], deposit, { concurrency: "unbounded" })
  yield* Console.log(`  the balance is ${yield* account.read}`)

  yield* Console.log("A worker that was stopped for too long:")
  const late = yield* Effect.scoped(lock.acquire("example/account"))
  yield* lock.withLock("example/account")((handle) => account.write(100, handle.fencingToken))
  yield* Console.log("  in the meantime its lock has passed on, and the balance is 100")
  yield* account.write(0, late.fencingToken).pipe(
    Effect.catchTag("StaleToken", () => Console.log("  its write arrives at last and is refused: the token is old"))
  )
  yield* late.assertHeld.pipe(Effect.catchTag("LockLost", (lost) => Console.log(`  its handle knows: ${lost.why}`)))
  yield* Console.log(`  the balance is ${yield* account.read}`)
})

const layer = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

NodeRuntime.runMain(Effect.provide(program, layer))
