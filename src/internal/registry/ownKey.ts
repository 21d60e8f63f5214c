/**
 * The key of one registration: on which lease it is, what is wanted in it, and how it is written.
 *
 * Every put compares the revision at which the key was last seen. So a put whose answer was lost, and that etcd applies
 * later, finds either what it was meant to replace, or nothing to do; it never undoes a newer write.
 */
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type { Etcd, KeyValue } from "../../Etcd.ts"
import { Compare, Operation } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { ServiceInstance } from "../../ServiceInstance.ts"
import { compareBytes } from "../keys.ts"
import type { SessionPool, SlotRequest } from "../session/SessionPool.ts"
import type { Slot } from "../session/Slots.ts"

export interface Place {
  /** The folder of its service. */
  readonly path: string
  /** The key of the instance, or how it is made of a lease: then it moves with it. */
  readonly keyOn: string | ((lease: bigint) => string)
  readonly ttl: Duration.Duration
  readonly encode: (instance: ServiceInstance) => Uint8Array
}

export interface Owner {
  /** The lease may be lost. */
  readonly wakeUnsafe: () => void
  readonly movedUnsafe: (from: string, to: string) => void
}

/** A place on a lease; its scope gives it back. */
interface Held {
  readonly slot: Slot
  readonly scope: Scope.Closeable
}

/** Where a key was seen. */
type Seen = Pick<KeyValue, "modRevision" | "createRevision">

export interface Wish {
  readonly instance: ServiceInstance
  readonly bytes: Uint8Array
}

/**
 * Whose a key is. `Older`: somebody else's of a lower revision than it had as ours, so etcd has gone back: it can be that of whoever was
 * there before, or of somebody who came since.
 */
export type Outcome = "Ours" | "Foreign" | "Older"

/** What to do about a key: that is known, or a put that replaces exactly what was seen (`undefined`: no key). */
export type Verdict = Outcome | { readonly replaces: Seen | undefined }

/** The others are gone with their leases; etcd takes no more than 128 operations at once. */
const maxOutdated = 16

const none: ReadonlyArray<never> = []

export class OwnKey {
  readonly #etcd: Etcd["Service"]
  readonly #pool: SessionPool
  readonly #place: Place
  readonly #owner: Owner
  #name: string
  #held: Held | undefined
  /** Keys on leases that were lost and are not expired yet, it may be: what replaces them deletes them, so that nobody sees both. */
  #outdated: ReadonlyArray<string> = none
  /** Leases that this registration has put its key on. */
  #leases: ReadonlyArray<bigint> = none
  /** The key when it was last known to be ours, and what was in it. */
  seen: Seen & { readonly wish: Wish } | undefined
  desired: Wish
  /** What was last sent. */
  tried: Wish | undefined
  /** The lease of the key that was last judged to be older. */
  olderLease = 0n
  /** It has been ours. */
  established = false

  constructor(etcd: Etcd["Service"], pool: SessionPool, place: Place, instance: ServiceInstance, owner: Owner) {
    this.#etcd = etcd
    this.#pool = pool
    this.#place = place
    this.#owner = owner
    this.#name = typeof place.keyOn === "string" ? place.keyOn : place.path
    this.desired = { instance, bytes: place.encode(instance) }
  }

  nameUnsafe(): string {
    return this.#name
  }

  /** For logs: also of a key that moves. */
  get label(): string {
    return typeof this.#place.keyOn === "string" ? this.#name : this.#place.path
  }

