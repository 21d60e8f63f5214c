/**
 * An `HttpClient` for which the names of services are hosts: `http://orders/42` goes to an instance of `orders` that is registered.
 *
 * An entry point of its own, `effect-coord/http`, as Effect's HTTP modules are unstable: it may change with them in a minor version.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Layer from "effect/Layer"
import * as RcMap from "effect/RcMap"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { InvalidOption } from "./Errors.ts"
import { openPool, type Pool } from "./internal/http/pool.ts"
import { validateDuration } from "./internal/validate.ts"
import { Registry } from "./Registry.ts"
import type { ServiceInstance } from "./ServiceInstance.ts"

// -----------------------------------------------------------------------------
// Models
// -----------------------------------------------------------------------------

/**
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ServiceHttpClientOptions {
  /**
   * The service that a URL means, or `undefined` where it means none. Unless said otherwise that is the host of an `http` or `https` URL
   * without a port, if it has a single segment and is not `localhost`. Hosts are in lower case here, as in every URL.
   */
  readonly service?: ((url: URL) => string | undefined) | undefined
  /** What becomes of requests that mean no service: `"passThrough"` unless said otherwise; `"fail"` is an `InvalidUrlError`. */
  readonly others?: "passThrough" | "fail" | undefined
  /** Which instances are used: all unless said otherwise. */
  readonly filter?: ((instance: ServiceInstance) => boolean) | undefined
  /** For how long an instance that refused a connection is passed over, as long as there are others: 5 seconds unless said otherwise. */
  readonly avoidFor?: Duration.Input | undefined
}

/**
 * There is no instance to send a request to: the `cause` of a `TransportError`, which `HttpClient.retryTransient` tries again.
 *
 * @stability unstable
 * @category errors
 * @since 0.1.0
 */
export class NoInstances extends Schema.TaggedError<NoInstances>()("NoInstances", {
  service: Schema.String,
  /** How many instances are registered: none, or none that the `filter` lets through and that has an address for a URL. */
  seen: Schema.Number
}) {
  override get message(): string {
    return `no instance of ${JSON.stringify(this.service)} to send a request to, ${this.seen} registered`
  }
}

// -----------------------------------------------------------------------------
// Constructors
// -----------------------------------------------------------------------------

/** After this without a request a service is no longer followed. */
const idleTimeToLive = Duration.minutes(5)

