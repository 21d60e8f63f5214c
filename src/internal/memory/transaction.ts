/**
 * The parts of a transaction that need no store.
 */
import type { Compare, KeyValue, Operation } from "../../Etcd.ts"
import { compareBytes } from "../keys.ts"

export type Step = Exclude<Operation, { readonly _tag: "Txn" }>

/** A transaction whose branches are chosen. */
export interface Plan {
  readonly _tag: "Plan"
  readonly succeeded: boolean
  readonly steps: ReadonlyArray<Step | Plan>
}

export const flatten = (plan: Plan): ReadonlyArray<Step> =>
  plan.steps.flatMap((step) => step._tag === "Plan" ? flatten(step) : [step])

export const first = <A, B>(all: ReadonlyArray<A>, f: (a: A) => B | undefined): B | undefined => {
  for (const a of all) {
    const b = f(a)
    if (b !== undefined) return b
  }
  return undefined
}

export const absent = { value: new Uint8Array(0), version: 0n, createRevision: 0n, modRevision: 0n, lease: 0n }

export const compareTo = (compare: Compare, kv: Omit<KeyValue, "key">): boolean => {
  const difference = compare.target === "value"
    ? compareBytes(kv.value, toBytes(compare.value))
    : Number(kv[compare.target] - compare.value)
  switch (compare.op) {
    case "=":
      return difference === 0
    case "!=":
      return difference !== 0
    case "<":
      return difference < 0
    case ">":
      return difference > 0
  }
}

const encoder = new TextEncoder()

const toBytes = (value: string | Uint8Array): Uint8Array => typeof value === "string" ? encoder.encode(value) : value

export const ownBytes = (value: string | Uint8Array): Uint8Array =>
  typeof value === "string" ? encoder.encode(value) : value.slice()
