/**
 * One number of a service, claimed by the key of its name. Unlike an entry of a queue the key does not contain the lease, so that
 * everybody claims the same one.
 */
import * as Effect from "effect/Effect"
import { Compare, type Etcd, type KeyValue, Operation } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { claiming, type EntryLost, orLost, rangeOf } from "../lock/entry.ts"
import type { Slot } from "../session/Slots.ts"

/** A number that a key below the path stands for, if it is one. */
export const numberOf = (path: string, key: string): number | undefined => {
  const text = key.slice(path.length)
  if (!/^(?:0|[1-9]\d{0,15})$/.test(text)) return undefined
  const number = Number(text)
  return Number.isSafeInteger(number) ? number : undefined
}

export const smallestFree = (
  path: string,
  taken: ReadonlyArray<KeyValue>,
  { max, min }: { readonly min: number; readonly max: number }
): number | undefined => {
  const numbers = new Set(taken.map((kv) => numberOf(path, kv.key)))
  let free = min
  while (numbers.has(free)) free++
  return free < max ? free : undefined
}

/** The token, or what is taken when somebody else was faster. */
export const claim = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  path: string,
  slot: Slot,
  value: string
): Effect.fn.Return<bigint | ReadonlyArray<KeyValue>, EtcdError | EntryLost> {
  const lease = slot.session.leaseId
  return yield* claiming(etcd, slot, {
    compare: [Compare.createRevision(slot.key, "=", 0n)],
    success: [Operation.put(slot.key, value, { lease })],
    failure: [Operation.range({ prefix: path, keysOnly: true })]
  }, (result): Effect.Effect<bigint | ReadonlyArray<KeyValue>> => {
    const taken = rangeOf(result, 0)?.kvs ?? []
    // On our lease, it is what the claim that was sent before and had no answer has put there.
    const own = result.succeeded
      ? result.revision
      : taken.find((kv) => kv.key === slot.key && kv.lease === lease)?.createRevision
    if (own === undefined) return Effect.succeed(taken)
    slot.present(own)
    return Effect.succeed(own)
  })
}, orLost)
