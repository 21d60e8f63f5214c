/**
 * A transport whose requests travel together (see `batch.ts`). What comes back is what each would have had alone:
 *
 * - Writes are merged into one transaction or nested in it (see `merge.ts`), if none touches what another one writes (see `footprint.ts`),
 *   within etcd's limits.
 * - Reads are one transaction of ranges, without any write: etcd answers it without a commit.
 * - What etcd refuses is sent again one by one, as the reason may lie in one of them alone.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { Operation, type RangeRequest, type RangeResult, type TxnRequest, type TxnResult } from "../../Etcd.ts"
import { EtcdError, Unexpected } from "../../EtcdError.ts"
import type { Observer } from "../observe.ts"
import type { Transport } from "../Transport.ts"
import { HandingOut, type Kind, makeBatched } from "./batch.ts"
import { footprintOf, isEndless, makeCompany } from "./footprint.ts"
import { merged, type Part, partOf } from "./merge.ts"
import { isReadOnly } from "./retry.ts"
import type { Started } from "./start.ts"

/** Writes may not where etcd checks no role in nested transactions. */
export type Batching = "off" | "reads" | "all"

/** Of a group, until the server turns out to have less. */
interface Limits {
  /** etcd's `--max-txn-ops`. */
  operations: number
  /** etcd's `--max-request-bytes` is 1.5 MiB. */
  bytes: number
}

/** etcd's values have 1.5 MiB at most, and an answer 64 MiB here: an answer that is too long is known only after it was written. */
const maxValues = 32

export interface Batched extends Transport {
  /** As `Start` (see `start.ts`), of what may travel with others. Its compares are expected to hold. */
  readonly start: (request: TxnRequest, observer: Observer<TxnResult, EtcdError>) => Started | undefined
}

/** `ask` is how a read is sent, alone or with others. */
export const makeBatching = Effect.fnUntraced(function*(
  transport: Transport,
  ask: <A>(attempt: Effect.Effect<A, EtcdError>) => Effect.Effect<A, EtcdError>,
  batching: Batching
): Effect.fn.Return<Batched, never, Scope.Scope> {
  const limits: Limits = { operations: 128, bytes: 1 << 20 }
  const reading: Reading = {
    range: (request) => ask(transport.range(request)),
    txn: (request) => ask(transport.txn(request))
  }
  const handingOut = new HandingOut()
  const read = batching === "off" ? undefined : yield* makeBatched(readsOf(reading, limits), handingOut)
  // A full store refuses who puts, and those alone: so they do not travel with the others.
  const puts = batching === "all" ? yield* makeBatched(writesOf(transport, limits), handingOut) : undefined
  const others = batching === "all" ? yield* makeBatched(writesOf(transport, limits), handingOut) : undefined

  /** Nothing for what goes alone. */
  const writeOf = (request: TxnRequest, isLikely: boolean): Part | undefined => {
    const footprint = batching === "all" ? footprintOf(request) : undefined
    return footprint && partOf(request, footprint, isLikely)
  }
  /** Who sends it with others. */
  const batchedFor = ({ footprint }: Part) => footprint.put === undefined ? others : puts

  return {
    ...transport,
    range: (request) => read === undefined || isEndless(request) ? reading.range(request) : read.ask(request),
    txn: (request) => {
      if (isReadOnly(request)) return reading.txn(request)
      const write = writeOf(request, false)
      return write && batchedFor(write)?.ask(write) || transport.txn(request)
    },
    start: (request, observer) => {
      const write = isReadOnly(request) ? undefined : writeOf(request, true)
      return write && batchedFor(write)?.start(write, observer)
    }
  }
})

type Reading = Pick<Transport, "range" | "txn">

const unexpected = new EtcdError({
  operation: "txn",
  reason: new Unexpected({ detail: "a response of another kind than its request" })
})

const readsOf = (transport: Reading, limits: Limits): Kind<RangeRequest, RangeResult> => ({
  alone: transport.range,
  together: (requests) =>
    Effect.flatMap(
      transport.txn({ success: requests.map((request) => Operation.range(request)) }),
      ({ responses, revision }) => {
        const answers = responses.filter((response) => response._tag === "Range").map(({ count, kvs, more }) => ({
          // In there, etcd leaves out the header or says 0.
          revision,
          kvs,
          count,
          more
        }))
        return answers.length === requests.length ? Effect.succeed(answers) : Effect.fail(unexpected)
      }
    ),
  gather: () => {
    let count = 0
    return () => ++count <= limits.operations
  },
  // A read can be repeated whatever it was.
  isOfOne: (error) => {
    learn(limits, error)
    const { reason: { _tag } } = error
    return _tag !== "Unavailable" && _tag !== "Timeout" && _tag !== "Closed"
  }
})

/** Where a compare has failed that was expected to hold, so many groups trust none: those of that call, and eight more. */
const wary = 9

const writesOf = (transport: Transport, limits: Limits): Kind<Part, TxnResult> => {
  let distrusting = 0
  return {
    alone: ({ request }) => transport.txn(request),
    together: (parts) => {
      const trusted = distrusting === 0
      if (!trusted) distrusting--
      const { answers, request } = merged(parts, trusted)
      return Effect.flatMap(transport.txn(request), (result) => {
        if (trusted && !result.succeeded) {
          distrusting = wary
          return Effect.undefined
        }
        const each = answers(result)
        return each === undefined ? Effect.fail(unexpected) : Effect.succeed(each)
      })
    },
    gather: () => {
      const { join } = makeCompany()
      let count = 0
      let deepest = 0
      let size = 0
      let values = 0
      return ({ footprint }) => {
        const fits = count + 1 + Math.max(deepest, footprint.weight) <= limits.operations &&
          size + footprint.size <= limits.bytes && values + footprint.values <= maxValues
        if (!(join(footprint) && fits) && count > 0) return false
        count++
        deepest = Math.max(deepest, footprint.weight)
        size += footprint.size
        values += footprint.values
        return true
      }
    },
    isOfOne: (error) => {
      learn(limits, error)
      const { reason } = error
      switch (reason._tag) {
        case "InvalidArgument":
        case "LeaseNotFound":
        case "PermissionDenied":
        case "Unauthenticated":
        case "Compacted":
          return true
        case "TooLarge":
          return isRefusal(reason.detail)
        default:
          return false
      }
    }
  }
}

/** In etcd's words, or those of its gRPC server. An answer that is too long for this process is TooLarge as well, and then all was applied. */
const isRefusal = (detail: string): boolean =>
  detail.includes("request is too large") || detail.includes("grpc: received message larger than max")

const learn = (limits: Limits, { reason }: EtcdError): void => {
  if (reason._tag === "InvalidArgument" && reason.detail.includes("too many operations")) {
    limits.operations = Math.max(1, limits.operations >> 1)
  }
  if (reason._tag === "TooLarge" && isRefusal(reason.detail)) limits.bytes >>= 1
}
