/**
 * The services on whatever brings the port.
 */
import * as Layer from "effect/Layer"
import { ConfigCenter } from "../ConfigCenter.ts"
import { Election } from "../Election.ts"
import type { InvalidOption } from "../Errors.ts"
import type { Etcd } from "../Etcd.ts"
import type { EtcdOptions } from "../EtcdOptions.ts"
import { InstanceId } from "../InstanceId.ts"
import { Lock } from "../Lock.ts"
import { ReadWriteLock } from "../ReadWriteLock.ts"
import { Registry } from "../Registry.ts"
import { Semaphore } from "../Semaphore.ts"
import * as Telemetry from "./Telemetry.ts"

export type Services = Lock | Registry | ConfigCenter | Election | InstanceId | Semaphore | ReadWriteLock

export type Prefixes = Pick<
  EtcdOptions,
  | "lockPrefix"
  | "electionPrefix"
  | "allocatorPrefix"
  | "semaphorePrefix"
  | "readWriteLockPrefix"
  | "registryPrefix"
  | "registryLayout"
  | "configPrefix"
>

export const layerServices = (options: Prefixes): Layer.Layer<Services, InvalidOption, Etcd> =>
  Layer.mergeAll(
    Layer.effectDiscard(Telemetry.present),
    Lock.layer({ prefix: options.lockPrefix }),
    Registry.layer({ prefix: options.registryPrefix, layout: options.registryLayout }),
    ConfigCenter.layer({ prefix: options.configPrefix }),
    Election.layer({ prefix: options.electionPrefix }),
    InstanceId.layer({ prefix: options.allocatorPrefix }),
    Semaphore.layer({ prefix: options.semaphorePrefix }),
    ReadWriteLock.layer({ prefix: options.readWriteLockPrefix })
  )
