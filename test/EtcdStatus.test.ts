import { assert, describe, it } from "@effect/vitest"
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
} from "../src/EtcdError.ts"
import { isLeaseExists, isStaleToken, neverLeft, reasonOf } from "../src/internal/etcd3/status.ts"

// Each as etcd 3.4.23, etcd 3.5.30 or grpc-js 1.14.7 says it.
const refused = "round_robin: No connection established. Last error: No connection established. Last error: " +
  "Error: connect ECONNREFUSED 127.0.0.1:1. Resolution note: "
const picking = "Deadline exceeded after 5.000s,name resolution: 0.001s,metadata filters: 0.000s,Waiting for LB pick"
const unavailable = (detail: string, sent: boolean) => new Unavailable({ detail, sent })

const table: ReadonlyArray<readonly [code: Code, details: string, reason: EtcdErrorReason]> = [
  [Code.UNAVAILABLE, refused, unavailable("no connection: connect ECONNREFUSED 127.0.0.1:1", false)],
  [
    Code.UNAVAILABLE,
    "No connection established. Last error: null. Resolution note: ",
    unavailable("no connection", false)
  ],
  [
    Code.UNAVAILABLE,
    "Name resolution failed: getaddrinfo ENOTFOUND a",
    unavailable("Name resolution failed: getaddrinfo ENOTFOUND a", false)
  ],
  [Code.UNAVAILABLE, "Channel closed before call started", unavailable("Channel closed before call started", false)],
  [Code.UNAVAILABLE, "Stream refused by server", unavailable("Stream refused by server", false)],
  [Code.UNAVAILABLE, "etcdserver: no leader", unavailable("etcdserver: no leader", false)],
  [Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", unavailable("etcdserver: too many requests", false)],
  [
    Code.INVALID_ARGUMENT,
    "etcdserver: revision of auth store is old",
    unavailable("etcdserver: revision of auth store is old", false)
  ],
  [Code.DEADLINE_EXCEEDED, picking, unavailable("no connection within the timeout", false)],
  [Code.UNAVAILABLE, "Connection dropped", unavailable("Connection dropped", true)],
  [Code.UNAVAILABLE, "read ECONNRESET", unavailable("read ECONNRESET", true)],
  [Code.UNAVAILABLE, "etcdserver: request timed out", unavailable("etcdserver: request timed out", true)],
  [Code.UNAVAILABLE, "etcdserver: leader changed", unavailable("etcdserver: leader changed", true)],
  [Code.CANCELLED, "Call cancelled", unavailable("Call cancelled", true)],
  [Code.UNKNOWN, "raft proposal dropped", unavailable("raft proposal dropped", true)],
  [
    Code.INTERNAL,
    "Received RST_STREAM with code 2 (Internal server error)",
    unavailable("Received RST_STREAM with code 2 (Internal server error)", true)
  ],
  [
    Code.RESOURCE_EXHAUSTED,
    "Bandwidth exhausted or memory limit exceeded",
    unavailable("Bandwidth exhausted or memory limit exceeded", true)
  ],
  [
    Code.DEADLINE_EXCEEDED,
    "Deadline exceeded after 1.000s,remote_addr=127.0.0.1:1",
    new Timeout({ detail: "Deadline exceeded after 1.000s,remote_addr=127.0.0.1:1" })
  ],
  [Code.DEADLINE_EXCEEDED, "context deadline exceeded", new Timeout({ detail: "context deadline exceeded" })],
  [Code.UNKNOWN, "context deadline exceeded", new Timeout({ detail: "context deadline exceeded" })],
  [Code.PERMISSION_DENIED, "etcdserver: permission denied", new PermissionDenied({})],
  [
    Code.UNAUTHENTICATED,
    "etcdserver: invalid auth token",
    new Unauthenticated({ detail: "etcdserver: invalid auth token" })
  ],
  [Code.NOT_FOUND, "etcdserver: requested lease not found", new LeaseNotFound({ leaseId: 7n })],
  [Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", new NoSpace({})],
  [
    Code.INVALID_ARGUMENT,
    "etcdserver: request is too large",
    new TooLarge({ detail: "etcdserver: request is too large" })
  ],
  [
    Code.RESOURCE_EXHAUSTED,
    "grpc: received message larger than max (3 vs. 2)",
    new TooLarge({ detail: "grpc: received message larger than max (3 vs. 2)" })
  ],
  [
    Code.RESOURCE_EXHAUSTED,
    "Received message larger than max (3 vs 2)",
    new TooLarge({ detail: "Received message larger than max (3 vs 2)" })
  ],
  [
    Code.INVALID_ARGUMENT,
    "etcdserver: duplicate key given in txn request",
    new InvalidArgument({ detail: "etcdserver: duplicate key given in txn request" })
  ],
  [Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", new Compacted({ compactRevision: 0n })],
  [
    Code.OUT_OF_RANGE,
    "etcdserver: mvcc: required revision is a future revision",
    new InvalidArgument({ detail: "etcdserver: mvcc: required revision is a future revision" })
  ],
  [Code.UNIMPLEMENTED, "unknown service", new Unexpected({ detail: "unknown service" })],
  [Code.DATA_LOSS, "etcdserver: corrupt cluster", new Unexpected({ detail: "etcdserver: corrupt cluster" })],
  [Code.FAILED_PRECONDITION, "etcdserver: not leader", new Unexpected({ detail: "etcdserver: not leader" })],
  [Code.NOT_FOUND, "etcdserver: member not found", new Unexpected({ detail: "etcdserver: member not found" })],
  [
    Code.INTERNAL,
    "Request message serialization failure: x",
    new Unexpected({ detail: "Request message serialization failure: x" })
  ]
]

describe("a status", () => {
  for (const [code, details, reason] of table) {
    it(`${code} ${details.slice(0, 60)} is ${reason._tag}${reason._tag === "Unavailable" ? ` ${reason.sent ? "" : "not "}sent` : ""}`, () => {
      assert.deepStrictEqual(reasonOf({ code, details }, 7n), reason)
    })
  }

  it("of what had to come first says that the request itself was not sent", () => {
    const unsent = { unsent: true }
    assert.deepStrictEqual(
      reasonOf({ code: Code.UNAVAILABLE, details: "Connection dropped", ...unsent }),
      unavailable("Connection dropped", false)
    )
    assert.deepStrictEqual(
      reasonOf({ code: Code.DEADLINE_EXCEEDED, details: "late", ...unsent }),
      unavailable("late", false)
    )
    assert.strictEqual(reasonOf({ code: Code.PERMISSION_DENIED, details: "", ...unsent })._tag, "PermissionDenied")
  })

  it("tells what to do about credentials", () => {
    const detail = (code: Code, details: string) => {
      const reason = reasonOf({ code, details })
      return reason._tag === "Unauthenticated" ? reason.detail : reason._tag
    }
    assert.include(
      detail(Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"),
      "wrong"
    )
    assert.include(detail(Code.INVALID_ARGUMENT, "etcdserver: user name is empty"), "set `username`")
    assert.include(detail(Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"), "switched off")
  })

  it("is that of a stale token only where a fresh one can help", () => {
    assert.isTrue(isStaleToken({ code: Code.UNAUTHENTICATED, details: "etcdserver: invalid auth token" }))
    assert.isTrue(isStaleToken({ code: Code.INVALID_ARGUMENT, details: "etcdserver: revision of auth store is old" }))
    assert.isFalse(isStaleToken({ code: Code.PERMISSION_DENIED, details: "etcdserver: permission denied" }))
    assert.isTrue(isLeaseExists({ code: Code.FAILED_PRECONDITION, details: "etcdserver: lease already exists" }))
    assert.isFalse(
      neverLeft({ code: Code.DEADLINE_EXCEEDED, details: "Deadline exceeded after 1s,LB pick: 0.003s,remote_addr=a:1" })
    )
  })
})
