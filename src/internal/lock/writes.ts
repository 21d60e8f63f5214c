/**
 * Whether a transaction writes keys below a prefix, in any of its branches.
 */
import type { KeyRange, Operation, TxnRequest } from "../../Etcd.ts"
import { compareBytes, encodeKey, encodeRange, prefixEnd } from "../keys.ts"

/** By bytes, as etcd sees them: one text can stand for the bytes of another. */
const overlaps = (start: Uint8Array, end: Uint8Array, range: KeyRange): boolean => {
  const { key, rangeEnd } = encodeRange(range)
  const endless = rangeEnd?.length === 1 && rangeEnd[0] === 0
  const before = compareBytes(key, end) < 0
  if (rangeEnd === undefined) return before && compareBytes(key, start) >= 0
  return before && (endless || compareBytes(rangeEnd, start) > 0)
}

export const writesBelow = (prefix: string, txn: TxnRequest): boolean => {
  const start = encodeKey(prefix)
  const end = prefixEnd(start)
  const writes = (operation: Operation): boolean => {
    switch (operation._tag) {
      case "Put":
      case "Delete":
        return overlaps(start, end, operation)
      case "Txn":
        return [...operation.success ?? [], ...operation.failure ?? []].some(writes)
      case "Range":
        return false
    }
  }
  return [...txn.success ?? [], ...txn.failure ?? []].some(writes)
}
