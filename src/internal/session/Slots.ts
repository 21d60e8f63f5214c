/**
 * The keys that live on a lease, each owned by one local user.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { Compare, type Etcd, Operation, type TxnRequest, type TxnResult } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { Link, Linked } from "../Linked.ts"
import { type Account, accountOf } from "./Account.ts"
import type { SessionLost } from "./LeaseClock.ts"
import type { LeaseSession } from "./LeaseSession.ts"
import { type Patience, patienceWith } from "./Patience.ts"
import { Deadlines, deletion, Removal, type RemovalOwner, type Removed } from "./Removal.ts"

export { isTransient, mayBeApplied } from "./Patience.ts"

/** Why a key is gone: with its session, or alone because somebody deleted it. */
export type SlotLoss = SessionLost["why"] | "Deleted"

export interface Slot {
  readonly key: string
  readonly session: LeaseSession
  /** Completes with the reason when the key can no longer be relied on. */
  readonly lost: Effect.Effect<SlotLoss>
  /** Runs at the moment of the loss, before anybody who waits for it. */
  readonly onLoss: (run: () => void) => void
  /** Told of the loss, at once where it has happened, unless it is told no more before. */
  readonly whenLost: (tell: (why: SlotLoss) => void) => () => void
  /** Why it is lost, judged now by the clock. */
  readonly lossUnsafe: () => SlotLoss | undefined
  /** As `lossUnsafe`, after a beat where the machine seems to have been suspended. */
  readonly loss: Effect.Effect<SlotLoss | undefined>
  /** Goes on by what `loss` says. */
  readonly judge: <A, E, R>(then: (loss: SlotLoss | undefined) => Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** No key is put for now: what is there under its name belongs to nobody. */
  readonly rest: () => void
  /** Ends the rest, in the step in which a key is put. `false`: no key may be put on this lease any more. */
  readonly engage: () => boolean
  /** The key has been seen in the store with this create revision: from now on its absence is a loss. */
  readonly present: (createRevision: bigint) => void
  /** A compare has shown that the key is not (or no longer) there. */
  readonly lose: (why: SlotLoss) => void
  /** Deletes the key if it is still this one. Fails with `Ambiguous` when there was no answer in time; the session goes on. */
  readonly release: Effect.Effect<void, EtcdError>
  /** Asked when the key is about to be deleted. */
  readonly onRelease: (heirs: Heirs) => void
  /** A put of the key that is on its way, if there is one. None begins once the slot is being given back. */
  pending: Pending | undefined
  readonly isGivenBack: boolean
  /**
   * Deletes the key, if it is still this one, and leaves the lease to others. The answer to what is on its way is waited for before, but not
   * for ever: then the session clears away what may still appear.
   */
  readonly giveBack: Effect.Effect<void>
}

/** What may put the key. */
export interface Pending {
  readonly settled: Effect.Effect<unknown>
  readonly cancel: Effect.Effect<unknown>
}

/** For how long whoever gives a slot back waits for the answer to a put that is on its way. */
const withdrawPatience = "1 second"

/** Where slots are taken. */
export interface SlotOwner {
  /** The key of the slot of this name is known to be gone for good. */
  readonly gone: (name: string) => void
  /** The slot is given back. */
  readonly left: () => void
}

export interface Heirs {
  /** Somebody may come next. */
  readonly areThere: () => boolean
  /** Who comes next: asked in the step in which the key is deleted. */
  readonly choose: () => Successor | undefined
}

/** What is done in the transaction that deletes a key, or not at all. */
export interface Successor {
  readonly request: Pick<TxnRequest, "compare" | "success">
  /** Runs once, however it ended. The responses are those of `request`. */
  readonly ended: (exit: Exit.Exit<TxnResult, EtcdError>) => void
}

export interface Slots {
  readonly open: (session: LeaseSession, key: string, name: string, owner: SlotOwner) => Slot
  /** There are users of it, though they may have no key yet. */
  readonly areUsed: () => boolean
  /** As of now: the same one for as long as no slot has changed. */
  readonly account: () => Account
  readonly loseAll: (why: SlotLoss) => void
}

const nothing: TxnResult = { revision: 0n, succeeded: false, responses: [] }

const withSuccessor = (key: string, createRevision: bigint, { request }: Successor): TxnRequest => ({
  compare: [Compare.createRevision(key, "=", createRevision), ...request.compare ?? []],
  success: [Operation.delete(key), ...request.success ?? []]
})

const withoutDelete = ({ responses, revision, succeeded }: TxnResult): TxnResult => ({
  revision,
  succeeded,
  responses: responses.slice(1)
})

/** What the keys of one lease have in common. */
interface Shared {
  readonly etcd: Etcd["Service"]
  readonly patience: Patience
  readonly deadlines: Deadlines
  readonly entries: Linked<OwnSlot>
  /** Removals on their way, which end with the session. */
  readonly removals: Linked<Removal>
  /** Kept from one look at the lease to the next, unless a slot changes between them. */
  account: Account | undefined
}

/** Fields and no closures, as there may be thousands: what is needed once, at the end, is made then. */
class OwnSlot extends Link<OwnSlot> implements Slot, RemovalOwner {
  readonly key: string
  readonly session: LeaseSession
  readonly #shared: Shared
  readonly #name: string
  readonly #owner: SlotOwner
  pending: Pending | undefined
  isGivenBack = false
  createRevision: bigint | undefined
  resting = false
  releasing = false
  #loss: SlotLoss | undefined
  #signal: Deferred.Deferred<SlotLoss> | undefined
  #atLoss: (() => void) | undefined
  #told: Set<(why: SlotLoss) => void> | undefined
  #heirs: Heirs | undefined
  #removal: Removal | undefined

