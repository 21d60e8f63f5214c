// Checked by `npm run typecheck`, never run.
import * as Config from "effect/Config"
import type * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { expectTypeOf } from "vitest"
import type { InvalidOption } from "../../src/Errors.ts"
import type { Etcd } from "../../src/Etcd.ts"
import { EtcdConfigProvider } from "../../src/EtcdConfigProvider.ts"

expectTypeOf(EtcdConfigProvider.layer()).toEqualTypeOf<Layer.Layer<never, InvalidOption, Etcd>>()
expectTypeOf(EtcdConfigProvider.make()).toEqualTypeOf<
  Effect.Effect<ConfigProvider.ConfigProvider, InvalidOption, Etcd>
>()
// Nothing but the etcd is added to what the program is.
expectTypeOf(Effect.provide(Config.Port("PORT"), EtcdConfigProvider.layer())).toEqualTypeOf<
  Effect.Effect<number, Config.ConfigError | InvalidOption, Etcd>
>()
