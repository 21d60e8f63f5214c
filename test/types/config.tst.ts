// Checked by `npm run typecheck`, never run.
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SchemaGetter from "effect/SchemaGetter"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { expectTypeOf } from "vitest"
import {
  ConfigCenter,
  type ConfigEvent,
  type ConfigHistory,
  type LiveConfig,
  type Versioned
} from "../../src/ConfigCenter.ts"
import { ConfigChange } from "../../src/ConfigChange.ts"
import type {
  ConfigDecodeError,
  ConfigEncodeError,
  ConfigNotFound,
  TransactionConflict,
  VersionConflict
} from "../../src/ConfigError.ts"
import type { InvalidKey, InvalidOption } from "../../src/Errors.ts"
import type { Etcd } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"

class Decryption extends Context.Service<Decryption, { readonly key: string }>()("test/Decryption") {}
class Encryption extends Context.Service<Encryption, { readonly key: string }>()("test/Encryption") {}

const Encrypted = Schema.String.pipe(Schema.decodeTo(Schema.Finite, {
  decode: SchemaGetter.transformEffect((text: string) => Effect.as(Decryption, Number(text))),
  encode: SchemaGetter.transformEffect((value: number) => Effect.as(Encryption, String(value)))
}))
const Limits = Schema.Struct({ max: Schema.Int })
type Limits = { readonly max: number }

declare const config: ConfigCenter["Service"]

expectTypeOf(config.get("k", Limits)).toEqualTypeOf<
  Effect.Effect<Limits, ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError>
>()
expectTypeOf(config.getVersioned("k", Limits)).toEqualTypeOf<
  Effect.Effect<Versioned<Limits>, ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError>
>()
expectTypeOf(config.set("k", Limits, { max: 1 })).toEqualTypeOf<
  Effect.Effect<bigint, ConfigEncodeError | InvalidKey | EtcdError>
>()
expectTypeOf(config.compareAndSet("k", Limits, { max: 1 }, 0n)).toEqualTypeOf<
  Effect.Effect<bigint, VersionConflict | ConfigEncodeError | InvalidKey | EtcdError>
>()
expectTypeOf(config.delete("k")).toEqualTypeOf<Effect.Effect<void, ConfigNotFound | InvalidKey | EtcdError>>()
expectTypeOf(config.list("")).toEqualTypeOf<Effect.Effect<ReadonlyArray<string>, InvalidKey | EtcdError>>()
expectTypeOf(config.entries("", Limits)).toEqualTypeOf<
  Effect.Effect<ReadonlyArray<Versioned<Limits>>, ConfigDecodeError | InvalidKey | EtcdError>
>()
expectTypeOf(config.watch("k", Limits)).toEqualTypeOf<Stream.Stream<ConfigEvent<Limits>, InvalidKey | EtcdError>>()
expectTypeOf(config.watchPrefix("", Limits, { from: 1n })).toEqualTypeOf<
  Stream.Stream<ConfigEvent<Limits>, InvalidKey | EtcdError>
>()

// The schema's services are required, each where it is used.
expectTypeOf<Effect.Services<ReturnType<typeof read>>>().toEqualTypeOf<Decryption>()
const read = () => config.get("k", Encrypted)
expectTypeOf<Effect.Services<ReturnType<typeof write>>>().toEqualTypeOf<Encryption>()
const write = () => config.set("k", Encrypted, 1)
expectTypeOf<Effect.Services<ReturnType<typeof change>>>().toEqualTypeOf<Decryption | Encryption>()
const change = () => config.update("k", Encrypted, (n) => n + 1)
expectTypeOf<Stream.Services<ReturnType<typeof follow>>>().toEqualTypeOf<Decryption>()
const follow = () => config.watch("k", Encrypted)
expectTypeOf<Effect.Services<ReturnType<typeof live>>>().toEqualTypeOf<Decryption | Scope.Scope>()
const live = () => config.live("k", Encrypted)

