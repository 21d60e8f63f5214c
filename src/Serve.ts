/**
 * A gRPC server that is found by its name for as long as it serves, and that ends without failing a call.
 *
 * @since 0.1.0
 */
import { Server, ServerCredentials } from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { InvalidOption } from "./Errors.ts"
import type { EtcdError } from "./EtcdError.ts"
import { advertisedAddress, hostPort } from "./internal/grpc/advertise.ts"
import { addHealth, bind, type Health, shutdown } from "./internal/grpc/server.ts"
import { type RegisterOptions, type Registration, Registry } from "./Registry.ts"
import { type AlreadyRegistered, type InvalidInstance, ServiceInstance } from "./ServiceInstance.ts"

// -----------------------------------------------------------------------------
// Models
// -----------------------------------------------------------------------------

/**
 * @category options
 * @since 0.1.0
 */
export interface ServeOptions extends RegisterOptions {
  /** Where to listen, `0.0.0.0` by default: every IPv4 address of the machine. */
  readonly host?: string | undefined
  /** The port to listen on; 0, the default, takes a free one. The one that was bound is registered. */
  readonly port?: number | undefined
  /**
   * Under which address clients find it. By default `host`; for a `host` that means every address (`0.0.0.0`, `::`) the one address of
   * the machine, as in a container. Must be given where the machine has several.
   */
  readonly address?: string | undefined
  /**
   * `address:port` by default: unique, and the same after a restart on the same port, so that an entry which a crash has left there is
   * replaced.
   */
  readonly id?: string | undefined
  readonly metadata?: Readonly<Record<string, string>> | undefined
  /** `ServerCredentials.createInsecure()` by default. */
  readonly credentials?: ServerCredentials | undefined
  /**
   * The full names of the gRPC services that the health service answers for, besides the server as a whole (`""`). `false`: no
   * health service.
   */
  readonly health?: ReadonlyArray<string> | false | undefined
  /** How long clients are given to hear that the instance is gone before calls are refused: 1500 milliseconds by default. */
  readonly propagation?: Duration.Input | undefined
  /** How long calls in flight may last after that: 10 seconds by default. Then they are cut. */
  readonly grace?: Duration.Input | undefined
}

/**
 * A server that is bound and registered until its scope closes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Serving {
  readonly server: Server
  /** The port that is bound. */
  readonly port: number
  /** What was registered. */
  readonly instance: ServiceInstance
  /** Its status, and new metadata for it. */
  readonly registration: Registration
}

/**
 * The server could not listen.
 *
 * @category errors
 * @since 0.1.0
 */
export class BindFailed extends Schema.TaggedError<BindFailed>()("BindFailed", {
  /** As `0.0.0.0:50051`. */
  address: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `cannot listen on ${this.address}: ${this.detail}`
  }
}

// -----------------------------------------------------------------------------
// Serving
// -----------------------------------------------------------------------------

