import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"

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
      if (done !== undefined) return resume(done)
      let ended: Exit.Exit<B, E2> | undefined
      const stop = subscribe((exit) => {
        if (ended !== undefined || fiber.pollUnsafe() !== undefined) return
        ended = exit
        fiber.interruptUnsafe()
      })
      fiber.addObserver((exit) => {
        stop()
        resume(ended ?? exit)
      })
      return Effect.suspend(() => {
        stop()
        return Fiber.interrupt(fiber)
      })
    })
  )
