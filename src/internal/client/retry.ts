/**
 * What may be sent again, and what a lost answer means.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import type * as Schedule from "effect/Schedule"
import type { Operation, TxnRequest } from "../../Etcd.ts"
import { Ambiguous, EtcdError, type EtcdErrorReason } from "../../EtcdError.ts"
import { retryAfter } from "../retryFailed.ts"

export const isUnavailable = (error: EtcdError): boolean => error.reason._tag === "Unavailable"

/** The request may have reached the server, or may still do so. */
export const isUnanswered = (error: EtcdError): boolean =>
  error.reason._tag === "Timeout" || (error.reason._tag === "Unavailable" && error.reason.sent)

export interface RetrySettings {
  readonly retry: Schedule.Schedule<unknown>
  readonly timeout: Duration.Duration
}

/**
 * Again by the schedule, while the failure allows it, and `failed` says what it is in the end. An attempt that has waited for its whole timeout is as much as a caller
 * wants to wait: only `patience` of those are repeated.
 */
export const retryWhile = (
  { retry, timeout }: RetrySettings,
  retryable: (error: EtcdError) => boolean,
  patience = 0
) => {
  // gRPC counts its deadline in whole milliseconds of another clock.
  const long = Duration.toNanosUnsafe(timeout) * 9n / 10n
  return <A, R>(attempt: Effect.Effect<A, EtcdError, R>, failed: (error: EtcdError) => EtcdError = identity) =>
    Effect.withFiber<A, EtcdError, R>((fiber) => {
      const clock = fiber.getRef(Clock.Clock)
      let started = clock.monotonicTimeNanosUnsafe()
      return Effect.catch(attempt, (first) => {
        let waited = 0
        const again = Effect.suspend(() => {
          started = clock.monotonicTimeNanosUnsafe()
          return attempt
        })
        const retried = retryAfter(first, again, {
          schedule: retry,
          while: (error) =>
            retryable(error) && (clock.monotonicTimeNanosUnsafe() - started < long || waited++ < patience)
        })
        return Effect.mapError(retried, failed)
      })
    })
}

/** Reads, and writes that do no harm when they happen twice. */
export const retryIdempotent = (settings: RetrySettings) => retryWhile(settings, isUnavailable)

/** Writes: again only while it is certain that nothing was sent. */
export const retryWrite = (settings: RetrySettings) => {
  const retried = retryWhile(settings, ({ reason }) => reason._tag === "Unavailable" && !reason.sent)
  return <A, R>(attempt: Effect.Effect<A, EtcdError, R>, failed: (error: EtcdError) => EtcdError = identity) =>
    retried(
      attempt,
      (error) => failed(isUnanswered(error) ? withReason(error, ambiguous(error.reason)) : error)
    )
}

const withReason = (error: EtcdError, reason: EtcdErrorReason): EtcdError => new EtcdError({ ...error, reason })

const ambiguous = (reason: EtcdErrorReason): Ambiguous =>
  new Ambiguous({ detail: "detail" in reason ? reason.detail : reason.message })

/** No branch writes: such a transaction is a read at one revision. */
export const isReadOnly = (request: TxnRequest): boolean =>
  (request.success ?? []).every(reads) && (request.failure ?? []).every(reads)

const reads = (operation: Operation): boolean =>
  operation._tag === "Range" || (operation._tag === "Txn" && isReadOnly(operation))
