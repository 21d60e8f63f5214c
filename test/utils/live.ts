/** The port on a real server, for tests. */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Etcd } from "../../src/Etcd.ts"
import { layerEtcdPort } from "../../src/EtcdLive.ts"
import type { EtcdOptions } from "../../src/EtcdOptions.ts"
import { type ConnectionSettings } from "../../src/internal/etcd3/connection.ts"
import { makeTransport } from "../../src/internal/etcd3/transport.ts"

export const connect = (options: EtcdOptions) =>
  Effect.map(Layer.build(Layer.fresh(layerEtcdPort(options))), Context.get(Etcd))

/** Single attempts, and nothing asked before. */
export const attempts = (port: number, settings: Partial<ConnectionSettings> = {}) =>
  makeTransport({
    endpoints: [{ host: "127.0.0.1", port }],
    tls: undefined,
    credentials: undefined,
    timeout: Duration.seconds(5),
    dialTimeout: Duration.seconds(5),
    ...settings
  })
