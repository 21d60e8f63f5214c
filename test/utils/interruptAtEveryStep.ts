import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"

export interface InterruptAtEveryStep<S, A, E, R, E1, R1, E2, R2> {
  /** Made anew for each run, closed after its check. What it forks counts as part of the run. */
  readonly setup: Effect.Effect<S, E1, R1 | Scope.Scope>
  /** The effect to interrupt. It must finish by itself when time passes. */
  readonly run: (setup: S) => Effect.Effect<A, E, R>
  /** Asserts what must hold however the run ended; `step` is where it was interrupted. */
  readonly check: (setup: S, exit: Exit.Exit<A, E>, step: number) => Effect.Effect<unknown, E2, R2>
  /** How far the test clock moves each time nothing else can happen. */
  readonly tick?: Duration.Input
}

/** Asks at every step of every fiber that runs under it, and makes one yield only where the interruption comes. */
class StepScheduler extends Scheduler.MixedScheduler {
  steps = 0
  /** Whether the turn came before the run had ended. */
  reached = false
  private target: Fiber.Fiber<unknown, unknown> | undefined
  private last = 0

  interruptAt(step: number, target: Fiber.Fiber<unknown, unknown>): void {
    this.steps = 0
    this.last = step
    this.target = target
  }

  override shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    this.steps++
    if (this.target !== undefined && this.steps === this.last) {
      const target = this.target
      this.reached = target.pollUnsafe() === undefined
      // Both stand still when it comes, as in reality: an interrupt from inside a step would be noticed only after that step, also
      // when it enters an uninterruptible region, whose rest would then not run.
      queueMicrotask(() => target.interruptUnsafe())
      // Not before the first operation: a fiber that was interrupted before its start would start all the same.
      return fiber.currentOpCount > 1
    }
    return super.shouldYield(fiber)
  }
}

const turn = Effect.promise(() => new Promise<void>((resume) => setImmediate(resume)))

/** A run that neither ends nor waits for time would go on for ever. */
const maxTicks = 10_000

/** Lets the clock go on only when no fiber has done anything for a while, so that waiting costs the least virtual time. */
const drive = Effect.fnUntraced(
  function*<A, E, R>(effect: Effect.Effect<A, E, R>, scheduler: StepScheduler, tick: Duration.Input, step?: number) {
    const fiber = yield* Effect.forkChild(Effect.provideService(effect, Scheduler.Scheduler, scheduler))
    if (step !== undefined) scheduler.interruptAt(step, fiber)
    for (let ticks = 0; ticks < maxTicks; ticks++) {
      for (let seen = -1, quiet = 0; quiet < 4; quiet = seen === scheduler.steps ? quiet + 1 : 0) {
        seen = scheduler.steps
        yield* turn
        const exit = fiber.pollUnsafe()
        if (exit !== undefined) return exit
      }
      yield* TestClock.adjust(tick)
    }
    const what = step === undefined ? "the setup" : `the run that was interrupted at step ${step}`
    return yield* Effect.die(new Error(`${what} did not end`))
  }
)

/**
 * Runs an effect again and again, on memory and under the test clock: interrupted before its first step, its second, and so
 * on, until a run ends before its turn comes; returns how many steps that took. A step is one operation of Effect's
 * runtime, in the effect's own fiber or in any other that it or `setup` has forked: every place where an interruption can
 * arrive, and those where it is held back because the region is uninterruptible.
 *
 * Vary the interleaving by `Effect.provideService(Scheduler.MaxOpsBeforeYield, n)` around it.
 */
export const interruptAtEveryStep = Effect.fnUntraced(
  function*<S, A, E, R, E1, R1, E2, R2>(options: InterruptAtEveryStep<S, A, E, R, E1, R1, E2, R2>) {
    const tick = options.tick ?? "100 millis"
    for (let step = 1;; step++) {
      const scheduler = new StepScheduler()
      yield* Effect.scoped(Effect.gen(function*() {
        const setup = yield* yield* drive(Scope.provide(options.setup, yield* Effect.scope), scheduler, tick)
        const exit = yield* drive(options.run(setup), scheduler, tick, step)
        yield* options.check(setup, exit, step)
      }))
      if (!scheduler.reached) return step - 1
    }
  }
)
