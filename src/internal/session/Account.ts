/**
 * What the slots of a lease say of their keys, to be compared with what etcd says of the lease.
 */
import type { Slot } from "./Slots.ts"

export interface Account {
  /** The keys that have an owner here. */
  readonly owned: ReadonlyMap<string, Slot>
  /** The keys that have to be there, with their create revisions. */
  readonly expected: ReadonlyMap<Slot, bigint>
  /** The greatest of these revisions. */
  readonly newest: bigint
}

interface State extends Slot {
  /** Of a key that has been seen. */
  readonly createRevision: bigint | undefined
  readonly resting: boolean
  readonly releasing: boolean
}

export const accountOf = (slots: ReadonlyArray<State>): Account => {
  const owned = new Map<string, Slot>()
  const expected = new Map<Slot, bigint>()
  let newest = 0n
  for (const slot of slots) {
    const { createRevision, key, releasing, resting } = slot
    if (!resting) owned.set(key, slot)
    if (createRevision === undefined || releasing) continue
    expected.set(slot, createRevision)
    if (createRevision > newest) newest = createRevision
  }
  return { owned, expected, newest }
}

/** On the lease, whose keys are given once each, is what has to be, and nothing that nobody owns. */
export const isComplete = (
  { expected, newest, owned }: Account,
  keys: ReadonlyArray<string>,
  revision: bigint
): boolean => {
  if (newest > revision) return false
  let missing = expected.size
  for (const key of keys) {
    const slot = owned.get(key)
    if (slot === undefined) return false
    if (expected.has(slot)) missing--
  }
  return missing === 0
}
