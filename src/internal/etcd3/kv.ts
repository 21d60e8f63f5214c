/**
 * etcd's calls on keys: the port's requests as the bytes of its messages, and the bytes of its answers as the port's results, without
 * messages in between. The numbers are those of the fields in etcd's `rpc.proto` and `kv.proto`.
 */
import type {
  Compare,
  KeyRange,
  KeyValue,
  Operation,
  OperationResult,
  PutOperation,
  RangeRequest,
  RangeResult,
  TxnRequest,
  TxnResult
} from "../../Etcd.ts"
import { decodeKey, encodeKey, encodeRange } from "../keys.ts"
import type { Answer } from "./stubs.ts"
import type { Method } from "./unary.ts"
import { Reader, Writer } from "./wire.ts"

export type ReadRequest = RangeRequest & {
  /** Answered by the member from what it knows, without asking the others. */
  readonly serializable?: boolean
}

export interface KvAnswer<Result> extends Answer {
  readonly result: Result
}

const writer = new Writer()

const method = <Request, Result>(
  name: string,
  write: (request: Request) => void,
  read: (reader: Reader) => KvAnswer<Result>
): Method<Request, KvAnswer<Result>> => ({
  path: `/etcdserverpb.KV/${name}`,
  requestSerialize: (request) => {
    writer.start()
    write(request)
    return writer.finish()
  },
  responseDeserialize: (bytes) => read(new Reader(bytes))
})

// -----------------------------------------------------------------------------
// Requests
// -----------------------------------------------------------------------------

const writeKey = (field: number, key: string): void =>
  key.isWellFormed() ? writer.text(field, key) : writer.bytes(field, encodeKey(key))

const isPlainPrefix = (range: KeyRange): range is { readonly prefix: string } =>
  "prefix" in range && range.prefix !== "" && range.prefix.isWellFormed()

const writeStart = (field: number, range: KeyRange): void => {
  if ("key" in range) writeKey(field, range.key)
  else if (isPlainPrefix(range)) writer.text(field, range.prefix)
  else writer.bytes(field, encodeRange(range).key)
}

const writeEnd = (field: number, range: KeyRange): void => {
  if ("key" in range) return
  if (isPlainPrefix(range)) return writer.textEnd(field, range.prefix)
  const { rangeEnd } = encodeRange(range)
  if (rangeEnd !== undefined) writer.bytes(field, rangeEnd)
}

const writeValue = (field: number, value: string | Uint8Array): void =>
  typeof value === "string" ? writer.text(field, value) : writer.bytes(field, value)

const sortTargets = { key: 0, create: 2, mod: 3 }

const writeRange = (request: ReadRequest): void => {
  if (request.maxCreateRevision !== undefined) writer.int64(13, request.maxCreateRevision)
  if (request.countOnly !== undefined) writer.bool(9, request.countOnly)
  if (request.keysOnly !== undefined) writer.bool(8, request.keysOnly)
  if (request.serializable !== undefined) writer.bool(7, request.serializable)
  if (request.sort !== undefined) {
    writer.int(6, sortTargets[request.sort.by])
    writer.int(5, request.sort.order === "ascend" ? 1 : 2)
  }
  if (request.atRevision !== undefined) writer.int64(4, request.atRevision)
  if (request.limit !== undefined) writer.int(3, request.limit)
  writeEnd(2, request)
  writeStart(1, request)
}

const writePut = ({ key, lease, previousKv, value }: PutOperation): void => {
  if (previousKv !== undefined) writer.bool(4, previousKv)
  if (lease !== undefined) writer.int64(3, lease)
  writeValue(2, value)
  writeKey(1, key)
}

const compareResults = { "=": 0, ">": 1, "<": 2, "!=": 3 }
const compareTargets = { version: 0, createRevision: 1, modRevision: 2, value: 3, lease: 4 }
const targetFields = { version: 4, createRevision: 5, modRevision: 6, value: 7, lease: 8 }

/** The value is always there, zero too: without it etcd reads the compare as one of another kind. */
const writeCompare = (compare: Compare): void => {
  writeEnd(64, compare)
  const field = targetFields[compare.target]
  if (compare.target === "value") writeValue(field, compare.value)
  else writer.int64(field, compare.value)
  writeStart(3, compare)
  writer.int(2, compareTargets[compare.target])
  writer.int(1, compareResults[compare.op])
}

const writeOperation = (operation: Operation): void => {
  const end = writer.length
  switch (operation._tag) {
    case "Range":
      writeRange(operation)
      return writer.close(1, end)
    case "Put":
      writePut(operation)
      return writer.close(2, end)
    case "Delete":
      if (operation.previousKv !== undefined) writer.bool(3, operation.previousKv)
      writeEnd(2, operation)
      writeStart(1, operation)
      return writer.close(3, end)
    case "Txn":
      writeTxn(operation)
      return writer.close(4, end)
  }
}

const writeTxn = ({ compare, failure, success }: TxnRequest): void => {
  writeAll(3, failure, writeOperation)
  writeAll(2, success, writeOperation)
  writeAll(1, compare, writeCompare)
}

