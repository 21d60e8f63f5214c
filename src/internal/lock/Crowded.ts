/** Queues in which somebody was when this process claimed an entry there: a guess at what the next claim meets. */

/** A queue is crowded until so many claims in a row have met nobody there. */
const untilCalm = 3

/** So many queues are remembered. To know nothing of one costs a call. */
const mostCrowded = 10_000

export class Crowded {
  readonly #left = new Map<string, number>()

  has(path: string): boolean {
    return this.#left.has(path)
  }

  note(path: string, others: boolean): void {
    if (others) {
      if (this.#left.size >= mostCrowded && !this.has(path)) this.#left.clear()
      this.#left.set(path, untilCalm)
    } else {
      const left = (this.#left.get(path) ?? 1) - 1
      if (left > 0) this.#left.set(path, left)
      else this.#left.delete(path)
    }
  }
}
