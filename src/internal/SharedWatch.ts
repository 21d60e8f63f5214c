/**
 * One etcd watch per range and process, however many consumers.
 *
 * Every consumer sees the same shape: the present state, then what changes. `previous` is what this process knew before,
 * so it is there for every change, also for those that are synthesised after a compaction or a restored snapshot, where
 * the range is listed again and only the difference is told.
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HashMap from "effect/HashMap"
import * as Pull from "effect/Pull"
import * as Queue from "effect/Queue"
import * as RcMap from "effect/RcMap"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Etcd, KeyRange } from "../Etcd.ts"
import { Closed, EtcdError } from "../EtcdError.ts"
import { type Change, type Entry, follow, list, pause, type Snapshot, stateAsChanges } from "./follow.ts"
import { Hub, type Observer, type Reader } from "./hub.ts"
import { type View, Viewed } from "./view.ts"

export type { Change, Entry, Snapshot } from "./follow.ts"

export interface SharedWatch {
  /**
   * Every revision once and in order: the state as `Put`s, `Synced`, then the changes, one array for each revision. With `from` (a
   * revision the consumer has already seen) it begins with what came after, and fails with `Compacted` when that is gone.
   * A slow consumer is moved to a watch of its own and slows nobody else.
   */
  readonly changes: (
    range: KeyRange,
    options?: { readonly from?: bigint | undefined }
  ) => Stream.Stream<ReadonlyArray<Change>, EtcdError>
  /** The state, then each new one, conflated: a slow consumer sees the latest. */
  readonly snapshots: (range: KeyRange) => Stream.Stream<Snapshot, EtcdError>
  /** The same of what is made of the state. For all consumers of a range it is made once, by the view of the first of them. */
  readonly views: <A>() => (range: KeyRange, view: () => View<A>) => Stream.Stream<A, EtcdError>
  /**
   * Calls the observer with the state and then with each entry, at once and in order. It is called amid the work for all others: it
   * takes note, and no more. Fails when the watch does.
   */
  readonly observe: (
    range: KeyRange,
    start: (state: Snapshot) => void,
    next: (entry: Entry) => void
  ) => Effect.Effect<never, EtcdError>
  /** Keeps the range watched for the scope; the effect inside reads the latest state without asking etcd. */
  readonly current: (range: KeyRange) => Effect.Effect<Effect.Effect<Snapshot>, EtcdError, Scope.Scope>
}

/** How long a watch outlives its last consumer: one that is retried, or reopened in a loop, finds it still there. */
const idleTimeToLive = "5 seconds"

