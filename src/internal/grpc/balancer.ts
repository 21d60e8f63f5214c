/**
 * The load balancing policy of service channels. It is connected to all instances, and keeps those that stay over a new list: the policies of
 * grpc-js build everything again, which with a thousand instances costs more than the calls.
 */
import { type ChannelOptions, connectivityState, experimental } from "@grpc/grpc-js"
import { randomInt } from "node:crypto"
import { type Candidate, chooseBy, type Policy, type Turn } from "./choice.ts"
import { origin, type ServiceEndpoint } from "./endpoint.ts"
import { makeRandom } from "./hash.ts"

export const policyName = "effect_coord"

class Child implements Candidate {
  endpoint: ServiceEndpoint
  inFlight = 0
  readonly leaf: experimental.LeafLoadBalancer

  constructor(endpoint: ServiceEndpoint, leaf: experimental.LeafLoadBalancer) {
    this.endpoint = endpoint
    this.leaf = leaf
  }
}

export class BalancerConfig implements experimental.TypedLoadBalancingConfig {
  readonly policy: Policy

  constructor(policy: Policy) {
    this.policy = policy
  }

  static createFromJson(policy: Policy): BalancerConfig {
    return new BalancerConfig(policy)
  }

  getLoadBalancerName(): string {
    return policyName
  }

  toJsonObject(): object {
    return { [policyName]: this.policy }
  }
}

export class ServiceBalancer implements experimental.LoadBalancer {
  readonly #helper: experimental.ChannelControlHelper
  readonly #childHelper: experimental.ChannelControlHelper
  #children = new Map<string, Child>()
  #policy: Policy = { kind: "round_robin" }
  #note = ""
  #lastError = ""
  /** Changes of children are looked at once, when all of them have happened. */
  #paused = false
  readonly #turn: Turn

  constructor(helper: experimental.ChannelControlHelper) {
    this.#helper = helper
    const seed = randomInt(2 ** 32)
    this.#turn = { next: seed, random: makeRandom(seed) }
    this.#childHelper = experimental.createChildChannelControlHelper(helper, {
      updateState: (_state, _picker, errorMessage) => {
        this.#lastError = errorMessage ?? this.#lastError
        this.#refresh()
      },
      // Discovery tells what changes, there is nothing to ask for.
      requestReresolution: () => {}
    })
  }

  updateAddressList(
    list: experimental.StatusOr<Array<experimental.Endpoint>>,
    config: experimental.TypedLoadBalancingConfig,
    options: ChannelOptions,
    note: string
  ): boolean {
    if (!list.ok) {
      if (this.#children.size === 0) this.#unavailable(list.error.details)
      return true
    }
    // By shape: another copy of this module may have made them. Only the resolver of service channels gets here.
    this.#policy = (config as BalancerConfig).policy
    this.#note = note
    const gone = this.#children
    this.#children = new Map()
    const added: Array<Child> = []
    for (const endpoint of list.value as Array<ServiceEndpoint>) {
      let child = gone.get(endpoint.key)
      if (child === undefined) {
        child = new Child(endpoint, new experimental.LeafLoadBalancer(endpoint, this.#childHelper, options, origin))
        added.push(child)
      } else {
        child.endpoint = endpoint
        gone.delete(endpoint.key)
      }
      this.#children.set(endpoint.key, child)
    }
    this.#together(() => {
      for (const child of added) child.leaf.startConnecting()
    })
    this.#refresh()
    // After the new picker is out, so that no call is given to one of them. Calls in flight go on.
    for (const child of gone.values()) child.leaf.destroy()
    return true
  }

  /** Tells grpc-js how calls are to be served from now on. */
  #refresh(): void {
    if (this.#paused) return
    const ready: Array<Child> = []
    let connecting = false
    this.#together(() => {
      for (const child of this.#children.values()) {
        if (child.leaf.getConnectivityState() === connectivityState.IDLE) child.leaf.exitIdle()
        const state = child.leaf.getConnectivityState()
        if (state === connectivityState.READY) ready.push(child)
        else if (state !== connectivityState.TRANSIENT_FAILURE) connecting = true
      }
    })
    const [first, ...rest] = ready
    if (first !== undefined) {
      this.#helper.updateState(connectivityState.READY, this.#pickerOf([first, ...rest]), null)
    } else if (connecting) {
      this.#helper.updateState(connectivityState.CONNECTING, new experimental.QueuePicker(this), null)
    } else {
      this.#unavailable(
        this.#children.size === 0 ? this.#note : `${this.#note}, none can be reached: ${this.#lastError}`
      )
    }
  }

  #pickerOf(ready: readonly [Child, ...Array<Child>]): experimental.Picker {
    const choose = chooseBy(this.#policy)(ready, this.#turn)
    if (this.#policy.kind !== "least_request") return { pick: (args) => choose(args).leaf.getPicker().pick(args) }
    return {
      pick: (args) => {
        const child = choose(args)
        const result = child.leaf.getPicker().pick(args)
        return {
          ...result,
          onCallStarted: () => {
            child.inFlight++
            result.onCallStarted?.()
          },
          onCallEnded: (code, details, metadata) => {
            child.inFlight--
            result.onCallEnded?.(code, details, metadata)
          }
        }
      }
    }
  }

  #unavailable(details: string): void {
    this.#helper.updateState(
      connectivityState.TRANSIENT_FAILURE,
      new experimental.UnavailablePicker({ details }),
      details
    )
  }

  #together(change: () => void): void {
    this.#paused = true
    change()
    this.#paused = false
  }

  exitIdle(): void {
    // It never is: it stays connected. To tell grpc-js anything here would make it pick, and ask this, again and again.
  }

  resetBackoff(): void {
    // The connections have theirs.
  }

  destroy(): void {
    for (const child of this.#children.values()) child.leaf.destroy()
    this.#children.clear()
  }

  getTypeName(): string {
    return policyName
  }
}
