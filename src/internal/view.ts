/**
 * What somebody makes of a range, of its state at first and then of what changes.
 */
import * as HashMap from "effect/HashMap"
import type { Change, Entry, Snapshot } from "./follow.ts"
import type { Observer } from "./hub.ts"

export interface View<A> {
  readonly start: (state: Snapshot) => A
  /** `last` itself where nothing of it has changed. */
  readonly next: (last: A, changes: ReadonlyArray<Change>, state: Snapshot) => A
}

/** More changes than this part of the state cost more than to begin again. */
const maxPart = 8

/** Made when somebody looks, and once for all who do. While nobody does it remembers what changes, within a bound. */
export class Viewed<A> implements Observer {
  readonly #view: View<A>
  #state: Snapshot
  #last: { readonly view: A } | undefined
  #changes: Array<Change> = []

  constructor(view: View<A>, state: Snapshot) {
    this.#view = view
    this.#state = state
  }

  next({ changes, state }: Entry): void {
    this.#state = state
    if (this.#last === undefined) return
    if ((this.#changes.length + changes.length) * maxPart <= HashMap.size(state.kvs) + maxPart) {
      for (const change of changes) this.#changes.push(change)
    } else {
      this.#last = undefined
      this.#changes = []
    }
  }

  fail(): void {}

  get latest(): A {
    const changes = this.#changes
    if (this.#last === undefined) this.#last = { view: this.#view.start(this.#state) }
    else if (changes.length > 0) this.#last = { view: this.#view.next(this.#last.view, changes, this.#state) }
    if (changes.length > 0) this.#changes = []
    return this.#last.view
  }
}
