/**
 * One etcd watch per range and process, however many consumers.
 *
 * Every consumer sees the same shape: the present state, then what changes. `previous` is what this process knew before,
 * so it is there for every change, also for those that are synthesised after a compaction or a restored snapshot, where
 * the range is listed again and only the difference is told.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HashMap from "effect/HashMap"
import * as Queue from "effect/Queue"
import * as RcMap from "effect/RcMap"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Etcd, KeyRange } from "../Etcd.ts"
import { Closed, EtcdError } from "../EtcdError.ts"
import { type Change, type Entry, follow, list, pause, type Snapshot, stateAsChanges } from "./follow.ts"

export type { Change, Snapshot } from "./follow.ts"

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
  /** Keeps the range watched for the scope; the effect inside reads the latest state without asking etcd. */
  readonly current: (range: KeyRange) => Effect.Effect<Effect.Effect<Snapshot>, EtcdError, Scope.Scope>
}

/** How long a watch outlives its last consumer: one that is retried, or reopened in a loop, finds it still there. */
const idleTimeToLive = "5 seconds"

// What a consumer may be behind before it gets a watch of its own.
const maxBufferedEntries = 1024
const maxBufferedBytes = 8 * 1024 * 1024

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
    Effect.suspend(() => closed ? Effect.fail(closedError) : RcMap.get(hubs, normalize(range)))

  const changesOfHub = (range: KeyRange) =>
    Stream.unwrap(Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      const hub = yield* Scope.provide(acquire(range), scope)
      const { pull, position } = yield* Scope.provide(subscribe(hub), scope)
      // Left behind: go on alone from the last entry that was delivered.
      const alone = Stream.unwrap(Effect.gen(function*() {
        yield* Scope.close(scope, Exit.void)
        return follow(etcd, range, position())
      }))
      return Stream.concat(Stream.fromPull(Effect.succeed(pull)), alone).pipe(
        Stream.map((entry) => entry.changes),
        Stream.prepend([stateAsChanges(position())])
      )
    }))

  const changesFrom = (range: KeyRange, from: bigint) =>
    Stream.unwrap(Effect.gen(function*() {
      // etcd reads revision 0 as "now"; before revision 1 there was nothing.
      const start = from > 0n ? yield* list(etcd, range, from) : { revision: 0n, kvs: HashMap.empty() }
      return Stream.map(follow(etcd, range, start), (entry) => entry.changes)
    }))

  const snapshots: SharedWatch["snapshots"] = (range) =>
    Stream.unwrap(Effect.gen(function*() {
      const hub = yield* acquire(range)
      const queue = yield* Queue.sliding<Snapshot, EtcdError>(1)
      yield* join(hub, {
        offer: (entry) => Queue.offerUnsafe(queue, entry.state),
        fail: (cause) => Queue.failCauseUnsafe(queue, cause)
      }, (state) => Queue.offerUnsafe(queue, state))
      return Stream.fromQueue(queue)
    }))

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
      yield* Effect.exit(Deferred.await(held.hub.failed))
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
    current
  } satisfies SharedWatch as SharedWatch
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

interface Hub {
  state: Snapshot
  readonly subscribers: Set<Subscriber>
  readonly failed: Deferred.Deferred<never, EtcdError>
}

interface Subscriber {
  readonly offer: (entry: Entry) => void
  readonly fail: (cause: Cause.Cause<EtcdError>) => void
}

const makeHub = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  range: KeyRange,
  forget: Effect.Effect<void>,
  scope: Scope.Scope
) {
  const hub: Hub = {
    state: yield* list(etcd, range),
    subscribers: new Set(),
    failed: Deferred.makeUnsafe()
  }
  const fail = (cause: Cause.Cause<EtcdError>) =>
    Effect.sync(() => {
      Deferred.doneUnsafe(hub.failed, Exit.failCause(cause))
      for (const subscriber of hub.subscribers) subscriber.fail(cause)
      hub.subscribers.clear()
    })
  // Consumers are left only when the layer closes.
  yield* Scope.addFinalizer(scope, fail(Cause.fail(closedError)))
  yield* follow(etcd, range, hub.state).pipe(
    Stream.runForEach((entry) =>
      Effect.sync(() => {
        hub.state = entry.state
        for (const subscriber of hub.subscribers) subscriber.offer(entry)
      })
    ),
    Effect.catchCause((cause) => Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.andThen(forget, fail(cause))),
    Effect.forkIn(scope)
  )
  return hub
})

/** Joins and takes the state in one step, so that nothing lies between the state and the first entry. */
const join = (hub: Hub, subscriber: Subscriber, start: (state: Snapshot) => void) =>
  Effect.acquireRelease(
    Effect.suspend(() => {
      if (Deferred.isDoneUnsafe(hub.failed)) return Deferred.await(hub.failed)
      hub.subscribers.add(subscriber)
      start(hub.state)
      return Effect.void
    }),
    () => Effect.sync(() => hub.subscribers.delete(subscriber))
  )

/** Every entry after the state at which it joined (`position` before the first pull); the pull is done once it has fallen behind. */
const subscribe = Effect.fnUntraced(function*(hub: Hub) {
  const queue = yield* Queue.unbounded<Entry, EtcdError | Cause.Done>()
  let position = hub.state
  let entries = 0
  let bytes = 0
  // Pulled, and still in the hands of the consumer until it pulls again.
  let pulled: ReadonlyArray<Entry> = []

  const subscriber: Subscriber = {
    offer: (entry) => {
      if (entries > 0 && (entries >= maxBufferedEntries || bytes + entry.bytes > maxBufferedBytes)) {
        hub.subscribers.delete(subscriber)
        Queue.endUnsafe(queue)
        return
      }
      entries++
      bytes += entry.bytes
      Queue.offerUnsafe(queue, entry)
    },
    fail: (cause) => Queue.failCauseUnsafe(queue, cause)
  }
  yield* join(hub, subscriber, (state) => position = state)

  const pull = Effect.suspend(() => {
    for (const entry of pulled) {
      entries--
      bytes -= entry.bytes
    }
    pulled = []
    return Effect.map(Queue.takeAll(queue), (taken) => {
      pulled = taken
      position = (taken.at(-1) ?? taken[0]).state
      return taken
    })
  })
  return { pull, position: () => position }
})
