/**
 * Channels, clients and targets that follow a service.
 */
import * as grpc from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { InvalidOption } from "../../Errors.ts"
import type { ChannelOptions, ChannelTarget, ClientConstructor, TargetOptions } from "../../ServiceChannel.ts"
import { channelsOpen } from "../Telemetry.ts"
import { register, scheme, sourceOption, type Subscribe } from "./resolver.ts"
import { type ChannelSettings, makeChannelSettings, makeTargetSettings, type TargetSettings } from "./settings.ts"
import { type Instances, openSource } from "./source.ts"

type ChannelCall = ReturnType<typeof grpc.Channel.prototype.createCall>

/** Shared by its users: only the scope closes it. */
class ServiceChannel extends grpc.Channel {
  readonly #timeout: number
  #note = ""

  constructor({ options, target }: ChannelTarget, source: Subscribe, { credentials, timeout }: ChannelSettings) {
    super(target, credentials, options)
    this.#timeout = timeout
    // It ends with the source, in the scope that closes this.
    source(({ note }) => {
      this.#note = note
    })
  }

  override close(): void {
    // `Client.close` would end it for all the others.
  }

  end(): void {
    super.close()
  }

  override createCall(
    method: string,
    deadline: grpc.Deadline,
    ...rest: Parameters<typeof grpc.Channel.prototype.createCall> extends [string, grpc.Deadline, ...infer Rest] ? Rest
      : never
  ): ChannelCall {
    // gRPC's deadlines are wall time. @effect-diagnostics-next-line globalDate:off
    const now = Date.now() // oxlint-disable-line no-restricted-globals
    const call = super.createCall(method, deadline === Infinity ? now + this.#timeout : deadline, ...rest)
    return this.#isReady() ? call : this.#explained(call)
  }

  #isReady(): boolean {
    return this.getConnectivityState(false) === grpc.connectivityState.READY
  }

  /** What waits for an instance until its deadline fails with what grpc-js knows, which is not what it has waited for. */
  #explained(call: ChannelCall): ChannelCall {
    const cancel = call.cancelWithStatus.bind(call)
    call.cancelWithStatus = (status, details) =>
      cancel(
        status,
        status === grpc.status.DEADLINE_EXCEEDED && !this.#isReady() ? `${details}; ${this.#note}` : details
      )
    return call
  }
}

/** Counts the registries of this process: equal names in two clusters must share no connection. */
let registries = 0

/**
 * @param instancesOf - The instances of a service, and then each new list.
 */
export const makeChannels = Effect.fnUntraced(function*(instancesOf: (name: string) => Instances) {
  const context = yield* Effect.context()
  const registry = ++registries
  register()

  const open = Effect.fnUntraced(function*(name: string, settings: TargetSettings) {
    const source = yield* openSource(name, instancesOf(name), settings.discovery, context)
    const target: ChannelTarget = {
      target: `${scheme}://${registry}/${encodeURIComponent(name)}`,
      options: { ...settings.options, [sourceOption]: source }
    }
    return { source, target }
  })

  const target = Effect.fnUntraced(function*(name: string, options: TargetOptions = {}) {
    const settings = yield* makeTargetSettings(options)
    return yield* apart(Effect.gen(function*() {
      const { target } = yield* open(name, settings)
      // The framework that is given it would find out too late what grpc-js does not take.
      yield* makeChannel(() =>
        new grpc.Channel(target.target, grpc.credentials.createInsecure(), target.options).close()
      )
      return target
    }))
  })

  const channel = Effect.fnUntraced(function*(name: string, options: ChannelOptions = {}) {
    const settings = yield* makeChannelSettings(options)
    return yield* apart(Effect.gen(function*() {
      const { source, target } = yield* open(name, settings)
      return yield* Effect.acquireRelease(
        Effect.tap(makeChannel(() => new ServiceChannel(target, source, settings)), () => channelsOpen(1)),
        (channel) => Effect.andThen(Effect.sync(() => channel.end()), channelsOpen(-1))
      )
    }))
  })

  const client = <Client>(constructor: ClientConstructor<Client>, name: string, options?: ChannelOptions) =>
    apart(Effect.gen(function*() {
      const channelOverride = yield* channel(name, options)
      // What of grpc-js the class knows is its own copy's, which takes a channel of this one as it is.
      const Client = constructor as new(address: string, credentials: unknown, options: unknown) => Client
      return yield* Effect.try({
        try: () => new Client(channelOverride.getTarget(), grpc.credentials.createInsecure(), { channelOverride }),
        catch: (cause) =>
          new InvalidOption({ option: "constructor", rule: `must be a class of gRPC clients: ${String(cause)}` })
      })
    }))

  return { channel, client, target }
})

const makeChannel = <Channel>(construct: () => Channel) =>
  Effect.try({
    try: construct,
    catch: (cause) =>
      new InvalidOption({ option: "channelOptions", rule: `must be what grpc-js takes: ${String(cause)}` })
  })

/** In a scope of its own, so that a failed or interrupted attempt leaves nothing in one that lives on. */
const apart = <A, E, R>(effect: Effect.Effect<A, E, R | Scope.Scope>) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      Effect.scope,
      (parent) =>
        Effect.flatMap(Scope.fork(parent), (scope) =>
          restore(Scope.provide(effect, scope)).pipe(
            Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
          ))
    )
  )
