import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { observe, type Observer } from "./observe.ts"

export type End<A, E> = (exit: Exit.Exit<A, E>) => void

/**
 * As `Effect.raceFirst`, where the other side is an event and needs no fiber: the effect, or what the event says. It is interrupted then,
 * and waited for.
 *
 * @param subscribe told of the event, it calls `end`; answers how to be told no more.
 */
export const unless = <A, E, R, B, E2>(
  effect: Effect.Effect<A, E, R>,
  subscribe: (end: End<B, E2>) => () => void
): Effect.Effect<A | B, E | E2, R> =>
  Effect.contextWith((context) =>
    Effect.callback<A | B, E | E2>((resume) => {
      const fiber = Effect.runForkWith(context)(effect)
      const done = fiber.pollUnsafe()
      return done === undefined ? new Race(resume).begin(fiber, subscribe) : resume(done)
    })
  )

class Race<A, E, B, E2> implements Observer<A, E> {
  #fiber: Fiber.Fiber<A, E> | undefined
  #resume: ((outcome: Exit.Exit<A | B, E | E2>) => void) | undefined
  #stop: (() => void) | undefined
  #event: Exit.Exit<B, E2> | undefined

  constructor(resume: (outcome: Exit.Exit<A | B, E | E2>) => void) {
    this.#resume = resume
  }

  /** Answers how to end it. */
  begin(fiber: Fiber.Fiber<A, E>, subscribe: (end: End<B, E2>) => () => void): Effect.Effect<void> {
    this.#fiber = fiber
    this.#stop = subscribe((exit) => this.#happened(exit))
    observe(fiber, this)
    return Effect.suspend(() => {
      this.#stop?.()
      return Fiber.interrupt(fiber)
    })
  }

  #happened(exit: Exit.Exit<B, E2>): void {
    if (this.#fiber === undefined || this.#event !== undefined || this.#fiber.pollUnsafe() !== undefined) return
    this.#event = exit
    this.#fiber.interruptUnsafe()
  }

  ended(exit: Exit.Exit<A, E>): void {
    const outcome = this.#event ?? exit
    const resume = this.#resume
    this.#stop?.()
    this.#fiber = this.#resume = undefined
    this.#stop = this.#event = undefined
    resume?.(outcome)
  }
}
