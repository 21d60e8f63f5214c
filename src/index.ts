/**
 * Distributed locks, service registry and typed configuration over etcd, as Effect services.
 *
 * @since 0.1.0
 */
export {
  ConfigCenter,
  type ConfigEvent,
  type ConfigHistory,
  type HistoryOptions as ConfigHistoryOptions,
  type Live as MakeLiveConfig,
  type LiveConfig,
  type LiveStatus,
  type OnDelete,
  RawBytes,
  type RollbackOptions as ConfigRollbackOptions,
  type Version,
  type Versioned,
  type WatchOptions as ConfigWatchOptions
} from "./ConfigCenter.ts"
export { ConfigChange, type ConfigChangeOptions, type ConfigChangeServices } from "./ConfigChange.ts"
export {
  ConfigDecodeError,
  ConfigEncodeError,
  ConfigNotFound,
  TransactionConflict,
  VersionConflict
} from "./ConfigError.ts"
export { Candidate, Election, type ElectionOptions, type Leadership, LeadershipLost } from "./Election.ts"
export { InvalidKey, InvalidOption } from "./Errors.ts"
export {
  type Alarm,
  Compare,
  type DeleteOperation,
  Etcd,
  type EtcdSettings,
  type Health,
  type KeyRange,
  type KeyValue,
  type Lease,
  type LeaseStatus,
  type MemberHealth,
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
export {
  EtcdConfigProvider,
  type EtcdConfigProviderLayerOptions,
  type EtcdConfigProviderOptions
} from "./EtcdConfigProvider.ts"
export { EtcdError, EtcdErrorReason } from "./EtcdError.ts"
export { EtcdLive, layerEtcd, layerEtcdConfig, layerEtcdPort } from "./EtcdLive.ts"
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
export {
  AssignedId,
  IdsExhausted,
  InstanceId,
  type InstanceIdHandle,
  InstanceIdLost,
  type InstanceIdOptions
} from "./InstanceId.ts"
export { Lock, LockEntry, type LockHandle, LockHeld, LockLost, type LockOptions } from "./Lock.ts"
export {
  ReadWriteEntry,
  type ReadWriteHandle,
  ReadWriteLock,
  ReadWriteLockHeld,
  ReadWriteLockLost,
  type ReadWriteLockOptions,
  type ReadWriteMode
} from "./ReadWriteLock.ts"
export {
  type RegisterOptions,
  type Registration,
  type RegistrationStatus,
  Registry,
  type ServiceEvent,
  type ServiceWatchOptions
} from "./Registry.ts"
export { type Reloadable, reloadable, type ReloadableOptions, type ReloadableStatus } from "./Reloadable.ts"
export { NoPermit, type Permit, PermitLost, Semaphore, SemaphoreEntry, type SemaphoreOptions } from "./Semaphore.ts"
export { BindFailed, serve, type ServeOptions, type Serving } from "./Serve.ts"
export type {
  CallRetry,
  ChannelOptions,
  ChannelTarget,
  ClientConstructor,
  HashByHeader,
  Keepalive,
  LoadBalancing,
  TargetOptions,
  ZonePreference
} from "./ServiceChannel.ts"
export { AlreadyRegistered, InstanceNotFound, InvalidInstance, Replaced, ServiceInstance } from "./ServiceInstance.ts"
export { type ServiceEntry, ServiceLayout, type ServiceLayoutName } from "./ServiceLayout.ts"
export { makeSession, type Session, SessionLost } from "./Session.ts"
