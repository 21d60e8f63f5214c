/**
 * Beats of all leases over one stream.
 */
import { status as Code } from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { Connection } from "./connection.ts"
import type { Beat } from "./leaseMessages.ts"
import { shutDown, type Status } from "./status.ts"
import type { Duplex } from "./stream.ts"
import type { Authenticated } from "./token.ts"

export interface KeepAlive {
  /** Answers the time to live, zero for a lease that does not exist. */
  readonly beat: (id: bigint) => Effect.Effect<Duration.Duration, Status>
  /** What etcd granted bounds how long a beat may go unanswered. */
  readonly remember: (id: bigint, ttl: Duration.Duration) => void
}

type Resume = (answer: Effect.Effect<Duration.Duration, Status>) => void

interface Session {
  readonly stream: Duplex<bigint, Beat>
  readonly scope: Scope.Closeable
  /** By lease, in the order of the requests: etcd answers each, in order. `undefined`: nobody waits for it any more. */
  readonly waiting: Map<bigint, Array<Resume | undefined>>
}

const unanswered: Status = { code: Code.UNAVAILABLE, details: "a beat was not answered in time" }

/** Only a bound for time-outs is lost when one is forgotten. */
const rememberedLeases = 4096

export const makeKeepAlive = Effect.fnUntraced(function*(
  connection: Connection,
  authenticated: Authenticated,
  timeout: Duration.Duration
): Effect.fn.Return<KeepAlive, never, Scope.Scope> {
  const scope = yield* Effect.scope
  const opening = yield* Semaphore.make(1)
  const ttls = new Map<bigint, Duration.Duration>()
  let current: Session | undefined

  const remember = (id: bigint, ttl: Duration.Duration) => {
    ttls.delete(id)
    if (Duration.isZero(ttl)) return
    ttls.set(id, ttl)
    for (const [oldest] of ttls) {
      if (ttls.size <= rememberedLeases) break
      ttls.delete(oldest)
    }
  }

  const end = (session: Session, status: Status) =>
    Effect.suspend(() => {
      if (current === session) current = undefined
      const waiting = [...session.waiting.values()].flat()
      session.waiting.clear()
      for (const resume of waiting) resume?.(Effect.fail(status))
      return Scope.close(session.scope, Exit.void)
    })

  yield* Effect.addFinalizer(() => current === undefined ? Effect.void : end(current, shutDown))

  const answer = (session: Session, beat: Beat) => {
    const ttl = Duration.seconds(Math.max(0, beat.ttl))
    remember(beat.id, ttl)
    const queue = session.waiting.get(beat.id)
    queue?.shift()?.(Effect.succeed(ttl))
    if (queue?.length === 0) session.waiting.delete(beat.id)
  }

  const open = authenticated((token) =>
    Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
      const own = yield* Scope.fork(scope)
      const stream = yield* restore(connection.open<bigint, Beat>(
        token,
        (stubs, ...rest) => stubs.Lease.leaseKeepAlive(...rest)
      )).pipe(Scope.provide(own), Effect.onError(() => Scope.close(own, Exit.void)))
      const session: Session = { stream, scope: own, waiting: new Map() }
      current = session
      yield* stream.read.pipe(
        Effect.tap((messages) =>
          Effect.sync(() => {
            for (const message of messages) answer(session, message)
          })
        ),
        Effect.forever({ disableYield: true }),
        Effect.catch((status) => end(session, status)),
        // Not in its own scope: it closes that.
        Effect.forkIn(scope)
      )
      return session
    }))
  )

  const acquire = opening.withPermits(1)(Effect.suspend(() => current === undefined ? open : Effect.succeed(current)))

  const send = (session: Session, id: bigint) =>
    Effect.callback<Duration.Duration, Status>((resume) => {
      // The fiber gave way since it got it, and it has ended: nobody would answer.
      if (current !== session) return resume(Effect.fail(unanswered))
      const queue = session.waiting.get(id) ?? []
      queue.push(resume)
      session.waiting.set(id, queue)
      session.stream.write(id)
      return Effect.sync(() => {
        // Its answer will come, and must not be taken for that of a later beat.
        const place = queue.indexOf(resume)
        if (place >= 0) queue[place] = undefined
      })
    })

  const beat = (id: bigint) =>
    Effect.suspend(() => {
      const ttl = ttls.get(id)
      let session: Session | undefined
      return Effect.flatMap(acquire, (acquired) => {
        session = acquired
        return send(acquired, id)
      }).pipe(Effect.timeoutOrElse({
        duration: ttl === undefined ? timeout : Duration.min(timeout, Duration.divideUnsafe(ttl, 3)),
        orElse: () =>
          Effect.andThen(session === undefined ? Effect.void : end(session, unanswered), Effect.fail(unanswered))
      }))
    })

  return { remember, beat: (id) => authenticated(() => beat(id)) }
})
