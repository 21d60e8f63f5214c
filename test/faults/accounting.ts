/** Accounting for a run: what was delivered, against what is known to have happened. */

export interface Account {
  readonly expected: number
  readonly lost: number
  readonly doubled: number
  readonly outOfOrder: number
  /** Delivered, but never happened. */
  readonly invented: number
  /** The first few of them, for whoever must find out why. */
  readonly examples: ReadonlyArray<string>
}

export const account = (expected: ReadonlyArray<string>, seen: ReadonlyArray<string>): Account => {
  const positions = new Map(expected.map((id, index) => [id, index]))
  if (positions.size !== expected.length) throw new Error("what happened must have names that differ")
  const examples: Array<string> = []
  const note = (what: string, id: string) => {
    if (examples.length < 5) examples.push(`${what}: ${id}`)
  }
  const delivered = new Set<string>()
  const counts = { doubled: 0, outOfOrder: 0, invented: 0 }
  let last = -1
  for (const id of seen) {
    const position = positions.get(id)
    if (position === undefined) {
      counts.invented++
      note("invented", id)
    } else if (delivered.has(id)) {
      counts.doubled++
      note("doubled", id)
    } else {
      delivered.add(id)
      if (position < last) {
        counts.outOfOrder++
        note("out of order", id)
      }
      last = position
    }
  }
  for (const id of expected) if (!delivered.has(id)) note("lost", id)
  return { expected: expected.length, lost: expected.length - delivered.size, ...counts, examples }
}

export const isClean = ({ doubled, invented, lost, outOfOrder }: Account): boolean =>
  lost + doubled + outOfOrder + invented === 0

export const sum = (accounts: ReadonlyArray<Account>): Account => ({
  expected: accounts.reduce((total, one) => total + one.expected, 0),
  lost: accounts.reduce((total, one) => total + one.lost, 0),
  doubled: accounts.reduce((total, one) => total + one.doubled, 0),
  outOfOrder: accounts.reduce((total, one) => total + one.outOfOrder, 0),
  invented: accounts.reduce((total, one) => total + one.invented, 0),
  examples: accounts.flatMap(({ examples }) => examples)
})

export const words = ({ doubled, invented, lost, outOfOrder }: Account): string =>
  `${lost} lost, ${doubled} doubled, ${outOfOrder} out of order${invented > 0 ? `, ${invented} invented` : ""}`
