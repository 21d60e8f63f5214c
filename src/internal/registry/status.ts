/**
 * A status that can be followed, and costs next to nothing while nobody does.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"

export class Status<A> {
  #current: A
  #ended = false
  #followers: Set<Queue.Queue<A, Cause.Done>> | undefined

  constructor(first: A) {
    this.#current = first
  }

  get get(): Effect.Effect<A> {
    return Effect.sync(() => this.#current)
  }

  getUnsafe(): A {
    return this.#current
  }

  setUnsafe(next: A): void {
    this.#current = next
    for (const queue of this.#followers ?? []) Queue.offerUnsafe(queue, next)
  }

  endUnsafe(): void {
    this.#ended = true
    for (const queue of this.#followers ?? []) Queue.endUnsafe(queue)
  }

  /** The present one, then each new one, until the end. */
  get changes(): Stream.Stream<A> {
    return Stream.unwrap(
      Effect.acquireRelease(
        Effect.flatMap(Queue.unbounded<A, Cause.Done>(), (queue) =>
          Effect.sync(() => {
            Queue.offerUnsafe(queue, this.#current)
            if (this.#ended) Queue.endUnsafe(queue)
            this.#followers ??= new Set()
            this.#followers.add(queue)
            return queue
          })),
        (queue) => Effect.sync(() => this.#followers?.delete(queue))
      ).pipe(Effect.map(Stream.fromQueue))
    )
  }
}
