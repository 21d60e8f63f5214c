/**
 * etcd's watches: the port's request as the bytes of its messages, and the bytes of its responses as the port's events, without messages
 * in between. The numbers are those of the fields in etcd's `rpc.proto` and `kv.proto`.
 */
import type { KeyValue, WatchEvent, WatchRequest } from "../../Etcd.ts"
import { makeMethod, readHeader, readKeyValue, writeEnd, writer, writeStart } from "./fields.ts"
import type { Method } from "./unary.ts"
import { Reader } from "./wire.ts"

/** What is asked on the stream of one watch: that it begins, later that the server says something. */
export type WatchQuestion =
  | { readonly _tag: "Create"; readonly request: WatchRequest }
  | { readonly _tag: "Progress" }

export interface WatchResponse {
  /** Of the store. */
  readonly revision: bigint
  readonly created: boolean
  readonly canceled: boolean
  /** Zero: not canceled for a compaction. */
  readonly compactRevision: bigint
  readonly cancelReason: string
  /** The next response goes on with the same events. */
  readonly fragment: boolean
  readonly events: ReadonlyArray<WatchEvent>
}

/** Packed. */
const filters = { Put: Uint8Array.of(0), Delete: Uint8Array.of(1) }

const writeCreate = (request: WatchRequest): void => {
  // Otherwise a batch over the receive limit could never be delivered.
  writer.bool(8, true)
  writer.bool(6, request.previousKv ?? false)
  if (request.without !== undefined) writer.bytes(5, filters[request.without])
  // Progress is notified.
  writer.bool(4, true)
  // 0 is "from now".
  writer.int64(3, request.startRevision ?? 0n)
  writeEnd(2, request)
  writeStart(1, request)
}

const writeQuestion = (question: WatchQuestion): void => {
  const end = writer.length
  if (question._tag === "Progress") return writer.close(3, end)
  writeCreate(question.request)
  writer.close(1, end)
}

const isDelete = 1

/** Those that etcd sends have a `kv`. */
const noKeyValue = readKeyValue(new Reader(Buffer.alloc(0)))

const readEvent = (reader: Reader): WatchEvent => {
  let type = 0
  let kv = noKeyValue
  let previous: KeyValue | undefined
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        type = reader.int()
        break
      case 2:
        kv = reader.message(readKeyValue)
        break
      case 3:
        previous = reader.message(readKeyValue)
        break
      default:
        reader.skip()
    }
  }
  return type === isDelete
    ? { _tag: "Delete", key: kv.key, modRevision: kv.modRevision, previous }
    : { _tag: "Put", kv, previous }
}

const readResponse = (reader: Reader): WatchResponse => {
  let revision = 0n
  let created = false
  let canceled = false
  let compactRevision = 0n
  let cancelReason = ""
  let fragment = false
  const events: Array<WatchEvent> = []
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        ;({ revision } = reader.message(readHeader))
        break
      case 3:
        created = reader.bool()
        break
      case 4:
        canceled = reader.bool()
        break
      case 5:
        compactRevision = reader.int64()
        break
      case 6:
        cancelReason = reader.bytes().toString()
        break
      case 7:
        fragment = reader.bool()
        break
      case 11:
        events.push(reader.message(readEvent))
        break
      default:
        reader.skip()
    }
  }
  return { revision, created, canceled, compactRevision, cancelReason, fragment, events }
}

export const watch: Method<WatchQuestion, WatchResponse> = makeMethod("Watch/Watch", writeQuestion, readResponse)
