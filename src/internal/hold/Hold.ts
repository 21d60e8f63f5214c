/**
 * What is held by an entry on a lease: how it is lost, checked, used and given back. The same for all that is held so.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { Compare, Operation } from "../../Etcd.ts"
import type { Etcd, TxnRequest, TxnResult } from "../../Etcd.ts"
import { EtcdError, InvalidArgument } from "../../EtcdError.ts"
import { writesBelow } from "../lock/writes.ts"
import type { Slot, SlotLoss } from "../session/Slots.ts"
import * as Telemetry from "../Telemetry.ts"
import { type End, unless } from "../unless.ts"

/** Why something is held no more: lost, or given back. */
export type HoldLoss = SlotLoss | "Released"

/** What its user gets. */
export interface Held<L> {
  /** The key in etcd, without the namespace. */
  readonly entryKey: string
  /** The TTL that the server granted. */
  readonly ttl: Effect.Effect<Duration.Duration, L>
  /** Until the local deadline, if no renewal is answered from now on. */
  readonly remaining: Effect.Effect<Duration.Duration, L>
  /** Deletes the entry and closes the scope. */
  readonly release: Effect.Effect<void, EtcdError>
  /** Fails at the loss; never after a release. */
  readonly lost: Effect.Effect<never, L>
  readonly assertHeld: Effect.Effect<void, L>
  readonly guard: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | L, R>
  readonly fenced: (txn: TxnRequest) => Effect.Effect<TxnResult, L | EtcdError>
}

export interface HoldRequest<L> {
  /** What users call it. */
  readonly key: string
  readonly slot: Slot
  /** The create revision of the entry. */
  readonly token: bigint
  readonly scope: Scope.Closeable
  readonly lossOf: (why: HoldLoss) => L
}

/**
 * Makes the holds of one service. `fenced` refuses writes below its prefix, which are those that decide who holds what; `what` says in
 * the plural what lives there.
 */
export const makeHolds = (
  etcd: Etcd["Service"],
  options: { readonly service: string; readonly prefix: string; readonly what: string }
): <L>(request: HoldRequest<L>) => Hold<L> => {
  const { prefix, service, what } = options

  const commit = Effect.fnUntraced(function*<L>(
    { key, lossOf, slot, token }: HoldRequest<L>,
    assertHeld: Effect.Effect<void, L>,
    txn: TxnRequest
  ): Effect.fn.Return<TxnResult, L | EtcdError> {
    yield* Effect.annotateCurrentSpan({ "coord.key": key, "coord.token": String(token) })
    if (writesBelow(`${prefix}/`, txn)) {
      return yield* new EtcdError({
        operation: "fenced",
        key,
        reason: new InvalidArgument({ detail: `the transaction writes keys of ${what} (below ${prefix}/)` })
      })
    }
    yield* assertHeld
    const held = Compare.createRevision(slot.key, "=", token)
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
      if (first?._tag === "Range" && first.kvs[0]?.createRevision === token) {
        return { revision, succeeded, responses: [] }
      }
      slot.lose("Deleted")
      return yield* Effect.fail(lossOf(slot.lossUnsafe() ?? "Deleted"))
    }
    return first?._tag === "Txn" && nest
      ? { revision, succeeded: first.succeeded, responses: first.responses }
      : result
  })

  const fenced = <L>(request: HoldRequest<L>, assertHeld: Effect.Effect<void, L>, txn: TxnRequest) =>
    commit(request, assertHeld, txn).pipe(
      Telemetry.measured(`${service}.fenced`),
      Effect.withSpan(`${service}.fenced`)
    )

  return <L>(request: HoldRequest<L>): Hold<L> => new Hold(request, etcd.settings.timeout, fenced)
}

type Fenced = <L>(
  request: HoldRequest<L>,
  assertHeld: Effect.Effect<void, L>,
  txn: TxnRequest
) => Effect.Effect<TxnResult, L | EtcdError>

/** What is asked of it is made when it is asked: of most holds, that is hardly anything. */
export class Hold<L> {
  readonly #request: HoldRequest<L>
  readonly #timeout: Duration.Duration
  readonly #fenced: Fenced
  #released = false

  constructor(request: HoldRequest<L>, timeout: Duration.Duration, fenced: Fenced) {
    this.#request = request
    this.#timeout = timeout
    this.#fenced = fenced
  }

  get entryKey(): string {
    return this.#request.slot.key
  }

  get ttl(): Held<L>["ttl"] {
    return Effect.map(this.assertHeld, this.#request.slot.session.ttlUnsafe)
  }

  get remaining(): Held<L>["remaining"] {
    return Effect.map(this.assertHeld, this.#request.slot.session.remainingUnsafe)
  }

  get release(): Held<L>["release"] {
    const { scope, slot } = this.#request
    const giveBack = Effect.suspend(() => {
      this.retire()
      return slot.release
    })
    const remove = Effect.suspend(() =>
      this.#released || !slot.session.suspectedUnsafe()
        ? giveBack
        : Effect.andThen(Effect.timeoutOption(slot.loss, this.#timeout), giveBack)
    )
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.exit(restore(remove)), (exit) => Effect.andThen(Scope.close(scope, Exit.void), exit))
    )
  }

  /** What was released is not lost any more. */
  get lost(): Held<L>["lost"] {
    const { lossOf, slot } = this.#request
    return Effect.suspend(() =>
      Effect.flatMap(slot.lost, (why) => this.#released ? Effect.never : Effect.fail(lossOf(why)))
    )
  }

  get assertHeld(): Held<L>["assertHeld"] {
    return this.#request.slot.judge((loss) => {
      const why = this.#refused(loss)
      return why === undefined ? Effect.void : Effect.fail(why)
    })
  }

  #refused(loss: SlotLoss | undefined): L | undefined {
    const why = this.#released ? "Released" : loss
    return why === undefined ? undefined : this.#request.lossOf(why)
  }

  /** The second look is for what ended after the deadline but before its timer: a blocked event loop, a suspended machine. */
  guard<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | L, R> {
    const { lossOf, slot } = this.#request
    return slot.judge((before) => {
      const why = this.#refused(before)
      if (why !== undefined) return Effect.fail(why)
      return Effect.flatMap(
        unless(effect, (end: End<never, L>) =>
          slot.whenLost((why) => {
            if (!this.#released) end(Exit.fail(lossOf(why)))
          })),
        (value) =>
          slot.judge((loss) => loss === undefined || this.#released ? Effect.succeed(value) : Effect.fail(lossOf(loss)))
      )
    })
  }

  fenced(txn: TxnRequest): Effect.Effect<TxnResult, L | EtcdError> {
    return this.#fenced(this.#request, this.assertHeld, txn)
  }

  /** From now on it counts as released, unless it was lost before: whoever relied on it until now has to be told of that. */
  retire(): void {
    this.#released ||= this.#request.slot.lossUnsafe() === undefined
  }

  get held(): Held<L> {
    const { assertHeld, entryKey, lost, release, remaining, ttl } = this
    return {
      entryKey,
      ttl,
      remaining,
      release,
      lost,
      assertHeld,
      guard: (effect) => this.guard(effect),
      fenced: (txn) => this.fenced(txn)
    }
  }
}
