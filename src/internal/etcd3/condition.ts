/**
 * Things that fibers wait for.
 */
import * as Effect from "effect/Effect"

export interface Condition {
  /** Something has changed that a `holds` may depend on. */
  readonly changed: () => void
  /** Waits until it holds, which it need not do any more when the fiber goes on. Leaves nothing behind when it is interrupted. */
  readonly until: (holds: () => boolean) => Effect.Effect<void>
}

export const makeCondition = (): Condition => {
  const waiting = new Set<() => void>()
  return {
    changed: () => {
      for (const look of waiting) look()
    },
    until: (holds) =>
      Effect.callback((resume) => {
        if (holds()) return resume(Effect.void)
        const look = () => {
          if (!holds()) return
          waiting.delete(look)
          resume(Effect.void)
        }
        waiting.add(look)
        return Effect.sync(() => void waiting.delete(look))
      })
  }
}
