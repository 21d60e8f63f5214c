/**
 * What can go wrong between this process and etcd.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * No endpoint could be reached, or the cluster had no leader. `sent: false` proves that the request did not leave the process.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {
  detail: Schema.String,
  sent: Schema.Boolean
}) {
  override get message(): string {
    return `etcd is unavailable: ${this.detail}`
  }
}

/**
 * A read was not answered within the request timeout.
 *
 * @category errors
 * @since 0.1.0
 */
export class Timeout extends Schema.TaggedError<Timeout>()("Timeout", { detail: Schema.String }) {
  override get message(): string {
    return `no answer in time: ${this.detail}`
  }
}

/**
 * User name or password are wrong, missing, or given while the cluster has authentication switched off.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unauthenticated extends Schema.TaggedError<Unauthenticated>()("Unauthenticated", {
  detail: Schema.String
}) {
  override get message(): string {
    return `not authenticated: ${this.detail}`
  }
}

/**
 * The user may not do this to this key.
 *
 * @category errors
 * @since 0.1.0
 */
export class PermissionDenied extends Schema.TaggedError<PermissionDenied>()("PermissionDenied", {}) {
  override get message(): string {
    return "permission denied: the etcd user has no role that allows this"
  }
}

/**
 * The revision that was asked for has been compacted. `compactRevision` is the oldest that can be read, `0n` when etcd did not say;
 * watches start after it, as etcd before 3.4.36 and 3.5.18 has forgotten what was deleted in it.
 *
 * @category errors
 * @since 0.1.0
 */
export class Compacted extends Schema.TaggedError<Compacted>()("Compacted", { compactRevision: Schema.BigInt }) {
  override get message(): string {
    return this.compactRevision === 0n
      ? "the revision has been compacted"
      : `the revision has been compacted: the oldest one that can be read is ${this.compactRevision}, and history is left after it`
  }
}

/**
 * The store's revision went back: an older snapshot was restored. What was seen up to `expected` may no longer be true.
 *
 * @category errors
 * @since 0.1.0
 */
export class HistoryLost extends Schema.TaggedError<HistoryLost>()("HistoryLost", {
  expected: Schema.BigInt,
  actual: Schema.BigInt
}) {
  override get message(): string {
    return `the store went back from revision ${this.expected} to ${this.actual}: an older state was restored`
  }
}

/**
 * The lease has expired or was revoked.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseNotFound extends Schema.TaggedError<LeaseNotFound>()("LeaseNotFound", { leaseId: Schema.BigInt }) {
  override get message(): string {
    return `lease ${this.leaseId.toString(16)} does not exist (any more)`
  }
}

/**
 * The store is full (etcd's NOSPACE alarm): writes fail until an operator compacts, defragments and disarms it. Those on their way at the
 * moment when it fills up etcd may refuse with this and apply all the same.
 *
 * @category errors
 * @since 0.1.0
 */
export class NoSpace extends Schema.TaggedError<NoSpace>()("NoSpace", {}) {
  override get message(): string {
    return "etcd's database space is exceeded: compact, defragment and disarm the NOSPACE alarm"
  }
}

/**
 * The request is over the server's limit (1.5 MiB unless configured, `--max-request-bytes`), or the answer over the client's.
 *
 * @category errors
 * @since 0.1.0
 */
export class TooLarge extends Schema.TaggedError<TooLarge>()("TooLarge", { detail: Schema.String }) {
  override get message(): string {
    return `too large: ${this.detail}`
  }
}

/**
 * etcd refused the request as it stands.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidArgument extends Schema.TaggedError<InvalidArgument>()("InvalidArgument", {
  detail: Schema.String
}) {
  override get message(): string {
    return `invalid request: ${this.detail}`
  }
}

/**
 * The answer to a write was lost: it may have been applied, *or may still be*. Reading that it was not applied proves nothing
 * while the request may be in flight.
 *
 * @category errors
 * @since 0.1.0
 */
export class Ambiguous extends Schema.TaggedError<Ambiguous>()("Ambiguous", { detail: Schema.String }) {
  override get message(): string {
    return `the write may or may not be applied: ${this.detail}`
  }
}

/**
 * The layer that provides etcd has been closed.
 *
 * @category errors
 * @since 0.1.0
 */
export class Closed extends Schema.TaggedError<Closed>()("Closed", {}) {
  override get message(): string {
    return "the etcd client is closed"
  }
}

/**
 * Something that this library does not know.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unexpected extends Schema.TaggedError<Unexpected>()("Unexpected", { detail: Schema.String }) {
  override get message(): string {
    return `unexpected answer: ${this.detail}`
  }
}

/**
 * @category errors
 * @since 0.1.0
 */
export const EtcdErrorReason = Schema.Union([
  Unavailable,
  Timeout,
  Unauthenticated,
  PermissionDenied,
  Compacted,
  HistoryLost,
  LeaseNotFound,
  NoSpace,
  TooLarge,
  InvalidArgument,
  Ambiguous,
  Closed,
  Unexpected
])

/**
 * @category errors
 * @since 0.1.0
 */
export type EtcdErrorReason = typeof EtcdErrorReason.Type

/**
 * An operation on etcd failed, for one of the reasons. It names the operation and the key, never a value and never a credential.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import type { EtcdError } from "effect-coord"
 *
 * declare const program: Effect.Effect<void, EtcdError>
 *
 * program.pipe(Effect.catchReason("EtcdError", "Ambiguous", () => Effect.logWarning("read before you write again")))
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class EtcdError extends Schema.TaggedError<EtcdError>()("EtcdError", {
  /** The operation, as `range`, `txn`, `leaseGrant` or `connect`. */
  operation: Schema.String,
  /** The first key that it was about. */
  key: Schema.optionalKey(Schema.String),
  reason: EtcdErrorReason
}) {
  override get message(): string {
    return `${this.operation}${this.key === undefined ? "" : ` ${JSON.stringify(this.key)}`}: ${this.reason.message}`
  }
}
