/** Judges what clients were told by what happened. Each verdict counts what must not be, and says which. */
import type { LeaderStop } from "./bench.ts"
import { type Hold, lockTtl, type Log, type Update, type Write } from "./load.ts"
import type { Fact } from "./truth.ts"

export type Fenced = Parameters<Log["fenced"]>[0]

export interface Verdict {
  readonly wrong: ReadonlyArray<string>
  readonly words: string
}

const group = <A>(values: ReadonlyArray<A>, by: (value: A) => string): ReadonlyMap<string, ReadonlyArray<A>> =>
  Map.groupBy(values, by)

/** Acknowledged: there once, where the answer said. Ambiguous: at most once. Refused: never. A compare-and-set follows what it expected. */
export const judgeWrites = (facts: ReadonlyArray<Fact>, writes: ReadonlyArray<Write>): Verdict => {
  const wrong: Array<string> = []
  const before = new Map<Fact, Fact | undefined>()
  const lastOf = new Map<string, Fact>()
  const puts: Array<Fact & { readonly value: string }> = []
  for (const fact of facts) {
    if (!fact.key.startsWith("/config/")) continue
    before.set(fact, lastOf.get(fact.key))
    lastOf.set(fact.key, fact)
    if (fact.value !== undefined) puts.push({ ...fact, value: fact.value })
  }
  const byId = group(
    [...before.keys()].filter(({ value }) => value !== undefined),
    ({ value }) => JSON.parse(value ?? "").id
  )
  const known = new Set(writes.map(({ id }) => id))
  for (const [id, [fact]] of byId) if (!known.has(id)) wrong.push(`nobody wrote ${id} at ${fact?.revision}`)
  const counts = { acknowledged: 0, ambiguous: 0, refused: 0, applied: 0 }
  for (const write of writes) {
    const found = byId.get(write.id) ?? []
    const what = `${write.outcome} ${write.id} of ${write.key}`
    counts[write.outcome]++
    const [fact] = found
    if (found.length > 1) wrong.push(`${what} is there ${found.length} times`)
    if (write.outcome === "acknowledged" && fact === undefined) wrong.push(`${what} is lost`)
    if (write.outcome === "refused" && fact !== undefined) wrong.push(`${what} is there at ${fact.revision}`)
    if (fact === undefined) continue
    if (write.outcome === "ambiguous") counts.applied++
    if (write.version !== undefined && fact.revision !== write.version) {
      wrong.push(`${what} is at ${fact.revision}, not at ${write.version}`)
    }
    if (write.expected !== undefined && (before.get(fact)?.revision ?? 0n) !== write.expected) {
      wrong.push(`${what} expected ${write.expected} and came after ${before.get(fact)?.revision ?? 0n}`)
    }
  }
  const counted = puts.filter(({ key }) => key === "/config/counter").map(({ value }) => Number(JSON.parse(value).n))
  counted.forEach((n, i) => {
    if (n !== (counted[0] ?? 0) + i) wrong.push(`the counter went to ${n} as its change number ${i}`)
  })
  return {
    wrong,
    words:
      `${counts.acknowledged} acknowledged: ${wrong.length} wrong; ${counts.ambiguous} ambiguous, ${counts.applied} of them applied; ` +
      `${counts.refused} refused`
  }
}

/**
 * A leader that others have replaced while it was stopped takes leases for expired that they have renewed, and has them revoked when it
 * goes on, before it knows (seen on 3.5.30: https://github.com/etcd-io/etcd/issues/15247 is mended for one that is slow, not for one that
 * was stopped). The holder hears of that from the next beat that is answered, or at its own deadline.
 */
const isWronglyRevoked = (entries: ReadonlyArray<Fact>, hold: Hold, stops: ReadonlyArray<LeaderStop>): boolean => {
  const put = entries.find(({ createRevision, value }) => value !== undefined && createRevision === hold.token)
  const gone = entries.find(({ key, revision, value }) =>
    value === undefined && key === put?.key && revision > hold.token
  )
  if (gone === undefined || hold.end > gone.at + lockTtl) return false
  // Sooner nobody else is elected.
  return stops.some(({ from, to }) => to - from >= electionTimeout && gone.at >= to && gone.at < to + revoking)
}

/** Of etcd, in milliseconds. */
const electionTimeout = 1000

/** So long after it goes on, on a busy machine, in milliseconds. */
const revoking = 2000

