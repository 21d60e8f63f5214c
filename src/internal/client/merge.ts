/**
 * Many transactions as one, in two ways. Nested ones are answered each by itself. Of merged ones the compares make one list and the
 * operations another, which takes etcd and this process less; but where one compare fails, nothing is done of any of them.
 */
import { type Compare, Operation, type TxnRequest, type TxnResult } from "../../Etcd.ts"
import type { Footprint } from "./footprint.ts"

export interface Part {
  readonly request: TxnRequest
  readonly footprint: Footprint
  /** Rather merged than nested: one operation, which is expected to be done. */
  readonly isMergeable: boolean
}

/** `isLikely`: its compares, if it has any, are expected to hold. */
export const partOf = (request: TxnRequest, footprint: Footprint, isLikely: boolean): Part => {
  const { compare = [], failure = [], success = [] } = request
  // Of those with more operations fewer would fit into a call than of nested ones.
  const isOne = footprint.weight <= 1 && failure.length === 0 && success[0]?._tag !== "Txn"
  return { request, footprint, isMergeable: isOne && (isLikely || compare.length === 0) }
}

export interface Merged {
  readonly request: TxnRequest
  /** What each of them is answered, if it has succeeded; nothing for what is no answer to it. */
  readonly answers: (result: TxnResult) => ReadonlyArray<TxnResult> | undefined
}

/** If compares are `trusted`, it may fail for one of them, and has done nothing then. Else it succeeds. */
export const merged = (parts: ReadonlyArray<Part>, trusted: boolean): Merged => {
  const isMerged = ({ isMergeable, request: { compare = [] } }: Part) =>
    isMergeable && (trusted || compare.length === 0)
  const compare: Array<Compare> = []
  const success: Array<Operation> = []
  let isMeasured = false
  for (const part of parts) {
    const { footprint, request } = part
    if (isMerged(part)) {
      for (const one of request.compare ?? []) compare.push(one)
      for (const one of request.success ?? []) success.push(one)
      isMeasured ||= footprint.put !== undefined
    } else {
      success.push(Operation.txn(request))
    }
  }
  // etcd measures what a transaction puts, to refuse it when the store is full, but not in nested ones. So where all puts are in these, one
  // stands where it is measured and never runs: without a compare, a transaction has succeeded.
  const measured = isMeasured || compare.length > 0 ? undefined : parts[0]?.footprint.put
  return {
    request: { compare, success, ...measured !== undefined && { failure: [Operation.put(measured, "")] } },
    answers: ({ responses, revision }) => {
      const answers: Array<TxnResult> = []
      let at = 0
      for (const part of parts) {
        if (isMerged(part)) {
          const from = at
          at += part.request.success?.length ?? 0
          answers.push({ revision, succeeded: true, responses: responses.slice(from, at) })
        } else {
          const response = responses[at++]
          if (response?._tag !== "Txn") return undefined
          answers.push({ revision, succeeded: response.succeeded, responses: response.responses })
        }
      }
      return at === responses.length ? answers : undefined
    }
  }
}
