// Checked by `npm run typecheck`, never run.
import type { PersistenceError } from "effect/cluster/ClusterError"
import type { RunnerHealth } from "effect/cluster/RunnerHealth"
import type { RunnerStorage } from "effect/cluster/RunnerStorage"
import type { ShardingConfig } from "effect/cluster/ShardingConfig"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { expectTypeOf } from "vitest"
import { EtcdRunnerHealth, EtcdRunnerStorage, type shardHeldBy } from "../../src/Cluster.ts"
import type { InvalidOption } from "../../src/Errors.ts"
import type { Compare, Etcd } from "../../src/Etcd.ts"

expectTypeOf(EtcdRunnerStorage.layer({ prefix: "/cluster" })).toEqualTypeOf<
  Layer.Layer<RunnerStorage, InvalidOption, Etcd | ShardingConfig>
>()
expectTypeOf(EtcdRunnerStorage.make()).toEqualTypeOf<
  Effect.Effect<RunnerStorage["Service"], InvalidOption, Etcd | ShardingConfig | Scope.Scope>
>()
expectTypeOf(EtcdRunnerHealth.layer()).toEqualTypeOf<Layer.Layer<RunnerHealth, InvalidOption, Etcd>>()
expectTypeOf(EtcdRunnerHealth.make()).toEqualTypeOf<
  Effect.Effect<RunnerHealth["Service"], InvalidOption, Etcd>
>()

// What Sharding counts on: a storage that cannot answer says so, and no runner is dead because of that.
declare const storage: RunnerStorage["Service"]
declare const health: RunnerHealth["Service"]
expectTypeOf<Effect.Error<ReturnType<typeof storage.acquire>>>().toEqualTypeOf<PersistenceError>()
expectTypeOf<Effect.Error<ReturnType<typeof storage.refresh>>>().toEqualTypeOf<PersistenceError>()
expectTypeOf<Effect.Error<ReturnType<typeof health.isAlive>>>().toEqualTypeOf<never>()
expectTypeOf<ReturnType<typeof shardHeldBy>>().toEqualTypeOf<Compare>()
