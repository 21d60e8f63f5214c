/**
 * One registration: a key on a lease that is kept as it should be for as long as its scope lives.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import type { Etcd, KeyValue } from "../../Etcd.ts"
import { Ambiguous, Closed, EtcdError, type EtcdErrorReason, Unavailable } from "../../EtcdError.ts"
import { Replaced, type ServiceInstance } from "../../ServiceInstance.ts"
import { pause } from "../follow.ts"
import { patienceWith } from "../session/Patience.ts"
import type { SessionPool } from "../session/SessionPool.ts"
import { isTransient } from "../session/Slots.ts"
import * as Telemetry from "../Telemetry.ts"
import { type Outcome, type Owner, OwnKey, type Place, type Verdict, type Wish } from "./ownKey.ts"
import type { KeyObserver, OwnKeys } from "./ownKeys.ts"
import { Status } from "./status.ts"

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
  readonly ownKeys: OwnKeys
  /** Runs for the length of the layer. */
  readonly run: (effect: Effect.Effect<void>) => Fiber.Fiber<unknown, unknown>
}

type Replaces = Exclude<Verdict, string>["replaces"]

const backoff = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")]).pipe(Schedule.jittered)

/** In milliseconds. An instance is back within this of the end of an outage. */
const longestPause = 2000

/**
 * Everything that one registration does. `start` comes first, then `keepUnsafe`; `stop` and `release` come last, in any case: the
 * latter also gives back the place on the lease. While nothing happens to its key it is some fields and no fiber, since there may be
 * thousands.
 */
export class OwnRegistration implements KeyObserver, Owner {
  readonly status = new Status<RegistrationStatus>("Recovering")
  readonly #ports: Ports
  readonly #folder: string
  readonly #key: OwnKey
  #released = false
  #stopped = false
  /** Put there again when it is gone. */
  #kept = false
  /** The key may no longer be what was last seen. */
  #suspect = false
  /** A lease that was brought back by a restore, it may be, and when it would be over if nobody kept it. */
  #older: { readonly lease: bigint; readonly until: bigint } | undefined
  /** While there is something to mend. */
  #working: Fiber.Fiber<unknown, unknown> | undefined
  #turn: Semaphore.Semaphore | undefined
  /** Updates that wait until what they want is in etcd, by what they want. */
  #waiting: Map<Wish, Deferred.Deferred<void, Replaced | EtcdError>> | undefined

  constructor(ports: Ports, place: Place, instance: ServiceInstance) {
    this.#ports = ports
    this.#folder = place.path
    this.#key = new OwnKey(ports.etcd, ports.pool, place, instance, this)
  }

  keyUnsafe(): string {
    return this.#key.nameUnsafe()
  }

  /** For logs. */
  get label(): string {
    return this.#key.label
  }

  get instance(): ServiceInstance {
    return this.#key.desired.instance
  }

