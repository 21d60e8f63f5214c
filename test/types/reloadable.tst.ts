// Checked by `npm run typecheck`, never run.
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { expectTypeOf } from "vitest"
import type { InvalidOption } from "../../src/Errors.ts"
import type { Etcd } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import { type Reloadable, reloadable, type ReloadableStatus } from "../../src/Reloadable.ts"

class Mailer extends Context.Service<Mailer, { readonly from: string }>()("Mailer") {}
class Other extends Context.Service<Other, { readonly n: number }>()("Other") {}

declare const layer: Layer.Layer<Mailer, Config.ConfigError, Other>
declare const mailer: Reloadable<Mailer, Config.ConfigError>
declare const effect: Effect.Effect<number, "sad", Mailer | Other>

// It fails as its layer, and needs what its layer needs.
expectTypeOf(reloadable(layer)).toEqualTypeOf<
  Effect.Effect<
    Reloadable<Mailer, Config.ConfigError>,
    Config.ConfigError | InvalidOption | EtcdError,
    Other | Etcd | Scope.Scope
  >
>()
// A use needs nothing of the layer any more, and fails as the effect alone.
expectTypeOf(mailer.use(effect)).toEqualTypeOf<Effect.Effect<number, "sad", Other>>()
expectTypeOf(mailer.layer).toEqualTypeOf<Layer.Layer<Mailer>>()
expectTypeOf(mailer.reload).toEqualTypeOf<Effect.Effect<void, Config.ConfigError>>()
expectTypeOf(mailer.context).toEqualTypeOf<Effect.Effect<Context.Context<Mailer>, never, Scope.Scope>>()
expectTypeOf(mailer.status).toEqualTypeOf<Effect.Effect<ReloadableStatus<Config.ConfigError>>>()
