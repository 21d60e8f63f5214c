/**
 * The services on a real etcd cluster.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import type { EtcdOptions } from "./EtcdOptions.ts"
import { makeEtcd } from "./internal/client/Client.ts"
import { checkConnection } from "./internal/etcd3/connect.ts"
import { makeSettings } from "./internal/etcd3/settings.ts"
import { makeTransport } from "./internal/etcd3/transport.ts"

/**
 * The port alone. Fails with `InvalidOption` before anything is sent, and with `EtcdError` when the cluster cannot be reached, has
 * no leader or does not know the user, after `dialTimeout` at the latest.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEtcdPort = (options: EtcdOptions = {}): Layer.Layer<Etcd, InvalidOption | EtcdError> =>
  Layer.effect(
    Etcd,
    Effect.gen(function*() {
      const settings = yield* makeSettings(options)
      const transport = yield* makeTransport(settings)
      yield* checkConnection(transport, settings)
      return yield* makeEtcd(transport, settings)
    })
  )
