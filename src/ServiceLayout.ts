/**
 * How instances are written in etcd, so that services of other ecosystems and ours find each other.
 *
 * An entry lives at `<prefix>/<service>/<id>`, in every layout. What differs is the prefix, what stands for the id, and the value.
 * `docs/layouts.md` has the rules of each.
 *
 * @since 0.1.0
 */
import type * as Result from "effect/Result"
import { coord } from "./internal/registry/coord.ts"
import { goEtcd } from "./internal/registry/goEtcd.ts"
import { goZero } from "./internal/registry/goZero.ts"
import { kratos, kratosWith } from "./internal/registry/kratos.ts"
import type { ServiceInstance } from "./ServiceInstance.ts"

/**
 * The layouts that have a name: this library's own (and Go's `coord`), that of Go's etcd client (`naming/endpoints`), that of
 * go-kratos, and that of go-zero.
 *
 * @category models
 * @since 0.1.0
 */
export type ServiceLayoutName = "coord" | "go-etcd" | "kratos" | "go-zero"

/**
 * What an entry says, apart from whose it is: that is in its key.
 *
 * @category models
 * @since 0.1.0
 */
export interface ServiceEntry {
  /** A host name or an IP address, without brackets. */
  readonly address: string
  readonly port: number
  readonly metadata: Readonly<Record<string, string>>
  /** What is odd about it all the same: told once, as a warning that names the key. */
  readonly oddity?: string | undefined
}

/**
 * How instances are written and read. What is not said here is the same for all layouts: names, ids, addresses, ports and metadata are checked
 * before and after, and an entry that cannot be read is left out, with a warning that names its key.
 *
 * **Example** (the value is nothing but the address)
 *
 * ```ts
 * import { Result } from "effect"
 * import { Registry, type ServiceLayout } from "effect-coord"
 *
 * const plain: ServiceLayout = {
 *   name: "plain",
 *   prefix: "/backends",
 *   rule: ({ metadata }) => Object.keys(metadata).length === 0 ? undefined : ["metadata", "must be empty"],
 *   encode: ({ address, port }) => `${address} ${port}`,
 *   decode: (value) => {
 *     const [address = "", port] = new TextDecoder().decode(value).split(" ")
 *     return Result.succeed({ address, port: Number(port), metadata: {} })
 *   }
 * }
 *
 * export const registry = Registry.layer({ layout: plain })
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export interface ServiceLayout {
  /** How it is called in messages. */
  readonly name: string
  /** Where services live unless an option says otherwise. Empty: keys begin with the name of the service. */
  readonly prefix: string
  /** Whether the name of a service may have several segments, as `shop/orders`. It may not unless said otherwise. */
  readonly nestedNames?: boolean | undefined
  /**
   * Whether an id may have several segments. It may not unless said otherwise: deeper keys are then no instances. Where it may, the instances
   * of `shop/orders` are instances of `shop` as well.
   */
  readonly nestedIds?: boolean | undefined
  /**
   * What stands in the key instead of the id, where that is made of the lease. The id of a registration is then known to its own process
   * alone: others see it under this one, which changes with the lease.
   */
  readonly leaseKey?: ((leaseId: bigint) => string) | undefined
  /** What this layout has no place for: the field of an instance, and the rule that it breaks. Registering it is then `InvalidInstance`. */
  readonly rule?: ((instance: ServiceInstance) => readonly [field: string, rule: string] | undefined) | undefined
  /** The value, for instances that break no rule. */
  readonly encode: (instance: ServiceInstance) => string | Uint8Array
  /** What a value says, or why it is no instance. */
  readonly decode: (
    value: Uint8Array,
    key: { readonly name: string; readonly id: string }
  ) => Result.Result<ServiceEntry, string>
}

/**
 * The layouts that come with the library, each also known by its `ServiceLayoutName`.
 *
 * - `coord`: this library's own, the default.
 * - `goEtcd`: Go's `go.etcd.io/etcd/client/v3/naming`. `prefix` is empty unless an option says otherwise.
 * - `kratos`: go-kratos. Of several endpoints the first `grpc` one counts, or else the first `http` one, or else the first.
 * - `kratosWith({ scheme })`: the same for one scheme alone, as `http`; instances without such an endpoint are left out.
 * - `goZero`: go-zero. `prefix` is empty unless an option says otherwise.
 *
 * @category layouts
 * @since 0.1.0
 */
export const ServiceLayout: {
  readonly coord: ServiceLayout
  readonly goEtcd: ServiceLayout
  readonly kratos: ServiceLayout
  readonly kratosWith: (options: { readonly scheme: string }) => ServiceLayout
  readonly goZero: ServiceLayout
} = { coord, goEtcd, kratos, kratosWith, goZero }
