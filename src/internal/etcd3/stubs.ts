/**
 * The stubs of npm etcd3, which is all that is used of it; calls on keys, which are most of them, have their own (see `kv.ts`). Its pool
 * would send writes again, stop all calls for seconds after a deadline of one, and hide the status; so calls are made on the stubs
 * themselves, each with its deadline, token and way to be cancelled.
 */
import { type Channel, type ChannelInterface, type Metadata } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import * as Etcd3 from "etcd3"
import type { PutOperation, RangeResult, TxnRequest, TxnResult } from "../../Etcd.ts"
import * as Kv from "./kv.ts"
import { type Duplex, type Listener, makeDuplex } from "./stream.ts"
import { type Callback, type Method, UnaryCall } from "./unary.ts"

/** A call on its way. */
export type Call = Pick<UnaryCall<never, never>, "end">

type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  deadline: number,
  done: Callback<Response>
) => Call

type Streaming<Request, Response> = (metadata: Metadata, listener: Listener) => Duplex<Request, Response>

/** What all answers of etcd have. */
export interface Answer {
  readonly header?: { readonly raft_term: string } | undefined
}

export interface Stubs {
  readonly KV: {
    readonly range: Unary<Kv.ReadRequest, Kv.KvAnswer<RangeResult>>
    readonly put: Unary<PutOperation, Kv.KvAnswer<TxnResult>>
    readonly txn: Unary<TxnRequest, Kv.KvAnswer<TxnResult>>
  }
  readonly Lease: {
    readonly leaseGrant: Unary<Etcd3.ILeaseGrantRequest, Etcd3.ILeaseGrantResponse>
    readonly leaseRevoke: Unary<Etcd3.ILeaseRevokeRequest, Etcd3.ILeaseRevokeResponse>
    readonly leaseTimeToLive: Unary<Etcd3.ILeaseTimeToLiveRequest, Etcd3.ILeaseTimeToLiveResponse>
    readonly leaseKeepAlive: Streaming<Etcd3.ILeaseKeepAliveRequest, Etcd3.ILeaseKeepAliveResponse>
  }
  readonly Watch: {
    readonly watch: Streaming<Etcd3.IWatchRequest, Etcd3.IWatchResponse>
  }
  readonly Maintenance: {
    readonly status: Unary<Record<string, never>, Etcd3.IStatusResponse>
  }
  readonly Auth: {
    readonly authenticate: Unary<Etcd3.IAuthenticateRequest, Etcd3.IAuthenticateResponse>
  }
}

/** How one unary call is made. */
export type Send<Response> = (
  stubs: Stubs,
  metadata: Metadata,
  deadline: number,
  done: Callback<Response>
) => Call

/** How a stream is started. */
export type Start<Request, Response> = (
  stubs: Stubs,
  metadata: Metadata,
  listener: Listener
) => Duplex<Request, Response>

type StubName = Exclude<keyof Stubs, "KV">

/** Gives access to the stubs; its own methods are not used. */
class StubFactory extends Etcd3.Etcd3 {
  stub(service: StubName): Promise<unknown> {
    return this.pool.withConnection(service, ({ client }) => client)
  }
}

/** Each call is made on the channel that is the current one then: that is all that stubs do with a channel. */
export const makeStubs = (current: () => ChannelInterface): Effect.Effect<Stubs> =>
  Effect.promise(async () => {
    const channel: Pick<ChannelInterface, "createCall"> = { createCall: (...args) => current().createCall(...args) }
    const factory = new StubFactory({ hosts: "unused", grpcOptions: { channelOverride: channel as Channel } })
    // Generated at run time from rpc.proto, so untyped there.
    const stub = async (name: StubName) => await factory.stub(name) as Generated
    const [Lease, Watch, Maintenance, Auth] = await Promise.all([
      stub("Lease"),
      stub("Watch"),
      stub("Maintenance"),
      stub("Auth")
    ])
    const call = <Request, Response>(method: Method<Request, Response>): Unary<Request, Response> => (...rest) =>
      new UnaryCall(channel, method, ...rest)
    const unary = <Request, Response>(generated: Generated, name: string): Unary<Request, Response> =>
      call(generated[name] as Method<Request, Response>)
    const streaming = <Request, Response>(generated: Generated, name: string): Streaming<Request, Response> => {
      const method = generated[name] as Method<Request, Response>
      return (...rest) => makeDuplex(channel, method, ...rest)
    }
    return {
      KV: { range: call(Kv.range), put: call(Kv.put), txn: call(Kv.txn) },
      Lease: {
        leaseGrant: unary(Lease, "leaseGrant"),
        leaseRevoke: unary(Lease, "leaseRevoke"),
        leaseTimeToLive: unary(Lease, "leaseTimeToLive"),
        leaseKeepAlive: streaming(Lease, "leaseKeepAlive")
      },
      Watch: { watch: streaming(Watch, "watch") },
      Maintenance: { status: unary(Maintenance, "status") },
      Auth: { authenticate: unary(Auth, "authenticate") }
    }
  })

/** Each function of a stub has the description of its method. */
type Generated = Readonly<Record<string, unknown>>
