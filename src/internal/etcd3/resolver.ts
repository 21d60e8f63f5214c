/**
 * A gRPC name resolver for a list of `host:port`, so that one channel balances over all endpoints. grpc-js has `ipv4:a,b` for
 * addresses, but takes only one DNS name for a channel.
 */
import { type ChannelOptions, experimental, status as Code } from "@grpc/grpc-js"
import { lookup } from "node:dns/promises"
import { isIP } from "node:net"

export const scheme = "effect-coord-endpoints"

/** Names are looked up again when a connection fails, but not in a tight loop. */
const minimumInterval = 1000

/** The channel option that holds an `AbortSignal`, which destroys all sockets of the channel, those that are being connected too. */
export const signalOption = "effect-coord.signal"

interface Address {
  readonly host: string
  readonly port: number
}

class EndpointsResolver implements experimental.Resolver {
  readonly #endpoints: ReadonlyArray<Address>
  readonly #listener: experimental.ResolverListener
  readonly #signal: unknown
  /** What each name was last resolved to: a DNS outage must not forget a living server. */
  readonly #known = new Map<string, ReadonlyArray<string>>()
  #timer: NodeJS.Timeout | undefined
  #running = false
  #wanted = false
  #destroyed = false

  constructor(target: experimental.GrpcUri, listener: experimental.ResolverListener, options: ChannelOptions) {
    this.#listener = listener
    this.#signal = options[signalOption]
    this.#endpoints = target.path.split(",").map((path) => {
      const { host, port } = experimental.splitHostPort(path) ?? { host: path }
      return { host, port: port ?? 2379 }
    })
  }

  static getDefaultAuthority(target: experimental.GrpcUri): string {
    return target.path.split(",", 1)[0] ?? ""
  }

  updateResolution(): void {
    if (this.#running || this.#timer !== undefined) {
      this.#wanted = true
      return
    }
    this.#running = true
    this.#wanted = false
    Promise.all(this.#endpoints.map((endpoint) => this.#resolve(endpoint))).then((resolved) => {
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

  /** The addresses of one endpoint, or why there are none. Never rejects. */
  #resolve({ host, port }: Address): Promise<ReadonlyArray<Address> | string> {
    if (isIP(host) !== 0) return Promise.resolve([{ host, port }])
    return lookup(host, { all: true }).then(
      (found) => {
        const hosts = found.map(({ address }) => address)
        this.#known.set(host, hosts)
        return hosts.map((host) => ({ host, port }))
      },
      (cause: unknown) =>
        this.#known.get(host)?.map((host) => ({ host, port })) ??
          (cause instanceof Error ? cause.message : String(cause))
    )
  }

  #report(resolved: ReadonlyArray<ReadonlyArray<Address> | string>): void {
    // The addresses of one name are one endpoint: `localhost` is not two servers because it has two addresses.
    // grpc-js hands an address to `net.connect` as it is, so the signal is an option of the socket.
    const endpoints = resolved.flatMap((one) =>
      typeof one === "string" ? [] : [{ addresses: one.map((address) => ({ ...address, signal: this.#signal })) }]
    )
    const failures = resolved.filter((one) => typeof one === "string")
    this.#listener(
      endpoints.length > 0
        ? experimental.statusOrFromValue(endpoints)
        : experimental.statusOrFromError({
          code: Code.UNAVAILABLE,
          details: `Name resolution failed: ${failures.join(", ")}`
        }),
      {},
      null,
      failures.join(", ")
    )
  }
}

/** Again and again does no harm. Not when the module is loaded: the package declares that loading has no effects. */
export const register = (): void => experimental.registerResolver(scheme, EndpointsResolver)
