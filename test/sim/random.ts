/** Numbers that a seed decides, the same on every machine. */
import type { Random as EffectRandom } from "effect/Random"

export interface Random {
  /** From 0 (inclusive) to 1 (exclusive). */
  readonly next: () => number
  /** An integer from 0 (inclusive) to `limit` (exclusive). */
  readonly below: (limit: number) => number
  readonly between: (low: number, high: number) => number
  readonly chance: (probability: number) => boolean
  readonly pick: <A>(values: readonly [A, ...Array<A>]) => A
}

/** Two seeds that differ in one bit must not give similar sequences: murmur's finalizer. */
const mix = (value: number): number => {
  let hash = value | 0
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/** Streams of one seed are independent: drawing from one changes nothing in another. */
export const makeRandom = (seed: number, stream: number): Random => {
  let a = mix(seed)
  let b = mix(Math.floor(seed / 2 ** 32) + 0x9e3779b9)
  let c = mix(stream + 0x7f4a7c15)
  let d = 1
  // sfc32
  const next = (): number => {
    const sum = (a + b + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + sum | 0
    return (sum >>> 0) / 2 ** 32
  }
  for (let round = 0; round < 12; round++) next()
  const below = (limit: number): number => Math.floor(next() * limit)
  return {
    next,
    below,
    between: (low, high) => low + Math.floor(next() * (high - low)),
    chance: (probability) => next() < probability,
    pick: (values) => values[below(values.length)] ?? values[0]
  }
}

export const effectRandom = (random: Random): EffectRandom => ({
  nextDoubleUnsafe: random.next,
  nextIntUnsafe: () => Math.floor((random.next() * 2 - 1) * Number.MAX_SAFE_INTEGER)
})
