/**
 * Locks across processes: one holder at a time, first come first served, released by the scope.
 *
 * A lock is as good as its lease: while a process is stopped or cut off, its lease can run out and another holder can
 * enter. The loss is then known here first, `withLock` interrupts its body, and everything that goes through the handle refuses. What
 * the holder does outside of etcd is protected only by the fencing token: pass it along, and let the resource refuse smaller ones.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type { InvalidKey, InvalidOption } from "./Errors.ts"
import { Compare, Etcd, Operation } from "./Etcd.ts"
import type { KeyValue, TxnRequest, TxnResult } from "./Etcd.ts"
import { EtcdError, InvalidArgument } from "./EtcdError.ts"
import { entries, EntryLost, takeIfFree, waitInLine } from "./internal/lock/entry.ts"
import { makeLocalQueue, type Turn } from "./internal/lock/LocalQueue.ts"
import { writesBelow } from "./internal/lock/writes.ts"
import { makeSessionPool } from "./internal/session/SessionPool.ts"
import type { Slot, SlotLoss } from "./internal/session/Slots.ts"
import * as Telemetry from "./internal/Telemetry.ts"
import { validateKey, validatePrefix, validateTtl } from "./internal/validate.ts"

// -----------------------------------------------------------------------------
// Models and errors
// -----------------------------------------------------------------------------

/**
 * Somebody in the queue of a lock; the first one holds it.
 *
 * @category models
 * @since 0.1.0
 */
export class LockEntry extends Schema.Class<LockEntry>("effect-coord/LockEntry")({
  /** The key in etcd. */
  entryKey: Schema.String,
  /** `0n`: a key without a lease, which holds the lock until somebody deletes it. */
  leaseId: Schema.BigInt,
  /** The fencing token of this entry, once it holds the lock. */
  fencingToken: Schema.BigInt,
  /** What the entry says of itself; other clients leave it empty. */
  label: Schema.String
}) {}

/**
 * `tryAcquire` found the lock taken. `holder` is absent when a fiber of this process is only just taking it.
 *
 * @category errors
 * @since 0.1.0
 */
export class LockHeld extends Schema.TaggedError<LockHeld>()("LockHeld", {
  key: Schema.String,
  holder: Schema.optionalKey(LockEntry)
}) {
  override get message(): string {
    const holder = this.holder
    if (holder === undefined) return `lock ${JSON.stringify(this.key)} is being taken by this process`
    const label = holder.label === "" ? "" : ` (${holder.label})`
    return `lock ${JSON.stringify(this.key)} is held by lease ${holder.leaseId.toString(16)}${label}`
  }
}

/**
 * The lock is no longer held. `Expired`: the lease was not renewed in time, by the local clock. `Revoked`: etcd no longer knows the
 * lease. `Deleted`: somebody deleted the key. `Closed`: the layer was closed. `Released`: the handle was used after its release.
 *
 * @category errors
 * @since 0.1.0
 */
export class LockLost extends Schema.TaggedError<LockLost>()("LockLost", {
  key: Schema.String,
  fencingToken: Schema.BigInt,
  why: Schema.Literals(["Expired", "Revoked", "Deleted", "Closed", "Released"])
}) {
  override get message(): string {
    return `lock ${JSON.stringify(this.key)} (token ${this.fencingToken}) is no longer held: ${this.why}`
  }
}

/**
 * @category models
 * @since 0.1.0
 */
export interface LockOptions {
  /**
   * For how long the lock outlives its process, 15 seconds by default; whole seconds, rounded up, at least one. It is renewed every third of it.
   */
  readonly ttl?: Duration.Input | undefined
  /** Shown to others by `waiters` and `LockHeld`. */
  readonly label?: string | undefined
}

/**
 * A lock that is held.
 *
 * @category models
 * @since 0.1.0
 */
