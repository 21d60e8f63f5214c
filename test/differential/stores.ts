/**
 * The stores that are compared, each with its operator, and with the single attempts that the port is made of: only those grant a lease of a
 * chosen id, or watch from a revision that is far ahead.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Etcd } from "../../src/Etcd.ts"
import { layerEtcdPort } from "../../src/EtcdLive.ts"
import { EtcdMemory } from "../../src/EtcdMemory.ts"
import { makeSettings } from "../../src/internal/etcd3/settings.ts"
import { makeTransport as makeEtcd3 } from "../../src/internal/etcd3/transport.ts"
import { makeTransport as makeMemory } from "../../src/internal/memory/transport.ts"
import type { Transport } from "../../src/internal/Transport.ts"
import { Operator } from "../contract/Operator.ts"
import { type EtcdVersion, TestEtcd } from "../utils/EtcdServer.ts"

export class Attempts extends Context.Service<Attempts, Transport>()("test/Attempts") {}

export type Store = Context.Context<Etcd | Operator | Attempts>

const memory = Layer.unwrap(
  Effect.map(EtcdMemory.make({ retention: Infinity }), (store) =>
    Layer.mergeAll(
      EtcdMemory.layerPort(store),
      Operator.layerMemory(store),
      Layer.succeed(Attempts, makeMemory(store))
    ))
)

const server = (version: EtcdVersion) =>
  Layer.unwrap(
    Effect.map(TestEtcd, ({ endpoint }) =>
      Layer.mergeAll(
        layerEtcdPort({ endpoints: endpoint }),
        Operator.layerEtcd,
        Layer.effect(Attempts, Effect.flatMap(makeSettings({ endpoints: endpoint }), makeEtcd3))
      ))
  ).pipe(Layer.provide(TestEtcd.layer(version)))

export class Stores
  extends Context.Service<Stores, { readonly memory: Store; readonly etcd35: Store; readonly etcd34: Store }>()(
    "test/Stores"
  )
{
  static readonly layer = Layer.effect(
    Stores,
    Effect.all({
      memory: Layer.build(memory),
      etcd35: Layer.build(server("3.5")),
      etcd34: Layer.build(server("3.4"))
    }, { concurrency: "unbounded" })
  )
}
