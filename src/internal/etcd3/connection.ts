/**
 * The members of a cluster as one: calls and streams go to those that are connected and answer, one after the other.
 *
 * Each has a channel of its own, so that one that does not answer can be left without the others. grpc-js's own balancer keeps it:
 * frozen, it still is connected.
 */
import { Metadata } from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { Closed, EtcdError, type EtcdErrorReason, Unavailable } from "../../EtcdError.ts"
import { type Endpoint, formatEndpoint, type TlsSettings } from "./channel.ts"
import { makeCondition } from "./condition.ts"
import { detectSilence, endLostCalls, keepConnected } from "./health.ts"
import { makeMember, type Member } from "./member.ts"
import { noConnection, reasonOf, shutDown, type Status, unconnected } from "./status.ts"
import type { Duplex } from "./stream.ts"
import type { Answer, Send, Start } from "./stubs.ts"

export interface ConnectionSettings {
  readonly endpoints: ReadonlyArray<Endpoint>
  readonly tls: TlsSettings | undefined
  readonly credentials: { readonly username: string; readonly password: Redacted.Redacted } | undefined
  /** The bound of one request. */
  readonly timeout: Duration.Duration
  /** The bound of connecting, and of opening a stream. */
  readonly dialTimeout: Duration.Duration
}

export type Token = string | undefined

export interface Connection {
  /** One call, cancelled on the wire when it is interrupted. */
  readonly unary: <Response extends Answer>(token: Token, send: Send<Response>) => Effect.Effect<Response, Status>
  /** A stream, cancelled on the wire with its scope. */
  readonly open: <Request, Response>(
    token: Token,
    start: Start<Request, Response>
  ) => Effect.Effect<Duplex<Request, Response>, Status, Scope.Scope>
  /** Each member by itself, whatever is known of it, whether it has a leader or not. */
  readonly members: ReadonlyArray<{
    readonly endpoint: string
    readonly unary: <Response extends Answer>(token: Token, send: Send<Response>) => Effect.Effect<Response, Status>
  }>
  readonly error: (operation: string, status: Status, leaseId?: bigint) => EtcdError
  /** Ends every call and stream; whatever fails from then on fails with `Closed`. Happens with the scope, at the latest. */
  readonly close: Effect.Effect<void>
}

const makeMetadata = (token: Token, hasLeader = true): Metadata => {
  const metadata = new Metadata()
  // A member that is cut off from the majority fails instead of hanging.
  if (hasLeader) metadata.set("hasleader", "true")
  if (token !== undefined) metadata.set("token", token)
  return metadata
}

/** The same for all calls with one token: grpc-js copies what it changes. */
const latestMetadata = () => {
  let latest: { readonly token: Token; readonly metadata: Metadata } | undefined
  return (token: Token): Metadata => {
    if (latest === undefined || latest.token !== token) latest = { token, metadata: makeMetadata(token) }
    return latest.metadata
  }
}

// gRPC's deadlines are wall time. @effect-diagnostics-next-line globalDate:off
const deadlineIn = (millis: number): number => Date.now() + millis // oxlint-disable-line no-restricted-globals

export const makeConnection = Effect.fnUntraced(function*(
  settings: ConnectionSettings
): Effect.fn.Return<Connection, never, Scope.Scope> {
  const timeout = Duration.toMillis(settings.timeout)
  const states = makeCondition()
  const members = yield* Effect.forEach(settings.endpoints, (endpoint) => makeMember(endpoint, settings.tls, states))
  const metadataOf = latestMetadata()
  let closed = false

  for (const member of members) {
    yield* Effect.forkScoped(keepConnected(member, states, settings.dialTimeout))
    yield* Effect.forkScoped(endLostCalls(member))
    // Without another there is nobody to go to, and nobody to compare it with.
    if (members.length > 1) {
      yield* Effect.forkScoped(detectSilence(member, members.filter((other) => other !== member)))
    }
  }

  let last = 0
  const choose = (suits: (member: Member) => boolean): Member | undefined => {
    for (let i = 1; i <= members.length; i++) {
      const index = (last + i) % members.length
      const member = members[index]
      if (member === undefined || !suits(member)) continue
      last = index
      return member
    }
    return undefined
  }
  const chooseReady = () =>
    choose((member) => member.isReady() && !member.isDoubtful()) ?? choose((member) => member.isReady())

  const untilReady = (bound: Duration.Duration): Effect.Effect<Member, Status> =>
    states.until(() => closed || members.some((member) => member.isReady()) || members.every((one) => one.hasFailed()))
      .pipe(
        Effect.timeoutOrElse({ duration: bound, orElse: () => Effect.fail(unconnected) }),
        // Of those that have failed, any says why.
        Effect.flatMap(() => {
          const member = closed ? undefined : chooseReady() ?? choose(() => true)
          return member === undefined ? Effect.fail(shutDown) : Effect.succeed(member)
        })
      )

  // Between two attempts of its own to connect, grpc-js no longer says why: the last cause that it gave counts.
  const where = settings.endpoints.map(formatEndpoint).join(", ")
  let cause = ""
  const located = (reason: EtcdErrorReason): EtcdErrorReason => {
    if (reason._tag !== "Unavailable" || !reason.detail.startsWith(noConnection)) return reason
    if (reason.detail !== noConnection) cause = reason.detail.slice(noConnection.length)
    return new Unavailable({ detail: `${noConnection} to ${where}${cause}`, sent: reason.sent })
  }

  return {
    unary: (token, send) =>
      Effect.suspend(() => {
        const metadata = metadataOf(token)
        const member = chooseReady()
        if (member !== undefined) return member.unary(metadata, deadlineIn(timeout), send)
        // By the clock that nobody sets, so only what is left is wall time.
        return Effect.flatMap(
          Effect.timed(untilReady(settings.timeout)),
          ([waited, member]) => member.unary(metadata, deadlineIn(timeout - Duration.toMillis(waited)), send)
        )
      }),
    open: (token, start) =>
      Effect.suspend(() => {
        const member = chooseReady()
        return member === undefined ? untilReady(settings.dialTimeout) : Effect.succeed(member)
      }).pipe(Effect.flatMap((member) => member.open(metadataOf(token), start))),
    members: members.map((member) => ({
      endpoint: member.endpoint,
      unary: (token, send) => Effect.suspend(() => member.unary(makeMetadata(token, false), deadlineIn(timeout), send))
    })),
    error: (operation, status, leaseId) =>
      new EtcdError({ operation, reason: closed ? new Closed({}) : located(reasonOf(status, leaseId)) }),
    close: Effect.sync(() => {
      closed = true
      for (const member of members) member.close()
    })
  }
})
