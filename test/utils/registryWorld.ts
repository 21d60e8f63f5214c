/**
 * Several processes that register in one etcd in memory, each behind a link that can fail.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import { Etcd, Operation } from "../../src/Etcd.ts"
import { EtcdMemory } from "../../src/EtcdMemory.ts"
import { makeEtcd } from "../../src/internal/client/Client.ts"
import { makeLink } from "../../src/internal/memory/link.ts"
import { StoreId } from "../../src/internal/memory/Store.ts"
import { makeTransport } from "../../src/internal/memory/transport.ts"
import { Registry } from "../../src/Registry.ts"
import { makeCountingPort } from "./watching.ts"

const timeout = Duration.seconds(5)

export const makeRegistryWorldWith = (options: Parameters<typeof Registry.layer>[0]) =>
  Effect.gen(function*() {
    const operator = yield* EtcdMemory.make()
    const store = operator[StoreId]
    const direct = yield* makeEtcd(makeTransport(store), { retry: Schedule.recurs(0), timeout, namespace: "" })
    const decoder = new TextDecoder()
    return {
      store: operator,
      direct,
      put: (key: string, value: string, lease = 0n) =>
        Effect.map(direct.txn({ success: [Operation.put(key, value, { lease })] }), (answer) => answer.revision),
      get: (key: string) => Effect.map(direct.range({ key }), ({ kvs: [kv] }) => kv),
      /** Keys and values. */
      entries: Effect.map(
        direct.range({ prefix: "" }),
        ({ kvs }) => new Map(kvs.map((kv) => [kv.key, decoder.decode(kv.value)]))
      ),
      process: Effect.gen(function*() {
        // The link closes after what uses it: a scope that has begun to close takes no more fibers, and what is released still sends requests.
        const link = yield* Scope.provide(makeLink(timeout), yield* Scope.fork(yield* Effect.scope))
        const scope = yield* Scope.fork(yield* Effect.scope)
        const port = makeCountingPort(
          yield* Scope.provide(
            makeEtcd(makeTransport(store, link), {
              retry: Schedule.max([Schedule.exponential("100 millis"), Schedule.recurs(3)]),
              timeout,
              namespace: ""
            }),
            scope
          )
        )
        const context = yield* Scope.provide(
          Layer.build(Registry.layer(options).pipe(Layer.provide(Layer.succeed(Etcd, port.etcd)))),
          scope
        )
        // What is waited for at the end of a test is bounded by time, which somebody has to move.
        yield* Effect.addFinalizer(() =>
          Effect.gen(function*() {
            yield* Effect.all([link.setFate(() => ({})), link.accept, link.heal])
            const time = yield* TestClock.adjust("1 second").pipe(Effect.forever, Effect.forkDetach)
            yield* Scope.close(scope, Exit.void)
            yield* Fiber.interrupt(time)
          })
        )
        return {
          link,
          port,
          registry: Context.get(context, Registry),
          close: Scope.close(scope, Exit.void)
        }
      })
    }
  })

export const makeRegistryWorld = makeRegistryWorldWith({})
