/**
 * A gRPC name resolver for one endpoint, a `host:port`. Unlike those of grpc-js it keeps the addresses of a living server when DNS
 * fails, and its sockets can be destroyed before the peer has said a word.
 */
import { type ChannelOptions, experimental, status as Code } from "@grpc/grpc-js"
import { lookup } from "node:dns/promises"
import { isIP } from "node:net"

export const scheme = "effect-coord-endpoint"

/** Names are looked up again when a connection fails, but not in a tight loop. */
const minimumInterval = 1000

/** The channel option that holds a `Dialling`. */
export const diallingOption = "effect-coord.dialling"

export interface Dialling {
  /** Destroys all sockets of the channel, those that are being connected too. */
  readonly signal: AbortSignal
  /** What the name was last resolved to, by this channel or the ones before it. */
  readonly known: { addresses: ReadonlyArray<string> }
}

class EndpointResolver implements experimental.Resolver {
  readonly #host: string
  readonly #port: number
  readonly #listener: experimental.ResolverListener
  readonly #dialling: Dialling
  #timer: NodeJS.Timeout | undefined
  #running = false
  #wanted = false
  #destroyed = false

  constructor(target: experimental.GrpcUri, listener: experimental.ResolverListener, options: ChannelOptions) {
    const { host, port } = experimental.splitHostPort(target.path) ?? { host: target.path }
    this.#host = host
    this.#port = port ?? 2379
    this.#listener = listener
    // Only `makeChannel` makes channels of this scheme.
    this.#dialling = options[diallingOption] as Dialling
  }

  /** The name that a certificate is checked for, too. */
  static getDefaultAuthority(target: experimental.GrpcUri): string {
    return target.path
  }

  updateResolution(): void {
    if (this.#running || this.#timer !== undefined) {
      this.#wanted = true
      return
    }
    this.#running = true
    this.#wanted = false
    this.#resolve().then((resolved) => {
      this.#running = false
      if (this.#destroyed) return
      // grpc-js runs the resolver, no fiber does. @effect-diagnostics-next-line globalTimers:off
      this.#timer = setTimeout(() => { // oxlint-disable-line no-restricted-globals
        this.#timer = undefined
        if (this.#wanted) this.updateResolution()
      }, minimumInterval)
      this.#timer.unref()
      this.#report(resolved)
    })
  }

  destroy(): void {
    this.#destroyed = true
    clearTimeout(this.#timer)
  }

  /** The addresses, or why there are none. Never rejects. */
  #resolve(): Promise<ReadonlyArray<string> | string> {
    if (isIP(this.#host) !== 0) return Promise.resolve([this.#host])
    const { known } = this.#dialling
    return lookup(this.#host, { all: true }).then(
      (found) => (known.addresses = found.map(({ address }) => address)),
      (cause: unknown) =>
        known.addresses.length > 0 ? known.addresses : cause instanceof Error ? cause.message : String(cause)
    )
  }

  #report(resolved: ReadonlyArray<string> | string): void {
    const { signal } = this.#dialling
    this.#listener(
      typeof resolved === "string"
        ? experimental.statusOrFromError({
          code: Code.UNAVAILABLE,
          details: `Name resolution failed: ${resolved}`
        })
        // The addresses of one name are one endpoint: `localhost` is not two servers because it has two addresses.
        // grpc-js hands an address to `net.connect` as it is, so the signal is an option of the socket.
        : experimental.statusOrFromValue([{
          addresses: resolved.map((host) => ({ host, port: this.#port, signal }))
        }]),
      {},
      null,
      ""
    )
  }
}

/** Again and again does no harm. Not when the module is loaded: the package declares that loading has no effects. */
export const register = (): void => experimental.registerResolver(scheme, EndpointResolver)
