/**
 * One registration: a key on a lease that is kept as it should be for as long as its scope lives.
 *
 * Every put compares the revision at which the key was last seen. So a put whose answer was lost, and that etcd applies
 * later, finds either what it was meant to replace, or nothing to do; it never undoes a newer write.
 */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Etcd, KeyValue } from "../../Etcd.ts"
import { Compare, Operation } from "../../Etcd.ts"
import { Ambiguous, Closed, EtcdError, type EtcdErrorReason } from "../../EtcdError.ts"
import { Replaced, ServiceInstance } from "../../ServiceInstance.ts"
import { pause } from "../follow.ts"
import { compareBytes } from "../keys.ts"
import { patienceWith } from "../session/Patience.ts"
import type { SessionPool, SlotRequest } from "../session/SessionPool.ts"
import { isTransient, type Slot } from "../session/Slots.ts"
import type { Change, SharedWatch } from "../SharedWatch.ts"
import * as Telemetry from "../Telemetry.ts"

/**
 * - `Registered`: the key is in etcd, as far as it is known.
 * - `Recovering`: it is not; the registration is trying to put it there again.
 * - `Replaced`: somebody else has registered the same name and id since. For good.
 *
 * @category models
 * @since 0.1.0
 */
export type RegistrationStatus = "Registered" | "Recovering" | "Replaced"

export interface Ports {
  readonly etcd: Etcd["Service"]
  readonly pool: SessionPool
  readonly shared: SharedWatch
}

export interface Place {
  /** The folder of its service. */
  readonly path: string
  /** The key of the instance, or how it is made of a lease: then it moves with it. */
  readonly keyOn: string | ((lease: bigint) => string)
  readonly ttl: Duration.Duration
  readonly encode: (instance: ServiceInstance) => Uint8Array
}

/** A place on a lease; its scope gives it back. */
interface Held {
  readonly slot: Slot
  readonly scope: Scope.Closeable
}

/** Where a key was seen. */
type Seen = Pick<KeyValue, "modRevision" | "createRevision">

interface Wish {
  readonly instance: ServiceInstance
  readonly bytes: Uint8Array
}

/** What to do about a key: nothing, give way, or a put that replaces exactly what was seen (`undefined`: no key). */
type Verdict = "Ours" | "Foreign" | { readonly replaces: Seen | undefined }

const backoff = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")]).pipe(Schedule.jittered)

/** In milliseconds. An instance is back within this of the end of an outage. */
const longestPause = 2000

/** The others are gone with their leases; etcd takes no more than 128 operations at once. */
const maxOutdated = 16

/** How long a denied watch of the own key waits until it is tried again. */
const watchAgain = "30 seconds"

/**
 * Everything that one registration does. `start` comes first, then `keep` runs in the background, `release` comes last, in any
 * case: it also gives back the place on the lease.
 */
