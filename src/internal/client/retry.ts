/**
 * What may be sent again, and what a lost answer means.
 */
import * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"
import type { Operation, TxnRequest } from "../../Etcd.ts"
import { Ambiguous, EtcdError, type EtcdErrorReason } from "../../EtcdError.ts"

export const isUnavailable = (error: EtcdError): boolean => error.reason._tag === "Unavailable"

/** The request may have reached the server, or may still do so. */
export const isUnanswered = (error: EtcdError): boolean =>
  error.reason._tag === "Timeout" || (error.reason._tag === "Unavailable" && error.reason.sent)

/** Reads, and writes that do no harm when they happen twice. */
export const retryIdempotent =
  (schedule: Schedule.Schedule<unknown>) => <A, R>(attempt: Effect.Effect<A, EtcdError, R>) =>
    Effect.retry(attempt, { schedule, while: isUnavailable })

/** Writes: again only while it is certain that nothing was sent. */
export const retryWrite = (schedule: Schedule.Schedule<unknown>) => <A, R>(attempt: Effect.Effect<A, EtcdError, R>) =>
  attempt.pipe(
    Effect.retry({ schedule, while: (error) => error.reason._tag === "Unavailable" && !error.reason.sent }),
    Effect.mapError((error) => isUnanswered(error) ? withReason(error, ambiguous(error.reason)) : error)
  )

const withReason = (error: EtcdError, reason: EtcdErrorReason): EtcdError => new EtcdError({ ...error, reason })

const ambiguous = (reason: EtcdErrorReason): Ambiguous =>
  new Ambiguous({ detail: "detail" in reason ? reason.detail : reason.message })

/** No branch writes: such a transaction is a read at one revision. */
export const isReadOnly = (request: TxnRequest): boolean =>
  (request.success ?? []).every(reads) && (request.failure ?? []).every(reads)

const reads = (operation: Operation): boolean =>
  operation._tag === "Range" || (operation._tag === "Txn" && isReadOnly(operation))
