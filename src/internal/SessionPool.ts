/**
 * Sessions shared by many keys: a thousand locks of one TTL cost a handful of leases.
 *
 * A lane is one session of one TTL, and which names are in use on it. The key of a lock contains the lease, so that two users of one
 * lock need two lanes; lanes are opened when they are needed. A lane whose session was lost, or may have a write in
 * flight whose answer was lost, takes no new keys and closes with its last user.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as RcMap from "effect/RcMap"
import * as Scope from "effect/Scope"
import type { Etcd } from "../Etcd.ts"
import { Closed, EtcdError } from "../EtcdError.ts"
import { type LeaseSession, makeLeaseSession, type Slot } from "./LeaseSession.ts"

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

export const makeSessionPool = Effect.fnUntraced(function*(
  etcd: Etcd["Service"]
): Effect.fn.Return<SessionPool, never, Scope.Scope> {
  /** Lanes that take new keys, by TTL in seconds. */
  const lanes = new Map<number, Array<Lane>>()
  const byId = new Map<number, Lane>()
  const closing = new Set<Fiber.Fiber<void>>()
  let nextId = 0
  yield* Effect.addFinalizer(() => Effect.suspend(() => Fiber.awaitAll(closing)))

  const sessions = yield* RcMap.make({
    lookup: (id: number) =>
      Effect.suspend((): Effect.Effect<LeaseSession, EtcdError | "retired", Scope.Scope> => {
        const lane = byId.get(id)
        if (lane === undefined) return Effect.fail("retired" as const)
        return Effect.tap(makeLeaseSession(etcd, lane.ttl), (session) =>
          Effect.sync(() => {
            lane.session = session
          }))
      }),
    // A lock that is taken again and again keeps its lease in between.
    idleTimeToLive: (id) => byId.get(id)?.ttl ?? Duration.zero
  })

  const retire = (lane: Lane): void => {
    if (lane.retired) return
    lane.retired = true
    const seconds = Duration.toSeconds(lane.ttl)
    const rest = (lanes.get(seconds) ?? []).filter((other) => other !== lane)
    if (rest.length === 0) lanes.delete(seconds)
    else lanes.set(seconds, rest)
  }

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
      byId.delete(lane.id)
      return Effect.forkDetach(RcMap.invalidate(sessions, lane.id)).pipe(
        Effect.map((fiber) => {
          closing.add(fiber)
          fiber.addObserver(() => closing.delete(fiber))
        })
      )
    })

  const slot: SessionPool["slot"] = (request) =>
    Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore): Effect.fn.Return<Slot, EtcdError, Scope.Scope> {
      const scope = yield* Effect.scope
      while (true) {
        if (sessions.state._tag === "Closed") {
          return yield* new EtcdError({ operation: "session", reason: new Closed() })
        }
        const lane = reserve(request)
        const free = () => {
          lane.names.delete(request.name)
        }
        const laneScope = yield* Scope.fork(scope)
        // Runs after the reference is dropped.
        yield* Scope.addFinalizer(laneScope, leave(lane))
        const got = yield* restore(RcMap.get(sessions, lane.id)).pipe(Scope.provide(laneScope), Effect.exit)
        if (Exit.isSuccess(got) && got.value.lossUnsafe() === undefined) {
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
        // The failed session stays in the map otherwise, and would be handed to the next user.
        if (Exit.isSuccess(got) || !Exit.hasInterrupts(got)) retire(lane)
        yield* Scope.close(laneScope, Exit.void)
        if (Exit.isFailure(got)) {
          const error = Cause.findErrorOption(got.cause)
          // Somebody else retired the lane between its choice and its use.
          if (Option.isSome(error) && error.value === "retired") continue
          return yield* Effect.failCause(got.cause as Cause.Cause<EtcdError>)
        }
      }
    }))

  return { slot }
})
