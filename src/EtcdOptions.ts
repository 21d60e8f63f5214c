/**
 * How to reach an etcd cluster: the options, their defaults, and how they are read from the environment.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import type * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import type { ServiceLayout, ServiceLayoutName } from "./ServiceLayout.ts"

/**
 * All of them can be left out.
 *
 * @category options
 * @since 0.1.0
 */
export interface EtcdOptions {
  /**
   * The members of the cluster, each as `host:port`, `http://host:port` or `https://host:port`, IPv6 addresses in brackets; a
   * string is a comma-separated list of them. The port is always written out. `https` on all of them, or the `tls` option,
   * means TLS. `127.0.0.1:2379` unless said otherwise.
   */
  readonly endpoints?: string | ReadonlyArray<string> | undefined
  /** With `password`, for clusters with authentication switched on. */
  readonly username?: string | undefined
  readonly password?: Redacted.Redacted | undefined
  /** The bound of one request: 5 seconds unless said otherwise. */
  readonly timeout?: Duration.Input | undefined
  /** The bound of connecting at the start, of each later attempt to connect, and of opening a watch: 5 seconds unless said otherwise. */
  readonly dialTimeout?: Duration.Input | undefined
  /**
   * What is tried again, and when: see `Etcd` for which failures. A record becomes an exponential, capped and jittered schedule;
   * a `Schedule` is taken as it is.
   */
  readonly retry?: RetryOptions | Schedule.Schedule<unknown> | undefined
  readonly tls?: TlsOptions | undefined
  /**
   * Whether requests that are made at the same time may share a call to etcd: they may unless said otherwise. Nobody notices but by the time
   * that it takes. With a user name, or a certificate that can stand for one, writes never do, as etcd before 3.4.42 and 3.5.28 would not check its roles.
   */
  readonly batching?: boolean | undefined
  /** Put before every key, so that several applications can share a cluster: nothing unless said otherwise. */
  readonly namespace?: string | undefined
  /** Where locks live: `/locks` unless said otherwise. */
  readonly lockPrefix?: string | undefined
  /** Where elections live: `/elections` unless said otherwise. */
  readonly electionPrefix?: string | undefined
  /** Where ids of instances live: `/allocators` unless said otherwise. */
  readonly allocatorPrefix?: string | undefined
  /** Where semaphores live: `/semaphores` unless said otherwise. */
  readonly semaphorePrefix?: string | undefined
  /** Where read-write locks live: `/rwlocks` unless said otherwise. */
  readonly readWriteLockPrefix?: string | undefined
  /** Where service instances live: `/services` unless said otherwise, or where the `registryLayout` says. */
  readonly registryPrefix?: string | undefined
  /** How service instances are written: a layout, or the name of one. `coord`, this library's own, unless said otherwise. */
  readonly registryLayout?: ServiceLayout | ServiceLayoutName | undefined
  /** Where configuration lives: `/config` unless said otherwise. */
  readonly configPrefix?: string | undefined
}

/**
 * @category options
 * @since 0.1.0
 */
export interface RetryOptions {
  /** How often a request is sent at most, the first time included: 8 unless said otherwise. */
  readonly maxAttempts?: number | undefined
  /** The pause before the second attempt: 50 milliseconds unless said otherwise. */
  readonly initialDelay?: Duration.Input | undefined
  /** The longest pause: 1 second unless said otherwise. */
  readonly maxDelay?: Duration.Input | undefined
  /** By what the pause grows from one attempt to the next: 2 unless said otherwise. */
  readonly multiplier?: number | undefined
}

/**
 * Certificates and keys are PEM: the text itself (it contains `-----BEGIN`), or the path of a file that is read once, when the
 * layer is built.
 *
 * @category options
 * @since 0.1.0
 */
export interface TlsOptions {
  /** The authorities to trust instead of those of the machine. */
  readonly ca?: string | undefined
  /** The client's certificate; goes with `key`. */
  readonly cert?: string | undefined
  readonly key?: string | Redacted.Redacted | undefined
  /** The name to expect in the certificate of each server, instead of the host of its endpoint. */
  readonly serverName?: string | undefined
}

type Defined<A> = { [K in keyof A]?: A[K] extends Option.Option<infer B> ? B : never }

/** An empty variable is one that is not set: compose files and charts pass such on. */
const optional = <A>(config: (name?: string) => Config.Config<A>, name: string): Config.Config<Option.Option<A>> =>
  Config.String(name).pipe(
    Config.option,
    Config.flatMap((text) =>
      Option.isNone(text) || text.value === ""
        ? Config.succeed(Option.none<A>())
        : Config.map(config(name), Option.some)
    )
  )

