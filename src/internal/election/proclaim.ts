/**
 * What a leader says, changed while it leads.
 */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import { Compare, type Etcd, Operation } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { backoff } from "../lock/entry.ts"
import { retryFailed } from "../retryFailed.ts"
import { isTransient, type Slot } from "../session/Slots.ts"
import * as Telemetry from "../Telemetry.ts"

/**
 * Each write compares the revision that it replaces, so that one whose answer was lost can be sent again until it is answered, and a copy
 * that is applied late undoes nothing.
 */
export const makeProclaim = <L>(
  etcd: Etcd["Service"],
  { assertLeading, lost, name, slot, token }: {
    readonly name: string
    readonly slot: Slot
    readonly token: bigint
    readonly lost: Effect.Effect<never, L>
    readonly assertLeading: Effect.Effect<void, L>
  }
): (value: string) => Effect.Effect<void, L | EtcdError> => {
  const oneByOne = Semaphore.makeUnsafe(1)
  let modRevision = token

  const write = Effect.fnUntraced(function*(value: string): Effect.fn.Return<void, L | EtcdError> {
    const wanted = new TextEncoder().encode(value)
    const lease = slot.session.leaseId
    let unanswered = false
    while (true) {
      yield* assertLeading
      const result = yield* Effect.suspend(() =>
        etcd.txn({
          compare: [
            Compare.createRevision(slot.key, "=", token),
            Compare.modRevision(slot.key, "=", modRevision)
          ],
          success: [Operation.put(slot.key, wanted, { lease })],
          failure: [Operation.range({ key: slot.key })]
        })
      ).pipe(
        Effect.tapError(({ reason }) =>
          Effect.sync(() => {
            unanswered ||= reason._tag === "Ambiguous"
            if (reason._tag === "LeaseNotFound") slot.session.revoked()
          })
        ),
        retryFailed({ schedule: backoff, while: isTransient })
      )
      if (result.succeeded) {
        modRevision = result.revision
        return
      }
      const [response] = result.responses
      const own = response?._tag === "Range" ? response.kvs[0] : undefined
      if (own?.createRevision !== token) {
        slot.lose("Deleted")
        continue
      }
      modRevision = own.modRevision
      // The one without an answer was applied, or an earlier one that was interrupted and says the same.
      if (unanswered && own.lease === lease && Buffer.compare(own.value, wanted) === 0) return
    }
  })

  return (value) =>
    oneByOne.withPermit(Effect.raceFirst(write(value), lost)).pipe(
      // The refusal of a lease that has just ended is a loss.
      Effect.tapError(() => assertLeading),
      Telemetry.measured("Election.proclaim"),
      Effect.withSpan("Election.proclaim", { attributes: { "coord.key": name, "coord.token": String(token) } })
    )
}
