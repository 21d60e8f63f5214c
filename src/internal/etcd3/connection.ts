/**
 * One balanced channel to all endpoints, with the stubs of npm etcd3 on it, and single calls and streams over them.
 *
 * Of etcd3 only the stubs are used. Its pool would send writes again, stop all calls for seconds after a deadline of one, and
 * hide the status; so calls are made on the stubs themselves, each with its deadline, token and way to be cancelled.
 */
import {
  Channel,
  type ChannelOptions,
  type ClientDuplexStream,
  type ClientUnaryCall,
  connectivityState,
  credentials as channelCredentials,
  Metadata,
  type ServiceError,
  status as Code
} from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Etcd3 from "etcd3"
import { checkServerIdentity } from "node:tls"
import { Closed, EtcdError, type EtcdErrorReason, Unavailable } from "../../EtcdError.ts"
import { register, scheme, signalOption } from "./resolver.ts"
import { neverLeft, noConnection, reasonOf, shutDown, type Status } from "./status.ts"
import { type Duplex, makeDuplex } from "./stream.ts"

export interface ConnectionSettings {
  readonly endpoints: ReadonlyArray<{ readonly host: string; readonly port: number }>
  readonly tls: TlsSettings | undefined
  readonly credentials: { readonly username: string; readonly password: Redacted.Redacted } | undefined
  /** The bound of one request. */
  readonly timeout: Duration.Duration
  /** The bound of connecting, and of opening a stream. */
  readonly dialTimeout: Duration.Duration
}

/** PEM. Without `ca` the machine's certificate authorities are trusted. */
export interface TlsSettings {
  readonly ca?: Buffer | undefined
  readonly cert?: Buffer | undefined
  readonly key?: Buffer | undefined
  readonly serverName?: string | undefined
}

type Callback<Response> = (error: ServiceError | null, response?: Response) => void

interface CallOptions {
  readonly deadline: number
}

type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: CallOptions,
  callback: Callback<Response>
) => ClientUnaryCall

export interface Stubs {
  readonly KV: {
    readonly range: Unary<Etcd3.IRangeRequest, Etcd3.IRangeResponse>
    readonly txn: Unary<Etcd3.ITxnRequest, Etcd3.ITxnResponse>
  }
  readonly Lease: {
    readonly leaseGrant: Unary<Etcd3.ILeaseGrantRequest, Etcd3.ILeaseGrantResponse>
    readonly leaseRevoke: Unary<Etcd3.ILeaseRevokeRequest, Etcd3.ILeaseRevokeResponse>
    readonly leaseTimeToLive: Unary<Etcd3.ILeaseTimeToLiveRequest, Etcd3.ILeaseTimeToLiveResponse>
    readonly leaseKeepAlive: (
      metadata: Metadata
    ) => ClientDuplexStream<Etcd3.ILeaseKeepAliveRequest, Etcd3.ILeaseKeepAliveResponse>
  }
  readonly Watch: {
    readonly watch: (metadata: Metadata) => ClientDuplexStream<Etcd3.IWatchRequest, Etcd3.IWatchResponse>
  }
  readonly Auth: {
    readonly authenticate: Unary<Etcd3.IAuthenticateRequest, Etcd3.IAuthenticateResponse>
  }
}

export type Token = string | undefined

export interface Connection {
  /** One call, cancelled on the wire when it is interrupted. */
  readonly unary: <Response>(
    token: Token,
    send: (stubs: Stubs, metadata: Metadata, options: CallOptions, callback: Callback<Response>) => ClientUnaryCall
  ) => Effect.Effect<Response, Status>
  /** A stream, cancelled on the wire with its scope. */
  readonly open: <Request, Response>(
    token: Token,
    start: (stubs: Stubs, metadata: Metadata) => ClientDuplexStream<Request, Response>
  ) => Effect.Effect<Duplex<Request, Response>, Status, Scope.Scope>
  /** Nobody answers. A connection that is still being made, to a peer that accepted it and then said nothing, is given up. */
  readonly suspect: Effect.Effect<void>
  readonly error: (operation: string, status: Status, leaseId?: bigint) => EtcdError
  /** Ends every call and stream; whatever fails from then on fails with `Closed`. Happens with the scope, at the latest. */
  readonly close: Effect.Effect<void>
}

/** Gives access to the stubs; its own methods are not used. */
class StubFactory extends Etcd3.Etcd3 {
  stub(service: keyof Stubs): Promise<unknown> {
    return this.pool.withConnection(service, ({ client }) => client)
  }
}

const makeStubs = (channel: Channel): Effect.Effect<Stubs> =>
  Effect.promise(async () => {
    const factory = new StubFactory({ hosts: "unused", grpcOptions: { channelOverride: channel } })
    const [KV, Lease, Watch, Auth] = await Promise.all([
      factory.stub("KV"),
      factory.stub("Lease"),
      factory.stub("Watch"),
      factory.stub("Auth")
    ])
    // Generated at run time from rpc.proto, so untyped there.
    return { KV, Lease, Watch, Auth } as Stubs
  })

