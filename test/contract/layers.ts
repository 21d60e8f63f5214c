/**
 * Each implementation of the port with its operator, on a store of its own.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { layerEtcdPort } from "../../src/EtcdLive.ts"
import { EtcdMemory } from "../../src/EtcdMemory.ts"
import { type EtcdVersion, TestEtcd } from "../utils/EtcdServer.ts"
import { Operator } from "./Operator.ts"

export const layerMemory = () =>
  Layer.unwrap(
    Effect.map(EtcdMemory.make({ retention: Infinity }), (store) =>
      Layer.merge(EtcdMemory.layerPort(store), Operator.layerMemory(store)))
  )

export const layerServer = (version: EtcdVersion) =>
  Layer.unwrap(
    Effect.map(TestEtcd, (server) => Layer.merge(layerEtcdPort({ endpoints: server.endpoint }), Operator.layerEtcd))
  ).pipe(
    Layer.provide(TestEtcd.layer(version))
  )
