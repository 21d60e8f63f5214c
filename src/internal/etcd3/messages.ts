/**
 * What goes between the port and etcd's messages, where calls on keys need more than `kv.ts`, and of the state of a member, in which
 * int64 are strings.
 */
import type * as Duration from "effect/Duration"
import type { IStatusResponse } from "etcd3"
import { type MemberHealth, Operation, type PutOperation, type TxnRequest, type TxnResult } from "../../Etcd.ts"
import { decodeKey, encodeRange } from "../keys.ts"

const isBare = ({ failure = [], success = [] }: TxnRequest): boolean => success.length + failure.length === 0

/**
 * A transaction as a call of its own. One that only compares, etcd answers from what the member happens to know; a range in it, of a key
 * that it compares and so may read, makes the member ask the others first.
 */
export const txnCall = (request: TxnRequest): TxnRequest => {
  const [first] = request.compare ?? []
  return first === undefined || !isBare(request)
    ? request
    : { ...request, failure: [Operation.range({ key: decodeKey(encodeRange(first).key), countOnly: true })] }
}

/** Of a `txnCall`: what its caller did not ask for is not in it. */
export const txnAnswer = (request: TxnRequest, result: TxnResult): TxnResult =>
  isBare(request) ? { ...result, responses: [] } : result

/**
 * A transaction that does nothing but put a key is a call of etcd's own, which takes it less time. With a lease, or the previous value,
 * etcd asks a user for other rights there.
 */
export const putCall = ({ compare, failure, success }: TxnRequest): PutOperation | undefined => {
  if (success?.length !== 1 || compare?.length || failure?.length) return undefined
  const [put] = success
  return put?._tag === "Put" && put.lease === undefined && put.previousKv !== true ? put : undefined
}

/** The first lease that a transaction puts a key on: the one that `lease not found` is about. */
export const txnLease = (request: TxnRequest): bigint => {
  for (const operation of [...(request.success ?? []), ...(request.failure ?? [])]) {
    const lease = operation._tag === "Put" ? operation.lease ?? 0n : operation._tag === "Txn" ? txnLease(operation) : 0n
    if (lease !== 0n) return lease
  }
  return 0n
}

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
