/** The port's requests and results as the messages of etcd3's own generated code, which is what bytes are compared with. */
import * as ProtoLoader from "@grpc/proto-loader"
import { createRequire } from "node:module"
import * as Path from "node:path"
import type {
  Compare,
  KeyRange,
  KeyValue,
  Operation,
  OperationResult,
  RangeRequest,
  TxnRequest,
  WatchEvent,
  WatchRequest
} from "../../src/Etcd.ts"
import { encodeKey, encodeRange } from "../../src/internal/keys.ts"

type Message = Readonly<Record<string, unknown>>

const proto = Path.join(Path.dirname(createRequire(import.meta.url).resolve("etcd3/package.json")), "proto")

/** As etcd3 loads it. */
const services = ProtoLoader.loadSync(Path.join(proto, "rpc.proto"), {
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true
})

type Methods<Name extends string> = Record<Name, ProtoLoader.MethodDefinition<object, object>>

export const generated = {
  ...services["etcdserverpb.KV"] as Methods<"Range" | "Put" | "Txn">,
  ...services["etcdserverpb.Watch"] as Methods<"Watch">,
  ...services["etcdserverpb.Lease"] as Methods<"LeaseGrant" | "LeaseRevoke" | "LeaseTimeToLive" | "LeaseKeepAlive">
}

const definedOf = (fields: Message): Message =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))

const int64 = (value: bigint | number | undefined) => value === undefined ? undefined : String(value)

const valueOf = (value: string | Uint8Array) => typeof value === "string" ? Buffer.from(value) : value

const rangeMessage = (range: KeyRange): Message => {
  const { key, rangeEnd } = encodeRange(range)
  return definedOf({ key, range_end: rangeEnd })
}

export const readMessage = (request: RangeRequest & { readonly serializable?: boolean | undefined }): Message =>
  definedOf({
    ...rangeMessage(request),
    limit: int64(request.limit),
    sort_order: request.sort && { ascend: "Ascend", descend: "Descend" }[request.sort.order],
    sort_target: request.sort && { key: "Key", create: "Create", mod: "Mod" }[request.sort.by],
    keys_only: request.keysOnly,
    count_only: request.countOnly,
    serializable: request.serializable,
    revision: int64(request.atRevision),
    max_create_revision: int64(request.maxCreateRevision)
  })

/** As this library watches: with progress, and in fragments. */
export const createMessage = (
  { previousKv = false, startRevision = 0n, without, ...range }: WatchRequest
): Message => ({
  create_request: {
    ...rangeMessage(range),
    start_revision: int64(startRevision),
    progress_notify: true,
    filters: without === undefined ? [] : [{ Put: "Noput", Delete: "Nodelete" }[without]],
    prev_kv: previousKv,
    fragment: true
  }
})

const compareMessage = (compare: Compare): Message => ({
  ...rangeMessage(compare),
  result: { "=": "Equal", "!=": "NotEqual", "<": "Less", ">": "Greater" }[compare.op],
  ...targetMessage(compare)
})

const targetMessage = (compare: Compare): Message => {
  switch (compare.target) {
    case "version":
      return { target: "Version", version: int64(compare.value) }
    case "createRevision":
      return { target: "Create", create_revision: int64(compare.value) }
    case "modRevision":
      return { target: "Mod", mod_revision: int64(compare.value) }
    case "lease":
      return { target: "Lease", lease: int64(compare.value) }
    case "value":
      return { target: "Value", value: valueOf(compare.value) }
  }
}

const operationMessage = (operation: Operation): Message => {
  switch (operation._tag) {
    case "Put":
      return {
        request_put: definedOf({
          key: encodeKey(operation.key),
          value: valueOf(operation.value),
          lease: int64(operation.lease),
          prev_kv: operation.previousKv
        })
      }
    case "Delete":
      return { request_delete_range: definedOf({ ...rangeMessage(operation), prev_kv: operation.previousKv }) }
    case "Range":
      return { request_range: readMessage(operation) }
    case "Txn":
      return { request_txn: txnMessage(operation) }
  }
}

export const txnMessage = ({ compare = [], failure = [], success = [] }: TxnRequest): Message => ({
  compare: compare.map(compareMessage),
  success: success.map(operationMessage),
  failure: failure.map(operationMessage)
})

const keyValueMessage = (kv: KeyValue): Message => ({
  key: encodeKey(kv.key),
  value: kv.value,
  create_revision: int64(kv.createRevision),
  mod_revision: int64(kv.modRevision),
  version: int64(kv.version),
  lease: int64(kv.lease)
})

const optionalMessage = (kv: KeyValue | undefined): Message | undefined => kv && keyValueMessage(kv)

export const eventMessage = (event: WatchEvent): Message =>
  definedOf({
    // As etcd does: the default is not written.
    type: event._tag === "Delete" ? "Delete" : undefined,
    kv: event._tag === "Delete"
      ? { key: encodeKey(event.key), mod_revision: int64(event.modRevision) }
      : keyValueMessage(event.kv),
    prev_kv: optionalMessage(event.previous)
  })

export const headerMessage = (revision: bigint): Message => ({
  cluster_id: "14841639068965178418",
  member_id: "10276657743932975437",
  revision: int64(revision),
  raft_term: "7"
})

export const resultMessage = (result: OperationResult): Message => {
  switch (result._tag) {
    case "Put":
      return { response_put: definedOf({ prev_kv: optionalMessage(result.previous) }) }
    case "Delete":
      return {
        response_delete_range: { deleted: int64(result.deleted), prev_kvs: result.previous.map(keyValueMessage) }
      }
    case "Range":
      return {
        response_range: {
          // As etcd does: none where there is nothing to say.
          ...result.revision !== 0n && { header: { revision: int64(result.revision) } },
          kvs: result.kvs.map(keyValueMessage),
          more: result.more,
          count: int64(result.count)
        }
      }
    case "Txn":
      return { response_txn: { succeeded: result.succeeded, responses: result.responses.map(resultMessage) } }
  }
}
