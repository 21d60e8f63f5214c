/** How peers are compared: alternating, and by the ratio within each round. */
import * as Effect from "effect/Effect"
import type { Answer, Peer, PeerFailed } from "./protocol.ts"

/** How often all peers are asked in turn, and for how long each time, after a round to warm up: V8 compiles in the first seconds. */
export interface Rounds {
  readonly warmUp: number
  readonly rounds: number
  readonly millis: number
}

export interface Spread {
  readonly median: number
  readonly least: number
  readonly most: number
}

export interface Row {
  readonly what: string
  /** Nothing to reach where it is absent: a figure to know. */
  readonly bar: string | undefined
  readonly met: boolean | undefined
  /** The ratio, or the figure itself. */
  readonly measured: number
  readonly unit: string
  readonly ours: Spread
  readonly theirs: Spread | undefined
}

/** One figure of one peer, in a round. */
export type Ask = (round: number, millis: number) => Effect.Effect<number, PeerFailed>

export const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN

export const spreadOf = (values: ReadonlyArray<number>): Spread => ({
  median: median(values),
  least: Math.min(...values),
  most: Math.max(...values)
})

export const rate = ({ count = 0, seconds = 1 }: Answer): number => count / seconds
export const p50 = ({ micros }: Answer): number => median(micros ?? [])

/** Keys of each round's own, so that no round finds what another one has left. */
export const asking = (peer: Peer, scenario: string, concurrency: number, read = rate): Ask => (round, millis) =>
  Effect.map(peer.ask({ scenario, concurrency, millis, key: `${scenario}/${concurrency}/${round}` }), read)

/** The figures of each, round by round. Every second round goes backwards, so that nobody always comes after the same one. */
export const alternate = Effect.fnUntraced(function*({ millis, rounds, warmUp }: Rounds, asks: ReadonlyArray<Ask>) {
  const values = asks.map((): Array<number> => [])
  for (let round = 0; round <= rounds; round++) {
    const order = [...asks.entries()]
    for (const [index, ask] of round % 2 === 0 ? order : order.toReversed()) {
      const value = yield* ask(round, round === 0 ? warmUp : millis)
      if (round > 0) values[index]?.push(value)
    }
  }
  return values
})

export interface Against {
  readonly label: string
  readonly ask: Ask
  readonly bar: number | undefined
}

/** Ours against each of the others. `more`: at least so many times as much; otherwise at most. */
export const versus = Effect.fnUntraced(function*(
  rounds: Rounds,
  what: string,
  unit: string,
  ours: Ask,
  others: ReadonlyArray<Against>,
  more: boolean
) {
  const [mine = [], ...theirs] = yield* alternate(rounds, [ours, ...others.map(({ ask }) => ask)])
  const rows = others.map(({ bar, label }, index): Row => {
    const other = theirs[index] ?? []
    const ratio = median(mine.map((value, round) => value / (other[round] ?? NaN)))
    return {
      what: `${what}, against ${label}`,
      bar: bar === undefined ? undefined : `${more ? ">=" : "<="} ${bar} x`,
      met: bar === undefined ? undefined : more ? ratio >= bar : ratio <= bar,
      measured: ratio,
      unit,
      ours: spreadOf(mine),
      theirs: spreadOf(other)
    }
  })
  return { rows, mine: median(mine), theirs: theirs.map(median) }
})

/** A figure that is compared with nothing but its bar. */
export const bound = (
  what: string,
  values: ReadonlyArray<number>,
  bar: number | undefined,
  more: boolean,
  unit: string
): Row => {
  const ours = spreadOf(values)
  return {
    what,
    bar: bar === undefined ? undefined : `${more ? ">=" : "<="} ${bar.toLocaleString("en")} ${unit}`,
    met: bar === undefined ? undefined : more ? ours.median >= bar : ours.median <= bar,
    measured: ours.median,
    unit,
    ours,
    theirs: undefined
  }
}
