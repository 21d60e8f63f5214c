/**
 * What a transaction over configuration does: `ConfigCenter.transact`.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import { ConfigEncodeError } from "./ConfigError.ts"
import { encode } from "./internal/config/codec.ts"

/**
 * One part of a transaction: a value that is set, a key that is deleted, or a version that is only looked at. With `expected` the whole
 * transaction takes place only if the key still has that version; `0n`: if the key does not exist.
 *
 * @category models
 * @since 0.1.0
 */
export type ConfigChange<R = never> =
  | {
    readonly _tag: "Set"
    readonly key: string
    /** The bytes that are written. */
    readonly encoded: Effect.Effect<Uint8Array, ConfigEncodeError, R>
    readonly expected: bigint | undefined
  }
  | { readonly _tag: "Delete"; readonly key: string; readonly expected: bigint | undefined }
  | { readonly _tag: "Check"; readonly key: string; readonly expected: bigint }

/**
 * What a change needs to be encoded.
 *
 * @category models
 * @since 0.1.0
 */
export type ConfigChangeServices<C extends ConfigChange<unknown>> = C extends
  { readonly encoded: Effect.Effect<Uint8Array, ConfigEncodeError, infer R> } ? R : never

/**
 * @category options
 * @since 0.1.0
 */
export interface ConfigChangeOptions {
  /** The version that the key must have; `0n`: it must not exist. Absent: whatever it has. */
  readonly expected?: bigint | undefined
}

/**
 * The parts of a transaction.
 *
 * - `set`: writes a value.
 * - `delete`: deletes a key. One that does not exist is no failure, unless a version is expected.
 * - `check`: writes nothing, and only expects a version.
 *
 * **Example**
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { ConfigCenter, ConfigChange } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const config = yield* ConfigCenter
 *   const primary = yield* config.getVersioned("db/primary", Schema.String)
 *   yield* config.transact([
 *     ConfigChange.set("db/primary", Schema.String, "db-2", { expected: primary.version }),
 *     ConfigChange.set("db/replicas", Schema.Array(Schema.String), [primary.value]),
 *     ConfigChange.delete("db/maintenance")
 *   ])
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const ConfigChange = {
  set: <S extends Schema.Constraint>(
    key: string,
    schema: S,
    value: S["Type"],
    options?: ConfigChangeOptions
  ): ConfigChange<S["EncodingServices"]> => ({
    _tag: "Set",
    key,
    encoded: Effect.mapError(encode(schema, value), (issue) => new ConfigEncodeError({ key, issue })),
    expected: options?.expected
  }),
  delete: (key: string, options?: ConfigChangeOptions): ConfigChange => ({
    _tag: "Delete",
    key,
    expected: options?.expected
  }),
  check: (key: string, expected: bigint): ConfigChange => ({ _tag: "Check", key, expected })
}
