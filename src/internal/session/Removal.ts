/**
 * The removal of a key from its lease, and those who wait for it.
 */
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import { Compare, type Etcd, Operation, type TxnRequest, type TxnResult } from "../../Etcd.ts"
import { Ambiguous, EtcdError } from "../../EtcdError.ts"
import { added } from "../added.ts"
import { type Started, startFiber, startOf } from "../client/start.ts"
import { Link, Linked } from "../Linked.ts"
import type { Observer } from "../observe.ts"
import { retryAfter } from "../retryFailed.ts"
import { sleepUntil } from "./LeaseClock.ts"
import { isTransient, type Patience } from "./Patience.ts"

export const retrySoon = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("1 second")]).pipe(
  Schedule.jittered
)

/** Deletes a key if it is still that one: the compare makes every repetition harmless. */
export const deletion = (key: string, createRevision: bigint): TxnRequest => ({
  compare: [Compare.createRevision(key, "=", createRevision)],
  success: [Operation.delete(key)]
})

const unanswered = (key: string) =>
  new EtcdError({
    operation: "release",
    key,
    reason: new Ambiguous({ detail: "no answer in time; the session goes on trying until its lease ends" })
  })

export type Removed = Exit.Exit<void, EtcdError>

export interface RemovalOwner {
  readonly removed: (removal: Removal, exit: Removed) => void
}

/** Repeated until it is answered or the lease is over, also when nobody waits for it any more. */
export class Removal extends Link<Removal> implements Observer<TxnResult, EtcdError> {
  readonly #etcd: Etcd["Service"]
  readonly #request: TxnRequest
  readonly #context: Context.Context<never>
  readonly #owner: RemovalOwner
  exit: Removed | undefined
  #underWay: Started | undefined
  #waiting: Array<Waiting> | undefined

  constructor(
    etcd: Etcd["Service"],
    request: TxnRequest,
    context: Context.Context<never>,
    owner: RemovalOwner
  ) {
    super()
    this.#etcd = etcd
    this.#request = request
    this.#context = context
    this.#owner = owner
  }

  begin(): void {
    this.#begun(startOf(this.#etcd)(this.#request, this.#context, this))
  }

  /** Unless this has done it. */
  beginWith(handedOver: Effect.Effect<boolean>): void {
    const removed = Effect.asVoid(this.#etcd.txn(this.#request))
    const remove = Effect.catch(removed, (error) => this.#repeated(error))
    const whole = Effect.flatMap(handedOver, (done) => done ? Effect.void : remove)
    this.#begun(startFiber(whole, this.#context, { ended: (exit) => this.end(exit) }))
  }

  /** It has gone on, or was given up, before this is known, where it is answered at once. */
  #begun(started: Started): void {
    if (this.exit !== undefined) started.cancel()
    else this.#underWay ??= started
  }

  ended(exit: Exit.Exit<TxnResult, EtcdError>): void {
    if (Exit.isSuccess(exit)) return this.end(Exit.void)
    const error = Option.getOrUndefined(Exit.findErrorOption(exit))
    if (error === undefined) return this.end(Exit.failCause(exit.cause))
    const repeated = startFiber(this.#repeated(error), this.#context, { ended: (exit) => this.end(exit) })
    if (this.exit !== undefined) repeated.cancel()
    else this.#underWay = repeated
  }

  #repeated(first: EtcdError): Effect.Effect<void, EtcdError> {
    const again = this.#etcd.txn(this.#request)
    return Effect.asVoid(retryAfter(first, again, { schedule: retrySoon, while: isTransient }))
  }

  cancel(): void {
    this.#underWay?.cancel()
    this.end(Exit.interrupt())
  }

  tell(waiting: Waiting): void {
    this.#waiting = added(this.#waiting, waiting)
  }

  tellNoMore(waiting: Waiting): void {
    const place = this.#waiting?.indexOf(waiting) ?? -1
    if (place >= 0) this.#waiting?.splice(place, 1)
  }

  end(exit: Removed): void {
    if (this.exit !== undefined) return
    this.exit = exit
    // Before anybody who waits for it is told.
    this.#owner.removed(this, exit)
    const waiting = this.#waiting ?? []
    this.#waiting = this.#underWay = undefined
    for (const one of waiting) one.told(exit)
  }
}

/** Somebody who waits for the end of a removal. */
class Waiting extends Link<Waiting> {
  readonly key: string
  readonly until: bigint
  readonly #deadlines: Deadlines
  readonly #tell: (exit: Removed) => void

  constructor(key: string, until: bigint, deadlines: Deadlines, tell: (exit: Removed) => void) {
    super()
    this.key = key
    this.until = until
    this.#deadlines = deadlines
    this.#tell = tell
  }

  told(exit: Removed): void {
    this.#deadlines.end(this)
    this.#tell(exit)
  }
}

/**
 * Tells those who are still waiting for an answer when the patience is over. One timer for all of them: hardly any is still there when
 * its time has come.
 */
export class Deadlines {
  readonly #patience: Patience
  readonly #clock: Clock.Clock
  readonly #run: (effect: Effect.Effect<void>) => unknown
  // In the order of their deadlines, since patience begins no earlier for those who come later.
  readonly #waiting = new Linked<Waiting>()
  #watching = false

  constructor(patience: Patience, clock: Clock.Clock, run: (effect: Effect.Effect<void>) => unknown) {
    this.#patience = patience
    this.#clock = clock
    this.#run = run
  }

  begin(key: string, tell: (exit: Removed) => void): Waiting {
    const until = this.#patience.beginUnsafe(this.#clock.monotonicTimeNanosUnsafe())
    const waiting = new Waiting(key, until, this, tell)
    this.#waiting.add(waiting)
    if (!this.#watching) {
      this.#watching = true
      this.#run(this.#watch)
    }
    return waiting
  }

  end(waiting: Waiting): void {
    this.#waiting.delete(waiting)
  }

  get #watch(): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      for (let waiting = this.#waiting.first; waiting !== undefined; waiting = this.#waiting.first) {
        yield* sleepUntil(this.#clock, waiting.until)
        if (!this.#waiting.delete(waiting)) continue
        this.#patience.ranOutUnsafe(this.#clock.monotonicTimeNanosUnsafe())
        waiting.told(Exit.fail(unanswered(waiting.key)))
      }
      this.#watching = false
    })
  }
}
