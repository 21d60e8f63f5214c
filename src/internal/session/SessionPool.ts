/**
 * Sessions shared by many keys: a thousand locks of one TTL cost a handful of leases.
 *
 * A lane is one session of one TTL, and which names are in use on it. The key of a lock contains the lease, so that two
 * users of one lock need two lanes; lanes are opened when they are needed. A lane whose session is over, or may have a
 * write in flight whose answer was lost, takes no new keys and closes with its last user.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as RcMap from "effect/RcMap"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import type { Etcd } from "../../Etcd.ts"
import { Closed, EtcdError } from "../../EtcdError.ts"
import { type LeaseSession, makeLeaseSession } from "./LeaseSession.ts"
import type { Slot } from "./Slots.ts"

/** With auth on, etcd checks every key of a lease at each put on it: 19 ms at 10,000 keys. */
const keysPerLease = 256

interface Lane {
  readonly id: number
  readonly ttl: Duration.Duration
  /** Reserved before the session is there, freed when the key is known to be gone. */
  readonly names: Set<string>
  session: LeaseSession | undefined
  users: number
  retired: boolean
}

export interface SlotRequest {
  readonly ttl: Duration.Duration
  /** What may be in use only once on a lease. */
  readonly name: string
  readonly key: (leaseId: bigint) => string
}

export interface SessionPool {
  /** A place for one key on a live lease. When the scope closes the key is deleted, by compare, and waited for within the request timeout. */
  readonly slot: (request: SlotRequest) => Effect.Effect<Slot, EtcdError, Scope.Scope>
}

const unnamed = <R>(context: Context.Context<R>): Context.Context<R> =>
  context.pipe(Context.add(References.CurrentLogAnnotations, {}), Context.omit(Tracer.ParentSpan)) as Context.Context<R>

/** A lease that nobody uses is not kept longer than this. */
const maxIdle = Duration.minutes(1)

/** The lane was retired between its choice and its use. */
const Retired = "Retired" as const

export const makeSessionPool = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  /** All keys of its slots start with it. */
  prefix: string
): Effect.fn.Return<SessionPool, never, Scope.Scope> {
  /** Lanes that take new keys, by TTL in seconds. */
  const lanes = new Map<number, Array<Lane>>()
  /** All lanes, until their session has ended. */
  const byId = new Map<number, Lane>()
  const closing = new Set<Fiber.Fiber<void>>()
  let nextId = 0
  let ending = false

  const retire = (lane: Lane): void => {
    if (lane.retired) return
    lane.retired = true
    const seconds = Duration.toSeconds(lane.ttl)
    const rest = (lanes.get(seconds) ?? []).filter((other) => other !== lane)
    if (rest.length === 0) lanes.delete(seconds)
    else lanes.set(seconds, rest)
  }

  const forget = (lane: Lane) =>
    Effect.sync(() => {
      retire(lane)
      byId.delete(lane.id)
    })

  const open = Effect.fnUntraced(
    function*(
      id: number
    ): Effect.fn.Return<LeaseSession, EtcdError | typeof Retired, Scope.Scope> {
      const lane = byId.get(id)
      if (lane === undefined) return yield* Effect.fail(Retired)
      const session = yield* Effect.onError(makeLeaseSession(etcd, lane.ttl, prefix), () => forget(lane))
      lane.session = session
      // Added last, so it runs first: a session that closes, after its idle time for one, is chosen no more.
      yield* Effect.addFinalizer(() => forget(lane))
      return session
    },
    // Shared by many, so not under the annotations and spans of the one who came first.
    Effect.updateContext(unnamed<Scope.Scope>)
  )

  const sessions = yield* RcMap.make({
    lookup: open,
    // A lock that is taken again and again keeps its lease in between.
    idleTimeToLive: (id) => Duration.min(byId.get(id)?.ttl ?? Duration.zero, maxIdle)
  })

  // All at once, so that closing takes one request timeout at most.
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      // Whoever waits loses his place now, and would queue again.
      ending = true
      const live = [...byId.values()].flatMap(({ session }) => session === undefined ? [] : [session.end])
      return Effect.all([...live, Fiber.awaitAll(closing)], { concurrency: "unbounded", discard: true })
    })
  )

  const isUsable = (lane: Lane): boolean => {
    const session = lane.session
    if (session !== undefined && (session.lossUnsafe() !== undefined || session.distrustedUnsafe())) retire(lane)
    return !lane.retired && lane.names.size < keysPerLease
  }

  const reserve = (request: SlotRequest): Lane => {
    const seconds = Duration.toSeconds(request.ttl)
    const found = (lanes.get(seconds) ?? []).filter(isUsable).find((lane) => !lane.names.has(request.name))
    const lane = found ??
      { id: nextId++, ttl: request.ttl, names: new Set(), session: undefined, users: 0, retired: false }
    if (found === undefined) {
      byId.set(lane.id, lane)
      lanes.set(seconds, [...(lanes.get(seconds) ?? []), lane])
    }
    lane.names.add(request.name)
    lane.users++
    return lane
  }

  // A lane that nobody may use again closes with its last user, who does not wait for the revoke; the pool does.
  const leave = (lane: Lane) =>
    Effect.suspend(() => {
      lane.users--
      isUsable(lane)
      if (!lane.retired || lane.users > 0) return Effect.void
      return Effect.forkDetach(RcMap.invalidate(sessions, lane.id)).pipe(
        Effect.map((fiber) => {
          closing.add(fiber)
          fiber.addObserver(() => closing.delete(fiber))
        })
      )
    })

  const isClosed = () => ending || sessions.state._tag === "Closed"
  const closed = new EtcdError({ operation: "session", reason: new Closed() })

  /** Where the scope has closed, its finalizers run at once, and the slot is not to be used. */
  const slot: SessionPool["slot"] = (request) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*(): Effect.fn.Return<Slot, EtcdError, Scope.Scope> {
        const scope = yield* Effect.scope
        while (true) {
          if (isClosed()) return yield* closed
          const lane = reserve(request)
          const free = () => {
            lane.names.delete(request.name)
          }
          const laneScope = Scope.forkUnsafe(scope)
          // Runs after the reference is dropped.
          yield* Scope.addFinalizer(laneScope, leave(lane))
          const got = yield* restore(RcMap.get(sessions, lane.id)).pipe(Scope.provide(laneScope), Effect.exit)
          if (Exit.isSuccess(got) && got.value.lossUnsafe() === undefined && !got.value.distrustedUnsafe()) {
            const opened = got.value.open(request.key(got.value.leaseId), free)
            yield* Scope.addFinalizer(
              laneScope,
              opened.release.pipe(
                Effect.catch((error) => Effect.logWarning("key not released yet", error)),
                Effect.annotateLogs({ key: opened.key })
              )
            )
            return opened
          }
          free()
          // What has failed stays in the map otherwise, and would be handed to the next user.
          if (Exit.isSuccess(got) || !Exit.hasInterrupts(got)) retire(lane)
          yield* Scope.close(laneScope, Exit.void)
          if (Exit.isSuccess(got)) continue
          // The pool has closed under it; who was interrupted himself ends as that all the same.
          if (isClosed()) return yield* closed
          const error = Cause.findErrorOption(got.cause)
          if (Option.isSome(error) && error.value === Retired) continue
          return yield* Effect.failCause(got.cause as Cause.Cause<EtcdError>)
        }
      })
    )

  return { slot }
})
