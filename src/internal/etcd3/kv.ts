/**
 * etcd's calls on keys: the port's requests as the bytes of its messages, and the bytes of its answers as the port's results, without
 * messages in between. The numbers are those of the fields in etcd's `rpc.proto` and `kv.proto`.
 */
import type {
  Compare,
  KeyValue,
  Operation,
  OperationResult,
  PutOperation,
  RangeRequest,
  RangeResult,
  TxnRequest,
  TxnResult
} from "../../Etcd.ts"
import { added } from "../added.ts"
import {
  type Answered,
  answered,
  type Header,
  makeMethod,
  readHeader,
  readKeyValue,
  revisionOf,
  writeEnd,
  writeKey,
  writer,
  writeStart
} from "./fields.ts"
import type { Method } from "./unary.ts"
import type { Reader } from "./wire.ts"

export type ReadRequest = RangeRequest & {
  /** Answered by the member from what it knows, without asking the others. */
  readonly serializable?: boolean
}

const method = <Request, Result>(
  name: string,
  write: (request: Request) => void,
  read: (reader: Reader) => Answered<Result>
): Method<Request, Answered<Result>> => makeMethod(`KV/${name}`, write, read)

// -----------------------------------------------------------------------------
// Requests
// -----------------------------------------------------------------------------

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

const readRange = (reader: Reader) => {
  let header: Header | undefined
  let kvs: Array<KeyValue> | undefined
  let more = false
  let count = 0
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        header = reader.message(readHeader)
        break
      case 2:
        kvs = added(kvs, reader.message(readKeyValue))
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
  return { header, kvs: kvs ?? [], more, count }
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
  let responses: Array<OperationResult> | undefined
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(readHeader)
    else if (reader.field === 2) succeeded = reader.bool()
    else if (reader.field === 3) responses = added(responses, reader.message(readOperation))
    else reader.skip()
  }
  return { header, succeeded, responses: responses ?? [] }
}

const readOperation = (reader: Reader): OperationResult => {
  let result: OperationResult | undefined
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
  return result ?? { _tag: "Txn", succeeded: false, responses: [] }
}

// -----------------------------------------------------------------------------
// Calls
// -----------------------------------------------------------------------------

export const range: Method<ReadRequest, Answered<RangeResult>> = method("Range", writeRange, (reader) => {
  const { count, header, kvs, more } = readRange(reader)
  return answered(header, { revision: revisionOf(header), kvs, count, more })
})

/** Answered as its transaction would have been. */
export const put: Method<PutOperation, Answered<TxnResult>> = method("Put", writePut, (reader) => {
  const { header, previous } = readPut(reader)
  return answered(header, { revision: revisionOf(header), succeeded: true, responses: [{ _tag: "Put", previous }] })
})

export const txn: Method<TxnRequest, Answered<TxnResult>> = method("Txn", writeTxn, (reader) => {
  const { header, responses, succeeded } = readTxn(reader)
  return answered(header, { revision: revisionOf(header), succeeded, responses })
})
