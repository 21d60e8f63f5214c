/**
 * Whether a transaction writes keys below a prefix, in any of its branches.
 */
import type { KeyRange, Operation, TxnRequest } from "../../Etcd.ts"
import { encodeKey, prefixEnd } from "../keys.ts"

const overlaps = (prefix: string, range: KeyRange): boolean => {
  if ("key" in range) return range.key.startsWith(prefix)
  if ("prefix" in range) return range.prefix.startsWith(prefix) || prefix.startsWith(range.prefix)
  const start = encodeKey(prefix)
  return Buffer.compare(encodeKey(range.to), start) > 0 && Buffer.compare(encodeKey(range.from), prefixEnd(start)) < 0
}

export const writesBelow = (prefix: string, txn: TxnRequest): boolean =>
  [...txn.success ?? [], ...txn.failure ?? []].some((operation: Operation) => {
    switch (operation._tag) {
      case "Put":
        return operation.key.startsWith(prefix)
      case "Delete":
        return overlaps(prefix, operation)
      case "Txn":
        return writesBelow(prefix, operation)
      case "Range":
        return false
    }
  })
