/**
 * Beats that go together. What a beat and the look at the keys of its lease cost is mostly code that has left the caches since the
 * last one, and waking up for it. Many at once take less each than one by one.
 */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { sleepUntil } from "./LeaseClock.ts"

interface Waiting {
  readonly due: bigint
  /** From when on it goes along with another one. */
  readonly along: bigint
  readonly go: () => void
}

/** No more than this go at once: thousands of leases must not keep a process from all else. */
const most = 64

export class Rounds {
  readonly #clock: Clock.Clock
  readonly #run: (effect: Effect.Effect<void>) => Fiber.Fiber<unknown, unknown>
  readonly #waiting = new Set<Waiting>()
  /** One for all of them, for the first that is due. */
  #timer: { readonly due: bigint; readonly fiber: Fiber.Fiber<unknown, unknown> } | undefined

  constructor(clock: Clock.Clock, run: (effect: Effect.Effect<void>) => Fiber.Fiber<unknown, unknown>) {
    this.#clock = clock
    this.#run = run
  }

  /**
   * Waits until an interval has passed since then, or half of it and another one is due: so those that were spread over it are in two
   * rounds soon, and none is ever late.
   */
  next(since: bigint, interval: bigint): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const due = since + interval
      const waiting = { due, along: since + interval / 2n, go: () => resume(Effect.void) }
      this.#waiting.add(waiting)
      if (this.#timer === undefined || due < this.#timer.due) this.#wind(due)
      return Effect.sync(() => {
        this.#waiting.delete(waiting)
        if (this.#waiting.size === 0) this.#stop()
      })
    })
  }

  #stop(): void {
    this.#timer?.fiber.interruptUnsafe()
    this.#timer = undefined
  }

  #wind(due: bigint): void {
    this.#stop()
    const ring = Effect.andThen(sleepUntil(this.#clock, due), Effect.sync(() => this.#ring()))
    this.#timer = { due, fiber: this.#run(ring) }
  }

  #ring(): void {
    this.#timer = undefined
    const now = this.#clock.monotonicTimeNanosUnsafe()
    const gone: Array<Waiting> = []
    let next: bigint | undefined
    for (const waiting of this.#waiting) {
      const { along, due } = waiting
      if (due <= now || (along <= now && gone.length < most)) gone.push(waiting)
      else if (next === undefined || due < next) next = due
    }
    for (const waiting of gone) this.#waiting.delete(waiting)
    if (next !== undefined) this.#wind(next)
    for (const { go } of gone) go()
  }
}
