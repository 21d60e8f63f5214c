/**
 * What an operator does to a store beside the port.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { EtcdMemoryStore } from "../../src/EtcdMemory.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"

export class Operator extends Context.Service<Operator, {
  /** Whether it was possible. */
  readonly compact: (revision: bigint) => Effect.Effect<boolean>
}>()("test/Operator") {
  static readonly layerMemory = (store: EtcdMemoryStore): Layer.Layer<Operator> =>
    Layer.succeed(Operator, {
      compact: (revision) => Effect.map(Effect.result(store.compact(revision)), (result) => result._tag === "Success")
    })

  /** Over etcd's JSON gateway, which every version has: `etcdctl` would start a process for each. */
  static readonly layerEtcd: Layer.Layer<Operator, never, TestEtcd> = Layer.effect(
    Operator,
    Effect.map(TestEtcd, (server) => ({
      compact: (revision: bigint) =>
        Effect.promise(() =>
          fetch(`http://${server.endpoint}/v3/kv/compaction`, {
            method: "POST",
            body: JSON.stringify({ revision: String(revision), physical: true })
          }).then(async (response) => ({ status: response.status, body: await response.text() }))
        ).pipe(
          Effect.flatMap(({ body, status }) =>
            status === 200
              ? Effect.succeed(true)
              : /compacted|future/.test(body)
              ? Effect.succeed(false)
              : Effect.die(new Error(`compaction: ${status} ${body}`))
          )
        )
    }))
  )
}
