/**
 * The services of the library on the etcd that the flags name. Loaded by the commands that need them, not by `--help`.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { layerEtcd } from "../EtcdLive.ts"
import { Connection } from "./Connection.ts"

/** Fails as `layerEtcd` does. */
export const live = Layer.unwrap(
  Effect.map(Effect.flatMap(Connection, ({ options }) => options), layerEtcd)
)