export interface LockHandle {
  readonly key: string
  /**
   * Greater for every later holder of this lock, in every process: etcd's create revision of the entry. It can be passed to
   * other systems, which refuse a token smaller than one that they have seen. (An etcd restored from a snapshot goes back in revisions
   * unless it is restored with `--bump-revision`.)
   */
  readonly fencingToken: bigint
  /** The TTL that the server granted: it can be longer than what was asked for. */
  readonly ttl: Effect.Effect<Duration.Duration, LockLost | EtcdError>
  /**
   * Releases the lock; again, or after a loss, it does nothing. Fails when etcd did not answer within the request timeout: the release
   * is then repeated in the background until it is answered or the lease has ended.
   */
  readonly unlock: Effect.Effect<void, EtcdError>
  /** Fails when the lock is lost; not when it is released. */
  readonly lost: Effect.Effect<never, LockLost>
  /** Fails unless the lock is held, judged by the clock now: right also after the process was stopped for a while. */
  readonly assertHeld: Effect.Effect<void, LockLost>
  /** Runs the effect while the lock is held: interrupts it when the lock is lost, and fails when it was lost at its end. */
  readonly guard: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LockLost, R>
  /**
   * Commits the transaction only if the lock is still held when etcd applies it. A compare of the transaction itself that
   * fails is an answer (`succeeded: false`), not a loss. Writes to keys of locks are refused.
   */
  readonly fenced: (txn: TxnRequest) => Effect.Effect<TxnResult, LockLost | EtcdError>
}

// -----------------------------------------------------------------------------
// Service
// -----------------------------------------------------------------------------

/**
 * Distributed locks. All clients of this layout exclude each other: this library, Go's `concurrency.Mutex`, `etcdctl lock`.
 *
 * Locks are not re-entrant: a fiber that takes a lock it holds waits for ever.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Lock } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const lock = yield* Lock
 *   yield* lock.withLock("orders/42")((handle) => Effect.log(`token ${handle.fencingToken}`))
 * })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Lock extends Context.Service<Lock, {
  /**
   * Waits in line for the lock and holds it until the scope closes. Interrupted or timed out, it leaves nothing behind. Fails with
   * `EtcdError` when etcd cannot be reached (the retry schedule is used up) before it is queued; once queued it waits on.
   */
  readonly acquire: (
    key: string,
    options?: LockOptions
  ) => Effect.Effect<LockHandle, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /** Takes the lock if it is free, and answers at once with `LockHeld` if not. */
  readonly tryAcquire: (
    key: string,
    options?: LockOptions
  ) => Effect.Effect<LockHandle, LockHeld | InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /**
   * Runs an effect while holding the lock. When the lock is lost the effect is interrupted and the result is `LockLost`, also when the effect
   * ended just after the loss. An error of the effect is never masked. Code that cannot be interrupted runs on: check `assertHeld`, use
   * `fenced`, pass the token.
   */
  readonly withLock: (
    key: string,
    options?: LockOptions
  ) => <A, E, R>(
    use: Effect.Effect<A, E, R> | ((handle: LockHandle) => Effect.Effect<A, E, R>)
  ) => Effect.Effect<A, E | LockLost | InvalidKey | InvalidOption | EtcdError, R>
  /** The holder, then those who wait, in order. */
  readonly waiters: (key: string) => Effect.Effect<ReadonlyArray<LockEntry>, InvalidKey | EtcdError>
}>()("effect-coord/Lock") {
  /**
   * Locks over the etcd of the context, with entries below `prefix` (`/locks`).
   *
   * @since 0.1.0
   */
  static readonly layer = (
    options?: { readonly prefix?: string | undefined }
  ): Layer.Layer<Lock, InvalidOption, Etcd> => Layer.effect(Lock, make(options?.prefix ?? "/locks"))
}

/** A lock that is held, as its handle knows it. */
interface Held {
  readonly key: string
  readonly slot: Slot
  readonly fencingToken: bigint
  readonly assertHeld: Effect.Effect<void, LockLost>
  readonly lossOf: (why: LockLost["why"]) => LockLost
}

const defaultTtl = Duration.seconds(15)

const entryOf = (kv: KeyValue): LockEntry =>
  new LockEntry({
    entryKey: kv.key,
    leaseId: kv.lease,
    fencingToken: kv.createRevision,
    label: new TextDecoder().decode(kv.value)
  })

