/**
 * A transport whose keys all live below a prefix: put before every key that goes out, cut off every key that comes back. It
 * joins strings in front, so no key, prefix or range of a user can mean one outside.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { identity } from "effect/Function"
import * as Stream from "effect/Stream"
import type {
  Compare,
  KeyRange,
  KeyValue,
  Operation,
  OperationResult,
  TxnRequest,
  TxnResult,
  WatchEvent,
  WatchItem
} from "../../Etcd.ts"
import type { Transport } from "../Transport.ts"

export interface Namespaced {
  readonly request: (request: TxnRequest) => TxnRequest
  readonly exit: <E>(exit: Exit.Exit<TxnResult, E>) => Exit.Exit<TxnResult, E>
  readonly transport: (transport: Transport) => Transport
}

const everything: Namespaced = { request: identity, exit: identity, transport: identity }

export const makeNamespaced = (namespace: string): Namespaced => {
  if (namespace === "") return everything

  const within = <A extends KeyRange>(range: A): A => {
    if ("key" in range) return { ...range, key: namespace + range.key }
    if ("prefix" in range) return { ...range, prefix: namespace + range.prefix }
    return { ...range, from: namespace + range.from, to: namespace + range.to }
  }
  const operation = (op: Operation): Operation => {
    switch (op._tag) {
      case "Put":
        return { ...op, key: namespace + op.key }
      case "Txn":
        return { _tag: "Txn", ...txn(op) }
      default:
        return within(op)
    }
  }
  const txn = (request: TxnRequest): TxnRequest => ({
    compare: request.compare?.map((compare): Compare => within(compare)),
    success: request.success?.map(operation),
    failure: request.failure?.map(operation)
  })

  const strip = (key: string): string => key.slice(namespace.length)
  const kv = (kv: KeyValue): KeyValue => ({ ...kv, key: strip(kv.key) })
  const optional = (previous: KeyValue | undefined) => previous === undefined ? undefined : kv(previous)
  const result = (answer: OperationResult): OperationResult => {
    switch (answer._tag) {
      case "Put":
        return { ...answer, previous: optional(answer.previous) }
      case "Delete":
        return { ...answer, previous: answer.previous.map(kv) }
      case "Range":
        return { ...answer, kvs: answer.kvs.map(kv) }
      case "Txn":
        return { ...answer, responses: answer.responses.map(result) }
    }
  }
  const event = (event: WatchEvent): WatchEvent =>
    event._tag === "Put"
      ? { ...event, kv: kv(event.kv), previous: optional(event.previous) }
      : { ...event, key: strip(event.key), previous: optional(event.previous) }
  const item = (item: WatchItem): WatchItem =>
    item._tag === "Opened" ? item : { ...item, events: item.events.map(event) }

  const txnResult = (answer: TxnResult): TxnResult => ({ ...answer, responses: answer.responses.map(result) })

  const below = (transport: Transport): Transport => ({
    range: (request) =>
      Effect.map(transport.range(within(request)), (answer) => ({ ...answer, kvs: answer.kvs.map(kv) })),
    txn: (request) => Effect.map(transport.txn(txn(request)), txnResult),
    leaseGrant: transport.leaseGrant,
    leaseKeepAlive: transport.leaseKeepAlive,
    leaseRevoke: transport.leaseRevoke,
    // A lease can hold keys that others put outside.
    leaseTimeToLive: (id) =>
      Effect.map(transport.leaseTimeToLive(id), (status) => ({
        ...status,
        keys: status.keys.filter((key) => key.startsWith(namespace)).map(strip)
      })),
    members: transport.members,
    watch: (request) => Stream.map(transport.watch(within(request)), item)
  })
  return { request: txn, exit: (exit) => Exit.map(exit, txnResult), transport: below }
}
