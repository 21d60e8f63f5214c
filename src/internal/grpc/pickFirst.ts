/**
 * One instance for all calls. That of grpc-js keeps calling an instance that has left the list until it is connected to another, and for ever when the
 * list is empty: here it is let go at once.
 */
import { type ChannelOptions, connectivityState, experimental, Metadata } from "@grpc/grpc-js"
import { origin } from "./endpoint.ts"

export const policyName = "effect_coord_pick_first"

export class PickFirstConfig implements experimental.TypedLoadBalancingConfig {
  static createFromJson(): PickFirstConfig {
    return new PickFirstConfig()
  }

  getLoadBalancerName(): string {
    return policyName
  }

  toJsonObject(): object {
    return { [policyName]: {} }
  }
}

export class PickFirstBalancer implements experimental.LoadBalancer {
  readonly #helper: experimental.ChannelControlHelper
  readonly #childHelper: experimental.ChannelControlHelper
  /** All addresses as those of one endpoint: grpc-js tries them in turn, and stays with the first that answers. */
  #leaf: experimental.LeafLoadBalancer | undefined
  #addresses: ReadonlyArray<experimental.SubchannelAddress> = []
  #options: ChannelOptions = {}
  #note = ""

  constructor(helper: experimental.ChannelControlHelper) {
    this.#helper = helper
    this.#childHelper = experimental.createChildChannelControlHelper(helper, {
      updateState: (state, picker, errorMessage) => {
        // It has lost its connection; the list may be another since it was made.
        if (state === connectivityState.IDLE) this.#connect()
        else if (state === connectivityState.TRANSIENT_FAILURE) {
          this.#unavailable(`${this.#note}, none can be reached: ${errorMessage ?? ""}`)
        } else helper.updateState(state, picker, errorMessage)
      },
      requestReresolution: () => {}
    })
  }

  updateAddressList(
    list: experimental.StatusOr<Array<experimental.Endpoint>>,
    _config: experimental.TypedLoadBalancingConfig,
    options: ChannelOptions,
    note: string
  ): boolean {
    if (!list.ok) {
      if (this.#leaf === undefined) this.#unavailable(list.error.details)
      return true
    }
    this.#addresses = list.value.flatMap(({ addresses }) => addresses)
    this.#options = options
    this.#note = note
    const picked = this.#picked()
    const stays = picked !== undefined &&
      this.#addresses.some((address) => experimental.subchannelAddressToString(address) === picked)
    if (!stays) this.#connect()
    return true
  }

  /** The address that calls go to. */
  #picked(): string | undefined {
    if (this.#leaf?.getConnectivityState() !== connectivityState.READY) return undefined
    const { subchannel } = this.#leaf.getPicker().pick({ metadata: new Metadata(), extraPickInfo: {} })
    return subchannel?.getAddress()
  }

  #connect(): void {
    const previous = this.#leaf
    this.#leaf = undefined
    if (this.#addresses.length === 0) {
      this.#unavailable(this.#note)
    } else {
      const endpoint = { addresses: [...this.#addresses] }
      this.#leaf = new experimental.LeafLoadBalancer(endpoint, this.#childHelper, this.#options, origin)
      this.#leaf.startConnecting()
    }
    previous?.destroy()
  }

  #unavailable(details: string): void {
    this.#helper.updateState(
      connectivityState.TRANSIENT_FAILURE,
      new experimental.UnavailablePicker({ details }),
      details
    )
  }

  exitIdle(): void {
    this.#leaf?.exitIdle()
  }

  resetBackoff(): void {
    // The connections have theirs.
  }

  destroy(): void {
    this.#leaf?.destroy()
    this.#leaf = undefined
  }

  getTypeName(): string {
    return policyName
  }
}