/** No two holders at a time, each token that of an entry and greater than the last, and nothing committed without the lock. */
export const judgeLocks = (
  facts: ReadonlyArray<Fact>,
  holds: ReadonlyArray<Hold>,
  fenced: ReadonlyArray<Fenced>,
  stops: ReadonlyArray<LeaderStop>
): Verdict => {
  const wrong: Array<string> = []
  let revoked = 0
  for (const [lock, held] of group(holds, ({ lock }) => lock)) {
    const entries = facts.filter(({ key }) => key.startsWith(`/locks/${lock}/`))
    const tokens = new Set(entries.map(({ createRevision }) => createRevision))
    let last: Hold | undefined
    for (const hold of [...held].sort((a, b) => a.start - b.start)) {
      const what = `${hold.who} with ${hold.token} of ${lock}`
      if (!tokens.has(hold.token)) wrong.push(`${what} has no entry`)
      if (Number.isNaN(hold.end)) wrong.push(`${what} never ended`)
      if (last !== undefined) {
        // While one runs, the ends of others are in the future.
        if (!(last.end <= hold.start)) {
          if (isWronglyRevoked(entries, last, stops)) revoked++
          else {wrong.push(
              `${what} began ${(last.end - hold.start).toFixed(1)} ms before the end of ${last.who} with ${last.token}`
            )}
        }
        if (last.token >= hold.token) wrong.push(`${what} came after token ${last.token}`)
      }
      last = hold
    }
  }

  const byValue = group(facts.filter(({ key }) => key.startsWith("/fence/")), ({ value }) => String(value))
  let committed = 0
  for (const { id, lock, outcome, token } of fenced) {
    const found = byValue.get(`${token} ${id}`) ?? []
    const [fact] = found
    const what = `${outcome} write ${id} under ${token} of ${lock}`
    if (found.length > 1) wrong.push(`${what} is there ${found.length} times`)
    if (outcome === "acknowledged" && fact === undefined) wrong.push(`${what} is lost`)
    if (outcome === "refused" && fact !== undefined) wrong.push(`${what} is there at ${fact.revision}`)
    if (fact === undefined) continue
    committed++
    const present = new Map<string, bigint>()
    for (const entry of facts) {
      if (entry.revision >= fact.revision) break
      if (!entry.key.startsWith(`/locks/${lock}/`)) continue
      if (entry.value === undefined) present.delete(entry.key)
      else present.set(entry.key, entry.createRevision)
    }
    const holder = [...present.values()].reduce<bigint | undefined>(
      (a, b) => a === undefined || b < a ? b : a,
      undefined
    )
    if (holder !== token) {
      wrong.push(`${what} was committed at ${fact.revision} when ${holder ?? "nobody"} held the lock`)
    }
  }
  return {
    wrong,
    words:
      `${holds.length} holds: ${wrong.length} wrong (overlaps, tokens, fenced writes), ${revoked} overlaps by leases that etcd revoked ` +
      `before their time; ${committed} fenced writes`
  }
}

/** An acknowledged update was written, none before an older one, and nothing without a lease. */
export const judgeUpdates = (facts: ReadonlyArray<Fact>, updates: ReadonlyArray<Update>): Verdict => {
  const wrong: Array<string> = []
  const puts = facts.filter(({ key, value }) => key.startsWith("/services/") && value !== undefined)
  for (const { key, leased, revision } of puts) if (!leased) wrong.push(`${key} at ${revision} has no lease`)
  const byKey = group(puts, ({ key }) => key)
  let acknowledged = 0
  for (const [key, mine] of group(updates, ({ key }) => key)) {
    const written = (byKey.get(key) ?? []).map(({ value }) => Number(JSON.parse(value ?? "").metadata.n))
    // Put there again, the same is written once more; never an older one.
    written.forEach((n, i) => {
      if (i > 0 && n < (written[i - 1] ?? 0)) wrong.push(`${key} went back from ${written[i - 1]} to ${n}`)
    })
    for (const { n, outcome } of mine) {
      if (outcome !== "acknowledged") continue
      acknowledged++
      if (!written.includes(n)) wrong.push(`the acknowledged update ${n} of ${key} was not written`)
    }
  }
  return { wrong, words: `${acknowledged} updates acknowledged: ${wrong.length} wrong` }
}

/** What may be in the metadata at the end: the last that was acknowledged, or one that came later and got no clear answer. */
export const isFinal = (updates: ReadonlyArray<Update>, key: string, n: number): boolean => {
  const mine = updates.filter((update) => update.key === key)
  const last = mine.findLast(({ outcome }) => outcome === "acknowledged")?.n ?? 0
  return n === last || mine.some((update) => update.n === n && n > last && update.outcome === "ambiguous")
}