  get #replaced(): Replaced {
    const { id, name } = this.instance
    return new Replaced({ name, id })
  }

  #failed(operation: string, reason: EtcdErrorReason): EtcdError {
    return new EtcdError({ operation, key: this.keyUnsafe(), reason })
  }

  #inTurn<A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      this.#turn ??= Semaphore.makeUnsafe(1)
      return this.#turn.withPermit(effect)
    })
  }

  /** All that wait, or who waits for this. */
  #answer(exit: Exit.Exit<void, Replaced | EtcdError>, only?: Wish): Effect.Effect<void> {
    return Effect.sync(() => {
      for (const [wish, deferred] of this.#waiting ?? []) {
        if (only !== undefined && wish !== only) continue
        this.#waiting?.delete(wish)
        Deferred.doneUnsafe(deferred, exit)
      }
    })
  }

  #become(next: RegistrationStatus): Effect.Effect<void> {
    return Effect.suspend(() => {
      const last = this.status.getUnsafe()
      if (last === next) return Effect.void
      this.status.setUnsafe(next)
      return this.#key.established && (last === "Recovering" || next === "Recovering")
        ? Telemetry.registrationsRecovering(next === "Recovering" ? 1 : -1)
        : Effect.void
    })
  }

  /** As a whole: who is no longer kept and not yet replaced either would stay so for ever. */
  #conclude(outcome: "Ours" | "Foreign"): Effect.Effect<void> {
    return Effect.uninterruptible(Effect.suspend(() => {
      if (outcome === "Foreign") {
        this.#leaveUnsafe()
        return this.#become("Replaced").pipe(
          Effect.andThen(Effect.logWarning("somebody else has registered the same name and id: giving way")),
          Effect.andThen(this.#answer(Exit.fail(this.#replaced))),
          Effect.andThen(this.#key.letGo())
        )
      }
      // An update may have come while an older wish was being carried out.
      const done = this.#key.seen?.wish === this.#key.desired ? this.#answer(Exit.void) : Effect.void
      return Effect.andThen(this.#become("Registered"), done)
    }))
  }

  // ---------------------------------------------------------------------------
  // Starting
  // ---------------------------------------------------------------------------

  /** A put whose answer was lost is sent again unchanged for as long as its lease lives. */
  get start(): Effect.Effect<void, EtcdError> {
    return Effect.onExitPrimitive(
      this.#started(undefined, 0, false),
      () => this.#released ? this.#abandon : undefined
    )
  }

  #started(replaces: Replaces, failures: number, sent: boolean): Effect.Effect<void, EtcdError> {
    return Effect.flatMap(this.#key.hold(), (slot) => {
      if (this.#released) return this.#closed
      return Effect.matchEffect(this.#key.put(slot, replaces), {
        onFailure: (error) => {
          const { _tag } = error.reason
          const isSent = sent || _tag === "Ambiguous"
          if (_tag !== "LeaseNotFound" && !(isSent && isTransient(error))) return Effect.fail(error)
          return Effect.andThen(
            pause(failures + 1, longestPause),
            Effect.suspend(() => this.#started(replaces, failures + 1, isSent))
          )
        },
        onSuccess: (verdict) => {
          if (typeof verdict !== "string") return this.#started(verdict.replaces, failures, sent)
          if (this.#released) return this.#closed
          this.#key.established = true
          this.status.setUnsafe("Registered")
          return Effect.void
        }
      })
    })
  }

  get #closed(): Effect.Effect<never, EtcdError> {
    return Effect.fail(this.#failed("register", new Closed()))
  }

  /** The scope has closed during the start, and `release` may have found nothing yet. Each beat deletes what nobody owns. */
  get #abandon(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.#key.heldUnsafe()?.session.distrust(this.keyUnsafe())
      return this.#key.letGo()
    })
  }

  // ---------------------------------------------------------------------------
  // Keeping
  // ---------------------------------------------------------------------------

  /** From now on the key is put there again whenever it is gone. */
  keepUnsafe(): void {
    if (this.#stopped) return
    this.#kept = true
    this.#ports.ownKeys.observeUnsafe(this.#folder, this.keyUnsafe(), this)
    this.wakeUnsafe()
  }

  #leaveUnsafe(): void {
    if (!this.#kept) return
    this.#kept = false
    this.#ports.ownKeys.leaveUnsafe(this.#folder, this.keyUnsafe(), this)
  }

  /** Ends `keepUnsafe`, also one that comes after it. */
  get stop(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.#stopped = true
      this.#leaveUnsafe()
      return this.#working === undefined ? Effect.void : Fiber.interrupt(this.#working)
    })
  }

  /** Notices at once what the beats of the session notice within a third of the TTL. */
  look(kv: KeyValue | undefined, revision: bigint): void {
    if (!this.#key.isExpected(kv, revision)) this.doubt()
  }

  movedUnsafe(from: string, to: string): void {
    if (this.#kept) this.#ports.ownKeys.moveUnsafe(this.#folder, from, to, this)
  }

  doubt(): void {
    this.#suspect = true
    this.wakeUnsafe()
  }

  #isToBeMended(): boolean {
    return this.#kept && (this.#suspect || this.#key.heldUnsafe() === undefined)
  }

  // Asking whether it is to be mended can find out that the lease is lost, and that comes here as well.
  wakeUnsafe(): void {
    if (!this.#isToBeMended() || this.#working !== undefined) return
    this.#working = this.#ports.run(
      // Not in the middle of what has woken it.
      Effect.andThen(Effect.yieldNow, this.#mend).pipe(
        Effect.ensuring(Effect.sync(() => {
          this.#working = undefined
          // What came after the last look woke nobody.
          this.wakeUnsafe()
        })),
        Effect.annotateLogs({ key: this.#key.label })
      )
    )
  }

  get #mend(): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      while (this.#isToBeMended()) {
        this.#suspect = false
        let failures = 0
        yield* this.#reconcile.pipe(
          Effect.tapError((error) =>
            failures === 0 ? Effect.logWarning("not registered: trying again", error) : Effect.void
          ),
          Effect.tapError((error) => {
            // A wish that can never be written must not keep the last one from coming back.
            const { desired, seen, tried } = this.#key
            if (error.reason._tag !== "TooLarge" || seen === undefined || seen.wish === tried) return Effect.void
            // Another one may have come meanwhile.
            if (desired === tried) this.#key.desired = seen.wish
            return this.#answer(Exit.fail(error), tried)
          }),
          Effect.tapError(() => Effect.suspend(() => pause(++failures, longestPause))),
          Effect.retry({ while: (error) => error.reason._tag !== "Closed" })
        )
        if (failures > 0 && this.status.getUnsafe() === "Registered") yield* Effect.logInfo("registered again")
      }
    }).pipe(
      Effect.onError(() => Effect.sync(() => this.#leaveUnsafe())),
      Effect.catch((error) => Effect.logDebug("the registration ends with its layer", error))
    )
  }

  get #reconcile(): Effect.Effect<void, EtcdError> {
    return this.#inTurn(Effect.gen({ self: this }, function*() {
      if (this.status.getUnsafe() === "Replaced" || this.#released) return
      if (this.#key.heldUnsafe() === undefined) yield* this.#become("Recovering")
      const slot = yield* this.#key.hold()
      const { kvs: [kv] } = yield* this.#ports.etcd.range({ key: this.keyUnsafe() })
      const verdict = this.#key.judge(slot, kv)
      if (verdict !== "Ours" && verdict !== "Foreign") yield* this.#become("Recovering")
      const outcome = yield* this.#key.settle(slot, verdict)
      yield* this.#conclude(outcome === "Older" ? yield* this.#outlast : outcome)
    }))
  }

  /** Fails until it is certain that somebody renews the lease of what is there: whoever was there before does not. */
  get #outlast(): Effect.Effect<"Foreign", EtcdError> {
    return Effect.gen({ self: this }, function*() {
      const lease = this.#key.olderLease
      const now = yield* Clock.monotonicTimeNanos
      if (this.#older?.lease !== lease) {
        const { remaining } = yield* this.#ports.etcd.leaseTimeToLive(lease)
        // An election gives all leases their time anew, and etcd ends no more than so many in a second.
        const longest = Duration.sum(Duration.times(remaining, 3), Duration.seconds(5))
        this.#older = { lease, until: now + Duration.toNanosUnsafe(longest) }
      }
      if (now >= this.#older.until) return "Foreign" as const
      const detail = "a restored etcd holds an older entry, which goes with its lease"
      return yield* this.#failed("register", new Unavailable({ detail, sent: false }))
    })
  }

  // ---------------------------------------------------------------------------
  // Updating
  // ---------------------------------------------------------------------------

  /** For as long as the key is there. Nothing: it is not. */
  #write(metadata: Readonly<Record<string, string>>): Effect.Effect<Exclude<Outcome, "Older"> | undefined, EtcdError> {
    return this.#inTurn(
      Effect.gen({ self: this }, function*() {
        const slot = this.#key.heldUnsafe()
        if (slot === undefined || this.#released || this.status.getUnsafe() !== "Registered") return undefined
        const previous = this.#key.desired
        const wish = this.#key.want(metadata)
        const outcome = yield* this.#key.settle(slot, { replaces: this.#key.seen }).pipe(
          Effect.catchIf((error) => error.reason._tag === "LeaseNotFound", () => Effect.undefined),
          Effect.tapError((error) =>
            Effect.sync(() => {
              // What may have been written is what is wanted from now on; what was refused is not.
              if (error.reason._tag === "Ambiguous") this.doubt()
              // Of one that came meanwhile too.
              else if (this.#key.desired === wish) this.#key.desired = previous
            })
          )
        )
        if (outcome === undefined || outcome === "Older") return undefined
        yield* this.#conclude(outcome)
        return outcome
      }).pipe(Effect.onInterrupt(() => Effect.sync(() => this.doubt())))
    )
  }

  #writeWhenRecovered(metadata: Readonly<Record<string, string>>): Effect.Effect<void, Replaced | EtcdError> {
    return Effect.gen({ self: this }, function*() {
      if (this.#released) return yield* this.#failed("update", new Closed())
      if (this.status.getUnsafe() === "Replaced") return yield* this.#replaced
      const wish = this.#key.want(metadata)
      const written = Deferred.makeUnsafe<void, Replaced | EtcdError>()
      this.#waiting ??= new Map()
      const waiting = this.#waiting.set(wish, written)
      // At once: who is interrupted from here on has asked for it all the same.
      this.doubt()
      yield* Deferred.await(written).pipe(
        Effect.timeoutOrElse({
          duration: this.#ports.etcd.settings.timeout,
          orElse: () => {
            const detail = "the registration is recovering: it is written with it"
            return Effect.fail(this.#failed("update", new Ambiguous({ detail })))
          }
        }),
        Effect.ensuring(Effect.sync(() => waiting.delete(wish)))
      )
    })
  }

  update(metadata: Readonly<Record<string, string>>): Effect.Effect<void, Replaced | EtcdError> {
    return Effect.gen({ self: this }, function*() {
      const isThere = !this.#released && this.status.getUnsafe() === "Registered" &&
        this.#key.heldUnsafe() !== undefined
      const outcome = isThere ? yield* this.#write(metadata) : undefined
      if (outcome === "Foreign") return yield* this.#replaced
      if (outcome === undefined) yield* this.#writeWhenRecovered(metadata)
    })
  }

  // ---------------------------------------------------------------------------
  // Releasing
  // ---------------------------------------------------------------------------

  /** Runs once `stop` has. A second call does nothing. */
  get release(): Effect.Effect<void, EtcdError> {
    return Effect.suspend(() => {
      if (this.#released) return Effect.void
      this.#released = true
      const slot = this.#key.heldUnsafe()
      const patience = patienceWith(this.#ports.etcd)
      const recovering = this.#key.established && this.status.getUnsafe() === "Recovering"
      // Where the lease is lost, the key is gone or goes with it: nothing to wait for.
      const removal = slot === undefined || this.status.getUnsafe() === "Replaced"
        ? Effect.void
        : patience.within(
          this.#inTurn(this.#key.remove(slot.session.leaseId)).pipe(
            Effect.retry({ schedule: backoff, while: isTransient }),
            Effect.onExit((exit) => Effect.sync(() => patience.heardUnsafe(exit))),
            Effect.raceFirst(Effect.asVoid(slot.lost))
          ),
          Effect.suspend(() => {
            const detail = "no answer in time: it is deleted with its lease"
            return Effect.fail(this.#failed("release", new Ambiguous({ detail })))
          })
        ).pipe(
          // From now on nobody owns the key, and each beat of the session deletes what nobody owns.
          Effect.tapError(() => Effect.sync(() => slot.session.distrust(this.keyUnsafe())))
        )
      return this.#answer(Exit.fail(this.#failed("update", new Closed()))).pipe(
        Effect.andThen(removal),
        Effect.ensuring(this.#key.letGo()),
        Effect.ensuring(recovering ? Telemetry.registrationsRecovering(-1) : Effect.void)
      )
    })
  }
}
