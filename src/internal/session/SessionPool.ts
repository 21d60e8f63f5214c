/**
 * Sessions shared by many keys: a thousand locks of one TTL cost a handful of leases.
 *
 * A lane is one session of one TTL, and which names are in use on it. The key of a lock contains the lease, so that two
 * users of one lock need two lanes; lanes are opened when they are needed. A lane whose session is over, or may have a
 * write in flight whose answer was lost, takes no new keys and closes with its last user.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import type { Etcd } from "../../Etcd.ts"
import { Closed, EtcdError } from "../../EtcdError.ts"
import { durationNanos, sleepUntil } from "./LeaseClock.ts"
import { type LeaseSession, makeLeaseSession } from "./LeaseSession.ts"
import type { Slot, SlotOwner } from "./Slots.ts"

/** With auth on, etcd checks every key of a lease at each put on it: 19 ms at 10,000 keys. */
const keysPerLease = 256

export interface SlotRequest {
  readonly ttl: Duration.Duration
  /** What may be in use only once on a lease. */
  readonly name: string
  readonly key: (leaseId: bigint, name: string) => string
}

export interface SessionPool {
  /** A place for one key on a live lease. When the scope closes it is given back. */
  readonly slot: (request: SlotRequest) => Effect.Effect<Slot, EtcdError, Scope.Scope>
  /** The same for an owner, who is told of it in the step in which it is taken, and gives it back. */
  readonly take: (request: SlotRequest, own: (slot: Slot) => void) => Effect.Effect<Slot, EtcdError>
  /** The same without waiting, where there is a lease: to be given back. */
  readonly takeNow: (request: SlotRequest) => Slot | undefined
}

/** A session is shared by many, so not under the annotations and spans of the one who came first. */
const unnamed = (context: Context.Context<never>): Context.Context<never> =>
  context.pipe(Context.add(References.CurrentLogAnnotations, {}), Context.omit(Tracer.ParentSpan))

/** A lease that nobody uses is not kept longer than this. */
const maxIdle = Duration.minutes(1)

/** One session, while it is opened and until it has ended, and which names are in use on it. */
class Lane implements SlotOwner {
  readonly seconds: number
  readonly ttl: Duration.Duration
  readonly scope = Scope.makeUnsafe()
  /** Reserved before the session is there, freed when the key is known to be gone. */
  readonly names = new Set<string>()
  opening: Fiber.Fiber<LeaseSession, EtcdError> | undefined
  session: LeaseSession | undefined
  users = 0
  /** Since when it has no users. */
  idleSince = 0n
  lingering = false
  /** It takes no new keys. */
  retired = false
  readonly #leave: (lane: Lane) => void

  constructor(ttl: Duration.Duration, leave: (lane: Lane) => void) {
    this.ttl = ttl
    this.seconds = Duration.toSeconds(ttl)
    this.#leave = leave
  }

  left(): void {
    this.#leave(this)
  }

  gone(name: string): void {
    this.names.delete(name)
  }

  /** Waits until it is decided whether there is a session. */
  get opened(): Effect.Effect<unknown, EtcdError> {
    return this.opening === undefined ? Effect.void : Fiber.join(this.opening)
  }

  /** A session that takes new keys. */
  get live(): LeaseSession | undefined {
    const session = this.session
    return session === undefined || session.lossUnsafe() !== undefined || session.distrustedUnsafe()
      ? undefined
      : session
  }
}

