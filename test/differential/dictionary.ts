/**
 * Between the words of a sequence and those of one store: its keys, revisions and lease ids.
 */
import type {
  KeyRange,
  KeyValue,
  OperationResult,
  RangeRequest,
  RangeResult,
  TxnRequest,
  TxnResult,
  WatchItem
} from "../../src/Etcd.ts"
import { Compare, Operation } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import type { Condition, Op, Read, Revision, Txn, Where } from "./commands.ts"

const noLease = 0x7777n

/** `start` is the revision before the first operation, `leases` what was granted so far. */
export const makeDictionary = (prefix: string, start: bigint, leases: ReadonlyArray<bigint>) => {
  let now = start
  // One in the future now and then, most of them in the past.
  const revision = ({ from, offset }: Revision): bigint =>
    from === "zero" ? BigInt(offset) : start + BigInt(offset) % (now - start + 2n)
  /** Of a watch: up to five revisions ahead. */
  const watchStart = (asked: Revision | undefined): bigint =>
    asked === undefined
      ? 0n
      : asked.from === "zero"
      ? BigInt(asked.offset)
      : start + BigInt(asked.offset) % (now - start + 7n)
  const lease = (index: number | undefined): bigint =>
    index === undefined ? noLease : leases[index % leases.length] ?? 0n
  const key = (name: string | undefined): string => name === undefined ? "" : prefix + name
  const range = (where: Where): KeyRange =>
    "key" in where
      ? { key: key(where.key) }
      : "prefix" in where
      ? { prefix: prefix + where.prefix }
      : { from: prefix + where.from, to: prefix + where.to }
  const compare = (condition: Condition): Compare => {
    const { op, target, where } = condition
    switch (target) {
      case "value":
        return { ...range(where), target, op, value: condition.value }
      case "version":
        return { ...range(where), target, op, value: BigInt(condition.number) }
      case "lease":
        // Ids have no order that two stores would share.
        return { ...range(where), target, op, value: op === "<" || op === ">" ? 0n : lease(condition.lease) }
      default:
        return { ...range(where), target, op, value: condition.number === 0 ? 0n : revision(condition.revision) }
    }
  }
  const read = (read: Read): RangeRequest => ({
    ...range(read.where),
    limit: read.limit,
    sort: read.sort,
    keysOnly: read.keysOnly,
    countOnly: read.countOnly,
    atRevision: read.at && revision(read.at),
    maxCreateRevision: read.created && revision(read.created)
  })
  const operation = (op: Op): Operation => {
    switch (op._tag) {
      case "Put": {
        const options = { previousKv: op.previousKv, ...(op.lease === undefined ? {} : { lease: lease(op.lease) }) }
        return Operation.put(key(op.key), op.value, options)
      }
      case "Delete":
        return Operation.delete(range(op.where), { previousKv: op.previousKv })
      case "Range":
        return Operation.range(read(op.read))
      case "Txn":
        return Operation.txn(txn(op.txn))
    }
  }
  const wide = (compares: number, operations: number, inner: number): TxnRequest => {
    const read = (i: number) => Operation.range({ key: key(`w${i}`), countOnly: true })
    const puts = Array.from(
      { length: Math.max(0, operations - 1) },
      (_, i) => i % 32 === 0 ? Operation.put(key(`w${i}`), "") : read(i)
    )
    const nested = Operation.txn({ success: Array.from({ length: inner }, (_, i) => read(i)) })
    return {
      compare: Array.from({ length: compares }, () => Compare.version(key("w"), "=", 0n)),
      success: [...puts, inner === 0 ? read(0) : nested]
    }
  }
  const txn = (txn: Txn): TxnRequest => ({
    compare: txn.compare.map(compare),
    success: txn.success.map(operation),
    failure: txn.failure.map(operation)
  })

  // Back into the words of the sequence.

  const since = (revision: bigint): string => `r${revision - start}`
  const leaseName = (id: bigint): string => id === 0n ? "none" : `lease ${leases.indexOf(id)}`
  const name = (key: string): string => key.startsWith(prefix) ? key.slice(prefix.length) : `foreign ${key}`
  const kv = (kv: KeyValue | undefined) =>
    kv && {
      key: name(kv.key),
      value: Buffer.from(kv.value).toString("latin1"),
      created: since(kv.createRevision),
      modified: since(kv.modRevision),
      version: kv.version,
      lease: leaseName(kv.lease)
    }
  const rangeResult = (answer: RangeResult) => ({
    revision: since(answer.revision),
    kvs: answer.kvs.map(kv),
    count: answer.count,
    more: answer.more
  })
  const result = (answer: OperationResult): unknown => {
    switch (answer._tag) {
      case "Put":
        return { put: kv(answer.previous) }
      case "Delete":
        return { deleted: answer.deleted, previous: answer.previous.map(kv) }
      case "Range":
        return rangeResult(answer)
      case "Txn":
        return { succeeded: answer.succeeded, responses: answer.responses.map(result) }
    }
  }
  const failure = ({ operation, reason }: EtcdError): unknown =>
    reason._tag === "Compacted"
      ? { operation, failed: "Compacted", at: reason.compactRevision === 0n ? "unsaid" : since(reason.compactRevision) }
      // Of a transaction etcd does not say which lease it is.
      : reason._tag === "LeaseNotFound" && operation !== "txn"
      ? { operation, failed: "LeaseNotFound", lease: leaseName(reason.leaseId) }
      : { operation, failed: reason._tag }
  const item = (item: WatchItem): unknown =>
    item._tag === "Opened"
      ? `opened at ${since(item.revision)}`
      : {
        revision: since(item.revision),
        events: item.events.map((event) =>
          event._tag === "Put"
            ? { put: kv(event.kv), previous: kv(event.previous) }
            : { deleted: name(event.key), modified: since(event.modRevision), previous: kv(event.previous) }
        )
      }

  const txnResult = (answer: TxnResult) => {
    now = answer.revision
    return { revision: since(answer.revision), succeeded: answer.succeeded, responses: answer.responses.map(result) }
  }

  return {
    now: () => now,
    revision,
    watchStart,
    lease,
    range,
    read,
    txn,
    wide,
    since,
    name,
    rangeResult,
    txnResult,
    failure,
    item
  }
}
