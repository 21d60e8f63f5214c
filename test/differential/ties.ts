/**
 * Keys of one transaction have the same revisions. Sorted by them, etcd leaves open which comes first: its sort keeps their order only for a few
 * keys, and how few depends on the version of Go.
 */

interface Answer {
  readonly kvs: ReadonlyArray<{ readonly created: string; readonly modified: string }>
  readonly count: number
}

const isRange = (answer: object): answer is Answer => "kvs" in answer && "count" in answer

/** The fewest keys that etcd may leave in another order. */
const fewest = 7

/** Whether two answers are the same but for the order of such keys. */
export const sameUpToTies = (one: unknown, other: unknown): boolean => {
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) {
    return Object.is(one, other)
  }
  if (isRange(one) && isRange(other) && one.count >= fewest) {
    const { kvs, ...rest } = one
    const { kvs: otherKvs, ...otherRest } = other
    const agree = (revision: "created" | "modified") => kvs.every((kv, i) => kv[revision] === otherKvs[i]?.[revision])
    return kvs.length === otherKvs.length && (agree("created") || agree("modified")) && sameUpToTies(rest, otherRest)
  }
  const [names, otherNames] = [Object.keys(one), Object.keys(other)]
  return names.length === otherNames.length &&
    names.every((name) => sameUpToTies(Reflect.get(one, name), Reflect.get(other, name)))
}
