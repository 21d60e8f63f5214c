/** A service without proto files: it says who answered. Messages are JSON. */
import * as grpc from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { ServiceInstance } from "../../src/ServiceInstance.ts"

export interface Request {
  /** Milliseconds before the answer. */
  readonly delay?: number
}

export interface Reply {
  readonly id: string
}

const serialize = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const deserialize = (bytes: Buffer): unknown => JSON.parse(bytes.toString())

const method = (path: string, responseStream: boolean) => ({
  path,
  requestStream: false,
  responseStream,
  requestSerialize: serialize,
  requestDeserialize: deserialize,
  responseSerialize: serialize,
  responseDeserialize: deserialize
})

export const definition = {
  call: method("/test.Echo/Call", false),
  stream: method("/test.Echo/Stream", true)
} satisfies grpc.ServiceDefinition

export interface EchoClient extends grpc.Client {
  call(
    request: Request,
    metadata: grpc.Metadata,
    options: grpc.CallOptions,
    callback: (error: grpc.ServiceError | null, reply?: Reply) => void
  ): grpc.ClientUnaryCall
  stream(request: Request): grpc.ClientReadableStream<Reply>
}

export const Echo = grpc.makeGenericClientConstructor(definition, "Echo") as unknown as new(
  address: string,
  credentials: grpc.ChannelCredentials,
  options?: Partial<grpc.ClientOptions>
) => EchoClient

export interface Backend {
  readonly id: string
  readonly host: string
  readonly port: number
  /** Calls begun. */
  calls: number
  /** When the first and the last call began, on `performance.now()`. */
  firstCall: number
  lastCall: number
  /** Over how many connections calls came. */
  readonly connections: () => number
  readonly instance: (metadata?: Record<string, string>, name?: string) => ServiceInstance
  /** Breaks all connections. */
  readonly stop: Effect.Effect<void>
}

/** A server of its own in this process. */
export const startBackend = (
  id: string,
  options: { readonly host?: string; readonly port?: number; readonly credentials?: grpc.ServerCredentials } = {}
): Effect.Effect<Backend, Error, Scope.Scope> =>
  Effect.gen(function*() {
    const host = options.host ?? "127.0.0.1"
    const server = new grpc.Server({ "grpc.enable_channelz": 0 })
    const peers = new Set<string>()
    const begin = (peer: string) => {
      peers.add(peer)
      backend.calls++
      backend.lastCall = performance.now()
      if (backend.calls === 1) backend.firstCall = backend.lastCall
    }
    const call: grpc.handleUnaryCall<Request, Reply> = (call, callback) => {
      begin(call.getPeer())
      const answer = () => callback(null, { id })
      if (call.request.delay === undefined) answer()
      else setTimeout(answer, call.request.delay)
    }
    const stream: grpc.handleServerStreamingCall<Request, Reply> = (call) => {
      begin(call.getPeer())
      call.write({ id })
      setTimeout(() => {
        call.write({ id })
        call.end()
      }, call.request.delay ?? 0)
    }
    server.addService(definition, { call, stream })
    const port = yield* Effect.acquireRelease(
      Effect.callback<number, Error>((resume) => {
        const address = `${host.includes(":") ? `[${host}]` : host}:${options.port ?? 0}`
        server.bindAsync(address, options.credentials ?? grpc.ServerCredentials.createInsecure(), (error, port) =>
          resume(error === null ? Effect.succeed(port) : Effect.fail(error)))
      }),
      () =>
        Effect.sync(() =>
          server.forceShutdown()
        )
    )
    const backend: Backend = {
      id,
      host,
      port,
      calls: 0,
      firstCall: 0,
      lastCall: 0,
      connections: () => peers.size,
      instance: (metadata = {}, name = "echo") => new ServiceInstance({ id, name, address: host, port, metadata }),
      stop: Effect.sync(() => server.forceShutdown())
    }
    return backend
  })

export interface CallOptions {
  readonly request?: Request
  /** Milliseconds. */
  readonly deadline?: number
  readonly waitForReady?: boolean
  readonly headers?: Record<string, string>
}

/** The id of the backend that answered. */
export const call = (client: EchoClient, options: CallOptions = {}): Effect.Effect<string, grpc.ServiceError> =>
  Effect.callback((resume) => {
    const metadata = new grpc.Metadata({ waitForReady: options.waitForReady ?? false })
    for (const [name, value] of Object.entries(options.headers ?? {})) metadata.set(name, value)
    const deadline = options.deadline === undefined ? {} : { deadline: Date.now() + options.deadline }
    const sent = client.call(
      options.request ?? {},
      metadata,
      deadline,
      (error, reply) => resume(error === null ? Effect.succeed(reply?.id ?? "") : Effect.fail(error))
    )
    return Effect.sync(() => sent.cancel())
  })

/** How many of so many calls each backend answered. */
export const tally = (client: EchoClient, count: number, options: (index: number) => CallOptions = () => ({})) =>
  Effect.map(
    Effect.forEach(Array.from({ length: count }, (_, index) => index), (index) => call(client, options(index))),
    (ids) => {
      const counts: Record<string, number> = {}
      for (const id of ids.toSorted()) counts[id] = (counts[id] ?? 0) + 1
      return counts
    }
  )

/** Until all of these answer, so that what is measured does not depend on which connection was faster. */
export const connected = (client: EchoClient, ids: ReadonlyArray<string>, options: CallOptions = {}) =>
  Effect.gen(function*() {
    const missing = new Set(ids)
    while (missing.size > 0) {
      missing.delete(yield* call(client, { deadline: 5000, waitForReady: true, ...options }))
      yield* Effect.sleep(1)
    }
  }).pipe(Effect.timeout("10 seconds"))
