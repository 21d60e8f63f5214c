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

export interface Retry {
  /** `failed` says what the failure is in the end. */
  readonly retried: <A, R>(
    attempt: Effect.Effect<A, EtcdError, R>,
    failed?: (error: EtcdError) => EtcdError
  ) => Effect.Effect<A, EtcdError, R>
  /** What follows an attempt that began then, and has failed. */
  readonly after: <A, R>(
    clock: Clock.Clock,
    began: bigint,
    first: EtcdError,
    attempt: Effect.Effect<A, EtcdError, R>,
    failed: (error: EtcdError) => EtcdError
  ) => Effect.Effect<A, EtcdError, R>
}

/**
 * Again by the schedule, while the failure allows it. An attempt that has waited for its whole timeout is as much as a caller
 * wants to wait: only `patience` of those are repeated.
 */
export const retryWhile = (
  { retry, timeout }: RetrySettings,
  retryable: (error: EtcdError) => boolean,
  patience = 0
): Retry => {
  // gRPC counts its deadline in whole milliseconds of another clock.
  const long = Duration.toNanosUnsafe(timeout) * 9n / 10n
  const after: Retry["after"] = (clock, began, first, attempt, failed) => {
    let started = began
    let waited = 0
    const again = Effect.suspend(() => {
      started = clock.monotonicTimeNanosUnsafe()
      return attempt
    })
    const retried = retryAfter(first, again, {
      schedule: retry,
      while: (error) => retryable(error) && (clock.monotonicTimeNanosUnsafe() - started < long || waited++ < patience)
    })
    return Effect.mapError(retried, failed)
  }
  return {
    retried: (attempt, failed = identity) =>
      Effect.withFiber((fiber) => {
        const clock = fiber.getRef(Clock.Clock)
        const began = clock.monotonicTimeNanosUnsafe()
        return Effect.catch(attempt, (first) => after(clock, began, first, attempt, failed))
      }),
    after
  }
}

/** Reads, and writes that do no harm when they happen twice. */
export const retryIdempotent = (settings: RetrySettings): Retry["retried"] =>
  retryWhile(settings, isUnavailable).retried

/** Writes: again only while it is certain that nothing was sent. */
export const retryWrite = (settings: RetrySettings): Retry => {
  const { after, retried } = retryWhile(settings, ({ reason }) => reason._tag === "Unavailable" && !reason.sent)
  const asWrite = (failed: (error: EtcdError) => EtcdError) => (error: EtcdError) =>
    failed(isUnanswered(error) ? withReason(error, ambiguous(error.reason)) : error)
  return {
    retried: (attempt, failed = identity) => retried(attempt, asWrite(failed)),
    after: (clock, began, first, attempt, failed) => after(clock, began, first, attempt, asWrite(failed))
  }
}

const withReason = (error: EtcdError, reason: EtcdErrorReason): EtcdError => new EtcdError({ ...error, reason })

const ambiguous = (reason: EtcdErrorReason): Ambiguous =>
  new Ambiguous({ detail: "detail" in reason ? reason.detail : reason.message })

/** No branch writes: such a transaction is a read at one revision. */
export const isReadOnly = (request: TxnRequest): boolean =>
  (request.success ?? []).every(reads) && (request.failure ?? []).every(reads)

const reads = (operation: Operation): boolean =>
  operation._tag === "Range" || (operation._tag === "Txn" && isReadOnly(operation))