const channelOptions: ChannelOptions = {
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  // A DNS record could otherwise switch on retries, and with them writes that are sent twice.
  "grpc.service_config_disable_resolution": 1,
  "grpc.use_local_subchannel_pool": 1,
  // A proxy of the environment could not tell the endpoints of this target apart.
  "grpc.enable_http_proxy": 0,
  // More often than every 5 s, or on a connection without calls (after the third), etcd closes it for "excess pings".
  "grpc.keepalive_time_ms": 5000,
  "grpc.keepalive_timeout_ms": 2000,
  "grpc.keepalive_permit_without_calls": 0,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2000,
  "grpc.max_receive_message_length": 64 * 1024 * 1024,
  // The server's limit decides, and says so in a way that can be told apart.
  "grpc.max_send_message_length": -1
}

export const formatEndpoint = ({ host, port }: { readonly host: string; readonly port: number }): string =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`

const makeChannel = (
  { endpoints, tls }: ConnectionSettings
): { readonly channel: Channel; readonly close: () => void } => {
  register()
  const sockets = new AbortController()
  const channel = new Channel(
    `${scheme}:${endpoints.map(formatEndpoint).join(",")}`,
    tls === undefined ? channelCredentials.createInsecure() : makeTls(tls, endpoints.map(({ host }) => host)),
    {
      ...channelOptions,
      [signalOption]: sockets.signal,
      ...(tls?.serverName === undefined ? {} : { "grpc.ssl_target_name_override": tls.serverName })
    }
  )
  return {
    channel,
    close: () => {
      channel.close()
      // grpc-js leaves a connection alone whose peer has not said a word yet: it would stay for ever.
      sockets.abort()
    }
  }
}

/** A channel knows one name only, but each member may have a certificate of its own: it must be that of one of the endpoints. */
const makeTls = ({ ca, cert, key, serverName }: TlsSettings, hosts: ReadonlyArray<string>) =>
  channelCredentials.createSsl(ca ?? null, key ?? null, cert ?? null, {
    checkServerIdentity: (_, certificate) => {
      const failures = (serverName === undefined ? hosts : [serverName]).map((host) =>
        checkServerIdentity(host, certificate)
      )
      return failures.includes(undefined) ? undefined : failures[0]
    }
  })

const makeMetadata = (token: Token): Metadata => {
  const metadata = new Metadata()
  // A member that is cut off from the majority fails instead of hanging.
  metadata.set("hasleader", "true")
  if (token !== undefined) metadata.set("token", token)
  return metadata
}

const statusOf = (error: ServiceError | null): Status =>
  error === null
    ? { code: Code.INTERNAL, details: "an answer without a message" }
    : { code: error.code, details: error.details }

export const makeConnection = Effect.fnUntraced(function*(
  settings: ConnectionSettings
): Effect.fn.Return<Connection, never, Scope.Scope> {
  const timeout = Duration.toMillis(settings.timeout)
  const inFlight = new Set<{ readonly cancel: () => void }>()
  let closed = false

  const dial = Effect.suspend(() => {
    const { channel, close } = makeChannel(settings)
    return Effect.map(makeStubs(channel), (stubs) => ({ channel, close, stubs }))
  })
  const close = Effect.sync(() => {
    closed = true
    for (const call of inFlight) call.cancel()
    current.close()
  })
  let current = yield* Effect.acquireRelease(dial, () => close)

  // grpc-js sets no limit to the time between TCP's accept and the peer's first word, and nothing else can be stuck for that long.
  const suspect = Effect.suspend(() => {
    const { channel, close } = current
    if (closed || channel.getConnectivityState(false) !== connectivityState.CONNECTING) return Effect.void
    return Effect.map(dial, (next) => {
      if (closed || current.channel !== channel) return next.close()
      current = next
      close()
    })
  }).pipe(Effect.uninterruptible)

  // Between two attempts of its own to connect, grpc-js no longer says why: the last cause that it gave counts.
  const where = settings.endpoints.map(formatEndpoint).join(", ")
  let cause = ""
  const located = (reason: EtcdErrorReason): EtcdErrorReason => {
    if (reason._tag !== "Unavailable" || !reason.detail.startsWith(noConnection)) return reason
    if (reason.detail !== noConnection) cause = reason.detail.slice(noConnection.length)
    return new Unavailable({ detail: `${noConnection} to ${where}${cause}`, sent: reason.sent })
  }

  const unary: Connection["unary"] = (token, send) =>
    Effect.callback((resume) => {
      if (closed) return resume(Effect.fail(shutDown))
      // gRPC's deadlines are wall time. @effect-diagnostics-next-line globalDateInEffect:off
      const deadline = Date.now() + timeout // oxlint-disable-line no-restricted-globals
      const call = send(current.stubs, makeMetadata(token), { deadline }, (error, response) => {
        inFlight.delete(call)
        resume(error === null && response !== undefined ? Effect.succeed(response) : Effect.fail(statusOf(error)))
      })
      inFlight.add(call)
      return Effect.sync(() => {
        inFlight.delete(call)
        call.cancel()
      })
    })

  return {
    unary: (token, send) => Effect.tapError(unary(token, send), (status) => neverLeft(status) ? suspect : Effect.void),
    open: (token, start) =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          if (closed) return Effect.fail(shutDown)
          const raw = start(current.stubs, makeMetadata(token))
          inFlight.add(raw)
          return Effect.succeed(makeDuplex(raw, () => inFlight.delete(raw)))
        }),
        (stream) => Effect.sync(stream.cancel)
      ),
    suspect,
    error: (operation, status, leaseId) =>
      new EtcdError({ operation, reason: closed ? new Closed({}) : located(reasonOf(status, leaseId)) }),
    close
  }
})
