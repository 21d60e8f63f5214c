/**
 * gRPC channels to a service by its name, balanced over the instances that are registered.
 *
 * `Registry.channel`, `Registry.client` and `Registry.target` make them.
 *
 * @since 0.1.0
 */
import type * as grpc from "@grpc/grpc-js"
import type * as Duration from "effect/Duration"
import type { ServiceInstance } from "./ServiceInstance.ts"

/**
 * Which instance serves a call. Instances that cannot be connected to are passed over, whichever it is.
 *
 * - `"round_robin"`: each in turn. The default.
 * - `"pick_first"`: one for all calls, and another when that is gone.
 * - `"weighted"`: in proportion to `metadata.weight`, a number; `1` where there is none, `0` takes no calls while
 *   another one is connected.
 * - `"least_request"`: of two at random, the one with fewer calls of this channel in flight. For calls of very different length.
 * - `ZonePreference`: those of one zone in turn, while there are any.
 * - `HashByHeader`: the same instance for the same value of a request header.
 *
 * @category options
 * @since 0.1.0
 */
export type LoadBalancing =
  | "round_robin"
  | "pick_first"
  | "weighted"
  | "least_request"
  | ZonePreference
  | HashByHeader

/**
 * Calls stay in a zone while it has instances enough.
 *
 * @category options
 * @since 0.1.0
 */
export interface ZonePreference {
  /** The instances with this `metadata.zone` are preferred. */
  readonly zone: string
  /** With fewer connected instances in the zone than this, the calls go to all instances of all zones: 1 unless said otherwise. */
  readonly spillBelow?: number | undefined
}

/**
 * Consistent hashing: when an instance comes or goes, only its share of the values moves.
 *
 * @category options
 * @since 0.1.0
 */
export interface HashByHeader {
  /** The name of a request header (of the call's metadata), in whatever case. Calls without it are spread at random. */
  readonly hashHeader: string
}

/**
 * Calls that end with `UNAVAILABLE` are made again, on another instance where there is one. **At least once**: the first instance may have done the
 * work before its connection broke, so use it only for methods that may run twice. Once a call has answered anything it is not repeated.
 *
 * @category options
 * @since 0.1.0
 */
export interface CallRetry {
  /** How often a call is made at most, the first time included: 2 to 5, 3 unless said otherwise. */
  readonly maxAttempts?: number | undefined
  /** About how long the pause before the second attempt is: 50 milliseconds unless said otherwise. Each is varied at random. */
  readonly initialDelay?: Duration.Input | undefined
  /** The longest pause: 1 second unless said otherwise. */
  readonly maxDelay?: Duration.Input | undefined
  /** By what the pause grows from one attempt to the next: 2 unless said otherwise. */
  readonly multiplier?: number | undefined
}

/**
 * Pings that find a connection whose other side is frozen or gone without a word.
 *
 * @category options
 * @since 0.1.0
 */
export interface Keepalive {
  /**
   * A ping is sent when nothing was received for this long. Servers may refuse pings that come too often: those of Go and C++ allow one in 5
   * minutes unless they are told otherwise, those of grpc-js do not mind.
   */
  readonly time: Duration.Input
  /** The connection is closed, and its calls fail with `UNAVAILABLE`, when a ping is not answered for this long: 20 seconds unless said otherwise. */
  readonly timeout?: Duration.Input | undefined
  /** Whether connections without a call are pinged too: `true` unless said otherwise. */
  readonly withoutCalls?: boolean | undefined
}

/**
 * What `Registry.target` understands.
 *
 * @category options
 * @since 0.1.0
 */
export interface TargetOptions {
  /** Which instance serves a call: `"round_robin"` unless said otherwise. */
  readonly loadBalancing?: LoadBalancing | undefined
  /** Which instances are called: all unless said otherwise. It is asked once for each instance, and again when that changes. */
  readonly filter?: ((instance: ServiceInstance) => boolean) | undefined
  /**
   * When no instance is left: `"fail"` ends calls at once with `UNAVAILABLE` (calls that are marked to wait for ready wait), `"keepLast"` goes on with
   * the instances there were last. `"fail"` unless said otherwise. An outage of etcd empties no list.
   */
  readonly onEmpty?: "fail" | "keepLast" | undefined
  /** Makes failed calls again: not unless said so. `{}` takes the defaults. Mind that it is at least once: see `CallRetry`. */
  readonly retry?: CallRetry | undefined
  /** Finds frozen instances: off unless said otherwise. */
  readonly keepalive?: Keepalive | undefined
  /**
   * Connects to so many instances only, chosen differently by each channel and kept where possible; for services of more than about a hundred
   * instances. All unless said otherwise.
   */
  readonly subset?: number | undefined
  /**
   * More options of grpc-js, which win over those that follow from the others here. `grpc.service_config` may have what concerns methods, but no load
   * balancing.
   */
  readonly channelOptions?: grpc.ChannelOptions | undefined
}

/**
 * What `Registry.channel` and `Registry.client` understand. All of them can be left out.
 *
 * @category options
 * @since 0.1.0
 */
export interface ChannelOptions extends TargetOptions {
  /** `grpc.credentials.createInsecure()` unless said otherwise. A server's certificate has to name the service, or `grpc.ssl_target_name_override`. */
  readonly credentials?: grpc.ChannelCredentials | undefined
  /**
   * The deadline of calls that have none of their own: none unless said otherwise. Streams too end then, as a channel does not know which calls are
   * streams: open those that last on a channel without it, or give them a deadline of their own.
   */
  readonly timeout?: Duration.Input | undefined
}

/**
 * Where frameworks that make their own channel find the service. Good for channels of the same copy of `@grpc/grpc-js`, while its scope is open.
 *
 * @category models
 * @since 0.1.0
 */
export interface ChannelTarget {
  /** `etcd://<registry>/<service>`; it means nothing without the options. */
  readonly target: string
  /** To be passed on as they are. */
  readonly options: grpc.ChannelOptions
}

/**
 * A class of clients, as generated by proto-loader, ts-proto, grpc-tools and others, of whatever copy of `@grpc/grpc-js`.
 *
 * @category models
 * @since 0.1.0
 */
export type ClientConstructor<Client> = new(address: string, credentials: never, options: never) => Client
