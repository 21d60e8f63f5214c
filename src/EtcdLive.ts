/**
 * The services on a real etcd cluster.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { EtcdOptions } from "./EtcdOptions.ts"
import { makeEtcd } from "./internal/client/Client.ts"
import { checkConnection } from "./internal/etcd3/connect.ts"
import { makeSettings } from "./internal/etcd3/settings.ts"
import { makeTransport } from "./internal/etcd3/transport.ts"
import { layerServices, type Services } from "./internal/services.ts"

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

/**
 * All services on one client of a cluster. Fails as `layerEtcdPort` does.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { layerEtcd, Lock } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const lock = yield* Lock
 *   yield* lock.withLock("nightly-report")(Effect.log("alone in the cluster"))
 * }).pipe(Effect.provide(layerEtcd({ endpoints: ["etcd-1:2379", "etcd-2:2379", "etcd-3:2379"] })))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEtcd = (options: EtcdOptions = {}): Layer.Layer<Etcd | Services, InvalidOption | EtcdError> =>
  layerServices(options).pipe(Layer.provideMerge(layerEtcdPort(options)))

/**
 * The same, with options that come from Effect's configuration.
 *
 * **Example**
 *
 * ```ts
 * import { Config } from "effect"
 * import { layerEtcdConfig } from "effect-coord"
 *
 * const live = layerEtcdConfig({
 *   endpoints: Config.String("COORDINATION_ENDPOINTS"),
 *   namespace: Config.succeed("/billing")
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEtcdConfig = (
  options: Config.Wrap<EtcdOptions>
): Layer.Layer<Etcd | Services, InvalidOption | EtcdError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Config.unwrap(options), layerEtcd))

/**
 * The same, with the options of the environment: see `EtcdOptions.fromEnv` for the names of the variables.
 *
 * @category layers
 * @since 0.1.0
 */
export const EtcdLive: Layer.Layer<Etcd | Services, InvalidOption | EtcdError | Config.ConfigError> = layerEtcdConfig(
  EtcdOptions.fromEnv
)