export const makeSharedWatch = Effect.fnUntraced(function*(etcd: Etcd["Service"]) {
  // A hub outlives the consumer that caused it: it works in the context of the layer, not in that of the consumer's span.
  const context = yield* Effect.context()
  const hubs: RcMap.RcMap<KeyRange, Hub, EtcdError> = yield* RcMap.make({
    idleTimeToLive,
    lookup: (range: KeyRange) =>
      Effect.flatMap(Effect.scope, (scope) => {
        const forget = RcMap.invalidate(hubs, range)
        return Effect.onError(makeHub(etcd, range, forget, scope), () => forget).pipe(Effect.setContext(context))
      })
  })
  let closed = false
  yield* Effect.addFinalizer(() => Effect.sync(() => closed = true))

  const acquire = (range: KeyRange): Effect.Effect<Hub, EtcdError, Scope.Scope> =>
    Effect.suspend(() =>
      closed ? Effect.fail(closedError) : Effect.catchCause(RcMap.get(hubs, normalize(range)), ended)
    )
  // The layer has closed amid the first listing. Who was interrupted himself does not come here.
  const ended = (cause: Cause.Cause<EtcdError>) =>
    closed && Cause.hasInterrupts(cause) ? Effect.fail(closedError) : Effect.failCause(cause)

  // One layer and few closures, as there may be thousands.
  const changesOfHub = (range: KeyRange): Stream.Stream<ReadonlyArray<Change>, EtcdError> =>
    Stream.fromChannel(Channel.fromTransform((_upstream, scope) => {
      const own = Scope.forkUnsafe(scope)
      return acquire(range).pipe(
        Scope.provide(own),
        Effect.flatMap((hub) => read(hub, own, (reader) => nextOf(reader, range, own, scope)))
      )
    }))

  const nextOf = (reader: Reader, range: KeyRange, own: Scope.Closeable, scope: Scope.Scope): NextChanges => {
    // The log goes on before it is pulled for the first time. Afterwards nothing keeps that state.
    let start: Snapshot | undefined = reader.position()
    // Left behind: go on alone from the last entry that was delivered.
    const alone: NextChanges = Effect.suspend(() => {
      const entries = Stream.map(follow(etcd, range, reader.position()), (entry) => entry.changes)
      return Scope.close(own, Exit.void).pipe(
        Effect.andThen(Channel.toPullScoped(Stream.toChannel(entries), scope)),
        Effect.flatMap((pull) => next = pull)
      )
    })
    let next: NextChanges = Pull.catchDone(reader.pull, () => alone)
    return Effect.suspend(() => {
      if (start === undefined) return next
      const changes = asChanges(start)
      start = undefined
      return Effect.succeed([changes])
    })
  }

  const changesFrom = (range: KeyRange, from: bigint) =>
    Stream.unwrap(Effect.gen(function*() {
      // etcd reads revision 0 as "now"; before revision 1 there was nothing.
      const start = from > 0n ? yield* list(etcd, range, from) : { revision: 0n, kvs: HashMap.empty() }
      return Stream.map(follow(etcd, range, start), (entry) => entry.changes)
    }))

  const observing = (hub: Hub, observer: Observer, start: (state: Snapshot) => void) =>
    join(hub, () => {
      hub.observeUnsafe(observer)
      start(hub.state)
    }, () => hub.unobserveUnsafe(observer))

  const views = <A>(): (range: KeyRange, view: () => View<A>) => Stream.Stream<A, EtcdError> => {
    const viewed = new WeakMap<Hub, Viewed<A>>()
    const viewOf = (hub: Hub, view: () => View<A>): Viewed<A> => {
      const known = viewed.get(hub)
      if (known !== undefined) return known
      const made = new Viewed(view(), hub.state)
      viewed.set(hub, made)
      // Before any of its consumers, who are to find it up to date.
      hub.observeUnsafe(made)
      return made
    }
    return (range, view) =>
      Stream.unwrap(Effect.gen(function*() {
        const hub = yield* acquire(range)
        const viewed = viewOf(hub, view)
        const queue = yield* Queue.sliding<Viewed<A>, EtcdError>(1)
        yield* observing(hub, {
          next: () => Queue.offerUnsafe(queue, viewed),
          fail: (cause) => Queue.failCauseUnsafe(queue, cause)
        }, () => Queue.offerUnsafe(queue, viewed))
        return Stream.fromQueue(queue).pipe(
          Stream.map(({ latest }) => latest),
          // What is made when it is looked at can be later than what it was told of.
          Stream.changesWith((a, b) => a === b)
        )
      }))
  }

  const states = views<Snapshot>()
  const snapshots: SharedWatch["snapshots"] = (range) => states(range, () => whole)

  const observe: SharedWatch["observe"] = Effect.fnUntraced(function*(range, start, next) {
    const hub = yield* acquire(range)
    yield* observing(hub, { next, fail: () => {} }, start)
    return yield* hub.failed
  }, Effect.scoped)

  const current: SharedWatch["current"] = Effect.fnUntraced(function*(range) {
    const scope = yield* Effect.scope
    // Each hub in a scope of its own, so that a failed one is let go.
    const attempt = Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Scope.fork(scope), (child) =>
        restore(Scope.provide(acquire(range), child)).pipe(
          Effect.map((hub) => ({ hub, child })),
          Effect.onError(() => Scope.close(child, Exit.void))
        ))
    )
    let held = yield* attempt
    yield* Effect.gen(function*() {
      yield* Effect.exit(held.hub.failed)
      yield* Effect.logWarning("watch failed: the last known state is kept").pipe(Effect.annotateLogs({ ...range }))
      let failures = 0
      const next = yield* Effect.suspend(() => Effect.andThen(pause(++failures), attempt)).pipe(Effect.eventually)
      const previous = held
      held = next
      yield* Scope.close(previous.child, Exit.void)
    }).pipe(Effect.forever, Effect.forkIn(scope))
    return () => held.hub.state
  }, Effect.map(Effect.sync))

  return {
    changes: (range, options) => options?.from === undefined ? changesOfHub(range) : changesFrom(range, options.from),
    snapshots,
    views,
    observe,
    current
  } satisfies SharedWatch as SharedWatch
})

