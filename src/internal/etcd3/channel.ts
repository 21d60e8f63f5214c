/**
 * grpc-js's channel to one endpoint.
 */
import { Channel, type ChannelOptions, credentials } from "@grpc/grpc-js"
import { type Dialling, diallingOption, register, scheme } from "./resolver.ts"

export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** PEM. Without `ca` the machine's certificate authorities are trusted. */
export interface TlsSettings {
  readonly ca?: Buffer | undefined
  readonly cert?: Buffer | undefined
  readonly key?: Buffer | undefined
  readonly serverName?: string | undefined
}

export interface Dialled {
  readonly channel: Channel
  readonly close: () => void
}

const channelOptions: ChannelOptions = {
  // Of one endpoint. Other than `pick_first` it connects again by itself when a connection drops.
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  // A DNS record could otherwise switch on retries, and with them writes that are sent twice.
  "grpc.service_config_disable_resolution": 1,
  "grpc.use_local_subchannel_pool": 1,
  // Nobody asks for its counts here.
  "grpc.enable_channelz": 0,
  // A proxy of the environment would not know this scheme.
  "grpc.enable_http_proxy": 0,
  // Members that calls do not go to are there for the time when they have to: 24 days, the most that a timer can count.
  "grpc.client_idle_timeout_ms": 2 ** 31 - 1,
  // Etcd closes a connection for "excess pings" at the third that comes within 5 s of the one before, or without calls; it forgets none
  // while it has nothing to say. At 5 s, timers that fire a little early and pings that are held up on their way are enough.
  "grpc.keepalive_time_ms": 6000,
  "grpc.keepalive_timeout_ms": 2000,
  "grpc.keepalive_permit_without_calls": 0,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2000,
  "grpc.max_receive_message_length": 64 * 1024 * 1024,
  // The server's limit decides, and says so in a way that can be told apart.
  "grpc.max_send_message_length": -1
}

export const formatEndpoint = ({ host, port }: Endpoint): string =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`

/** Makes channels to an endpoint, one after the other. */
export const makeDialer = (endpoint: Endpoint, tls: TlsSettings | undefined): () => Dialled => {
  register()
  const known: Dialling["known"] = { addresses: [] }
  const security = tls === undefined
    ? credentials.createInsecure()
    : credentials.createSsl(tls.ca ?? null, tls.key ?? null, tls.cert ?? null)
  return () => {
    const sockets = new AbortController()
    const channel = new Channel(`${scheme}:${formatEndpoint(endpoint)}`, security, {
      ...channelOptions,
      [diallingOption]: { signal: sockets.signal, known } satisfies Dialling,
      ...(tls?.serverName === undefined ? {} : { "grpc.ssl_target_name_override": tls.serverName })
    })
    return {
      channel,
      close: () => {
        channel.close()
        // grpc-js leaves a connection alone whose peer has not said a word yet: it would stay for ever.
        sockets.abort()
      }
    }
  }
}
