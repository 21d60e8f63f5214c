/**
 * Clients of one store in memory, each with a configuration center behind a link that can fail.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { ConfigCenter } from "../../src/ConfigCenter.ts"
import { Etcd, Operation } from "../../src/Etcd.ts"
import type { EtcdMemoryStore } from "../../src/EtcdMemory.ts"
import { makeEtcd } from "../../src/internal/client/Client.ts"
import { makeLink } from "../../src/internal/memory/link.ts"
import { makeTransport } from "../../src/internal/memory/transport.ts"
import { type CountingPort, makeCountingPort } from "./watching.ts"

export const timeout = Duration.seconds(5)

/** `retries`: how often a request is sent again, and an update tried again, each time after 100 ms. */
export const makeConfigClient = Effect.fnUntraced(function*(store: EtcdMemoryStore, retries = 3) {
  const link = yield* makeLink(timeout)
  const port: CountingPort = makeCountingPort(
    yield* makeEtcd(makeTransport(store, link), {
      retry: Schedule.max([Schedule.spaced("100 millis"), Schedule.recurs(retries)]),
      timeout,
      namespace: ""
    })
  )
  const context = yield* Layer.build(ConfigCenter.layer().pipe(Layer.provide(Layer.succeed(Etcd, port.etcd))))
  return {
    link,
    port,
    config: Context.get(context, ConfigCenter),
    /** What another program writes. */
    put: (key: string, value: string) =>
      Effect.map(port.etcd.txn({ success: [Operation.put(`/config/${key}`, value)] }), (answer) => answer.revision)
  }
})