  constructor(shared: Shared, session: LeaseSession, key: string, name: string, owner: SlotOwner) {
    super()
    this.#shared = shared
    this.session = session
    this.key = key
    this.#name = name
    this.#owner = owner
  }

  get lost(): Effect.Effect<SlotLoss> {
    if (this.#loss !== undefined) return Effect.succeed(this.#loss)
    this.#signal ??= Deferred.makeUnsafe()
    return Deferred.await(this.#signal)
  }

  onLoss(run: () => void): void {
    this.#atLoss = run
    if (this.#loss !== undefined) run()
  }

  whenLost(tell: (why: SlotLoss) => void): () => void {
    if (this.#loss !== undefined) {
      tell(this.#loss)
      return () => {}
    }
    const told = this.#told ??= new Set()
    told.add(tell)
    return () => told.delete(tell)
  }

  // Who is woken by the end of a session runs before all of its slots have been told.
  lossUnsafe(): SlotLoss | undefined {
    const ended = this.session.lossUnsafe()
    return this.#loss ?? ended?.why
  }

  get loss(): Effect.Effect<SlotLoss | undefined> {
    return this.judge(Effect.succeed)
  }

  judge<A, E, R>(then: (loss: SlotLoss | undefined) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.suspend(() =>
      this.session.suspectedUnsafe()
        ? Effect.flatMap(Effect.exit(this.session.check), () => then(this.lossUnsafe()))
        : then(this.lossUnsafe())
    )
  }

  rest(): void {
    this.resting = true
    this.#shared.account = undefined
  }

  engage(): boolean {
    if (this.lossUnsafe() !== undefined || this.session.distrustedUnsafe()) return false
    this.resting = false
    this.#shared.account = undefined
    return true
  }

  present(createRevision: bigint): void {
    this.createRevision = createRevision
    this.#shared.account = undefined
  }

  onRelease(heirs: Heirs): void {
    this.#heirs = heirs
  }

  lose(why: SlotLoss): void {
    if (this.#loss !== undefined) return
    this.#loss = why
    this.#leave()
    this.#atLoss?.()
    for (const tell of this.#told ?? []) tell(why)
    if (this.#signal !== undefined) Deferred.doneUnsafe(this.#signal, Exit.succeed(why))
  }

  #leave(): void {
    if (!this.#shared.entries.delete(this)) return
    this.#shared.account = undefined
    this.#owner.gone(this.#name)
  }

  get release(): Effect.Effect<void, EtcdError> {
    return this.#released(Effect.fail)
  }

  #released<E>(onFailure: (error: EtcdError) => Effect.Effect<void, E>): Effect.Effect<void, E> {
    return Effect.contextWith((context: Context.Context<never>) => {
      const isThere = this.lossUnsafe() === undefined && this.#shared.entries.has(this)
      if (this.#removal === undefined && !isThere) return Effect.void
      this.releasing = true
      this.#shared.account = undefined
      return this.#removedWith(context, onFailure)
    })
  }

  get giveBack(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.isGivenBack = true
      const released = this.#released((error) =>
        Effect.annotateLogs(Effect.logWarning("key not released yet", error), { key: this.key })
      )
      const { pending } = this
      return Effect.onExitPrimitive(
        pending === undefined ? released : Effect.andThen(this.#withdrawn(pending), released),
        () => {
          this.#owner.left()
          return undefined
        }
      )
    })
  }

  // What is on its way would put a key that nobody owns.
  #withdrawn({ cancel, settled }: Pending): Effect.Effect<void> {
    return Effect.flatMap(
      Effect.timeoutOption(settled, withdrawPatience),
      Option.match({
        onSome: () => Effect.void,
        onNone: () => Effect.andThen(Effect.sync(() => this.session.distrust(this.key)), cancel)
      })
    )
  }

  /** Waits for the removal, which is started once, and goes on when its callers stop waiting. */
  #removedWith<E>(
    context: Context.Context<never>,
    onFailure: (error: EtcdError) => Effect.Effect<void, E>
  ): Effect.Effect<void, E> {
    return Effect.callback((resume) => {
      const removal = this.#removal ?? this.#startRemoval(context)
      const tell = (exit: Removed) => {
        // Interrupted: the session closes, and its lease takes the key along.
        const isDone = Exit.isSuccess(exit) || Exit.hasInterrupts(exit)
        resume(isDone ? Effect.void : Effect.catch(exit, onFailure))
      }
      // What has ended waits for no answer, and must not use up the patience of the next one.
      if (removal.exit !== undefined) return tell(removal.exit)
      const { deadlines } = this.#shared
      const waiting = deadlines.begin(this.key, tell)
      removal.tell(waiting)
      return Effect.sync(() => {
        deadlines.end(waiting)
        removal.tellNoMore(waiting)
      })
    })
  }

  #startRemoval(context: Context.Context<never>): Removal {
    const { createRevision } = this
    const { etcd, removals } = this.#shared
    const removal = this.#removal = new Removal(etcd, deletion(this.key, createRevision ?? 0n), context, this)
    removals.add(removal)
    const heirs = this.#heirs
    if (createRevision === undefined) removal.end(Exit.void)
    else if (heirs?.areThere() === true) removal.beginWith(this.#handOver(heirs, createRevision))
    else removal.begin()
    return removal
  }

  removed(removal: Removal, exit: Removed): void {
    // Refused: each beat tries again, and nobody puts a key of this name there meanwhile.
    if (Exit.isFailure(exit) && !Exit.hasInterrupts(exit)) this.session.distrust(this.key)
    // That the session ended is no answer.
    this.#shared.patience.heardUnsafe(exit)
    this.#leave()
    this.#shared.removals.delete(removal)
  }

  // Chosen within, so that its end is told whatever happens. Unless all of it was done the key is deleted as always.
  #handOver(heirs: Heirs, createRevision: bigint): Effect.Effect<boolean> {
    let successor: Successor | undefined
    return Effect.suspend(() => {
      successor = heirs.choose()
      return successor === undefined
        ? Effect.succeed(nothing)
        : Effect.map(this.#shared.etcd.txn(withSuccessor(this.key, createRevision, successor)), withoutDelete)
    }).pipe(
      Effect.onExit((exit) => Effect.sync(() => successor?.ended(exit))),
      Effect.match({ onFailure: () => false, onSuccess: ({ succeeded }) => succeeded })
    )
  }
}

export const makeSlots = Effect.fnUntraced(function*(
  etcd: Etcd["Service"]
): Effect.fn.Return<Slots, never, Scope.Scope> {
  const entries = new Linked<OwnSlot>()
  const removals = new Linked<Removal>()
  const patience = patienceWith(etcd)
  const deadlines = new Deadlines(patience, yield* Clock.Clock, yield* FiberSet.makeRuntime())
  const shared: Shared = { etcd, patience, deadlines, entries, removals, account: undefined }
  return {
    open: (session, key, name, owner) => {
      const slot = new OwnSlot(shared, session, key, name, owner)
      entries.add(slot)
      shared.account = undefined
      const lost = session.lossUnsafe()
      if (lost !== undefined) slot.lose(lost.why)
      return slot
    },
    areUsed: () => entries.size > 0,
    account: () => shared.account ??= accountOf(entries.all()),
    loseAll: (why) => {
      for (const slot of entries.all()) slot.lose(why)
      for (const removal of removals.all()) removal.cancel()
    }
  }
})
