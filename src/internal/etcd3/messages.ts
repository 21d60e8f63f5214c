/**
 * The port's requests and results as etcd's messages. int64 are strings there, keys and values are bytes. Enums are given as
 * numbers: a misspelt name would be sent as 0 without a word.
 */
import type * as Duration from "effect/Duration"
import {
  CompareResult,
  CompareTarget,
  type ICompare,
  type IDeleteRangeResponse,
  type IKeyValue,
  type IPutRequest,
  type IPutResponse,
  type IRangeRequest,
  type IRangeResponse,
  type IRequestOp,
  type IResponseOp,
  type IStatusResponse,
  type ITxnRequest,
  type ITxnResponse,
  SortOrder,
  SortTarget
} from "etcd3"
import type {
  Compare,
  KeyRange,
  KeyValue,
  MemberHealth,
  Operation,
  OperationResult,
  RangeRequest,
  RangeResult,
  TxnRequest,
  TxnResult
} from "../../Etcd.ts"
import { decodeKey, encodeKey, encodeRange } from "../keys.ts"

const buffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const valueBytes = (value: string | Uint8Array): Buffer =>
  typeof value === "string" ? Buffer.from(value) : buffer(value)

export const range = (range: KeyRange): { key: Buffer; range_end?: Buffer } => {
  const { key, rangeEnd } = encodeRange(range)
  return rangeEnd === undefined ? { key: buffer(key) } : { key: buffer(key), range_end: buffer(rangeEnd) }
}

const sortTargets = { key: SortTarget.Key, create: SortTarget.Create, mod: SortTarget.Mod }

export const rangeRequest = (request: RangeRequest): IRangeRequest => ({
  ...range(request),
  ...(request.limit === undefined ? {} : { limit: String(request.limit) }),
  ...(request.sort === undefined ? {} : {
    sort_target: sortTargets[request.sort.by],
    sort_order: request.sort.order === "ascend" ? SortOrder.Ascend : SortOrder.Descend
  }),
  ...(request.keysOnly === undefined ? {} : { keys_only: request.keysOnly }),
  ...(request.countOnly === undefined ? {} : { count_only: request.countOnly }),
  ...(request.atRevision === undefined ? {} : { revision: String(request.atRevision) }),
  ...(request.maxCreateRevision === undefined ? {} : { max_create_revision: String(request.maxCreateRevision) })
})

const compareResults = {
  "=": CompareResult.Equal,
  "!=": CompareResult.NotEqual,
  "<": CompareResult.Less,
  ">": CompareResult.Greater
}

const compare = (compare: Compare): ICompare => ({
  ...range(compare),
  result: compareResults[compare.op],
  ...target(compare)
})

/** The value is always there, zero too: without it etcd reads the compare as one of another kind. */
const target = (compare: Compare): ICompare => {
  switch (compare.target) {
    case "version":
      return { target: CompareTarget.Version, version: String(compare.value) }
    case "createRevision":
      return { target: CompareTarget.Create, create_revision: String(compare.value) }
    case "modRevision":
      return { target: CompareTarget.Mod, mod_revision: String(compare.value) }
    case "lease":
      return { target: CompareTarget.Lease, lease: String(compare.value) }
    case "value":
      return { target: CompareTarget.Value, value: valueBytes(compare.value) }
  }
}

const operation = (operation: Operation): IRequestOp => {
  switch (operation._tag) {
    case "Put":
      return {
        request_put: {
          key: buffer(encodeKey(operation.key)),
          value: valueBytes(operation.value),
          ...(operation.lease === undefined ? {} : { lease: String(operation.lease) }),
          ...(operation.previousKv === undefined ? {} : { prev_kv: operation.previousKv })
        }
      }
    case "Delete":
      return { request_delete_range: { ...range(operation), prev_kv: operation.previousKv ?? false } }
    case "Range":
      return { request_range: rangeRequest(operation) }
    case "Txn":
      return { request_txn: txnRequest(operation) }
  }
}

const txnRequest = (request: TxnRequest): ITxnRequest => ({
  compare: (request.compare ?? []).map(compare),
  success: (request.success ?? []).map(operation),
  failure: (request.failure ?? []).map(operation)
})

const isBare = ({ failure = [], success = [] }: TxnRequest): boolean => success.length + failure.length === 0