const present = <A extends Record<string, Option.Option<unknown>>>(options: A): Defined<A> =>
  Object.fromEntries(
    Object.entries(options).flatMap(([key, value]) => Option.isSome(value) ? [[key, value.value]] : [])
  ) as Defined<A>

/** No record where nothing of it is set: `tls` alone would switch TLS on. */
const group = <A extends Record<string, Option.Option<unknown>>>(options: A): Option.Option<Defined<A>> => {
  const values = present(options)
  return Object.keys(values).length === 0 ? Option.none() : Option.some(values)
}

const layoutName = (name?: string): Config.Config<ServiceLayoutName> =>
  Config.Literals(["coord", "go-etcd", "kratos", "go-zero"], name)

const fromEnv: Config.Config<EtcdOptions> = Config.all({
  endpoints: optional(Config.String, "ETCD_ENDPOINTS"),
  username: optional(Config.String, "ETCD_USERNAME"),
  password: optional(Config.Redacted, "ETCD_PASSWORD"),
  timeout: optional(Config.Duration, "ETCD_TIMEOUT"),
  dialTimeout: optional(Config.Duration, "ETCD_DIAL_TIMEOUT"),
  retry: Config.all({
    maxAttempts: optional(Config.Int, "ETCD_RETRY_MAX_ATTEMPTS"),
    initialDelay: optional(Config.Duration, "ETCD_RETRY_INITIAL_DELAY"),
    maxDelay: optional(Config.Duration, "ETCD_RETRY_MAX_DELAY"),
    multiplier: optional(Config.Finite, "ETCD_RETRY_MULTIPLIER")
  }).pipe(Config.map(group)),
  tls: Config.all({
    ca: optional(Config.String, "ETCD_TLS_CA"),
    cert: optional(Config.String, "ETCD_TLS_CERT"),
    key: optional(Config.Redacted, "ETCD_TLS_KEY"),
    serverName: optional(Config.String, "ETCD_TLS_SERVER_NAME")
  }).pipe(Config.map(group)),
  batching: optional(Config.Boolean, "ETCD_BATCHING"),
  namespace: optional(Config.String, "ETCD_NAMESPACE"),
  lockPrefix: optional(Config.String, "ETCD_LOCK_PREFIX"),
  electionPrefix: optional(Config.String, "ETCD_ELECTION_PREFIX"),
  allocatorPrefix: optional(Config.String, "ETCD_ALLOCATOR_PREFIX"),
  semaphorePrefix: optional(Config.String, "ETCD_SEMAPHORE_PREFIX"),
  readWriteLockPrefix: optional(Config.String, "ETCD_READ_WRITE_LOCK_PREFIX"),
  registryPrefix: optional(Config.String, "ETCD_REGISTRY_PREFIX"),
  registryLayout: optional(layoutName, "ETCD_REGISTRY_LAYOUT"),
  configPrefix: optional(Config.String, "ETCD_CONFIG_PREFIX")
}).pipe(Config.map(present))

/**
 * `EtcdOptions.fromEnv` reads the options from Effect's configuration, by default the environment: `ETCD_ENDPOINTS`
 * (comma separated), `ETCD_USERNAME`, `ETCD_PASSWORD`, `ETCD_TIMEOUT` and `ETCD_DIAL_TIMEOUT` (as `5 seconds`),
 * `ETCD_RETRY_MAX_ATTEMPTS`, `ETCD_RETRY_INITIAL_DELAY`, `ETCD_RETRY_MAX_DELAY`, `ETCD_RETRY_MULTIPLIER`, `ETCD_TLS_CA`,
 * `ETCD_TLS_CERT`, `ETCD_TLS_KEY`, `ETCD_TLS_SERVER_NAME`, `ETCD_BATCHING`, `ETCD_NAMESPACE`, `ETCD_LOCK_PREFIX`, `ETCD_ELECTION_PREFIX`, `ETCD_ALLOCATOR_PREFIX`,
 * `ETCD_REGISTRY_PREFIX`, `ETCD_REGISTRY_LAYOUT` (`coord`, `go-etcd`, `kratos` or `go-zero`) and `ETCD_CONFIG_PREFIX`. What is not set, or set to nothing, has its default.
 *
 * @category config
 * @since 0.1.0
 */
export const EtcdOptions: { readonly fromEnv: Config.Config<EtcdOptions> } = { fromEnv }
