import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Ref from "effect/Ref"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"

/** Which of the runs leave a resource open, when it is taken and given back like this. */
const leaks = (use: (open: Ref.Ref<number>) => Effect.Effect<unknown>) =>
  Effect.gen(function*() {
    const found: Array<number> = []
    const ends = { interrupted: 0, completed: 0 }
    const steps = yield* interruptAtEveryStep({
      setup: Ref.make(0),
      run: use,
      check: (open, exit, step) =>
        Effect.map(Ref.get(open), (count) => {
          if (count !== 0) found.push(step)
          if (Exit.isSuccess(exit)) ends.completed++
          else if (Cause.hasInterruptsOnly(exit.cause)) ends.interrupted++
        })
    })
    return { found, steps, ...ends }
  })

const add = (open: Ref.Ref<number>, change: number) => Ref.update(open, (count) => count + change)

describe("interruptAtEveryStep", () => {
  it.effect("finds the step between taking and protecting", () =>
    Effect.gen(function*() {
      const result = yield* leaks((open) =>
        Effect.scoped(Effect.gen(function*() {
          yield* add(open, 1)
          yield* Effect.yieldNow
          yield* Effect.addFinalizer(() => add(open, -1))
        }))
      )
      assert.isAbove(result.found.length, 0)
      assert.isBelow(result.found.length, result.steps)
    }))

  it.effect("is content with acquireRelease, over waiting and forked fibers", () =>
    Effect.gen(function*() {
      const result = yield* leaks((open) =>
        Effect.scoped(Effect.gen(function*() {
          yield* Effect.acquireRelease(
            Effect.andThen(Effect.sleep("3 seconds"), add(open, 1)),
            () => Effect.andThen(Effect.sleep("2 seconds"), add(open, -1))
          )
          const done = yield* Deferred.make<void>()
          yield* Effect.forkScoped(Effect.andThen(Effect.sleep("1 second"), Deferred.succeed(done, undefined)))
          yield* Deferred.await(done)
        }))
      )
      assert.deepStrictEqual(result.found, [])
      assert.isAbove(result.interrupted, 20)
      assert.isAtLeast(result.completed, 1)
    }))

  it.effect("takes the same steps every time", () =>
    Effect.gen(function*() {
      const use = (open: Ref.Ref<number>) =>
        Effect.all([add(open, 1), Effect.sleep("1 second"), add(open, -1)], { concurrency: "unbounded" })
      assert.deepStrictEqual(yield* leaks(use), yield* leaks(use))
    }))
})
