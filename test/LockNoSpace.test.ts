/** What etcd refuses while it fills up, and applies all the same, keeps nobody out. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { Election } from "../src/Election.ts"
import { Etcd, type TxnRequest } from "../src/Etcd.ts"
import { EtcdError, NoSpace } from "../src/EtcdError.ts"
import { InstanceId } from "../src/InstanceId.ts"
import { Lock } from "../src/Lock.ts"
import { Semaphore } from "../src/Semaphore.ts"
import { failure, settle } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

const ttl = "10 seconds"

describe("an etcd that fills up", () => {
  /** A client whose writes etcd applies, and says that it has no space for them, as it does while it fills up. */
  const filling = Effect.fnUntraced(function*(world: Effect.Success<typeof makeWorld>) {
    const { etcd } = yield* world.client
    const state = { full: false }
    const puts = ({ success }: TxnRequest) => success?.some(({ _tag }) => _tag === "Put") === true
    const service: Etcd["Service"] = {
      ...etcd,
      txn: (request) =>
        state.full && puts(request)
          ? Effect.andThen(etcd.txn(request), Effect.fail(new EtcdError({ operation: "txn", reason: new NoSpace() })))
          : etcd.txn(request)
    }
    const services = Layer.mergeAll(Lock.layer(), Election.layer(), Semaphore.layer(), InstanceId.layer())
    const context = yield* Layer.build(Layer.provide(services, Layer.succeed(Etcd, service)))
    return { context, lock: Context.get(context, Lock), state }
  })

  type Services = Lock | Election | Semaphore | InstanceId

  const kinds: Record<string, Effect.Effect<unknown, unknown, Services | Scope.Scope>> = {
    lock: Effect.flatMap(Lock, (lock) => lock.acquire("job", { ttl })),
    "lock that is tried": Effect.flatMap(Lock, (lock) => lock.tryAcquire("job", { ttl })),
    leadership: Effect.flatMap(Election, (election) => election.campaign("job", "a", { ttl })),
    permit: Effect.flatMap(Semaphore, (semaphore) => semaphore.acquire("job", { permits: 1, ttl })),
    id: Effect.flatMap(InstanceId, (ids) => ids.acquire("job", { max: 2, ttl }))
  }
  for (const [kind, acquire] of Object.entries(kinds)) {
    it.effect(`a ${kind} that was refused and is there all the same keeps nobody out`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { context, state } = yield* filling(world)
        state.full = true
        const error = failure(yield* Effect.exit(Effect.scoped(Effect.provide(acquire, context))))
        assert.strictEqual(error instanceof EtcdError && error.reason._tag, "NoSpace")
        yield* settle
        assert.deepStrictEqual(yield* world.keys, [])
      }))
  }

  it.effect("a lock that was handed over though it was refused keeps nobody out when the next one gives up", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock, state } = yield* filling(world)
      const first = yield* lock.acquire("job", { ttl })
      const next = yield* Effect.forkChild(Effect.exit(Effect.scoped(lock.acquire("job", { ttl }))))
      yield* settle
      state.full = true
      yield* first.unlock
      yield* settle
      assert.isTrue(Exit.isFailure(yield* Fiber.join(next)))
      yield* settle
      assert.deepStrictEqual(yield* world.keys, [])
    }))
})
