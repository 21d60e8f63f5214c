/**
 * etcd's calls. Those that are made often have their own description (see `kv.ts`, `watchMessages.ts` and `leaseMessages.ts`), the others
 * that of npm etcd3, which is all that is used of it. Its client would send writes again, stop all calls for seconds after a deadline of
 * one, and hide the status; so calls are made here, each with its deadline, token and way to be cancelled.
 */
import type { ChannelInterface, Metadata } from "@grpc/grpc-js"
import type * as Etcd3 from "etcd3"
import type { PutOperation, RangeResult, TxnRequest, TxnResult } from "../../Etcd.ts"
import type { Answered } from "./fields.ts"
import * as Kv from "./kv.ts"
import * as Leases from "./leaseMessages.ts"
import { methodOf } from "./protocol.ts"
import { type Duplex, type Listener, makeDuplex } from "./stream.ts"
import { type Call, type Callback, type Method, UnaryCall } from "./unary.ts"
import { watch, type WatchQuestion, type WatchResponse } from "./watchMessages.ts"

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
    readonly range: Unary<Kv.ReadRequest, Answered<RangeResult>>
    readonly put: Unary<PutOperation, Answered<TxnResult>>
    readonly txn: Unary<TxnRequest, Answered<TxnResult>>
  }
  readonly Lease: {
    readonly leaseGrant: Unary<Leases.GrantRequest, Answered<number>>
    readonly leaseRevoke: Unary<bigint, Answered<void>>
    readonly leaseTimeToLive: Unary<bigint, Answered<Leases.LeaseState>>
    readonly leaseKeepAlive: Streaming<bigint, Leases.Beat>
  }
  readonly Watch: {
    readonly watch: Streaming<WatchQuestion, WatchResponse>
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

/** Each call is made on the channel that is the current one then. */
export const makeStubs = (current: () => ChannelInterface): Stubs => {
  const channel: Pick<ChannelInterface, "createCall"> = { createCall: (...args) => current().createCall(...args) }
  const unary = <Request, Response>(method: Method<Request, Response>): Unary<Request, Response> => (...rest) =>
    new UnaryCall(channel, method, ...rest)
  const described = <Request, Response>(service: string, name: string): Unary<Request, Response> => (...rest) =>
    new UnaryCall(channel, methodOf<Request, Response>(service, name), ...rest)
  const streaming = <Request, Response>(method: Method<Request, Response>): Streaming<Request, Response> => (...rest) =>
    makeDuplex(channel, method, ...rest)
  return {
    KV: { range: unary(Kv.range), put: unary(Kv.put), txn: unary(Kv.txn) },
    Lease: {
      leaseGrant: unary(Leases.leaseGrant),
      leaseRevoke: unary(Leases.leaseRevoke),
      leaseTimeToLive: unary(Leases.leaseTimeToLive),
      leaseKeepAlive: streaming(Leases.leaseKeepAlive)
    },
    Watch: { watch: streaming(watch) },
    Maintenance: { status: described("Maintenance", "Status") },
    Auth: { authenticate: described("Auth", "Authenticate") }
  }
}