export const makeRegistration = Effect.fnUntraced(function*(ports: Ports, place: Place, instance: ServiceInstance) {
  const { etcd, pool, shared } = ports
  const patience = patienceWith(etcd)
  const { encode, keyOn, path, ttl } = place
  const status = yield* SubscriptionRef.make<RegistrationStatus>("Recovering")
  const turn = Semaphore.makeUnsafe(1)
  const wake = Latch.makeUnsafe(false)

  let desired: Wish = { instance, bytes: encode(instance) }
  let held: Held | undefined
  let key = typeof keyOn === "string" ? keyOn : path
  /** Keys on leases that were lost and are not expired yet, it may be: what replaces them deletes them, so that nobody sees both. */
  const outdated = new Set<string>()
  /** Leases that this registration has put its key on. */
  const leases = new Set<bigint>()
  /** The key when it was last known to be ours, and what was in it. */
  let seen: Seen & { readonly wish: Wish } | undefined
  let established = false
  let released = false
  // The key may no longer be what was last seen.
  let suspect = false

  /** Updates that wait until what they want is in etcd. */
  const waiting = new Set<Deferred.Deferred<void, Replaced | EtcdError>>()
  const answer = (exit: Exit.Exit<void, Replaced | EtcdError>) =>
    Effect.sync(() => {
      for (const deferred of waiting) Deferred.doneUnsafe(deferred, exit)
      waiting.clear()
    })

  const replaced = new Replaced({ name: instance.name, id: instance.id })
  const failed = (operation: string, reason: EtcdErrorReason) => new EtcdError({ operation, key, reason })

  const statusUnsafe = () => SubscriptionRef.getUnsafe(status)

  const become = (next: RegistrationStatus) =>
    Effect.suspend(() => {
      const last = statusUnsafe()
      if (last === next) return Effect.void
      const change = next === "Recovering" ? 1 : -1
      return Effect.andThen(
        SubscriptionRef.set(status, next),
        established && (last === "Recovering" || next === "Recovering")
          ? Telemetry.registrationsRecovering(change)
          : Effect.void
      )
    })

  const doubt = (): void => {
    suspect = true
    wake.openUnsafe()
  }

  // ---------------------------------------------------------------------------
  // The lease
  // ---------------------------------------------------------------------------

  const heldUnsafe = (): Slot | undefined =>
    held === undefined || held.slot.lossUnsafe() !== undefined ? undefined : held.slot

  // The key is dealt with by then. The slot would delete it by its create revision, which a replacement shares.
  const letGo = Effect.suspend(() => {
    if (held === undefined) return Effect.void
    const { scope, slot } = held
    held = undefined
    // Only of a session that is over: nobody else can have taken the place of this key meanwhile.
    if (typeof keyOn !== "string" && slot.session.lossUnsafe() !== undefined) outdated.add(slot.key)
    slot.lose("Deleted")
    return Scope.close(scope, Exit.void)
  })

  // Two of one service cannot have their keys on the same lease where the lease makes the key.
  const request: SlotRequest = typeof keyOn === "string"
    ? { ttl, name: keyOn, key: () => keyOn }
    : { ttl, name: path, key: keyOn }

  const hold = Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore): Effect.fn.Return<Slot, EtcdError> {
    const slot = heldUnsafe()
    if (slot !== undefined) return slot
    yield* letGo
    // In no scope: it would close before `release`, and the slot delete by its create revision, which a replacement shares.
    const child = yield* Scope.make()
    const next = yield* restore(Scope.provide(pool.slot(request), child)).pipe(
      Effect.onError(() => Scope.close(child, Exit.void))
    )
    held = { slot: next, scope: child }
    key = next.key
    leases.add(next.session.leaseId)
    yield* next.lost.pipe(Effect.andThen(Effect.sync(() => wake.openUnsafe())), Effect.forkIn(child))
    return next
  }))

  // ---------------------------------------------------------------------------
  // The key
  // ---------------------------------------------------------------------------

  const isCurrent = (kv: KeyValue, slot: Slot): boolean =>
    kv.lease === slot.session.leaseId && compareBytes(kv.value, desired.bytes) === 0

  const ours = (slot: Slot, at: Seen, wish: Wish): Verdict => {
    seen = { modRevision: at.modRevision, createRevision: at.createRevision, wish }
    slot.present(at.createRevision)
    return "Ours"
  }

  /** The first time the last registrant wins; from then on only what is ours is written over. */
  const judge = (slot: Slot, kv: KeyValue | undefined): Verdict => {
    if (kv === undefined) return { replaces: undefined }
    if (isCurrent(kv, slot)) return ours(slot, kv, desired)
    return !established || leases.has(kv.lease) ? { replaces: kv } : "Foreign"
  }

  const put = (slot: Slot, replaces: Seen | undefined) =>
    Effect.suspend(() => {
      const wish = desired
      const moved = [...outdated].filter((old) => old !== key).slice(-maxOutdated)
      return etcd.txn({
        compare: [Compare.modRevision(key, "=", replaces?.modRevision ?? 0n)],
        success: [
          Operation.put(key, wish.bytes, { lease: slot.session.leaseId }),
          ...moved.map((old) => Operation.delete(old))
        ],
        failure: [Operation.range(key)]
      }).pipe(
        Effect.tapError(({ reason }) =>
          Effect.sync(() => {
            if (reason._tag === "LeaseNotFound") slot.session.revoked()
            // It can be applied at any later time, also after the release.
            if (reason._tag === "Ambiguous") slot.session.distrust(key)
          })
        ),
        Effect.onInterrupt(() => Effect.sync(() => slot.session.distrust(key))),
        Effect.map((answer): Verdict => {
          const modRevision = answer.revision
          if (answer.succeeded) {
            outdated.clear()
            return ours(slot, { modRevision, createRevision: replaces?.createRevision ?? modRevision }, wish)
          }
          const found = answer.responses[0]
          return judge(slot, found?._tag === "Range" ? found.kvs[0] : undefined)
        })
      )
    })

  /** Puts until the key is ours or somebody else's. Each failed compare has shown a newer state to go by. */
  const settle = (slot: Slot, verdict: Verdict): Effect.Effect<"Ours" | "Foreign", EtcdError> =>
    typeof verdict === "string"
      ? Effect.succeed(verdict)
      : Effect.flatMap(put(slot, verdict.replaces), (next) => settle(slot, next))

  const conclude = (outcome: "Ours" | "Foreign") =>
    Effect.suspend(() => {
      if (outcome === "Foreign") {
        return become("Replaced").pipe(
          Effect.andThen(Effect.logWarning("somebody else has registered the same name and id: giving way")),
          Effect.andThen(answer(Exit.fail(replaced))),
          Effect.andThen(letGo)
        )
      }
      // An update may have come while an older wish was being carried out.
      return Effect.andThen(become("Registered"), seen?.wish === desired ? answer(Exit.void) : Effect.void)
    })

  // ---------------------------------------------------------------------------
  // Starting
  // ---------------------------------------------------------------------------

  // A put whose answer was lost is sent again unchanged for as long as its lease lives.
  const start = Effect.gen(function*() {
    let failures = 0
    let sent = false
    let verdict: Verdict = { replaces: undefined }
    while (typeof verdict !== "string") {
      const slot = yield* hold
      const replaces: Seen | undefined = verdict.replaces
      verdict = yield* put(slot, replaces).pipe(
        Effect.catchIf(
          (error) => {
            sent ||= error.reason._tag === "Ambiguous"
            return error.reason._tag === "LeaseNotFound" || (sent && isTransient(error))
          },
          () => Effect.as(Effect.suspend(() => pause(++failures, longestPause)), { replaces })
        )
      )
    }
    yield* become("Registered")
    established = true
  })

  // ---------------------------------------------------------------------------
  // Keeping
  // ---------------------------------------------------------------------------

  const reconcile = turn.withPermit(Effect.gen(function*() {
    if (statusUnsafe() === "Replaced" || released) return
    if (heldUnsafe() === undefined) yield* become("Recovering")
    const slot = yield* hold
    const { kvs: [kv] } = yield* etcd.range({ key })
    const verdict = judge(slot, kv)
    if (typeof verdict !== "string") yield* become("Recovering")
    yield* conclude(yield* settle(slot, verdict))
  }))

  const supervise = Effect.gen(function*() {
    while (statusUnsafe() !== "Replaced") {
      yield* wake.await
      wake.closeUnsafe()
      if (!suspect && heldUnsafe() !== undefined) continue
      suspect = false
      let failures = 0
      yield* reconcile.pipe(
        Effect.tapError((error) =>
          failures === 0 ? Effect.logWarning("not registered: trying again", error) : Effect.void
        ),
        Effect.tapError((error) => {
          // A wish that can never be written must not keep the last one from coming back.
          if (error.reason._tag !== "TooLarge" || seen === undefined || seen.wish === desired) return Effect.void
          desired = seen.wish
          return answer(Exit.fail(error))
        }),
        Effect.tapError(() => Effect.suspend(() => pause(++failures, longestPause))),
        Effect.retry({ while: (error) => error.reason._tag !== "Closed" })
      )
      if (failures > 0 && statusUnsafe() === "Registered") yield* Effect.logInfo("registered again")
    }
  }).pipe(Effect.catch((error) => Effect.logDebug("the registration ends with its layer", error)))

  /** Notices at once what the beats of the session notice within a third of the TTL. */
  const observe = Stream.suspend(() => {
    let synced = false
    let found = false
    const since = (revision: bigint) => seen === undefined || revision > seen.modRevision
    const look = (change: Change): void => {
      if (change._tag === "Synced") {
        // What happened before the first listing, and what a restored store no longer knows, is in no event.
        if (synced || (!found && since(change.revision + 1n))) doubt()
        synced = true
      } else if (change._tag === "Delete") {
        if (change.key === key && since(change.modRevision)) doubt()
      } else if (change.kv.key === key) {
        found = true
        if (since(change.kv.modRevision) && (held === undefined || !isCurrent(change.kv, held.slot))) doubt()
      }
    }
    return Stream.map(shared.changes({ prefix: path }), (changes) => changes.forEach(look))
  }).pipe(
    Stream.runDrain,
    Effect.catch((error) => Effect.logDebug("the own key is not watched: the beats of the lease look after it", error)),
    Effect.andThen(Effect.sleep(watchAgain)),
    Effect.forever
  )

  // ---------------------------------------------------------------------------
  // Updating
  // ---------------------------------------------------------------------------

  const want = (metadata: Readonly<Record<string, string>>): void => {
    const next = new ServiceInstance({ ...desired.instance, metadata })
    desired = { instance: next, bytes: encode(next) }
  }

  /** For as long as the key is there. Nothing: it is not. */
  const write = (metadata: Readonly<Record<string, string>>) =>
    turn.withPermit(Effect.gen(function*() {
      const slot = heldUnsafe()
      if (slot === undefined || statusUnsafe() !== "Registered") return undefined
      const previous = desired
      want(metadata)
      const outcome = yield* settle(slot, { replaces: seen }).pipe(
        Effect.onInterrupt(() => Effect.sync(doubt)),
        Effect.catchIf((error) => error.reason._tag === "LeaseNotFound", () => Effect.undefined),
        Effect.tapError((error) =>
          Effect.sync(() => {
            // What may have been written is what is wanted from now on; what was refused is not.
            if (error.reason._tag === "Ambiguous") doubt()
            else desired = previous
          })
        )
      )
      if (outcome !== undefined) yield* conclude(outcome)
      return outcome
    }))

  const writeWhenRecovered = Effect.fnUntraced(function*(metadata: Readonly<Record<string, string>>) {
    if (released) return yield* failed("update", new Closed())
    if (statusUnsafe() === "Replaced") return yield* replaced
    want(metadata)
    const written = Deferred.makeUnsafe<void, Replaced | EtcdError>()
    waiting.add(written)
    yield* become("Recovering")
    doubt()
    yield* Deferred.await(written).pipe(
      Effect.timeoutOrElse({
        duration: etcd.settings.timeout,
        orElse: () =>
          Effect.fail(
            failed("update", new Ambiguous({ detail: "the registration is recovering: it is written with it" }))
          )
      }),
      Effect.ensuring(Effect.sync(() => waiting.delete(written)))
    )
  })

  const update = Effect.fnUntraced(function*(metadata: Readonly<Record<string, string>>) {
    const registered = !released && statusUnsafe() === "Registered" && heldUnsafe() !== undefined
    const outcome = registered ? yield* write(metadata) : undefined
    if (outcome === "Foreign") return yield* replaced
    if (outcome === undefined) yield* writeWhenRecovered(metadata)
  })

  // ---------------------------------------------------------------------------
  // Releasing
  // ---------------------------------------------------------------------------

  /** Nobody else puts this key on a lease of ours. */
  const remove = (lease: bigint): Effect.Effect<void, EtcdError> =>
    etcd.txn({
      compare: [Compare.lease(key, "=", lease)],
      success: [Operation.delete(key)],
      failure: [Operation.range(key)]
    }).pipe(
      Effect.flatMap((answer) => {
        const found = answer.responses[0]
        const kv = found?._tag === "Range" ? found.kvs[0] : undefined
        return kv !== undefined && leases.has(kv.lease) ? remove(kv.lease) : Effect.void
      })
    )

  /** Runs once `keep` has ended. A second call does nothing. */
  const release = Effect.suspend(() => {
    if (released) return Effect.void
    released = true
    const slot = heldUnsafe()
    const recovering = established && statusUnsafe() === "Recovering"
    // Where the lease is lost, the key is gone or goes with it: nothing to wait for.
    const removal = slot === undefined || statusUnsafe() === "Replaced"
      ? Effect.void
      : patience.within(
        turn.withPermit(remove(slot.session.leaseId)).pipe(
          Effect.retry({ schedule: backoff, while: isTransient }),
          Effect.onExit((exit) => Effect.sync(() => patience.heardUnsafe(exit))),
          Effect.raceFirst(Effect.asVoid(slot.lost))
        ),
        Effect.fail(failed("release", new Ambiguous({ detail: "no answer in time: it is deleted with its lease" })))
      ).pipe(
        // From now on nobody owns the key, and each beat of the session deletes what nobody owns.
        Effect.tapError(() => Effect.sync(() => slot.session.distrust(key)))
      )
    return removal.pipe(
      Effect.ensuring(letGo),
      Effect.ensuring(recovering ? Telemetry.registrationsRecovering(-1) : Effect.void)
    )
  })

  return {
    keyUnsafe: () => key,
    status,
    start,
    /** Puts the key there again for as long as it runs; ends when the registration has been replaced. */
    keep: Effect.raceFirst(supervise, observe),
    update,
    release
  }
})
