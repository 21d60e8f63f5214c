import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Operation, type RangeRequest, type RangeResult, type TxnRequest, type TxnResult } from "../../../src/Etcd.ts"
import type { EtcdError } from "../../../src/EtcdError.ts"
import { HandingOut, type Kind, makeBatched } from "../../../src/internal/client/batch.ts"
import { isReadOnly, isUnanswered } from "../../../src/internal/client/retry.ts"
import type { Transport } from "../../../src/internal/Transport.ts"
import type { Variant } from "../World.ts"

/** Writes alone travel together, all that have no key in common. */
const batchedWrites = (wrong: Partial<Kind<TxnRequest, TxnResult>>): Variant => ({
  batching: Effect.fnUntraced(function*(transport: Transport) {
    const { ask: write } = yield* makeBatched<TxnRequest, TxnResult>({
      alone: transport.txn,
      together: (requests) =>
        Effect.map(
          transport.txn({ success: requests.map((request) => Operation.txn(request)) }),
          ({ responses, revision }) =>
            responses.flatMap((response) => response._tag === "Txn" ? [{ ...response, revision }] : [])
        ),
      gather: () => {
        const known = new Set<string>()
        return (request) => {
          const keys = keysOf(request)
          if (keys.some((key) => known.has(key)) && known.size > 0) return false
          for (const key of keys) known.add(key)
          return true
        }
      },
      isOfOne: isRefusal,
      ...wrong
    }, new HandingOut())
    return { ...transport, txn: (request) => isReadOnly(request) ? transport.txn(request) : write(request) }
  })
})

const isRefusal = ({ reason: { _tag } }: EtcdError): boolean =>
  ["InvalidArgument", "LeaseNotFound", "PermissionDenied"].includes(_tag)

const keysOf = ({ compare = [], failure = [], success = [] }: TxnRequest): ReadonlyArray<string> =>
  [...compare, ...success, ...failure].flatMap((part) =>
    "_tag" in part && part._tag === "Txn" ? keysOf(part) : "key" in part ? [part.key] : []
  )

/** The right one: what is wrong with the others is not this. */
export const batchedRightly = batchedWrites({})

/** Who reads what another one writes travels with it. */
export const conflictsTogether = batchedWrites({ gather: () => () => true })

/** Whatever a group fails with, its members are sent again one by one. */
export const apartWhenUnanswered = batchedWrites({ isOfOne: (error) => isRefusal(error) || isUnanswered(error) })

/** What etcd refuses because of one is the answer of all. */
export const refusedForAnother = batchedWrites({ isOfOne: () => false })

/** Who asks for what somebody else is asking for gets the same answer, which may be older than the question. */
export const sharedReads: Variant = {
  batching: (transport) =>
    Effect.sync(() => {
      const reading = new Map<string, Array<(answer: Effect.Effect<RangeResult, EtcdError>) => void>>()
      const first = (key: string, request: RangeRequest): Effect.Effect<RangeResult, EtcdError> => {
        const others: Array<(answer: Effect.Effect<RangeResult, EtcdError>) => void> = []
        reading.set(key, others)
        return Effect.onExit(transport.range(request), (exit) =>
          Effect.sync(() => {
            reading.delete(key)
            for (const tell of others) tell(Exit.hasInterrupts(exit) ? transport.range(request) : exit)
          }))
      }
      const range = (request: RangeRequest): Effect.Effect<RangeResult, EtcdError> =>
        Effect.suspend(() => {
          if (!("key" in request)) return transport.range(request)
          const others = reading.get(request.key)
          return others === undefined
            ? first(request.key, request)
            : Effect.callback((resume) => void others.push(resume))
        })
      return { ...transport, range }
    })
}
