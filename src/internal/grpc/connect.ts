/**
 * Calls of Connect on a channel of grpc-js. Both sides speak promises and streams, so this is an edge.
 */
import { type DescMessage, type DescMethod, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf"
import { BinaryReader } from "@bufbuild/protobuf/wire"
import { AnySchema } from "@bufbuild/protobuf/wkt"
import { Code, ConnectError, createContextValues, type Interceptor, type Transport } from "@connectrpc/connect"
import { runStreamingCall, runUnaryCall } from "@connectrpc/connect/protocol"
import { type CallOptions, type Channel, Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js"

export interface Settings {
  readonly interceptors: Array<Interceptor>
  readonly defaultTimeoutMs: number | undefined
}

// -----------------------------------------------------------------------------
// Headers
// -----------------------------------------------------------------------------

const metadataOf = (headers: Headers): Metadata => {
  const metadata = new Metadata()
  headers.forEach((value, key) => {
    if (!key.endsWith("-bin")) metadata.add(key, value)
    else for (const part of value.split(",")) metadata.add(key, Buffer.from(part, "base64"))
  })
  return metadata
}

const addTo = (headers: Headers, metadata: Metadata): void => {
  for (const [key, values] of Object.entries(metadata.toHttp2Headers())) {
    for (const value of Array.isArray(values) ? values : [values]) headers.append(key, String(value))
  }
}

// -----------------------------------------------------------------------------
// Errors
// -----------------------------------------------------------------------------

/** The details of a `google.rpc.Status`: its third field, messages of any type. */
const detailsOf = (status: Uint8Array): ConnectError["details"] => {
  const reader = new BinaryReader(status)
  const details: ConnectError["details"] = []
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag()
    if (field === 3) {
      const { typeUrl, value } = fromBinary(AnySchema, reader.bytes())
      details.push({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value })
    } else {
      reader.skip(type, field)
    }
  }
  return details
}

// The numbers are those of gRPC.
const isCode = (code: number): code is Code => code in Code

const connectError = ({ code, details, metadata }: ServiceError): ConnectError => {
  const headers = new Headers()
  addTo(headers, metadata)
  const error = new ConnectError(details, isCode(code) ? code : Code.Unknown, headers)
  const [status] = metadata.get("grpc-status-details-bin")
  try {
    if (status instanceof Uint8Array) error.details = detailsOf(status)
  } catch {
    // Details that are no such message are still in the metadata, and hide no error.
  }
  return error
}

// -----------------------------------------------------------------------------
// Calls
// -----------------------------------------------------------------------------

interface Request<I extends DescMessage> {
  readonly header: Headers
  readonly signal: AbortSignal
  readonly message: AsyncIterable<MessageShape<I>>
}

interface Response<O extends DescMessage> {
  readonly header: Headers
  /** Filled when the messages end. */
  readonly trailer: Headers
  readonly message: AsyncIterable<MessageShape<O>>
}

/** On the wire a call of any kind is two streams. It is answered with the headers of the response. */
const call = async <I extends DescMessage, O extends DescMessage>(
  client: Client,
  method: DescMethod & { readonly input: I; readonly output: O },
  timeoutMs: number | undefined,
  request: Request<I>
): Promise<Response<O>> => {
  request.signal.throwIfAborted()
  const options: CallOptions = {}
  // gRPC's deadlines are wall time. @effect-diagnostics-next-line globalDate:off
  if (timeoutMs !== undefined) options.deadline = Date.now() + timeoutMs // oxlint-disable-line no-restricted-globals
  const stream = client.makeBidiStreamRequest<MessageShape<I>, MessageShape<O>>(
    `/${method.parent.typeName}/${method.name}`,
    (message) => Buffer.from(toBinary(method.input, message)),
    (bytes) => fromBinary(method.output, bytes),
    metadataOf(request.header),
    options
  )
  const header = new Headers()
  const trailer = new Headers()
  let failure: ConnectError | undefined
  let ended = false

  const send = async () => {
    for await (const message of request.message) {
      await new Promise<void>((resolve) => stream.write(message, () => resolve()))
      if (ended) break
    }
    stream.end()
  }

  const cancel = () => stream.cancel()
  request.signal.addEventListener("abort", cancel)
  const opened = new Promise<void>((resolve) => {
    stream.once("metadata", (metadata) => {
      addTo(header, metadata)
      resolve()
    })
    stream.once("status", ({ metadata }) => {
      addTo(trailer, metadata)
      request.signal.removeEventListener("abort", cancel)
      ended = true
      resolve()
    })
  })
  stream.once("error", (error: ServiceError) => {
    failure ??= connectError(error)
  })
  send().catch((cause: unknown) => {
    failure ??= ConnectError.from(cause)
    stream.cancel()
  })
  await opened
  // Messages that nobody has read yet hold the status back, so this failure came before all of them.
  if (failure !== undefined) throw failure

  const messages = async function*(): AsyncGenerator<MessageShape<O>> {
    try {
      yield* stream
    } catch (cause) {
      failure ??= ConnectError.from(cause)
    } finally {
      stream.cancel()
    }
    // An error that came before anybody listened ends the stream as if all were well.
    if (failure !== undefined) throw failure
  }
  return { header, trailer, message: messages() }
}

const single = async function*<A>(message: A): AsyncGenerator<A> {
  yield message
}

const only = async <A>(messages: AsyncIterable<A>): Promise<A> => {
  const all: Array<A> = []
  for await (const message of messages) all.push(message)
  const [first] = all
  if (first !== undefined && all.length === 1) return first
  throw new ConnectError(`expected one message, got ${all.length}`, Code.Unimplemented)
}

// -----------------------------------------------------------------------------
// Transport
// -----------------------------------------------------------------------------

export const makeTransport = (channel: Channel, settings: Settings): Transport => {
  // Address and credentials are those of the channel.
  const client = new Client("", credentials.createInsecure(), { channelOverride: channel })
  const timeoutOf = (given: number | undefined): number | undefined => {
    if (given === undefined) return settings.defaultTimeoutMs
    return given <= 0 ? undefined : given
  }
  const common = (
    method: DescMethod,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined
  ) => ({
    interceptors: settings.interceptors,
    ...signal !== undefined && { signal },
    ...timeoutMs !== undefined && { timeoutMs },
    req: {
      service: method.parent,
      requestMethod: "POST",
      // For interceptors to look at.
      url: `${channel.getTarget()}/${method.parent.typeName}/${method.name}`
    }
  })
  return {
    unary: (method, signal, timeout, header, message, contextValues = createContextValues()) => {
      const timeoutMs = timeoutOf(timeout)
      const { req, ...rest } = common(method, signal, timeoutMs)
      return runUnaryCall({
        ...rest,
        req: { ...req, stream: false, method, header: new Headers(header), contextValues, message },
        next: async (request) => {
          const response = await call(client, method, timeoutMs, { ...request, message: single(request.message) })
          return { ...response, stream: false, service: method.parent, method, message: await only(response.message) }
        }
      })
    },
    stream: (method, signal, timeout, header, input, contextValues = createContextValues()) => {
      const timeoutMs = timeoutOf(timeout)
      const { req, ...rest } = common(method, signal, timeoutMs)
      return runStreamingCall({
        ...rest,
        req: { ...req, stream: true, method, header: new Headers(header), contextValues, message: input },
        next: async (request) => {
          const response = await call(client, method, timeoutMs, request)
          return { ...response, stream: true, service: method.parent, method }
        }
      })
    }
  }
}