// `update` takes a value or an effect of one, and has the effect's errors and services.
expectTypeOf(config.update("k", Limits, (limits) => ({ max: limits.max + 1 }))).toEqualTypeOf<
  Effect.Effect<
    Versioned<Limits>,
    ConfigNotFound | ConfigDecodeError | ConfigEncodeError | VersionConflict | InvalidKey | EtcdError
  >
>()
expectTypeOf<Effect.Error<ReturnType<typeof refuse>>>().toEqualTypeOf<
  "no" | ConfigNotFound | ConfigDecodeError | ConfigEncodeError | VersionConflict | InvalidKey | EtcdError
>()
expectTypeOf<Effect.Services<ReturnType<typeof refuse>>>().toEqualTypeOf<Decryption>()
const refuse = () =>
  config.update(
    "k",
    Limits,
    (limits) => limits.max > 3 ? Effect.fail("no" as const) : Effect.as(Decryption, { max: limits.max + 1 })
  )
// @ts-expect-error the new value is of the schema's type
export const wrongUpdate = () => config.update("k", Limits, () => ({ max: "1" }))
// @ts-expect-error the value is of the schema's type
export const wrongSet = () => config.set("k", Limits, { max: "1" })

// Each change is of its own schema, and a transaction needs what all of them need.
expectTypeOf(
  config.transact([
    ConfigChange.set("k", Limits, { max: 1 }, { expected: 1n }),
    ConfigChange.set("l", Schema.String, ""),
    ConfigChange.delete("m"),
    ConfigChange.check("n", 0n)
  ])
).toEqualTypeOf<Effect.Effect<bigint, TransactionConflict | ConfigEncodeError | InvalidKey | EtcdError>>()
expectTypeOf<Effect.Services<ReturnType<typeof transact>>>().toEqualTypeOf<Encryption>()
const transact = () => config.transact([ConfigChange.set("k", Limits, { max: 1 }), ConfigChange.set("l", Encrypted, 1)])
declare const changes: ReadonlyArray<ConfigChange>
expectTypeOf<Effect.Services<ReturnType<typeof transactAll>>>().toEqualTypeOf<never>()
const transactAll = () => config.transact([...changes, ConfigChange.delete("k")])
// @ts-expect-error the value is of the schema's type
export const wrongChange = () => ConfigChange.set("k", Limits, { max: "1" })
expectTypeOf(config.history("k", Limits, { before: 1n })).toEqualTypeOf<
  Stream.Stream<ConfigHistory<Limits>, ConfigNotFound | InvalidKey | EtcdError>
>()
expectTypeOf<Stream.Services<ReturnType<typeof past>>>().toEqualTypeOf<Decryption>()
const past = () => config.history("k", Encrypted)
expectTypeOf(config.rollback("k", 1n, { expected: 2n })).toEqualTypeOf<
  Effect.Effect<bigint, ConfigNotFound | VersionConflict | InvalidKey | EtcdError>
>()

// What happens to a deleted key decides what can fail.
expectTypeOf(config.live("k", Limits)).toEqualTypeOf<
  Effect.Effect<LiveConfig<Limits>, ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError, Scope.Scope>
>()
expectTypeOf(config.live("k", Limits, { onDelete: "fail" })).toEqualTypeOf<
  Effect.Effect<
    LiveConfig<Limits, ConfigNotFound>,
    ConfigNotFound | ConfigDecodeError | InvalidKey | EtcdError,
    Scope.Scope
  >
>()
expectTypeOf(config.live("k", Limits, { onDelete: { default: { max: 1 } } })).toEqualTypeOf<
  Effect.Effect<LiveConfig<Limits>, ConfigDecodeError | InvalidKey | EtcdError, Scope.Scope>
>()
// @ts-expect-error the default is of the schema's type
export const wrongLive = () => config.live("k", Limits, { onDelete: { default: { max: "1" } } })

expectTypeOf(ConfigCenter.layer()).toEqualTypeOf<Layer.Layer<ConfigCenter, InvalidOption, Etcd>>()
