/** Chance that can be repeated: `FAULTS_SEED` is what a failed run has printed. What the network and the machine do to it, is not. */

export interface Chance {
  readonly seed: number
  /** From 0 up to 1. */
  readonly next: () => number
  /** A whole number, both ends included. */
  readonly int: (from: number, to: number) => number
  readonly is: (probability: number) => boolean
  readonly pick: <A>(from: readonly [A, ...Array<A>]) => A
}

export const chance = (of: string): Chance => {
  const seed = Number(process.env["FAULTS_SEED"] ?? Math.floor(Math.random() * 2 ** 32))
  process.stdout.write(`${of}: FAULTS_SEED=${seed}\n`)
  let state = seed
  // mulberry32
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const int = (from: number, to: number) => from + Math.floor(next() * (to - from + 1))
  return {
    seed,
    next,
    int,
    is: (probability) => next() < probability,
    pick: (from) => from[int(0, from.length - 1)] ?? from[0]
  }
}
