/**
 * The token of a user: fetched once for all callers, and once more when the server no longer knows it.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { IAuthenticateResponse } from "etcd3"
import type { Connection, ConnectionSettings, Token } from "./connection.ts"
import { isAuthDisabled, isStaleToken, shutDown, type Status } from "./status.ts"

/** Runs an attempt with a token; a second time, with a fresh one, when the server refused the first for its token. */
export type Authenticated = <A, R>(
  attempt: (token: Token) => Effect.Effect<A, Status, R>,
  isStale?: (status: Status) => boolean
) => Effect.Effect<A, Status, R>

export const makeAuthenticated = Effect.fnUntraced(function*(
  connection: Connection,
  credentials: ConnectionSettings["credentials"]
): Effect.fn.Return<Authenticated, never, Scope.Scope> {
  if (credentials === undefined) return (attempt) => attempt(undefined)

  const fork = yield* FiberSet.makeRuntime()
  // At first, credentials that the cluster does not want are a mistake. Later, an operator has switched authentication off for a
  // while: calls go on without a token, until they are refused for that.
  let known = false
  const authenticate = Effect.suspend(() => {
    const request = { name: credentials.username, password: Redacted.value(credentials.password) }
    return connection.unary<IAuthenticateResponse>(
      undefined,
      (stubs, ...rest) => stubs.Auth.authenticate(request, ...rest)
    )
  }).pipe(
    Effect.map(({ token }): Token => {
      known = true
      return token
    }),
    Effect.catchIf((status) => known && isAuthDisabled(status), () => Effect.undefined),
    Effect.mapError((status): Status => ({ ...status, unsent: true }))
  )

  type Pending = Deferred.Deferred<Token, Status>
  let current: Pending | undefined

  const forget = (token: Pending) => {
    if (current === token) current = undefined
  }
  // The fetch belongs to nobody: a caller that is interrupted does not take it away from the others. It begins, and is told of, between
  // two steps of any fiber; in a scope that has closed it ends before it begins.
  const fetch = (): Pending => {
    const token: Pending = Deferred.makeUnsafe()
    current = token
    fork(authenticate).addObserver((exit) => {
      if (Exit.isFailure(exit)) forget(token)
      Deferred.doneUnsafe(token, Exit.hasInterrupts(exit) ? Exit.fail(shutDown) : exit)
    })
    return token
  }
  const acquire = Effect.sync(() => current ?? fetch())

  const run = <A, R>(
    attempt: (token: Token) => Effect.Effect<A, Status, R>,
    isStale: (status: Status) => boolean,
    tries: number
  ): Effect.Effect<A, Status, R> =>
    Effect.gen(function*() {
      const pending = yield* acquire
      const token = yield* Deferred.await(pending)
      // One fresh token; that none was wanted a moment ago is no token.
      const mayRenew = tries === 0 || (token === undefined && tries < 3)
      return yield* attempt(token).pipe(
        Effect.catchIf((status) => mayRenew && isStale(status), () => {
          forget(pending)
          return run(attempt, isStale, tries + 1)
        })
      )
    })

  return (attempt, isStale = isStaleToken) => run(attempt, isStale, 0)
})