export const makeSessionPool = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  /** All keys of its slots start with it. */
  prefix: string
): Effect.fn.Return<SessionPool, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const origin = clock.monotonicTimeNanosUnsafe()
  const context = yield* Effect.context<never>()
  const run = yield* FiberSet.makeRuntime()
  /** Lanes that take new keys, by TTL in seconds. */
  const lanes = new Map<number, Array<Lane>>()
  /** All lanes, until their session has ended. */
  const all = new Set<Lane>()
  const closing = new Set<Fiber.Fiber<void>>()
  let ending = false

  const retire = (lane: Lane): void => {
    if (lane.retired) return
    lane.retired = true
    const rest = (lanes.get(lane.seconds) ?? []).filter((other) => other !== lane)
    if (rest.length === 0) lanes.delete(lane.seconds)
    else lanes.set(lane.seconds, rest)
  }

  const close = (lane: Lane): Effect.Effect<void> =>
    Effect.suspend(() => {
      retire(lane)
      const opening = lane.opening
      return Effect.andThen(
        opening === undefined ? Effect.void : Fiber.interrupt(opening),
        Scope.close(lane.scope, Exit.void)
      )
    }).pipe(Effect.ensuring(Effect.sync(() => all.delete(lane))))

  /**
   * Nobody waits for the revoke but the pool, when it ends. Not at once: who moves to another lease puts his key there first, in one step
   * with the end of the old one, which the revoke would delete.
   */
  const closeUnsafe = (lane: Lane): void => {
    retire(lane)
    const fiber = Effect.runForkWith(context)(Effect.andThen(Effect.yieldNow, close(lane)))
    closing.add(fiber)
    fiber.addObserver(() => closing.delete(fiber))
  }

  const openUnsafe = (ttl: Duration.Duration, context: Context.Context<never>): Lane => {
    const lane = new Lane(ttl, leave)
    all.add(lane)
    lanes.set(lane.seconds, [...(lanes.get(lane.seconds) ?? []), lane])
    const opening = lane.opening = Effect.runForkWith(unnamed(context))(
      Scope.provide(makeLeaseSession(etcd, ttl, { prefix, origin }), lane.scope)
    )
    opening.addObserver((exit) => {
      lane.opening = undefined
      if (Exit.isSuccess(exit)) lane.session = exit.value
      // Whoever comes next tries anew.
      else retire(lane)
    })
    return lane
  }

  // All at once, so that closing takes one request timeout at most.
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      // Whoever waits loses his place now, and would queue again.
      ending = true
      const live = [...all].flatMap(({ session }) => session === undefined ? [] : [session.end])
      return Effect.andThen(
        Effect.all([...live, Fiber.awaitAll(closing)], { concurrency: "unbounded", discard: true }),
        Effect.suspend(() => Effect.forEach([...all], close, { concurrency: "unbounded", discard: true }))
      )
    })
  )

  const isUsable = (lane: Lane): boolean => {
    if (lane.session !== undefined && lane.live === undefined) retire(lane)
    return !lane.retired && lane.names.size < keysPerLease
  }

  const laneFor = ({ name, ttl }: SlotRequest): Lane | undefined => {
    const some = lanes.get(Duration.toSeconds(ttl))
    return some?.find((lane) => isUsable(lane) && !lane.names.has(name))
  }

  const join = (lane: Lane, request: SlotRequest): void => {
    lane.names.add(request.name)
    lane.users++
  }

  /** A lane that nobody may use again closes with its last user. */
  const leave = (lane: Lane): void => {
    lane.users--
    isUsable(lane)
    if (lane.users > 0 || ending) return
    if (lane.retired) return closeUnsafe(lane)
    lane.idleSince = clock.monotonicTimeNanosUnsafe()
    if (lane.lingering) return
    lane.lingering = true
    run(linger(lane))
  }

  // A lock that is taken again and again keeps its lease in between.
  const linger = Effect.fnUntraced(function*(lane: Lane) {
    const idle = durationNanos(Duration.min(lane.ttl, maxIdle))
    while (lane.users === 0 && clock.monotonicTimeNanosUnsafe() < lane.idleSince + idle) {
      yield* sleepUntil(clock, lane.idleSince + idle)
    }
    // Whoever uses it now begins this anew when he leaves.
    lane.lingering = false
    if (lane.users === 0) closeUnsafe(lane)
  })

  const closed = new EtcdError({ operation: "session", reason: new Closed() })

  const openOn = (lane: Lane, session: LeaseSession, request: SlotRequest): Slot =>
    session.open(request.key(session.leaseId, request.name), request.name, lane)

  const takeNow = (request: SlotRequest): Slot | undefined => {
    const lane = ending ? undefined : laneFor(request)
    const session = lane?.live
    if (lane === undefined || session === undefined) return undefined
    join(lane, request)
    return openOn(lane, session, request)
  }

  /** Uninterruptible but for the wait until a session is there. */
  const taken = Effect.fnUntraced(function*(
    request: SlotRequest,
    restore: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
  ): Effect.fn.Return<Slot, EtcdError> {
    while (true) {
      if (ending) return yield* closed
      const slot = takeNow(request)
      if (slot !== undefined) return slot
      const lane = laneFor(request) ?? openUnsafe(request.ttl, yield* Effect.context<never>())
      join(lane, request)
      const opened = yield* Effect.exit(restore(lane.opened))
      const session = ending ? undefined : lane.live
      if (session !== undefined && Exit.isSuccess(opened)) return openOn(lane, session, request)
      lane.gone(request.name)
      leave(lane)
      // The pool has closed under it; who was interrupted himself ends as that all the same.
      if (ending) return yield* closed
      if (Exit.isFailure(opened)) return yield* Effect.failCause(opened.cause)
    }
  })

  return {
    // Where the scope has closed, its finalizers run at once, and the slot is not to be used.
    slot: (request) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(
          Effect.scope,
          (scope) => Effect.tap(taken(request, restore), (slot) => Scope.addFinalizer(scope, slot.giveBack))
        )
      ),
    take: (request, own) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.tap(taken(request, restore), (slot) => Effect.sync(() => own(slot)))
      ),
    takeNow
  }
})
