/**
 * What a gRPC status of etcd, or of grpc-js itself, means. All of it was seen on etcd 3.4.23 and 3.5.30 or is in their `rpctypes`.
 */
import { status as Code } from "@grpc/grpc-js"
import {
  Compacted,
  type EtcdErrorReason,
  InvalidArgument,
  LeaseNotFound,
  NoSpace,
  PermissionDenied,
  Timeout,
  TooLarge,
  Unauthenticated,
  Unavailable,
  Unexpected
} from "../../EtcdError.ts"

export interface Status {
  readonly code: number
  readonly details: string
  /** The request itself was not sent, because what had to come before it failed. */
  readonly unsent?: boolean
}

/** grpc-js says these before it has written anything; etcd refuses these before it proposes anything. */
const notSent = [
  // The picker has no connection: a refused or dropped one, or an unknown host.
  "No connection established",
  "Name resolution failed",
  "Channel closed before call started",
  // RFC 9113: the server has not looked at the stream.
  "Stream refused by server",
  // etcd's interceptor, because of the metadata `hasleader`, before the request's handler.
  "etcdserver: no leader",
  "etcdserver: too many requests"
]

/** As grpc-js says it of a closed channel. */
export const shutDown: Status = { code: Code.UNAVAILABLE, details: "Channel closed before call started" }

/** Nobody could be reached for as long as the caller would wait. */
export const unconnected: Status = {
  code: Code.UNAVAILABLE,
  details: "no connection within the timeout",
  unsent: true
}

/** What grpc-js says by itself, too. The others are certainly the word of a server. */
const ambiguousCodes: ReadonlySet<number> = new Set([
  Code.CANCELLED,
  Code.UNKNOWN,
  Code.DEADLINE_EXCEEDED,
  Code.RESOURCE_EXHAUSTED,
  Code.INTERNAL,
  Code.UNAVAILABLE
])

export const isAnswer = ({ code }: Pick<Status, "code">): boolean => !ambiguousCodes.has(code)

export const wasNotSent = (details: string): boolean => notSent.some((text) => details.includes(text))

/** The call waited its whole deadline for a connection: nothing was written. */
export const neverLeft = (status: Status): boolean =>
  status.code === Code.DEADLINE_EXCEEDED &&
  (status.details.includes("Waiting for LB pick") || status.details.endsWith("waiting for name resolution"))

/** A fresh token is worth another try: the server refused the request before it was applied. */
export const isStaleToken = (status: Status): boolean =>
  status.details.includes("invalid auth token") ||
  // Users or roles have changed since the token was given.
  status.details.includes("revision of auth store is old") ||
  status.details.includes("user name is empty")

export const isAuthDisabled = (status: Status): boolean =>
  status.code === Code.FAILED_PRECONDITION && status.details.includes("authentication is not enabled")

export const isLeaseExists = (status: Status): boolean =>
  status.code === Code.FAILED_PRECONDITION && status.details.includes("lease already exists")

/** What an error of a connection that could not be made begins with. */
export const noConnection = "no connection"

const unavailable = (details: string) => new Unavailable({ detail: tidy(details), sent: !wasNotSent(details) })

/** grpc-js wraps the cause twice: "round_robin: No connection established. Last error: ... Last error: <cause>. Resolution note: ". */
const tidy = (details: string): string => {
  if (!details.includes("No connection established")) return details
  const cause = details.split("Last error: ").at(-1)
    ?.replace(/\. Resolution note: .*$/s, "")
    .replace(/\s*\(\d{4}-[\d-]+T[\d:.]+Z\)$/, "")
    .replace(/^Error(?: \[\w+\])?: /, "")
  return cause === undefined || cause === "null" || cause === details ? noConnection : `${noConnection}: ${cause}`
}

export const reasonOf = (status: Status, leaseId = 0n): EtcdErrorReason => {
  const reason = answered(status, leaseId)
  return status.unsent === true && (reason._tag === "Unavailable" || reason._tag === "Timeout")
    ? new Unavailable({ detail: reason.detail, sent: false })
    : reason
}

const answered = ({ code, details }: Status, leaseId: bigint): EtcdErrorReason => {
  switch (code) {
    case Code.INVALID_ARGUMENT:
      if (details.includes("request is too large")) return new TooLarge({ detail: details })
      if (details.includes("authentication failed")) {
        return new Unauthenticated({ detail: "user name or password are wrong" })
      }
      if (details.includes("user name is empty")) {
        return new Unauthenticated({ detail: "the cluster wants a user: set `username` and `password`" })
      }
      // Refused when it was about to be applied, so it was not.
      if (details.includes("revision of auth store is old")) return new Unavailable({ detail: details, sent: false })
      return new InvalidArgument({ detail: details })
    case Code.DEADLINE_EXCEEDED:
      return neverLeft({ code, details })
        ? new Unavailable({ detail: "no connection within the timeout", sent: false })
        : new Timeout({ detail: details })
    case Code.NOT_FOUND:
      return details.includes("lease not found") ? new LeaseNotFound({ leaseId }) : new Unexpected({ detail: details })
    case Code.PERMISSION_DENIED:
      return new PermissionDenied({})
    case Code.RESOURCE_EXHAUSTED:
      if (details.includes("database space exceeded")) return new NoSpace({})
      // Both limits say so: the server's for requests, and that of this process for answers.
      if (details.includes("larger than max")) return new TooLarge({ detail: details })
      return unavailable(details)
    case Code.FAILED_PRECONDITION:
      return isAuthDisabled({ code, details })
        ? new Unauthenticated({
          detail: "the cluster has authentication switched off: leave out `username` and `password`, or switch it on"
        })
        : new Unexpected({ detail: details })
    case Code.OUT_OF_RANGE:
      return details.includes("compacted")
        ? new Compacted({ compactRevision: 0n })
        : new InvalidArgument({ detail: details })
    case Code.UNAUTHENTICATED:
      return new Unauthenticated({ detail: details })
    case Code.UNIMPLEMENTED:
    case Code.DATA_LOSS:
      return new Unexpected({ detail: details })
    case Code.UNKNOWN:
      // etcd 3.4 says so where 3.5 says DEADLINE_EXCEEDED.
      if (details.includes("context deadline exceeded")) return new Timeout({ detail: details })
      return unavailable(details)
    case Code.INTERNAL:
      return details.includes("serialization failure") ? new Unexpected({ detail: details }) : unavailable(details)
    default:
      // UNAVAILABLE, CANCELLED by the server, ABORTED: the connection or the member is at fault, the outcome is open.
      return unavailable(details)
  }
}
