/**
 * Fibers of one process that want the same lock wait here, first come first served: only the first of them has an entry
 * in etcd. Their keys would be the same one otherwise, and a shared key excludes nobody.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Offer } from "./Offer.ts"

/** In a queue, until it is left. The first has the turn. What waiting needs is made by those who wait. */
export class Place {
  /** What the first could do for this one. */
  offer: Offer | undefined
  readonly #name: string
  /** The last of each queue. */
  readonly #lasts: Map<string, Place>
  #before: Place | undefined
  #after: Place | undefined
  #hasLeft = false
  #near: Deferred.Deferred<void> | undefined
  #called: Deferred.Deferred<void> | undefined

  constructor(name: string, lasts: Map<string, Place>) {
    this.#name = name
    this.#lasts = lasts
    this.#before = lasts.get(name)
    if (this.#before !== undefined) this.#before.#after = this
    lasts.set(name, this)
  }

  isFirst(): boolean {
    return this.#before === undefined && !this.#hasLeft
  }

  /** The next in line, if this is the first. */
  next(): Place | undefined {
    return this.isFirst() ? this.#after : undefined
  }

  /** Waits for the turn. */
  get first(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.isFirst()) return Effect.void
      this.#called ??= Deferred.makeUnsafe()
      // Not at once: who wakes it goes on first, as Effect runs a fiber inside of what wakes it, and this may be one of a long line.
      return Effect.andThen(Deferred.await(this.#called), Effect.yieldNow)
    })
  }

  /** Waits until at most one is before it. */
  get near(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.#before === undefined || this.#before.isFirst()) return Effect.void
      this.#near ??= Deferred.makeUnsafe()
      return Deferred.await(this.#near)
    })
  }

  /** Gives the turn to the next in line; again it does nothing. */
  leave(): void {
    if (this.#hasLeft) return
    const before = this.#before
    const after = this.#after
    this.#hasLeft = true
    this.#before = this.#after = undefined
    if (before !== undefined) before.#after = after
    if (after !== undefined) after.#before = before
    else if (before !== undefined) this.#lasts.set(this.#name, before)
    else this.#lasts.delete(this.#name)
    if (after === undefined) return
    const second = after.#after
    if (before === undefined) {
      // The next is told first, so that it is prepared when the first is through.
      if (second !== undefined) second.#tellNear()
      after.#tellNear()
      after.#tellTurn()
    } else if (before.isFirst()) after.#tellNear()
  }

  #tellNear(): void {
    if (this.#near !== undefined) Deferred.doneUnsafe(this.#near, Effect.void)
  }

  #tellTurn(): void {
    if (this.#called !== undefined) Deferred.doneUnsafe(this.#called, Effect.void)
  }
}

export interface LocalQueue {
  /** A place, to be left. */
  readonly enter: (name: string) => Place
  /** The turn, if nobody has it. */
  readonly tryEnter: (name: string) => Place | undefined
  /** Waits for the turn, which ends with the scope. */
  readonly turn: (name: string) => Effect.Effect<Place, never, Scope.Scope>
}

export const makeLocalQueue = (): LocalQueue => {
  const lasts = new Map<string, Place>()
  const enter = (name: string): Place => new Place(name, lasts)
  return {
    enter,
    tryEnter: (name) => lasts.has(name) ? undefined : enter(name),
    turn: (name) =>
      Effect.tap(
        Effect.acquireRelease(Effect.sync(() => enter(name)), (place) => Effect.sync(() => place.leave())),
        (place) => place.first
      )
  }
}
