/**
 * etcd's calls on leases: requests as the bytes of its messages, and the bytes of its answers as what is asked of them, without messages
 * in between. The numbers are those of the fields in etcd's `rpc.proto`. Times to live are in whole seconds.
 */
import { type Answered, answered, type Header, makeMethod, readHeader, readKey, revisionOf, writer } from "./fields.ts"
import type { Method } from "./unary.ts"
import type { Reader } from "./wire.ts"

export interface GrantRequest {
  readonly id: bigint
  readonly ttl: number
}

export interface LeaseState {
  /** Negative: there is no such lease. */
  readonly ttl: number
  readonly keys: ReadonlyArray<string>
  readonly revision: bigint
}

export interface Beat {
  readonly id: bigint
  /** Zero: there is no such lease. */
  readonly ttl: number
}

const writeId = (id: bigint): void => writer.int64(1, id)

const readGranted = (reader: Reader): Answered<number> => {
  let header: Header | undefined
  let ttl = 0
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(readHeader)
    else if (reader.field === 3) ttl = reader.int()
    else reader.skip()
  }
  return answered(header, ttl)
}

const readRevoked = (reader: Reader): Answered<void> => {
  let header: Header | undefined
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(readHeader)
    else reader.skip()
  }
  return answered(header, undefined)
}

const readState = (reader: Reader): Answered<LeaseState> => {
  let header: Header | undefined
  let ttl = 0
  const keys: Array<string> = []
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(readHeader)
    else if (reader.field === 3) ttl = reader.int()
    else if (reader.field === 5) keys.push(readKey(reader))
    else reader.skip()
  }
  return answered(header, { ttl, keys, revision: revisionOf(header) })
}

const readBeat = (reader: Reader): Beat => {
  let id = 0n
  let ttl = 0
  while (reader.next()) {
    if (reader.field === 2) id = reader.int64()
    else if (reader.field === 3) ttl = reader.int()
    else reader.skip()
  }
  return { id, ttl }
}

export const leaseGrant: Method<GrantRequest, Answered<number>> = makeMethod(
  "Lease/LeaseGrant",
  ({ id, ttl }) => {
    writer.int64(2, id)
    writer.int(1, ttl)
  },
  readGranted
)

export const leaseRevoke: Method<bigint, Answered<void>> = makeMethod("Lease/LeaseRevoke", writeId, readRevoked)

/** With its keys. */
export const leaseTimeToLive: Method<bigint, Answered<LeaseState>> = makeMethod(
  "Lease/LeaseTimeToLive",
  (id) => {
    writer.bool(2, true)
    writeId(id)
  },
  readState
)

export const leaseKeepAlive: Method<bigint, Beat> = makeMethod("Lease/LeaseKeepAlive", writeId, readBeat)
