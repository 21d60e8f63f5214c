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

export interface Hold<L> {
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
  /** From now on it counts as released, unless it was lost before. */
  readonly retire: () => void
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

  return <L>(request: HoldRequest<L>): Hold<L> => {
    const { lossOf, scope, slot } = request
    let released = false
    const refused = (loss: SlotLoss | undefined): L | undefined => {
      const why = released ? "Released" : loss
      return why === undefined ? undefined : lossOf(why)
    }
    // What was released is not lost any more.
    const lost = Effect.suspend(() =>
      Effect.flatMap(slot.lost, (why) => released ? Effect.never : Effect.fail(lossOf(why)))
    )
    const assertHeld = slot.judge((loss) => {
      const why = refused(loss)
      return why === undefined ? Effect.void : Effect.fail(why)
    })
    // What was lost before is not given back: whoever relied on it until now has to be told.
    const retire = () => {
      released ||= slot.lossUnsafe() === undefined
    }
    const giveBack = Effect.suspend(() => {
      retire()
      return slot.release
    })
    const remove = Effect.suspend(() =>
      released || !slot.session.suspectedUnsafe()
        ? giveBack
        : Effect.andThen(Effect.timeoutOption(slot.loss, etcd.settings.timeout), giveBack)
    )
    return {
      entryKey: slot.key,
      ttl: Effect.map(assertHeld, slot.session.ttlUnsafe),
      remaining: Effect.map(assertHeld, slot.session.remainingUnsafe),
      release: Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Effect.exit(restore(remove)), (exit) => Effect.andThen(Scope.close(scope, Exit.void), exit))
      ),
      lost,
      assertHeld,
      // The second look is for what ended after the deadline but before its timer: a blocked event loop, a suspended machine.
      guard: (effect) =>
        slot.judge((before) => {
          const why = refused(before)
          if (why !== undefined) return Effect.fail(why)
          return Effect.flatMap(
            unless(effect, (end: End<never, L>) =>
              slot.whenLost((why) => {
                if (!released) end(Exit.fail(lossOf(why)))
              })),
            (value) =>
              slot.judge((loss) => loss === undefined || released ? Effect.succeed(value) : Effect.fail(lossOf(loss)))
          )
        }),
      fenced: (txn) => fenced(request, assertHeld, txn),
      retire
    }
  }
}
