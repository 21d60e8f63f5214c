/**
 * One attempt at a watch: a stream of its own, read as fast as its consumer reads.
 */
import { status as Code } from "@grpc/grpc-js"
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { WatchEvent, WatchItem, WatchRequest } from "../../Etcd.ts"
import { Compacted, EtcdError } from "../../EtcdError.ts"
import type { Connection, Token } from "./connection.ts"
import { isStaleToken, type Status } from "./status.ts"
import type { Duplex } from "./stream.ts"
import type { Authenticated } from "./token.ts"
import type { WatchQuestion, WatchResponse } from "./watchMessages.ts"

/** After so long without a word the server is asked for one, and given as long again. Together less than 10 s. */
const silence = Duration.seconds(4.5)

type Responses = Duplex<WatchQuestion, WatchResponse>
type Items = Arr.NonEmptyReadonlyArray<WatchItem>

export const makeWatch = (connection: Connection, authenticated: Authenticated, dialTimeout: Duration.Duration) => {
  const fail = (status: Status) => Effect.fail(connection.error("watch", status))

  const unconfirmed: Status = { code: Code.UNAVAILABLE, details: "the watch was not confirmed in time" }

  /** A stream whose watch the server has confirmed, with what came first. */
  const open = Effect.fnUntraced(function*(request: WatchRequest, token: Token) {
    const stream = yield* connection.open<WatchQuestion, WatchResponse>(
      token,
      (stubs, ...rest) => stubs.Watch.watch(...rest)
    )
    stream.write({ _tag: "Create", request })
    const responses = yield* stream.read
    const [first] = responses
    // Denied, perhaps for its token alone. The stream stays open then, and says no more.
    if (first.canceled && first.compactRevision === 0n) return yield* Effect.fail(cancelled(first))
    return { stream, responses }
  }, Effect.timeoutOrElse({ duration: dialTimeout, orElse: () => Effect.fail(unconfirmed) }))

  const attempt = (request: WatchRequest) =>
    authenticated(
      (token) =>
        Effect.flatMap(Effect.scope, (scope) =>
          Effect.flatMap(Scope.fork(scope), (own) =>
            open(request, token).pipe(
              Scope.provide(own),
              Effect.onError(() => Scope.close(own, Exit.void))
            ))),
      isDenied
    )

  return (request: WatchRequest): Stream.Stream<WatchItem, EtcdError> =>
    Stream.unwrap(Effect.gen(function*() {
      const { responses, stream } = yield* Effect.catch(attempt(request), fail)
      const { read } = yield* attended(stream)
      const join = makeJoin()
      let arrived: ReadonlyArray<WatchResponse> | undefined = responses
      let failure: EtcdError | undefined

      const accept = (responses: ReadonlyArray<WatchResponse>): ReadonlyArray<WatchItem> => {
        const items: Array<WatchItem> = []
        for (const response of responses) {
          if (response.canceled) {
            failure = ending(response)
            break
          }
          if (response.created) items.push({ _tag: "Opened", revision: response.revision })
          items.push(...join(response))
        }
        return items
      }
      const ending = (response: WatchResponse): EtcdError =>
        response.compactRevision === 0n
          ? connection.error("watch", cancelled(response))
          : new EtcdError({
            operation: "watch",
            reason: new Compacted({ compactRevision: response.compactRevision })
          })

      const hand = (responses: ReadonlyArray<WatchResponse>): Effect.Effect<Items, EtcdError> => {
        const items = accept(responses)
        return Arr.isReadonlyArrayNonEmpty(items) ? Effect.succeed(items) : next
      }
      const further = Effect.flatMap(Effect.catch(read, fail), hand)
      const next: Effect.Effect<Items, EtcdError> = Effect.suspend(() => {
        // What came before the end is delivered before it.
        if (failure !== undefined) return Effect.fail(failure)
        const first = arrived
        arrived = undefined
        return first === undefined ? further : hand(first)
      })
      return Stream.fromPull(Effect.succeed(next))
    }))
}

/**
 * Reads that do not wait for ever: the server is asked for a word, then given up. One timer for the whole watch, as there are
 * many events and hardly ever such a silence. Who does not read is not waiting.
 */
const attended = Effect.fnUntraced(function*(stream: Responses) {
  const clock = yield* Clock.Clock
  const patience = Duration.toNanosUnsafe(silence)
  let waitingSince: bigint | undefined
  let asked = false

  const untilSilent = Effect.suspend(() => {
    const since = waitingSince
    const left = since === undefined ? patience : since + patience - clock.monotonicTimeNanosUnsafe()
    return left > 0n ? Effect.as(Effect.sleep(Duration.nanos(left)), false) : Effect.succeed(true)
  })
  yield* Effect.forkScoped(Effect.gen(function*() {
    while (true) {
      if (!(yield* untilSilent)) continue
      if (asked) return stream.end(silent.code, silent.details)
      asked = true
      waitingSince = clock.monotonicTimeNanosUnsafe()
      stream.write({ _tag: "Progress" })
    }
  }))

  const done = () => {
    waitingSince = undefined
    return undefined
  }
  return {
    read: Effect.suspend(() => {
      waitingSince = clock.monotonicTimeNanosUnsafe()
      asked = false
      return Effect.onExitPrimitive(stream.read, done)
    })
  }
})

const silent: Status = { code: Code.UNAVAILABLE, details: "the watch has gone silent" }

/** etcd says why in words only. */
const cancelled = ({ cancelReason: reason }: WatchResponse): Status => {
  const code = reason.includes("permission denied")
    ? Code.PERMISSION_DENIED
    : reason.includes("invalid auth token")
    ? Code.UNAUTHENTICATED
    : /auth store is old|user name is empty|range is empty/.test(reason)
    ? Code.INVALID_ARGUMENT
    : Code.UNAVAILABLE
  return { code, details: reason === "" ? "the server cancelled the watch" : reason }
}

/** Some versions call an expired token of a watch "permission denied": a fresh one tells the two apart. */
const isDenied = (status: Status): boolean => isStaleToken(status) || status.code === Code.PERMISSION_DENIED

/**
 * Makes whole revisions of responses. A fragment can end within a revision, so its last one is held back until the next
 * response goes on with it, or a response that is no fragment completes it.
 */
const makeJoin = () => {
  let held: Array<WatchEvent> = []
  return ({ events, fragment }: WatchResponse): ReadonlyArray<WatchItem> => {
    const items: Array<WatchItem> = []
    const emit = () => {
      const [first] = held
      if (first !== undefined) items.push({ _tag: "Batch", revision: modRevision(first), events: held })
      held = []
    }
    for (const event of events) {
      const [first] = held
      if (first !== undefined && modRevision(first) !== modRevision(event)) emit()
      held.push(event)
    }
    if (!fragment) emit()
    return items
  }
}

const modRevision = (event: WatchEvent): bigint => event._tag === "Put" ? event.kv.modRevision : event.modRevision