/**
 * Binds a gRPC server, registers it as an instance of a service, and answers health checks. `server` is one whose services have been
 * added, or what adds them to a new one; it belongs to `serve` from then on.
 *
 * When the scope closes, as on Ctrl-C under `NodeRuntime.runMain`, no call is lost: the health service says `NOT_SERVING`, the
 * instance is taken out of the registry, clients are given `propagation` to hear of it while calls are still served, then new calls are
 * refused and those in flight may last for `grace`. While etcd is away, taking the instance out is waited for as long as one
 * request timeout.
 *
 * Health is `SERVING` while the registration merely recovers, since clients keep the list that they have through an outage of etcd. It is
 * `NOT_SERVING` once somebody else has registered the same id (`Replaced`): this instance is then found by nobody, for good.
 *
 * **Example**
 *
 * ```ts
 * import type { ServiceDefinition, UntypedServiceImplementation } from "@grpc/grpc-js"
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Effect, Layer } from "effect"
 * import { EtcdLive, serve } from "effect-coord"
 *
 * declare const Greeter: ServiceDefinition
 * declare const handlers: UntypedServiceImplementation
 *
 * const program = serve("greeter", (server) => server.addService(Greeter, handlers), { port: 50051 })
 *
 * NodeRuntime.runMain(Layer.launch(Layer.effectDiscard(program).pipe(Layer.provide(EtcdLive))))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const serve: (
  name: string,
  server: Server | ((server: Server) => void),
  options?: ServeOptions
) => Effect.Effect<
  Serving,
  BindFailed | InvalidOption | InvalidInstance | AlreadyRegistered | EtcdError,
  Registry | Scope.Scope
> = Effect.fn("serve")(function*(name, given, options = {}) {
  yield* Effect.annotateCurrentSpan({ "coord.service": name })
  const registry = yield* Registry
  const { host = "0.0.0.0", port = 0 } = options
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    return yield* new InvalidOption({ option: "port", rule: `must be a whole number from 0 to 65535, got ${port}` })
  }
  const address = yield* advertisedAddress(host, options.address)
  const propagation = yield* duration(options.propagation ?? "1500 millis", "propagation")
  const grace = yield* duration(options.grace ?? "10 seconds", "grace")

  return yield* Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
    // A scope of its own, so that a failed or interrupted attempt leaves nothing in one that lives on.
    const scope = yield* Scope.fork(yield* Effect.scope)
    return yield* Effect.gen(function*() {
      const server = typeof given === "function" ? new Server() : given
      if (typeof given === "function") given(server)
      const health = options.health === false ? undefined : yield* healthOf(server, options.health ?? [])
      yield* Scope.addFinalizer(scope, Effect.sync(() => server.forceShutdown()))
      const at = hostPort(host, port)
      const bound = yield* bind(server, at, options.credentials ?? ServerCredentials.createInsecure()).pipe(
        Effect.mapError((detail) => new BindFailed({ address: at, detail }))
      )
      const id = options.id ?? hostPort(address, bound)
      const instance = new ServiceInstance({ id, name, address, port: bound, metadata: options.metadata ?? {} })

      // Closed by the drain, in its turn.
      const registering = yield* Scope.make()
      let announced = true
      yield* Scope.addFinalizer(
        scope,
        Effect.suspend(() => announced ? drain(server, health, registering, { propagation, grace }) : Effect.void).pipe(
          Effect.annotateLogs({ service: name, instance: id })
        )
      )
      const registration = yield* restore(Scope.provide(registry.register(instance, options), registering)).pipe(
        // What was refused here was never seen by anybody; for other failures, and interruption, that is not certain.
        Effect.tapError((error) =>
          Effect.sync(() => {
            announced = error._tag === "EtcdError"
          })
        )
      )
      if (health !== undefined) yield* Effect.forkIn(reportReplaced(registration, health), scope)
      return { server, port: bound, instance, registration }
    }).pipe(Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))))
  }))
})

/** A length of time, zero allowed. */
const duration = (input: Duration.Input, option: string): Effect.Effect<Duration.Duration, InvalidOption> => {
  const value = Option.getOrUndefined(Duration.fromInput(input))
  return value !== undefined && Number.isFinite(Duration.toMillis(value)) && Duration.toMillis(value) >= 0
    ? Effect.succeed(value)
    : Effect.fail(new InvalidOption({ option, rule: "must be a finite duration" }))
}

const healthOf = (server: Server, services: ReadonlyArray<string>): Effect.Effect<Health, InvalidOption> =>
  Effect.mapError(
    addHealth(server, services),
    (detail) =>
      new InvalidOption({ option: "health", rule: `must be false for a server that has a health service: ${detail}` })
  )

const reportReplaced = (registration: Registration, health: Health) =>
  registration.status.changes.pipe(
    Stream.filter((status) => status === "Replaced"),
    Stream.runForEach(() => health.set(false))
  )

const drain = Effect.fnUntraced(function*(
  server: Server,
  health: Health | undefined,
  registering: Scope.Closeable,
  times: { readonly propagation: Duration.Duration; readonly grace: Duration.Duration }
) {
  // The process seems to hang otherwise, to whoever has pressed Ctrl-C.
  yield* Effect.logInfo(
    `draining: it leaves the registry, refuses calls in ${
      Duration.format(times.propagation)
    }, and cuts those in flight ${Duration.format(times.grace)} later at the latest`
  )
  if (health !== undefined) yield* health.set(false)
  // Bounded, and the key goes with its lease if etcd does not answer.
  yield* Scope.close(registering, Exit.void)
  yield* Effect.sleep(times.propagation)
  const ended = yield* shutdown(server, times.grace, health?.endUnsafe)
  if (ended === "Cut") {
    yield* Effect.logWarning(`calls that lasted longer than ${Duration.format(times.grace)} were cut`)
  }
})
