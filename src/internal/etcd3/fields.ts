/**
 * What messages of several of etcd's services have in common: how they are written and read, keys and ranges in requests, the header and
 * key values in answers. The numbers are those of the fields in etcd's `rpc.proto` and `kv.proto`.
 */
import type { KeyRange, KeyValue } from "../../Etcd.ts"
import { decodeKey, encodeKey, encodeRange } from "../keys.ts"
import type { Answer } from "./stubs.ts"
import type { Method } from "./unary.ts"
import { Reader, Writer } from "./wire.ts"

export interface Answered<Result> extends Answer {
  readonly result: Result
}

/** A message is written at once, so one writer does for all. */
export const writer = new Writer()

export const makeMethod = <Request, Response>(
  name: string,
  write: (request: Request) => void,
  read: (reader: Reader) => Response
): Method<Request, Response> => ({
  path: `/etcdserverpb.${name}`,
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

export const writeKey = (field: number, key: string): void =>
  key.isWellFormed() ? writer.text(field, key) : writer.bytes(field, encodeKey(key))

const isPlainPrefix = (range: KeyRange): range is { readonly prefix: string } =>
  "prefix" in range && range.prefix !== "" && range.prefix.isWellFormed()

export const writeStart = (field: number, range: KeyRange): void => {
  if ("key" in range) writeKey(field, range.key)
  else if (isPlainPrefix(range)) writer.text(field, range.prefix)
  else writer.bytes(field, encodeRange(range).key)
}

export const writeEnd = (field: number, range: KeyRange): void => {
  if ("key" in range) return
  if (isPlainPrefix(range)) return writer.textEnd(field, range.prefix)
  const { rangeEnd } = encodeRange(range)
  if (rangeEnd !== undefined) writer.bytes(field, rangeEnd)
}

// -----------------------------------------------------------------------------
// Answers
// -----------------------------------------------------------------------------

export interface Header {
  readonly revision: bigint
  readonly term: bigint
}

export const readHeader = (reader: Reader): Header => {
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
export const revisionOf = (header: Header | undefined): bigint => header?.revision ?? 0n

export const answered = <Result>(header: Header | undefined, result: Result): Answered<Result> => ({
  header: header && { raft_term: String(header.term) },
  result
})

export const readKey = (reader: Reader): string => reader.text(decodeKey)

/** Values are copied, each with bytes of its own: a view would keep the whole answer in memory. */
export const readKeyValue = (reader: Reader): KeyValue => {
  let key = ""
  let value: Uint8Array | undefined
  let createRevision = 0n
  let modRevision = 0n
  let version = 0n
  let lease = 0n
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        key = readKey(reader)
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
        value = new Uint8Array(reader.bytes())
        break
      case 6:
        lease = reader.int64()
        break
      default:
        reader.skip()
    }
  }
  return { key, value: value ?? new Uint8Array(), createRevision, modRevision, version, lease }
}
