/**
 * What etcd refuses before it looks at its state. Sources: `checkTxnRequest` and `checkIntervals` of etcd's `v3rpc/key.go`,
 * and the limit on a proposal in `v3_server.go`.
 */
import type { KeyRange, Operation, TxnRequest } from "../../Etcd.ts"
import { type EtcdErrorReason, InvalidArgument, TooLarge } from "../../EtcdError.ts"
import { contains, type RawKey, type RawRange, toRaw, toRawRange } from "./Keyspace.ts"

/** etcd's `--max-txn-ops`: for each level the greatest of its three lists, and the levels together. */
const maxOperations = 128

/** etcd's `--max-request-bytes`. */
const maxRequestBytes = 1.5 * 1024 * 1024

/** About what the encoding of an operation costs besides its keys and its value. */
const operationBytes = 16

const emptyKey = new InvalidArgument({ detail: "key is not provided" })
const tooManyOperations = new InvalidArgument({ detail: "too many operations in txn request" })
const duplicateKey = new InvalidArgument({ detail: "duplicate key given in txn request" })

export const checkRange = (range: KeyRange): EtcdErrorReason | undefined =>
  "key" in range && range.key === "" ? emptyKey : undefined

export const checkTxn = (request: TxnRequest): EtcdErrorReason | undefined =>
  checkOperations(request, maxOperations) ??
    (writes(request.success) === undefined || writes(request.failure) === undefined ? duplicateKey : undefined) ??
    (isFlatRead(request) || txnBytes(request) <= maxRequestBytes
      ? undefined
      : new TooLarge({ detail: "request is too large" }))

const checkOperations = (request: TxnRequest, allowed: number): EtcdErrorReason | undefined => {
  const { compare = [], success = [], failure = [] } = request
  const left = allowed - Math.max(compare.length, success.length, failure.length)
  if (left < 0) return tooManyOperations
  for (const condition of compare) {
    const wrong = checkRange(condition)
    if (wrong !== undefined) return wrong
  }
  for (const operation of [...success, ...failure]) {
    const wrong = operation._tag === "Txn" ? checkOperations(operation, left) : checkRange(operation)
    if (wrong !== undefined) return wrong
  }
  return undefined
}

interface Writes {
  readonly puts: Set<RawKey>
  readonly deletes: Array<RawRange>
}

/**
 * What a list of operations writes, or `undefined` when it puts a key twice or deletes one that it puts. As in etcd, a nested
 * transaction may delete what one before it has put.
 */
const writes = (operations: ReadonlyArray<Operation> = []): Writes | undefined => {
  const puts = new Set<RawKey>()
  const deletes = operations.flatMap((operation) => operation._tag === "Delete" ? [toRawRange(operation)] : [])
  const isDeleted = (key: RawKey) => deletes.some((range) => contains(range, key))

  for (const operation of operations) {
    if (operation._tag !== "Txn") continue
    const success = writes(operation.success)
    const failure = writes(operation.failure)
    if (success === undefined || failure === undefined) return undefined
    // Only one of the two branches runs, so they may put the same key.
    const both = success.puts.union(failure.puts)
    for (const key of both) {
      if (puts.has(key) || isDeleted(key)) return undefined
    }
    for (const key of both) puts.add(key)
    deletes.push(...success.deletes, ...failure.deletes)
  }
  for (const operation of operations) {
    if (operation._tag !== "Put") continue
    const key = toRaw(operation.key)
    if (puts.has(key) || isDeleted(key)) return undefined
    puts.add(key)
  }
  return { puts, deletes }
}

/** Such a transaction is answered by the member that is asked, and is no proposal. */
const isFlatRead = (request: TxnRequest): boolean =>
  [...request.success ?? [], ...request.failure ?? []].every((operation) => operation._tag === "Range")

const txnBytes = (request: TxnRequest): number =>
  (request.compare ?? []).reduce(
    (sum, compare) => sum + rangeBytes(compare) + (compare.target === "value" ? size(compare.value) : 8),
    [...request.success ?? [], ...request.failure ?? []].reduce((sum, operation) => sum + bytes(operation), 0)
  )

const bytes = (operation: Operation): number => {
  switch (operation._tag) {
    case "Put":
      return operationBytes + size(operation.key) + size(operation.value)
    case "Txn":
      return operationBytes + txnBytes(operation)
    default:
      return rangeBytes(operation)
  }
}

const rangeBytes = (range: KeyRange): number =>
  operationBytes +
  ("key" in range ? size(range.key) : "prefix" in range ? 2 * size(range.prefix) : size(range.from) + size(range.to))

const size = (content: string | Uint8Array): number =>
  typeof content === "string" ? Buffer.byteLength(content) : content.length
