/**
 * The name resolver for service channels. One for the process: what a channel resolves to travels in its options.
 */
import { type ChannelOptions, experimental, status as Code } from "@grpc/grpc-js"
import { isHost } from "../validate.ts"
import { BalancerConfig, policyName, ServiceBalancer } from "./balancer.ts"
import type { ServiceEndpoint } from "./endpoint.ts"
import { PickFirstBalancer, PickFirstConfig, policyName as pickFirstName } from "./pickFirst.ts"

export const scheme = "etcd"

/** Where calls can go, and a sentence about it for the errors of calls. */
export interface Resolution {
  readonly endpoints: ReadonlyArray<ServiceEndpoint>
  readonly note: string
}

/** Tells each resolution from now on, never before it returns; what it returns ends that. A function, since grpc-js can print options as JSON. */
export type Subscribe = (listener: (resolution: Resolution) => void) => () => void

/** Options with this prefix do not become those of connections, so that connections outlive what they carry. */
export const sourceOption = `${experimental.SUBCHANNEL_ARGS_EXCLUDE_KEY_PREFIX}.effect_coord.source`

class ServiceResolver implements experimental.Resolver {
  readonly #target: experimental.GrpcUri
  readonly #listener: experimental.ResolverListener
  readonly #source: unknown
  #end: (() => void) | undefined

  constructor(target: experimental.GrpcUri, listener: experimental.ResolverListener, options: ChannelOptions) {
    this.#target = target
    this.#listener = listener
    this.#source = options[sourceOption]
  }

  /** The name of the service, which is also what a certificate is compared with; something like it where that could not be a host. */
  static getDefaultAuthority({ path }: experimental.GrpcUri): string {
    return isHost(path) && URL.canParse(`http://${path}`) ? path : `service-${path.replaceAll(/[^A-Za-z0-9-]/g, "-")}`
  }

  /** A hint, given on every trouble: what is known has been told, and what changes will be. */
  updateResolution(): void {
    if (this.#end !== undefined) return
    this.#end = isSubscribe(this.#source)
      ? this.#source(({ endpoints, note }) =>
        this.#listener(experimental.statusOrFromValue([...endpoints]), {}, null, note)
      )
      : this.#failLater()
  }

  /** Also when the channel has been idle; the next call begins anew. */
  destroy(): void {
    this.#end?.()
    this.#end = undefined
  }

  /** Somebody has used the target alone. */
  #failLater(): () => void {
    let ended = false
    const details = `the target ${
      experimental.uriToString(this.#target)
    } was used without the options that belong to it`
    queueMicrotask(() => {
      if (ended) return
      this.#listener(experimental.statusOrFromError({ code: Code.UNAVAILABLE, details }), {}, null, "")
    })
    return () => {
      ended = true
    }
  }
}

const isSubscribe = (source: unknown): source is Subscribe => typeof source === "function"

/** Not when the module is loaded: the package declares that loading has no effects. */
export const register = (): void => {
  experimental.registerResolver(scheme, ServiceResolver)
  // Channels that are open must not see another copy of the configuration's class.
  if (experimental.isLoadBalancerNameRegistered(policyName)) return
  experimental.registerLoadBalancerType(policyName, ServiceBalancer, BalancerConfig)
  experimental.registerLoadBalancerType(pickFirstName, PickFirstBalancer, PickFirstConfig)
}