/**
 * Puts the instances of services in the place of their names, in turn. A request whose connection could not be established has not been sent:
 * it goes to the next instance, unless its body is a stream, which can be read but once. Everything else that fails is left to the caller, who
 * knows what may be sent twice: put `HttpClient.retryTransient` and the like over this client, so that each attempt goes to another instance.
 *
 * Each service is followed from its first request on until the scope closes, or nobody has asked for it for five minutes.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const makeServiceHttpClient = Effect.fnUntraced(function*(
  client: HttpClient.HttpClient,
  options: ServiceHttpClientOptions = {}
): Effect.fn.Return<HttpClient.HttpClient, InvalidOption, Registry | Scope.Scope> {
  const registry = yield* Registry
  const { filter = () => true, others = "passThrough", service: serviceOf = byHost } = options
  const settings = { filter, avoidFor: yield* validateDuration("avoidFor", options.avoidFor, Duration.seconds(5)) }
  const context = yield* Effect.context()
  const pools: RcMap.RcMap<string, Pool, Effect.Error<ReturnType<typeof openPool>>> = yield* RcMap.make({
    idleTimeToLive,
    lookup: (service: string) =>
      openPool(service, registry.instances(service), settings, context).pipe(
        Effect.onError(() => RcMap.invalidate(pools, service))
      )
  })
  const poolOf = (service: string, request: HttpClientRequest.HttpClientRequest) =>
    Effect.scoped(RcMap.get(pools, service)).pipe(
      Effect.mapError((cause) =>
        new HttpClientError.HttpClientError({
          reason: cause._tag === "InvalidKey"
            ? new HttpClientError.InvalidUrlError({ request, cause, description: cause.message })
            : new HttpClientError.TransportError({ request, cause, description: cause.message })
        })
      )
    )

  const sendTo = (service: string, original: HttpClientRequest.HttpClientRequest) =>
    Effect.flatMap(poolOf(service, original), (pool) => {
      const attempt = (authority: string, refused: ReadonlySet<string>): ReturnType<typeof client.execute> =>
        Effect.catchIf(
          client.postprocess(Effect.succeed(withAuthority(original, authority))),
          isUnsent,
          (error) =>
            Effect.flatMap(Clock.monotonicTimeNanos, (at) => {
              pool.avoid(authority, at)
              const tried = new Set(refused).add(authority)
              const next = canBeRead(original) ? pool.next(at, tried) : undefined
              return next === undefined ? Effect.fail(error) : attempt(next, tried)
            })
        )
      return Effect.flatMap(Clock.monotonicTimeNanos, (at) => {
        const authority = pool.next(at)
        if (authority !== undefined) return attempt(authority, new Set())
        const cause = new NoInstances({ service, seen: pool.seen() })
        return fail(new HttpClientError.TransportError({ request: original, cause, description: cause.message }))
      })
    })

  const send = (request: HttpClientRequest.HttpClientRequest) => {
    const url = URL.parse(request.url)
    const service = url === null ? undefined : serviceOf(url)
    if (service !== undefined) return sendTo(service, request)
    // What is no URL is told by the client itself.
    if (url === null || others === "passThrough") return client.postprocess(Effect.succeed(request))
    const description = `${JSON.stringify(url.hostname)} is no service`
    return fail(new HttpClientError.InvalidUrlError({ request, description }))
  }

  // Not before the last step: what is put over this client may still change where a request goes, as `HttpClient.mapRequest` does.
  return HttpClient.makeWith(
    (request: Effect.Effect<HttpClientRequest.HttpClientRequest, HttpClientError.HttpClientError>) =>
      Effect.flatMap(request, send),
    client.preprocess
  )
})

/**
 * The `HttpClient` on the one that is there, as `FetchHttpClient.layer` or `NodeHttpClient.layerUndici` bring it.
 *
 * **Example**
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { EtcdLive } from "effect-coord"
 * import { layerServiceHttpClient } from "effect-coord/http"
 * import { FetchHttpClient, HttpClient } from "effect/http"
 *
 * const program = Effect.gen(function*() {
 *   const response = yield* HttpClient.get("http://orders/42")
 *   return yield* response.json
 * })
 *
 * export const live = layerServiceHttpClient().pipe(Layer.provide([FetchHttpClient.layer, EtcdLive]))
 * export const main = Effect.provide(program, live)
 * ```
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layerServiceHttpClient = (
  options?: ServiceHttpClientOptions
): Layer.Layer<HttpClient.HttpClient, InvalidOption, HttpClient.HttpClient | Registry> =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.flatMap(HttpClient.HttpClient, (client) => makeServiceHttpClient(client, options))
  )

// -----------------------------------------------------------------------------
// Requests
// -----------------------------------------------------------------------------

/** The scheme, what stands before an `@`, and the host with its port. */
const authoritySyntax = /^([^/]*:\/\/)([^/?#]*@)?[^/?#]*/

const withAuthority = (request: HttpClientRequest.HttpClientRequest, authority: string) =>
  HttpClientRequest.updateUrl(request, (url) => url.replace(authoritySyntax, `$1$2${authority}`))

const byHost = ({ hostname, port, protocol }: URL): string | undefined =>
  (protocol === "http:" || protocol === "https:") && port === "" && hostname !== "localhost" && !/[.:]/.test(hostname)
    ? hostname
    : undefined

const fail = (reason: HttpClientError.HttpClientErrorReason) =>
  Effect.fail(new HttpClientError.HttpClientError({ reason }))

/** Whether a body can be sent once more. */
const canBeRead = ({ body }: HttpClientRequest.HttpClientRequest): boolean =>
  body._tag === "Empty" || body._tag === "Uint8Array" || body._tag === "FormData"

const isUnsent = (error: HttpClientError.HttpClientError): boolean =>
  error.reason._tag === "TransportError" && isConnectFailure(error.reason.cause, 5)

/** Whether Node or undici say that there was no connection. A name that several addresses stand for has as many failures. */
const isConnectFailure = (cause: unknown, depth: number): boolean => {
  if (typeof cause !== "object" || cause === null || depth === 0) return false
  if ("syscall" in cause && (cause.syscall === "connect" || cause.syscall === "getaddrinfo")) return true
  if ("code" in cause && cause.code === "UND_ERR_CONNECT_TIMEOUT") return true
  if ("errors" in cause && Array.isArray(cause.errors) && cause.errors.length > 0) {
    return cause.errors.every((error) => isConnectFailure(error, depth - 1))
  }
  return "cause" in cause && isConnectFailure(cause.cause, depth - 1)
}