const whole: View<Snapshot> = { start: (state) => state, next: (_last, _changes, state) => state }

/** What the changes of each revision mean to a consumer, if anything. */
export const mapChanges = <A, R>(
  changes: Stream.Stream<ReadonlyArray<Change>, EtcdError>,
  meaning: (changes: ReadonlyArray<Change>) => Effect.Effect<ReadonlyArray<A>, never, R>
): Stream.Stream<A, EtcdError, R> =>
  Stream.transformPull(changes, (pull) => {
    const handed = (meanings: ReadonlyArray<A>) =>
      Arr.isReadonlyArrayNonEmpty(meanings) ? Effect.succeed(meanings) : next
    // What others have decoded already takes no step.
    const next: Pull.Pull<Arr.NonEmptyReadonlyArray<A>, EtcdError, void, R> = Effect.flatMap(pull, (entries) =>
      Effect.flatMapEager(
        entries.length === 1 ? meaning(entries[0]) : Effect.map(Effect.forEach(entries, meaning), Arr.flatten),
        handed
      ))
    return Effect.succeed(next)
  })

/** Nothing but the range, so that equal ranges are equal keys. */
const normalize = (range: KeyRange): KeyRange =>
  "key" in range
    ? { key: range.key }
    : "prefix" in range
    ? { prefix: range.prefix }
    : { from: range.from, to: range.to }

const closedError = new EtcdError({ operation: "watch", reason: new Closed() })

// -----------------------------------------------------------------------------
// Hubs
// -----------------------------------------------------------------------------

const makeHub = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  range: KeyRange,
  forget: Effect.Effect<void>,
  scope: Scope.Scope
) {
  const hub = new Hub(yield* list(etcd, range))
  const fail = (cause: Cause.Cause<EtcdError>) => Effect.sync(() => hub.failUnsafe(cause))
  // Consumers are left only when the layer closes.
  yield* Scope.addFinalizer(scope, fail(Cause.fail(closedError)))
  yield* follow(etcd, range, hub.state).pipe(
    Stream.runForEach((entry) => Effect.sync(() => hub.publishUnsafe(entry))),
    Effect.catchCause((cause) => Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.andThen(forget, fail(cause))),
    Effect.forkIn(scope)
  )
  return hub
})

type NextChanges = Reader["pull"]

/** As `join`, for those that may be thousands. */
const read = <A>(hub: Hub, scope: Scope.Scope, enter: (reader: Reader) => A): Effect.Effect<A, EtcdError> =>
  Effect.suspend(() => {
    if (hub.cause !== undefined) return hub.failed
    const reader = hub.joinUnsafe()
    const entered = enter(reader)
    return Effect.as(Scope.addFinalizer(scope, Effect.sync(() => hub.leaveUnsafe(reader))), entered)
  }).pipe(Effect.uninterruptible)

/** In one step, so that nothing lies between the state and the first entry. */
const join = <A>(hub: Hub, enter: () => A, leave: (entered: A) => void): Effect.Effect<A, EtcdError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.suspend(() => hub.cause === undefined ? Effect.succeed(enter()) : hub.failed),
    (entered) => Effect.sync(() => leave(entered))
  )

/** Made once of a state, however many begin with it. */
const asChanges = (state: Snapshot): ReadonlyArray<Change> => {
  const changes = known.get(state) ?? stateAsChanges(state)
  known.set(state, changes)
  return changes
}

const known = new WeakMap<Snapshot, ReadonlyArray<Change>>()