/**
 * A transaction as a call of its own. One that only compares, etcd answers from what the member happens to know; a range in it, of a key
 * that it compares and so may read, makes the member ask the others first.
 */
export const txnCall = (request: TxnRequest): ITxnRequest => {
  const [first] = request.compare ?? []
  const message = txnRequest(request)
  return first === undefined || !isBare(request)
    ? message
    : { ...message, failure: [{ request_range: { key: range(first).key, count_only: true } }] }
}

/**
 * A transaction that does nothing but put a key is a call of etcd's own, which takes it less time. With a lease, or the previous value,
 * etcd asks a user for other rights there.
 */
export const putCall = ({ compare, failure, success }: TxnRequest): IPutRequest | undefined => {
  if (success?.length !== 1 || compare?.length || failure?.length) return undefined
  const [put] = success
  return put?._tag === "Put" && put.lease === undefined && put.previousKv !== true
    ? { key: buffer(encodeKey(put.key)), value: valueBytes(put.value) }
    : undefined
}

/** Of a `putCall`, as its transaction would have had it. */
export const putAnswer = (response: IPutResponse): TxnResult => ({
  revision: headerRevision(response),
  succeeded: true,
  responses: [{ _tag: "Put", previous: undefined }]
})

/** The first lease that a transaction puts a key on: the one that `lease not found` is about. */
export const txnLease = (request: TxnRequest): bigint => {
  for (const operation of [...(request.success ?? []), ...(request.failure ?? [])]) {
    const lease = operation._tag === "Put" ? operation.lease ?? 0n : operation._tag === "Txn" ? txnLease(operation) : 0n
    if (lease !== 0n) return lease
  }
  return 0n
}

/** Values are copied: what was decoded is a view that would keep the whole answer in memory. */
export const keyValue = (kv: IKeyValue): KeyValue => ({
  key: decodeKey(kv.key),
  value: new Uint8Array(kv.value),
  createRevision: BigInt(kv.create_revision),
  modRevision: BigInt(kv.mod_revision),
  version: BigInt(kv.version),
  lease: BigInt(kv.lease)
})

/** An absent message is `null`. */
export const optionalKeyValue = (kv: IKeyValue | null | undefined): KeyValue | undefined =>
  kv === null || kv === undefined ? undefined : keyValue(kv)

export const rangeResult = (response: IRangeResponse): RangeResult => ({
  revision: headerRevision(response),
  kvs: response.kvs.map(keyValue),
  count: Number(response.count),
  more: response.more
})

/** Answers inside of nested transactions come without a header. */
export const headerRevision = (response: { readonly header: { readonly revision: string } | null }): bigint =>
  BigInt(response.header?.revision ?? 0)

/** Of a `txnCall`: what its caller did not ask for is not in it. */
export const txnResult = (request: TxnRequest, response: ITxnResponse): TxnResult => ({
  revision: headerRevision(response),
  succeeded: response.succeeded,
  responses: isBare(request) ? [] : response.responses.map(operationResult)
})

/** Exactly one of them is there; the typings of etcd3 claim that all are. */
const operationResult = (response: Partial<IResponseOp>): OperationResult => {
  if (response.response_put) return putResult(response.response_put)
  if (response.response_delete_range) return deleteResult(response.response_delete_range)
  if (response.response_range) return { _tag: "Range", ...rangeResult(response.response_range) }
  const { succeeded = false, responses = [] } = response.response_txn ?? {}
  return { _tag: "Txn", succeeded, responses: responses.map(operationResult) }
}

const putResult = (response: IPutResponse): OperationResult => ({
  _tag: "Put",
  previous: optionalKeyValue(response.prev_kv)
})

const deleteResult = (response: IDeleteRangeResponse): OperationResult => ({
  _tag: "Delete",
  deleted: Number(response.deleted),
  previous: response.prev_kvs.map(keyValue)
})

export const memberHealth = (endpoint: string, latency: Duration.Duration, status: IStatusResponse): MemberHealth => ({
  _tag: "Known",
  endpoint,
  id: BigInt(status.header.member_id),
  version: status.version,
  leader: BigInt(status.leader),
  isLearner: status.isLearner,
  raftTerm: BigInt(status.raftTerm),
  raftIndex: BigInt(status.raftIndex),
  dbSize: Number(status.dbSize),
  dbSizeInUse: Number(status.dbSizeInUse),
  errors: status.errors,
  latency
})