  want(metadata: Readonly<Record<string, string>>): Wish {
    const instance = new ServiceInstance({ ...this.desired.instance, metadata })
    return this.desired = { instance, bytes: this.#place.encode(instance) }
  }

  // ---------------------------------------------------------------------------
  // The lease
  // ---------------------------------------------------------------------------

  heldUnsafe(): Slot | undefined {
    return this.#held === undefined || this.#held.slot.lossUnsafe() !== undefined ? undefined : this.#held.slot
  }

  // The key is dealt with by then. The slot would delete it by its create revision, which a replacement shares.
  letGo(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.#held === undefined) return Effect.void
      const { scope, slot } = this.#held
      this.#held = undefined
      // Only of a session that is over: nobody else can have taken the place of this key meanwhile.
      if (typeof this.#place.keyOn !== "string" && slot.session.lossUnsafe() !== undefined) {
        this.#outdated = [...this.#outdated, slot.key].slice(-maxOutdated)
      }
      slot.lose("Deleted")
      return Scope.close(scope, Exit.void)
    })
  }

  get #request(): SlotRequest {
    const { keyOn, path, ttl } = this.#place
    // Two of one service cannot have their keys on the same lease where the lease makes the key.
    return typeof keyOn === "string" ? { ttl, name: keyOn, key: () => keyOn } : { ttl, name: path, key: keyOn }
  }

  hold(): Effect.Effect<Slot, EtcdError> {
    return Effect.uninterruptibleMask((restore) => {
      const slot = this.heldUnsafe()
      if (slot !== undefined) return Effect.succeed(slot)
      const next = Effect.suspend(() => {
        // In no scope: it would close before `release`, and the slot delete by its create revision, which a replacement shares.
        const scope = Scope.makeUnsafe()
        return restore(Scope.provide(this.#pool.slot(this.#request), scope)).pipe(
          Effect.onError(() => Scope.close(scope, Exit.void)),
          Effect.map((slot) => this.#take({ slot, scope }))
        )
      })
      return this.#held === undefined ? next : Effect.andThen(this.letGo(), next)
    })
  }

  #take(held: Held): Slot {
    const { slot } = held
    this.#held = held
    if (slot.key !== this.#name) {
      this.#owner.movedUnsafe(this.#name, slot.key)
      this.#name = slot.key
    }
    const { leaseId } = slot.session
    if (!this.#leases.includes(leaseId)) this.#leases = [...this.#leases, leaseId]
    slot.onLoss(() => this.#owner.wakeUnsafe())
    return slot
  }

  // ---------------------------------------------------------------------------
  // Writing
  // ---------------------------------------------------------------------------

  #isCurrent(kv: KeyValue, slot: Slot): boolean {
    return kv.lease === slot.session.leaseId && compareBytes(kv.value, this.desired.bytes) === 0
  }

  #ours(slot: Slot, at: Seen, wish: Wish): Verdict {
    this.seen = { modRevision: at.modRevision, createRevision: at.createRevision, wish }
    slot.present(at.createRevision)
    return "Ours"
  }

  /** Whether this is known, or what is wanted: a key that was like this at a revision, or was not there. */
  isExpected(kv: KeyValue | undefined, revision: bigint): boolean {
    const modRevision = this.seen?.modRevision ?? 0n
    return kv === undefined
      ? revision < modRevision
      : kv.modRevision <= modRevision || (this.#held !== undefined && this.#isCurrent(kv, this.#held.slot))
  }

  /** The first time the last registrant wins; from then on only what is ours is written over. */
  judge(slot: Slot, kv: KeyValue | undefined): Verdict {
    if (kv === undefined) return { replaces: undefined }
    if (this.#isCurrent(kv, slot)) return this.#ours(slot, kv, this.desired)
    if (!this.established || this.#leases.includes(kv.lease)) return { replaces: kv }
    if (kv.lease === 0n || kv.modRevision >= (this.seen?.modRevision ?? 0n)) return "Foreign"
    this.olderLease = kv.lease
    return "Older"
  }

  put(slot: Slot, replaces: Seen | undefined): Effect.Effect<Verdict, EtcdError> {
    return Effect.suspend(() => {
      const key = this.#name
      const wish = this.desired
      this.tried = wish
      const put = Operation.put(key, wish.bytes, { lease: slot.session.leaseId })
      const moved = this.#outdated.filter((old) => old !== key)
      return this.#etcd.txn({
        compare: [Compare.modRevision(key, "=", replaces?.modRevision ?? 0n)],
        success: moved.length === 0 ? [put] : [put, ...moved.map((old) => Operation.delete(old))]
      }).pipe(
        Effect.onError((cause) => {
          const reason = Option.getOrUndefined(Cause.findErrorOption(cause))?.reason._tag
          if (reason === "LeaseNotFound") slot.session.revoked()
          // It can be applied at any later time, also after the release.
          if (reason === "Ambiguous" || Cause.hasInterrupts(cause)) slot.session.distrust(key)
          return Effect.void
        }),
        Effect.flatMap(({ revision: modRevision, succeeded }) => {
          if (!succeeded) return this.#judged(slot)
          this.#outdated = none
          const createRevision = replaces?.createRevision ?? modRevision
          return Effect.succeed(this.#ours(slot, { modRevision, createRevision }, wish))
        })
      )
    })
  }

  /** Read only now: a put that may have to show what it found makes a long answer possible, and travels with few others. */
  #judged(slot: Slot): Effect.Effect<Verdict, EtcdError> {
    return Effect.map(this.#etcd.range({ key: this.#name }), ({ kvs: [kv] }) => this.judge(slot, kv))
  }

  /** Puts until the key is ours or somebody else's. Each failed compare has shown a newer state to go by. */
  settle(slot: Slot, verdict: Verdict): Effect.Effect<Outcome, EtcdError> {
    return typeof verdict === "string"
      ? Effect.succeed(verdict)
      : Effect.flatMap(this.put(slot, verdict.replaces), (next) => this.settle(slot, next))
  }

  /** Nobody else puts this key on a lease of ours. */
  remove(lease: bigint): Effect.Effect<void, EtcdError> {
    return Effect.suspend(() =>
      this.#etcd.txn({
        compare: [Compare.lease(this.#name, "=", lease)],
        success: [Operation.delete(this.#name)]
      })
    ).pipe(
      Effect.flatMap(({ succeeded }) => succeeded || this.#leases.length === 1 ? Effect.void : this.#removeOther())
    )
  }

  /** A late put of ours may have moved it to another lease. */
  #removeOther(): Effect.Effect<void, EtcdError> {
    return Effect.flatMap(
      this.#etcd.range({ key: this.#name, keysOnly: true }),
      ({ kvs: [kv] }) => kv !== undefined && this.#leases.includes(kv.lease) ? this.remove(kv.lease) : Effect.void
    )
  }
}