const make = Effect.fnUntraced(function*(
  prefixOption: string
): Effect.fn.Return<Lock["Service"], InvalidOption, Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const prefix = yield* validatePrefix(prefixOption, "lockPrefix")
  const pool = yield* makeSessionPool(etcd, `${prefix}/`)
  const queue = makeLocalQueue()

  const fenced = Effect.fn("Lock.fenced")(function*(
    { assertHeld, fencingToken, key, lossOf, slot }: Held,
    txn: TxnRequest
  ): Effect.fn.Return<TxnResult, LockLost | EtcdError> {
    yield* Effect.annotateCurrentSpan({ "coord.key": key, "coord.token": String(fencingToken) })
    if (writesBelow(`${prefix}/`, txn)) {
      return yield* new EtcdError({
        operation: "fenced",
        key,
        reason: new InvalidArgument({ detail: `the transaction writes keys of locks (below ${prefix}/)` })
      })
    }
    yield* assertHeld
    const held = Compare.createRevision(slot.key, "=", fencingToken)
    const own = Operation.range({ key: slot.key, keysOnly: true })
    // Nested only where it must be: of a nested transaction etcd before 3.4.42 and 3.5.28 checks no role.
    const nest = txn.failure !== undefined && txn.failure.length > 0
    const result = yield* etcd.txn(
      nest
        ? { compare: [held], success: [Operation.txn(txn)], failure: [own] }
        : { compare: [held, ...txn.compare ?? []], success: txn.success, failure: [own] }
    )
    const { responses, revision, succeeded } = result
    const [first] = responses
    if (!succeeded) {
      // With the key still there, it was a compare of the user's that failed.
      if (first?._tag === "Range" && first.kvs[0]?.createRevision === fencingToken) {
        return { revision, succeeded, responses: [] }
      }
      slot.lose("Deleted")
      return yield* lossOf(slot.lossUnsafe() ?? "Deleted")
    }
    return first?._tag === "Txn" && nest
      ? { revision, succeeded: first.succeeded, responses: first.responses }
      : result
  }, Telemetry.measured("Lock.fenced"))

  const makeHandle = (
    key: string,
    slot: Slot,
    fencingToken: bigint,
    scope: Scope.Closeable
  ): { readonly public: LockHandle; readonly retire: () => void } => {
    let released = false
    const lossOf = (why: LockLost["why"]) => new LockLost({ key, fencingToken, why })
    const verdict = (loss: SlotLoss | undefined): Effect.Effect<void, LockLost> => {
      const why = released ? "Released" : loss
      return why === undefined ? Effect.void : Effect.fail(lossOf(why))
    }
    // A lock that was released is not lost any more.
    const lost = Effect.flatMap(slot.lost, (why) => released ? Effect.never : Effect.fail(lossOf(why)))
    const assertHeld = Effect.suspend(() => Effect.flatMap(slot.loss, verdict))
    const release = Effect.suspend(() => {
      released = true
      return slot.release
    })
    const handle: LockHandle = {
      key,
      fencingToken,
      ttl: Effect.map(assertHeld, slot.session.ttlUnsafe),
      unlock: Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Effect.exit(restore(release)), (exit) => Effect.andThen(Scope.close(scope, Exit.void), exit))
      ),
      lost,
      assertHeld,
      // The second look is for what ended after the deadline but before its timer: a blocked event loop, a suspended machine.
      guard: (effect) =>
        assertHeld.pipe(
          Effect.andThen(Effect.raceFirst(effect, lost)),
          Effect.tap(() =>
            Effect.flatMap(
              slot.loss,
              (loss) => loss === undefined || released ? Effect.void : Effect.fail(lossOf(loss))
            )
          )
        ),
      fenced: (txn) => fenced({ key, slot, fencingToken, assertHeld, lossOf }, txn)
    }
    return {
      public: handle,
      retire: () => {
        released = true
      }
    }
  }

  /** The skeleton of both ways to take a lock: a turn among the fibers of this process, a place on a lease, an entry. */
  const take = <E extends LockHeld | EtcdError>(
    key: string,
    options: LockOptions | undefined,
    queueUp: (path: string) => Effect.Effect<Turn, E, Scope.Scope>,
    enter: (path: string, slot: Slot, label: string) => Effect.Effect<bigint | EntryLost, E, Scope.Scope>
  ): Effect.Effect<LockHandle, E | InvalidKey | InvalidOption | EtcdError, Scope.Scope> =>
    Effect.uninterruptibleMask(Effect.fnUntraced(function*(
      restore
    ): Effect.fn.Return<LockHandle, E | InvalidKey | InvalidOption | EtcdError, Scope.Scope> {
      const path = `${prefix}/${yield* validateKey(key)}/`
      const ttl = options?.ttl === undefined ? defaultTtl : yield* validateTtl(options.ttl)
      // Everything that the attempt makes lives in a scope of its own, so that a failed or interrupted one leaves nothing in a scope that lives on.
      const scope = yield* Scope.fork(yield* Effect.scope)
      if (scope.state._tag === "Closed") return yield* Effect.interrupt
      const resources = yield* Scope.fork(scope)
      // A scope that closes under an attempt ends it first: it would queue again otherwise, with nobody to clean up.
      const closing = Deferred.makeUnsafe<void>()
      const ended = Deferred.makeUnsafe<void>()
      yield* Scope.addFinalizer(
        scope,
        Effect.andThen(Deferred.succeed(closing, undefined), Deferred.await(ended))
      )
      const attempt = Effect.gen(function*(): Effect.fn.Return<
        { readonly slot: Slot; readonly token: bigint },
        E | EtcdError,
        Scope.Scope
      > {
        const turn = yield* queueUp(path)
        while (true) {
          const entryScope = yield* Scope.fork(resources)
          const slot = yield* pool.slot({ ttl, name: path, key: (lease) => `${path}${lease.toString(16)}` }).pipe(
            Scope.provide(entryScope)
          )
          const token = yield* Scope.provide(enter(path, slot, options?.label ?? ""), entryScope)
          // Enter only if the deadline has not passed, whatever the answer was.
          if (token !== EntryLost && (yield* slot.loss) === undefined) {
            // Whoever lost it can take it again, and so can others here, though its handle's scope is open.
            slot.onLoss(turn)
            return { slot, token }
          }
          yield* Effect.logDebug("the entry was lost while it waited: queueing again")
          yield* Scope.close(entryScope, Exit.void)
        }
      })
      const exit = yield* restore(
        Effect.raceFirst(attempt, Effect.andThen(Deferred.await(closing), Effect.interrupt))
      ).pipe(
        Scope.provide(resources),
        Effect.annotateLogs({ lock: key }),
        Effect.exit
      )
      Deferred.doneUnsafe(ended, Effect.void)
      if (Exit.isFailure(exit)) {
        yield* Scope.close(scope, exit)
        return yield* Effect.failCause(exit.cause)
      }
      const { slot, token } = exit.value
      const handle = makeHandle(key, slot, token, scope)
      const since = yield* Clock.monotonicTimeNanos
      yield* Scope.addFinalizer(
        scope,
        Effect.flatMap(Clock.monotonicTimeNanos, (now) => {
          handle.retire()
          return Telemetry.lockHeld(Duration.nanos(now - since))
        })
      )
      yield* Effect.annotateCurrentSpan({
        "coord.token": String(token),
        "coord.lease": slot.session.leaseId.toString(16)
      })
      return handle.public
    }))

  const acquire: Lock["Service"]["acquire"] = Effect.fn("Lock.acquire")(function*(key, options) {
    yield* Effect.annotateCurrentSpan({ "coord.key": key })
    return yield* take(key, options, queue.turn, (path, slot, label) => waitInLine(etcd, path, slot, label))
  }, Telemetry.measured("Lock.acquire"))

  const tryAcquire: Lock["Service"]["tryAcquire"] = Effect.fn("Lock.tryAcquire")(function*(key, options) {
    yield* Effect.annotateCurrentSpan({ "coord.key": key })
    const held = (holder: KeyValue | undefined) =>
      Effect.fail(new LockHeld({ key, ...holder !== undefined && { holder: entryOf(holder) } }))
    return yield* take(
      key,
      options,
      (path) =>
        Effect.flatMap(
          queue.tryTurn(path),
          (turn) =>
            turn === undefined
              ? Effect.flatMap(entries(etcd, path), (found) => held(found.entries[0]))
              : Effect.succeed(turn)
        ),
      (path, slot, label) =>
        Effect.flatMap(
          takeIfFree(etcd, path, slot, label),
          (taken) => typeof taken === "object" ? held(taken.holder) : Effect.succeed(taken)
        )
    )
  }, Telemetry.measured("Lock.tryAcquire"))

  const withLock: Lock["Service"]["withLock"] = (key, options) => (use) =>
    // The scope is for the lock alone: one that `use` asks for is its caller's.
    Effect.scopedWith((scope) =>
      Effect.flatMap(
        Scope.provide(acquire(key, options), scope),
        (handle) => handle.guard(Effect.isEffect(use) ? use : Effect.suspend(() => use(handle)))
      )
    ).pipe(Effect.withSpan("Lock.withLock", { attributes: { "coord.key": key } }))

  const waiters: Lock["Service"]["waiters"] = Effect.fn("Lock.waiters")(function*(key) {
    yield* Effect.annotateCurrentSpan({ "coord.key": key })
    const found = yield* entries(etcd, `${prefix}/${yield* validateKey(key)}/`)
    return found.entries.map(entryOf)
  }, Telemetry.measured("Lock.waiters"))

  return { acquire, tryAcquire, withLock, waiters }
})
