import type { Operation } from "./linearizable.ts"

/**
 * What is left of the history, as a linked list of its calls and returns: event `i` is the call of operation `i`, event `count + i`
 * its return, if it has one. A call that no return stands before can come next.
 */
export const makeEvents = (operations: ReadonlyArray<Operation>) => {
  const count = operations.length
  const end = 2 * count
  const next = new Int32Array(end + 1)
  const previous = new Int32Array(end + 1)
  const time = (event: number): number =>
    (event < count ? operations[event]?.invoked : operations[event - count]?.returned) ?? 0
  const returns = (i: number): boolean => operations[i]?.outcome._tag !== "Ambiguous"

  const events: Array<number> = []
  for (let i = 0; i < count; i++) {
    events.push(i)
    if (returns(i)) events.push(count + i)
  }
  // Of the same moment: calls first, as nothing is known to have come before.
  events.sort((a, b) => time(a) - time(b) || Number(a >= count) - Number(b >= count))
  let last = end
  for (const event of events) {
    next[last] = event
    previous[event] = last
    last = event
  }
  next[last] = end
  previous[end] = last

  const after = (event: number): number => next[event] ?? end
  const unlink = (event: number): void => {
    next[previous[event] ?? end] = after(event)
    previous[after(event)] = previous[event] ?? end
  }
  const link = (event: number): void => {
    next[previous[event] ?? end] = event
    previous[after(event)] = event
  }
  return {
    first: () => after(end),
    after,
    before: (event: number): number => previous[event] ?? end,
    isCall: (event: number): boolean => event < count,
    remove: (i: number): void => {
      unlink(i)
      if (returns(i)) unlink(count + i)
    },
    // In the opposite order, so that each finds its old neighbours.
    restore: (i: number): void => {
      if (returns(i)) link(count + i)
      link(i)
    }
  }
}
