/**
 * Effect's configuration, read from etcd: `Config.Port("PORT")` and the like, with no other change to an application.
 *
 * @since 0.1.0
 */
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type { InvalidOption } from "./Errors.ts"
import { Etcd, type KeyValue, Operation } from "./Etcd.ts"
import { decode } from "./internal/config/codec.ts"
import { measured } from "./internal/Telemetry.ts"
import { keyRule, validatePrefix } from "./internal/validate.ts"

/**
 * @category options
 * @since 0.1.0
 */
export interface EtcdConfigProviderOptions {
  /** The folder that the configuration lives in, as `/config/orders`. `/config` unless said otherwise. */
  readonly prefix?: string | undefined
  /** Whether an empty value is one. Unless said so it is none, as with Effect's other providers. */
  readonly preserveEmptyStrings?: boolean | undefined
}

/**
 * @category options
 * @since 0.1.0
 */
export interface EtcdConfigProviderLayerOptions extends EtcdConfigProviderOptions {
  /**
   * Asked for what is not in etcd. The provider that was there before (the environment, when nobody put another one) unless said otherwise;
   * `ConfigProvider.fromUnknown({})` for nothing.
   */
  readonly fallback?: ConfigProvider.ConfigProvider | undefined
}

const make = Effect.fnUntraced(function*(
  options: EtcdConfigProviderOptions = {}
): Effect.fn.Return<ConfigProvider.ConfigProvider, InvalidOption, Etcd> {
  const etcd = yield* Etcd
  const root = yield* validatePrefix(options.prefix ?? "/config", "prefix")

  const valueOf = (key: string, kv: KeyValue | undefined) =>
    kv === undefined ? Effect.undefined : decode(Schema.String, kv.value).pipe(
      Effect.map((text) => text === "" && options.preserveEmptyStrings !== true ? undefined : text),
      Effect.mapError((issue) =>
        new ConfigProvider.SourceError({
          message: `the configuration value ${JSON.stringify(key)} is no text: ${issue}`
        })
      )
    )

  const load = Effect.fn("EtcdConfigProvider.load")(function*(path: ConfigProvider.Path) {
    const key = path.join("/")
    yield* Effect.annotateCurrentSpan({ key })
    // The root is a folder only.
    const rule = path.length === 0 ? undefined : keyRule(key)
    if (rule !== undefined) {
      return yield* new ConfigProvider.SourceError({ message: `invalid key ${JSON.stringify(key)}: ${rule}` })
    }
    const folder = path.length === 0 ? `${root}/` : `${root}/${key}/`
    const ranges = [Operation.range({ prefix: folder, keysOnly: true })]
    if (path.length > 0) ranges.push(Operation.range(`${root}/${key}`))
    const [inside, own] = yield* etcd.txn({ success: ranges }).pipe(
      Effect.map(({ responses }) => responses.map((response) => response._tag === "Range" ? response.kvs : [])),
      Effect.mapError((cause) => new ConfigProvider.SourceError({ message: cause.message, cause }))
    )
    return nodeOf(namesIn(folder, inside ?? []), yield* valueOf(key, own?.[0]))
  }, measured("EtcdConfigProvider.load"))

  return ConfigProvider.make(load)
})

/** Of what is in a folder, at any depth: the names of the first level. Keys of other tools that are none of ours are left out. */
const namesIn = (folder: string, kvs: ReadonlyArray<KeyValue>): ReadonlySet<string> => {
  const names = new Set<string>()
  for (const { key } of kvs) {
    const rest = key.slice(folder.length)
    if (keyRule(rest) === undefined) names.add(rest.split("/", 1).join())
  }
  return names
}

/** What Effect's provider of the environment would make of them, but for lists with gaps: those may be of any length. */
const nodeOf = (names: ReadonlySet<string>, value: string | undefined): ConfigProvider.Node | undefined => {
  if (names.size === 0) return value === undefined ? undefined : ConfigProvider.makeValue(value)
  const isList = Array.from(names.keys()).every((_, index) => names.has(String(index)))
  return isList ? ConfigProvider.makeArray(names.size, value) : ConfigProvider.makeRecord(names, value)
}

const layer = (options: EtcdConfigProviderLayerOptions = {}): Layer.Layer<never, InvalidOption, Etcd> =>
  Layer.effect(
    ConfigProvider.ConfigProvider,
    Effect.gen(function*() {
      const provider = yield* make(options)
      return ConfigProvider.orElse(provider, options.fallback ?? (yield* ConfigProvider.ConfigProvider))
    })
  )

/**
 * Effect's configuration from etcd.
 *
 * - `layer`: what is read below it with `Config` comes from etcd, and what is not there from the fallback.
 * - `make`: the provider alone, to be combined by your own rule, as with `ConfigProvider.layerAdd` after the environment.
 *
 * The segments of a path are folders: `Config.nested(Config.Port("PORT"), "db")` is the key `db/PORT`. A list is a folder with the keys `0`, `1`,
 * and so on, without gaps. A value is text, written by hand, by `ConfigCenter` or by Go services.
 *
 * Each value is read when the configuration is: at the revision of that moment, and not again. When it cannot be read the configuration fails
 * with a `ConfigError` whose cause is a `SourceError`, whatever defaults there are.
 *
 * **Example**
 *
 * ```ts
 * import { Config, Effect, Layer } from "effect"
 * import { EtcdConfigProvider, EtcdLive } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const port = yield* Config.Port("PORT")
 *   yield* Effect.log(`listening on ${port}`)
 * }).pipe(
 *   Effect.provide(EtcdConfigProvider.layer({ prefix: "/config/orders" }).pipe(Layer.provide(EtcdLive)))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const EtcdConfigProvider = { make, layer }
