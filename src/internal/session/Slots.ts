/**
 * The keys that live on a lease, each owned by one local user.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { Compare, type Etcd, Operation, type TxnRequest, type TxnResult } from "../../Etcd.ts"
import { Ambiguous, EtcdError } from "../../EtcdError.ts"
import { retryFailed } from "../retryFailed.ts"
import type { SessionLost } from "./LeaseClock.ts"
import type { LeaseSession } from "./LeaseSession.ts"
import { isTransient, patienceWith } from "./Patience.ts"

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
  /** Why it is lost, judged now by the clock. */
  readonly lossUnsafe: () => SlotLoss | undefined
  /** As `lossUnsafe`, after a beat where the machine seems to have been suspended. */
  readonly loss: Effect.Effect<SlotLoss | undefined>
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
  /** Asked when the key is about to be deleted, in the same step: who comes next, if that is known. */
  readonly onRelease: (choose: () => Successor | undefined) => void
}

/** What is done in the transaction that deletes a key, or not at all. */
export interface Successor {
  readonly request: Pick<TxnRequest, "compare" | "success">
  /** Runs once, however it ended. The responses are those of `request`. */
  readonly ended: (exit: Exit.Exit<TxnResult, EtcdError>) => void
}

export interface Slots {
  /** `onGone` runs when the key is known to be gone for good. */
  readonly open: (session: LeaseSession, key: string, onGone: () => void) => Slot
  /** There are users of it, though they may have no key yet. */
  readonly areUsed: () => boolean
  readonly owns: (key: string) => boolean
  /** The keys that have to be there, with their create revisions. */
  readonly expected: () => ReadonlyArray<{ readonly slot: Slot; readonly createRevision: bigint }>
  readonly loseAll: (why: SlotLoss) => void
}

export const retrySoon = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")]).pipe(
  Schedule.jittered
)

export const deleteIf = (etcd: Etcd["Service"], key: string, createRevision: bigint, lease?: bigint) =>
  etcd.txn({
    compare: [
      Compare.createRevision(key, "=", createRevision),
      ...lease === undefined ? [] : [Compare.lease(key, "=", lease)]
    ],
    success: [Operation.delete(key)]
  })

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

const unanswered = (key: string) =>
  new EtcdError({
    operation: "release",
    key,
    reason: new Ambiguous({ detail: "no answer in time; the session goes on trying until its lease ends" })
  })

interface Entry {
  readonly slot: Slot
  createRevision: bigint | undefined
  resting: boolean
  releasing: boolean
}

export const makeSlots = (
  etcd: Etcd["Service"],
  scope: Scope.Scope
): Slots => {
  const patience = patienceWith(etcd)
  const entries = new Map<string, Entry>()

  const open: Slots["open"] = (session, key, onGone) => {
    const signal = Deferred.makeUnsafe<SlotLoss>()
    let loss: SlotLoss | undefined
    let atLoss = () => {}
    let choose = (): Successor | undefined => undefined

    const leave = () => {
      if (entries.get(key) !== entry) return
      entries.delete(key)
      onGone()
    }
    // Who is woken by the end of a session runs before all of its slots have been told.
    const lossUnsafe = (): SlotLoss | undefined => {
      const ended = session.lossUnsafe()
      return loss ?? ended?.why
    }
    // Chosen within, so that its end is told whatever happens. Unless all of it was done the key is deleted as always.
    const handOver = Effect.suspend(() => {
      let successor: Successor | undefined
      return Effect.suspend(() => {
        const { createRevision } = entry
        successor = createRevision === undefined ? undefined : choose()
        return successor === undefined || createRevision === undefined
          ? Effect.succeed(nothing)
          : Effect.map(etcd.txn(withSuccessor(key, createRevision, successor)), withoutDelete)
      }).pipe(
        Effect.onExit((exit) => Effect.sync(() => successor?.ended(exit))),
        Effect.match({ onFailure: () => false, onSuccess: ({ succeeded }) => succeeded })
      )
    })
    let isOver = false
    const release = makeRelease(
      // Repeated until it is answered or the lease is over: the compare makes every repetition harmless.
      Effect.suspend(() => entry.createRevision === undefined ? Effect.void : deleteIf(etcd, key, entry.createRevision))
        .pipe(
          retryFailed({ schedule: retrySoon, while: isTransient }),
          (remove) => Effect.flatMap(handOver, (done) => done ? Effect.void : remove),
          // Refused: each beat tries again, and nobody puts a key of this name there meanwhile.
          Effect.tapError(() => Effect.sync(() => session.distrust(key))),
          // That the session ended is no answer.
          Effect.onExit((exit) =>
            Effect.sync(() => {
              isOver = true
              patience.heardUnsafe(exit)
            })
          ),
          Effect.asVoid,
          Effect.raceFirst(Effect.ignore(session.lost)),
          Effect.ensuring(Effect.sync(leave))
        ),
      key,
      () => isOver
    )
    const slot: Slot = {
      key,
      session,
      lost: Deferred.await(signal),
      onLoss: (run) => {
        atLoss = run
        if (loss !== undefined) run()
      },
      lossUnsafe,
      loss: Effect.map(Effect.exit(session.check), lossUnsafe),
      rest: () => {
        entry.resting = true
      },
      engage: () => {
        if (lossUnsafe() !== undefined || session.distrustedUnsafe()) return false
        entry.resting = false
        return true
      },
      present: (createRevision) => {
        entry.createRevision = createRevision
      },
      lose: (why) => {
        if (loss !== undefined) return
        loss = why
        leave()
        atLoss()
        Deferred.doneUnsafe(signal, Exit.succeed(why))
      },
      release: Effect.suspend(() => {
        if (!entry.releasing && (lossUnsafe() !== undefined || entries.get(key) !== entry)) return Effect.void
        entry.releasing = true
        return release
      }),
      onRelease: (next) => {
        choose = next
      }
    }
    const entry: Entry = { slot, createRevision: undefined, resting: false, releasing: false }
    entries.set(key, entry)
    const lost = session.lossUnsafe()
    if (lost !== undefined) slot.lose(lost.why)
    return slot
  }

  /** Starts the removal once, in the session's scope, so that it goes on when its callers stop waiting. */
  const makeRelease = (
    remove: Effect.Effect<void, EtcdError>,
    key: string,
    isOver: () => boolean
  ): Effect.Effect<void, EtcdError> => {
    let started: Fiber.Fiber<void, EtcdError> | undefined
    const start = Effect.suspend(() =>
      started !== undefined
        ? Effect.succeed(started)
        : Effect.map(Effect.forkIn(remove, scope, { startImmediately: true }), (fiber) => started = fiber)
    ).pipe(Effect.uninterruptible)
    // Interrupted: the session closes, and its lease takes the key along.
    const conclude = (exit: Exit.Exit<void, EtcdError>) => Exit.hasInterrupts(exit) ? Effect.void : exit
    // What has ended waits for no answer, and must not use up the patience of the next one.
    return Effect.flatMap(start, (fiber) =>
      patience.within(
        Effect.flatMap(Fiber.await(fiber), conclude),
        Effect.suspend(() => Effect.fail(unanswered(key))),
        () => isOver() || fiber.pollUnsafe() !== undefined
      ))
  }

  return {
    open,
    areUsed: () => entries.size > 0,
    owns: (key) => entries.get(key)?.resting === false,
    expected: () =>
      [...entries.values()].flatMap(({ createRevision, releasing, slot }) =>
        createRevision === undefined || releasing ? [] : [{ slot, createRevision }]
      ),
    loseAll: (why) => {
      for (const { slot } of entries.values()) slot.lose(why)
    }
  }
}
