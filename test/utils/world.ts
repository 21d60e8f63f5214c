/**
 * Several clients of one etcd in memory, each behind a link that can fail.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { Etcd } from "../../src/Etcd.ts"
import { EtcdMemory } from "../../src/EtcdMemory.ts"
import { makeEtcd } from "../../src/internal/client/Client.ts"
import { makeLink } from "../../src/internal/memory/link.ts"
import { StoreId } from "../../src/internal/memory/Store.ts"
import { makeTransport } from "../../src/internal/memory/transport.ts"
import { Lock } from "../../src/Lock.ts"

export const makeWorld = Effect.gen(function*() {
  const store = (yield* EtcdMemory.make())[StoreId]
  const timeout = Duration.seconds(5)
  const operator = yield* makeEtcd(makeTransport(store), { retry: Schedule.recurs(0), timeout, namespace: "" })
  return {
    store,
    /** Straight to the store, for what an operator does and for looking at the outcome. */
    operator,
    keys: Effect.map(operator.range({ prefix: "", keysOnly: true }), (result) => result.kvs.map((kv) => kv.key)),
    client: Effect.gen(function*() {
      // A scope that has begun to close takes no more fibers, and what is released then still sends requests.
      const link = yield* Scope.provide(makeLink(timeout), yield* Scope.fork(yield* Effect.scope))
      const etcd = yield* makeEtcd(makeTransport(store, link), {
        retry: Schedule.max([Schedule.exponential("100 millis"), Schedule.recurs(3)]),
        timeout,
        namespace: ""
      })
      const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, etcd))))
      // The end of a test must not wait for answers that never come, as nobody moves the clock then.
      yield* Effect.addFinalizer(() => Effect.all([link.setFate(() => ({})), link.accept, link.heal]))
      return { link, etcd, lock: Context.get(context, Lock) }
    })
  }
})
