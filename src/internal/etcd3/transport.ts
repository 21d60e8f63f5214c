/**
 * Single attempts on a real cluster.
 */
import { status as Code } from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { IStatusResponse } from "etcd3"
import type { MemberHealth, RangeResult, TxnResult } from "../../Etcd.ts"
import type { Transport } from "../Transport.ts"
import { type ConnectionSettings, makeConnection } from "./connection.ts"
import type { Answered } from "./fields.ts"
import { makeKeepAlive } from "./lease.ts"
import type { LeaseState } from "./leaseMessages.ts"
import { memberHealth, putCall, txnAnswer, txnCall, txnLease } from "./messages.ts"
import { isLeaseExists, type Status } from "./status.ts"
import type { Answer, Send } from "./stubs.ts"
import { makeAuthenticated } from "./token.ts"
import { makeWatch } from "./watch.ts"

export const makeTransport = Effect.fnUntraced(function*(
  settings: ConnectionSettings
): Effect.fn.Return<Transport, never, Scope.Scope> {
  const connection = yield* makeConnection(settings)
  const authenticated = yield* makeAuthenticated(connection, settings.credentials)
  const keepAlive = yield* makeKeepAlive(connection, authenticated, settings.timeout)

  // Before anything else ends, so that all of it ends as `Closed`.
  yield* Effect.addFinalizer(() => connection.close)

  const call = <Response extends Answer>(send: Send<Response>): Effect.Effect<Response, Status> =>
    authenticated((token) => connection.unary(token, send))

  const failsAs = (operation: string, leaseId?: bigint) => <A>(effect: Effect.Effect<A, Status>) =>
    Effect.mapError(effect, (status) => connection.error(operation, status, leaseId))

  const leaseNotFound: Status = { code: Code.NOT_FOUND, details: "requested lease not found" }

  return {
    range: (request) =>
      call<Answered<RangeResult>>((stubs, ...rest) => stubs.KV.range(request, ...rest)).pipe(
        Effect.map(({ result }) => result),
        failsAs("range")
      ),

    txn: (request) =>
      call<Answered<TxnResult>>((stubs, ...rest) => {
        const put = putCall(request)
        return put === undefined ? stubs.KV.txn(txnCall(request), ...rest) : stubs.KV.put(put, ...rest)
      }).pipe(
        Effect.map(({ result }) => txnAnswer(request, result)),
        Effect.mapError((status) => connection.error("txn", status, txnLease(request)))
      ),

    leaseGrant: (id, ttl) =>
      call<Answered<number>>((stubs, ...rest) =>
        stubs.Lease.leaseGrant({ id, ttl: Math.ceil(Duration.toSeconds(ttl)) }, ...rest)
      ).pipe(
        Effect.map(({ result }) => {
          const granted = Duration.seconds(result)
          keepAlive.remember(id, granted)
          return { ttl: granted, exists: false }
        }),
        Effect.catchIf(isLeaseExists, () => Effect.succeed({ ttl, exists: true })),
        failsAs("leaseGrant", id)
      ),

    leaseKeepAlive: (id) =>
      keepAlive.beat(id).pipe(
        Effect.filterOrFail((ttl) => !Duration.isZero(ttl), () => leaseNotFound),
        failsAs("leaseKeepAlive", id)
      ),

    leaseRevoke: (id) =>
      call<Answered<void>>((stubs, ...rest) => stubs.Lease.leaseRevoke(id, ...rest)).pipe(
        Effect.asVoid,
        failsAs("leaseRevoke", id)
      ),

    leaseTimeToLive: (id) =>
      call<Answered<LeaseState>>((stubs, ...rest) => stubs.Lease.leaseTimeToLive(id, ...rest)).pipe(
        Effect.filterOrFail(({ result }) => result.ttl >= 0, () => leaseNotFound),
        Effect.map(({ result: { keys, revision, ttl } }) => ({ remaining: Duration.seconds(ttl), keys, revision })),
        failsAs("leaseTimeToLive", id)
      ),

    watch: makeWatch(connection, authenticated, settings.dialTimeout),
    endsWatches: true,

    members: Effect.forEach(
      connection.members,
      ({ endpoint, unary }) =>
        authenticated((token) =>
          unary<IStatusResponse>(token, (stubs, ...rest) => stubs.Maintenance.status({}, ...rest))
        ).pipe(
          failsAs("health"),
          Effect.timed,
          Effect.map(([latency, status]) => memberHealth(endpoint, latency, status)),
          Effect.catch((error) => Effect.succeed<MemberHealth>({ _tag: "Unknown", endpoint, error }))
        ),
      { concurrency: "unbounded" }
    )
  }
})
