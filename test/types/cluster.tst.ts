// Checked by `npm run typecheck`, never run.
import type { RunnerHealth } from "effect/cluster/RunnerHealth"
import type { RunnerStorage } from "effect/cluster/RunnerStorage"
import type { ShardingConfig } from "effect/cluster/ShardingConfig"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { expectTypeOf } from "vitest"
import { EtcdRunnerHealth, EtcdRunnerStorage } from "../../src/Cluster.ts"
import type { InvalidOption } from "../../src/Errors.ts"
import type { Etcd } from "../../src/Etcd.ts"

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
