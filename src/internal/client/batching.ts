/**
 * A transport whose requests travel together (see `batch.ts`). What comes back is what each would have had alone:
 *
 * - Writes are nested transactions of one, if none touches what another one writes (see `footprint.ts`), within etcd's limits.
 * - Reads are one transaction of ranges, without any write: etcd answers it without a commit.
 * - What etcd refuses is sent again one by one, as the reason may lie in one of them alone.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import {
  Operation,
  type OperationResult,
  type RangeRequest,
  type RangeResult,
  type TxnRequest,
  type TxnResult
} from "../../Etcd.ts"
import { EtcdError, Unexpected } from "../../EtcdError.ts"
import type { Transport } from "../Transport.ts"
import { type Kind, makeBatched } from "./batch.ts"
import { type Footprint, footprintOf, makeCompany } from "./footprint.ts"
import { isReadOnly } from "./retry.ts"

/** Writes may not where etcd checks no role in nested transactions. */
export type Batching = "off" | "reads" | "all"

/** etcd's `--max-txn-ops`, unless the server turns out to have less. */
const maxOperations = 128

/** Of a group, in bytes; the limit of etcd, `--max-request-bytes`, is 1.5 MiB unless the server turns out to have less. */
const maxSize = 1 << 20

/** `ask` is how a read is sent, alone or with others. */
export const makeBatching = Effect.fnUntraced(function*(
  transport: Transport,
  ask: <A>(attempt: Effect.Effect<A, EtcdError>) => Effect.Effect<A, EtcdError>,
  batching: Batching
): Effect.fn.Return<Transport, never, Scope.Scope> {
  const reading: Reading = {
    range: (request) => ask(transport.range(request)),
    txn: (request) => ask(transport.txn(request))
  }
  const range = batching === "off" ? reading.range : yield* makeBatched(readsOf(reading))
  const write = batching === "all" ? yield* makeBatched(writesOf(transport)) : transport.txn
  return { ...transport, range, txn: (request) => isReadOnly(request) ? reading.txn(request) : write(request) }
})

type Reading = Pick<Transport, "range" | "txn">

const unexpected = (detail: string) => new EtcdError({ operation: "txn", reason: new Unexpected({ detail }) })

/** One answer for each request, or none at all. */
const answers = <A>({ responses }: TxnResult, read: (response: OperationResult) => A | undefined) => {
  const all: Array<A> = []
  for (const response of responses) {
    const answer = read(response)
    if (answer === undefined) return Effect.fail(unexpected("a response of another kind than its request"))
    all.push(answer)
  }
  return Effect.succeed(all)
}

const readsOf = (transport: Reading): Kind<RangeRequest, RangeResult> => ({
  alone: transport.range,
  together: (requests) =>
    Effect.flatMap(
      transport.txn({ success: requests.map((request) => Operation.range(request)) }),
      (result) =>
        answers(
          result,
          // In there, etcd leaves out the header or says 0.
          (response) => response._tag === "Range" ? { ...response, revision: result.revision } : undefined
        )
    ),
  gather: () => {
    let count = 0
    return () => ++count <= maxOperations
  },
  // A read can be repeated whatever it was.
  isOfOne: ({ reason: { _tag } }) => _tag !== "Unavailable" && _tag !== "Timeout" && _tag !== "Closed"
})

const writesOf = (transport: Transport): Kind<TxnRequest, TxnResult> => {
  let operations = maxOperations
  let bytes = maxSize

  return {
    alone: transport.txn,
    together: (requests) =>
      Effect.flatMap(transport.txn(joined(requests)), (result) =>
        answers(
          result,
          (response) =>
            response._tag === "Txn"
              ? { revision: result.revision, succeeded: response.succeeded, responses: response.responses }
              : undefined
        )),
    gather: () => {
      const { join } = makeCompany()
      let alone = false
      let count = 0
      let deepest = 0
      let size = 0
      const fits = (footprint: Footprint) =>
        count + 1 + Math.max(deepest, footprint.weight) <= operations && size + footprint.size <= bytes
      return (request) => {
        if (alone) return false
        const footprint = footprintOf(request)
        if (count === 0 && (footprint === undefined || !fits(footprint))) return alone = true
        if (footprint === undefined || !fits(footprint) || !join(footprint)) return false
        count++
        deepest = Math.max(deepest, footprint.weight)
        size += footprint.size
        return true
      }
    },
    isOfOne: ({ reason }) => {
      switch (reason._tag) {
        case "InvalidArgument":
          if (reason.detail.includes("too many operations")) operations = Math.max(8, operations >> 1)
          return true
        case "TooLarge":
          // etcd's words. The limit of an answer is TooLarge as well, and then the transaction was applied.
          if (!reason.detail.includes("request is too large")) return false
          bytes >>= 1
          return true
        case "LeaseNotFound":
        case "PermissionDenied":
        case "Unauthenticated":
        case "Compacted":
          return true
        default:
          return false
      }
    }
  }
}

/**
 * etcd measures what a transaction puts, to refuse it when the store is full, but not in nested ones. So a put stands where it is measured
 * and never runs: without a compare, a transaction has succeeded.
 */
const joined = (requests: ReadonlyArray<TxnRequest>): TxnRequest => {
  const put = firstPut(requests)
  return {
    success: requests.map(Operation.txn),
    ...put !== undefined && { failure: [Operation.put(put, "")] }
  }
}

const firstPut = (requests: ReadonlyArray<TxnRequest>): string | undefined => {
  for (const { failure = [], success = [] } of requests) {
    for (const operation of [...success, ...failure]) {
      const key = operation._tag === "Put"
        ? operation.key
        : operation._tag === "Txn"
        ? firstPut([operation])
        : undefined
      if (key !== undefined) return key
    }
  }
  return undefined
}
