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
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { InvalidKey, type InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { KeyValue, TxnRequest, TxnResult } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { type Hold, makeHolds } from "./internal/hold/Hold.ts"
import { type Attempt, type AttemptRequest, takeIn, type Taken } from "./internal/lock/Attempt.ts"
import { Crowded } from "./internal/lock/Crowded.ts"
import { makeDeletions } from "./internal/lock/deletions.ts"
import { claimFirst, entries, entryKey, takeIfFree, waitInLine } from "./internal/lock/entry.ts"
import { makeLocalQueue, type Place } from "./internal/lock/LocalQueue.ts"
import { makeSessionPool } from "./internal/session/SessionPool.ts"
import * as Telemetry from "./internal/Telemetry.ts"
import { keyRule, validateKey, validatePrefix, validateTtl } from "./internal/validate.ts"

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
 * A lock that is held. What it can do may be taken out of it by name; a copy by spread (`{ ...handle }`) has only `key`, `entryKey` and
 * `fencingToken`, since the rest is made when it is asked for.
 *
 * @category models
 * @since 0.1.0
 */
export interface LockHandle {
  readonly key: string
  /** The entry in etcd, without the namespace: a transaction that compares its create revision with the token is fenced too. */
  readonly entryKey: string
  /**
   * Greater for every later holder of this lock, in every process: etcd's create revision of the entry. It can be passed to
   * other systems, which refuse a token smaller than one that they have seen. (An etcd restored from a snapshot goes back in revisions
   * unless it is restored with `--bump-revision`.)
   */
  readonly fencingToken: bigint
  /** The TTL that the server granted: it can be longer than what was asked for. */
  readonly ttl: Effect.Effect<Duration.Duration, LockLost | EtcdError>
  /** For how long it is held for certain, if no renewal is answered from now on: time to stop what takes a while to stop. */
  readonly remaining: Effect.Effect<Duration.Duration, LockLost>
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

const acquiring = Telemetry.operation("Lock.acquire")
const trying = Telemetry.operation("Lock.tryAcquire")

const defaultTtl = Duration.seconds(15)

const entryOf = (kv: KeyValue): LockEntry =>
  new LockEntry({
    entryKey: kv.key,
    leaseId: kv.lease,
    fencingToken: kv.createRevision,
    label: new TextDecoder().decode(kv.value)
  })

/** What is asked of it is made when it is asked. */
class OwnHandle implements LockHandle {
  readonly key: string
  readonly entryKey: string
  readonly fencingToken: bigint
  readonly #hold: Hold<LockLost>

  constructor(key: string, fencingToken: bigint, hold: Hold<LockLost>) {
    this.key = key
    this.entryKey = hold.entryKey
    this.fencingToken = fencingToken
    this.#hold = hold
  }

  get ttl(): LockHandle["ttl"] {
    return this.#hold.ttl
  }

  get remaining(): LockHandle["remaining"] {
    return this.#hold.remaining
  }

  get unlock(): LockHandle["unlock"] {
    return this.#hold.release
  }

  get lost(): LockHandle["lost"] {
    return this.#hold.lost
  }

  get assertHeld(): LockHandle["assertHeld"] {
    return this.#hold.assertHeld
  }

  get guard(): LockHandle["guard"] {
    return (effect) => this.#hold.guard(effect)
  }

  get fenced(): LockHandle["fenced"] {
    return (txn) => this.#hold.fenced(txn)
  }
}

const make = Effect.fnUntraced(function*(
  prefixOption: string
): Effect.fn.Return<Lock["Service"], InvalidOption, Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const prefix = yield* validatePrefix(prefixOption, "lockPrefix")
  // Before the sessions, so it ends after them: whoever waits has lost his place by then.
  const deletions = yield* makeDeletions(etcd)
  const pool = yield* makeSessionPool(etcd, `${prefix}/`)
  const queue = makeLocalQueue()
  const crowded = new Crowded()

  const makeHold = makeHolds(etcd, { service: "Lock", prefix, what: "locks" })

  const holdIn = (key: string, scope: Scope.Closeable) => ({ slot, token }: Taken, attempt: Attempt<unknown>) =>
    Effect.withFiber<LockHandle>((fiber) => {
      const clock = fiber.getRef(Clock.Clock)
      const since = clock.monotonicTimeNanosUnsafe()
      const lossOf = (why: LockLost["why"]) => new LockLost({ key, fencingToken: token, why })
      const hold = makeHold({ key, slot, token, scope, lossOf })
      attempt.onEnd((context) => {
        hold.retire()
        Telemetry.lockHeldUnsafe(clock, since, context)
      })
      return Telemetry.annotated(
        fiber,
        () => ({ "coord.token": String(token), "coord.lease": slot.session.leaseId.toString(16) }),
        new OwnHandle(key, token, hold)
      )
    })

  type Way<E> = Pick<AttemptRequest<E>, "claim" | "enter">

  /** What both ways to take a lock have in common. */
  const take = <E>(
    key: string,
    options: LockOptions | undefined,
    ownScope: () => Scope.Closeable,
    placeIn: (path: string) => Place | Effect.Effect<never, E>,
    { claim, enter }: Way<E>
  ): Effect.Effect<LockHandle, E | InvalidKey | InvalidOption | EtcdError> => {
    const label = options?.label ?? ""
    const begin = (ttl: Duration.Duration): Effect.Effect<LockHandle, E | EtcdError> =>
      Effect.uninterruptibleMask((restore) => {
        const path = `${prefix}/${key}/`
        const place = placeIn(path)
        if (Effect.isEffect(place)) return restore(place)
        const slot = { ttl, name: path, key: entryKey }
        const scope = ownScope()
        const request = { pool, slot, place, label, annotations: { lock: key }, claim, enter }
        return takeIn(scope, restore, request, holdIn(key, scope))
      })
    const rule = keyRule(key)
    if (rule !== undefined) return Effect.fail(new InvalidKey({ key, rule }))
    return options?.ttl === undefined ? begin(defaultTtl) : Effect.flatMap(validateTtl(options.ttl), begin)
  }

  const inLine: Way<EtcdError> = {
    claim: (slot, path, label) => claimFirst(etcd, path, slot, label, crowded),
    enter: (slot, path, label, claimed) => waitInLine(etcd, deletions, path, slot, label, claimed)
  }

  const acquireIn = (ownScope: () => Scope.Closeable, key: string, options: LockOptions | undefined) =>
    acquiring({ "coord.key": key }, take(key, options, ownScope, queue.enter, inLine))

  const acquire: Lock["Service"]["acquire"] = (key, options) =>
    Effect.flatMap(Effect.scope, (scope) => acquireIn(() => Scope.forkUnsafe(scope), key, options))

  const tryAcquire: Lock["Service"]["tryAcquire"] = (key, options) => {
    const held = (holder: KeyValue | undefined) =>
      Effect.fail(new LockHeld({ key, ...holder !== undefined && { holder: entryOf(holder) } }))
    const ifFree: Way<LockHeld | EtcdError> = {
      claim: undefined,
      enter: (slot, path, label) =>
        Effect.flatMap(
          takeIfFree(etcd, path, slot, label),
          (taken) => typeof taken === "object" ? held(taken.holder) : Effect.succeed(taken)
        )
    }
    const placeIn = (path: string) =>
      queue.tryEnter(path) ?? Effect.flatMap(entries(etcd, path), (found) => held(found.entries[0]))
    return Effect.flatMap(
      Effect.scope,
      (scope) => trying({ "coord.key": key }, take(key, options, () => Scope.forkUnsafe(scope), placeIn, ifFree))
    )
  }

  const withLock: Lock["Service"]["withLock"] = (key, options) => (use) =>
    Telemetry.span(
      "Lock.withLock",
      { "coord.key": key },
      Effect.suspend(() => {
        // The scope is for the lock alone: one that `use` asks for is its caller's.
        const scope = Scope.makeUnsafe()
        return Effect.onExit(
          Effect.flatMap(
            acquireIn(() => scope, key, options),
            (handle) => handle.guard(Effect.isEffect(use) ? use : Effect.suspend(() => use(handle)))
          ),
          (exit) => Scope.closeUnsafe(scope, exit) ?? Effect.void
        )
      })
    )

  const waiters: Lock["Service"]["waiters"] = Effect.fn("Lock.waiters")(function*(key) {
    yield* Effect.annotateCurrentSpan({ "coord.key": key })
    const found = yield* entries(etcd, `${prefix}/${yield* validateKey(key)}/`)
    return found.entries.map(entryOf)
  }, Telemetry.measured("Lock.waiters"))

  return { acquire, tryAcquire, withLock, waiters }
})