const writeAll = <A>(field: number, all: ReadonlyArray<A> | undefined, write: (one: A) => void): void => {
  if (all === undefined) return
  for (let i = all.length - 1; i >= 0; i--) {
    const end = writer.length
    write(all[i] as A)
    writer.close(field, end)
  }
}

// -----------------------------------------------------------------------------
// Answers
// -----------------------------------------------------------------------------

interface Header {
  readonly revision: bigint
  readonly term: bigint
}

const readHeader = (reader: Reader): Header => {
  let revision = 0n
  let term = 0n
  while (reader.next()) {
    if (reader.field === 3) revision = reader.int64()
    else if (reader.field === 4) term = reader.int64()
    else reader.skip()
  }
  return { revision, term }
}

/** Answers inside of nested transactions come without a header. */
const revisionOf = (header: Header | undefined): bigint => header?.revision ?? 0n

const answer = <Result>(header: Header | undefined, result: Result): KvAnswer<Result> => ({
  header: header && { raft_term: String(header.term) },
  result
})

const nothing = new Uint8Array()

/** A view would keep the whole answer in memory. */
const copied = (bytes: Buffer): Uint8Array => bytes.length === 0 ? nothing : new Uint8Array(bytes)

const readKeyValue = (reader: Reader): KeyValue => {
  let key = ""
  let value: Uint8Array = nothing
  let createRevision = 0n
  let modRevision = 0n
  let version = 0n
  let lease = 0n
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        key = decodeKey(reader.bytes())
        break
      case 2:
        createRevision = reader.int64()
        break
      case 3:
        modRevision = reader.int64()
        break
      case 4:
        version = reader.int64()
        break
      case 5:
        value = copied(reader.bytes())
        break
      case 6:
        lease = reader.int64()
        break
      default:
        reader.skip()
    }
  }
  return { key, value, createRevision, modRevision, version, lease }
}

const readRange = (reader: Reader) => {
  let header: Header | undefined
  const kvs: Array<KeyValue> = []
  let more = false
  let count = 0
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        header = reader.message(readHeader)
        break
      case 2:
        kvs.push(reader.message(readKeyValue))
        break
      case 3:
        more = reader.bool()
        break
      case 4:
        count = reader.int()
        break
      default:
        reader.skip()
    }
  }
  return { header, kvs, more, count }
}

const readPut = (reader: Reader) => {
  let header: Header | undefined
  let previous: KeyValue | undefined
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(readHeader)
    else if (reader.field === 2) previous = reader.message(readKeyValue)
    else reader.skip()
  }
  return { header, previous }
}

const readDelete = (reader: Reader) => {
  let deleted = 0
  const previous: Array<KeyValue> = []
  while (reader.next()) {
    if (reader.field === 2) deleted = reader.int()
    else if (reader.field === 3) previous.push(reader.message(readKeyValue))
    else reader.skip()
  }
  return { deleted, previous }
}

const readTxn = (reader: Reader) => {
  let header: Header | undefined
  let succeeded = false
  const responses: Array<OperationResult> = []
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(readHeader)
    else if (reader.field === 2) succeeded = reader.bool()
    else if (reader.field === 3) responses.push(reader.message(readOperation))
    else reader.skip()
  }
  return { header, succeeded, responses }
}

const readOperation = (reader: Reader): OperationResult => {
  let result: OperationResult = { _tag: "Txn", succeeded: false, responses: [] }
  while (reader.next()) {
    switch (reader.field) {
      case 1: {
        const { count, header, kvs, more } = reader.message(readRange)
        result = { _tag: "Range", revision: revisionOf(header), kvs, count, more }
        break
      }
      case 2:
        result = { _tag: "Put", previous: reader.message(readPut).previous }
        break
      case 3: {
        const { deleted, previous } = reader.message(readDelete)
        result = { _tag: "Delete", deleted, previous }
        break
      }
      case 4: {
        const { responses, succeeded } = reader.message(readTxn)
        result = { _tag: "Txn", succeeded, responses }
        break
      }
      default:
        reader.skip()
    }
  }
  return result
}

// -----------------------------------------------------------------------------
// Calls
// -----------------------------------------------------------------------------

export const range: Method<ReadRequest, KvAnswer<RangeResult>> = method("Range", writeRange, (reader) => {
  const { count, header, kvs, more } = readRange(reader)
  return answer(header, { revision: revisionOf(header), kvs, count, more })
})

/** Answered as its transaction would have been. */
export const put: Method<PutOperation, KvAnswer<TxnResult>> = method("Put", writePut, (reader) => {
  const { header, previous } = readPut(reader)
  return answer(header, { revision: revisionOf(header), succeeded: true, responses: [{ _tag: "Put", previous }] })
})

export const txn: Method<TxnRequest, KvAnswer<TxnResult>> = method("Txn", writeTxn, (reader) => {
  const { header, responses, succeeded } = readTxn(reader)
  return answer(header, { revision: revisionOf(header), succeeded, responses })
})
