/**
 * Distributed locks, service registry and typed configuration over etcd, as Effect services.
 *
 * @since 0.1.0
 */
export {
  ConfigCenter,
  type ConfigEvent,
  type Live as MakeLiveConfig,
  type LiveConfig,
  type LiveStatus,
  type OnDelete,
  RawBytes,
  type Version,
  type Versioned,
  type WatchOptions
} from "./ConfigCenter.ts"
export { ConfigDecodeError, ConfigEncodeError, ConfigNotFound, VersionConflict } from "./ConfigError.ts"
export { InvalidKey, InvalidOption } from "./Errors.ts"
export {
  Compare,
  type DeleteOperation,
  Etcd,
  type EtcdSettings,
  type KeyRange,
  type KeyValue,
  type Lease,
  type LeaseStatus,
  Operation,
  type OperationResult,
  type PutOperation,
  type RangeOperation,
  type RangeRequest,
  type RangeResult,
  type TxnOperation,
  type TxnRequest,
  type TxnResult,
  type WatchEvent,
  type WatchItem,
  type WatchRequest
} from "./Etcd.ts"
export { EtcdError, EtcdErrorReason } from "./EtcdError.ts"
export { layerEtcdPort } from "./EtcdLive.ts"
export {
  EtcdMemory,
  type EtcdMemoryOptions,
  type EtcdMemorySnapshot,
  type EtcdMemoryStore,
  type EtcdMemoryStoreOptions,
  layerMemory
} from "./EtcdMemory.ts"
export { EtcdOptions, type RetryOptions, type TlsOptions } from "./EtcdOptions.ts"
export * as EtcdReason from "./EtcdReason.ts"
export { Lock, LockEntry, type LockHandle, LockHeld, LockLost, type LockOptions } from "./Lock.ts"
export { makeSession, type Session, SessionLost } from "./Session.ts"
