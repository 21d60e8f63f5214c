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
  /** Asserts what must hold however the run ended; `step` is where it happened. */
  readonly check: (setup: S, exit: Exit.Exit<A, E>, step: number) => Effect.Effect<unknown, E2, R2>
  /** Only each of so many: where a run is long, and what lies between two steps is not worth the time. */
  readonly every?: number
  /** How far the test clock moves each time nothing else can happen. */
  readonly tick?: Duration.Input
}

export interface ActAtEveryStep<S, A, E, R, E1, R1, E2, R2> extends InterruptAtEveryStep<S, A, E, R, E1, R1, E2, R2> {
  /** What happens at that step, beside the run. */
  readonly act: (setup: S) => void
}

/** Asks at every step of every fiber that runs under it, and makes one yield only where it happens. */
class StepScheduler extends Scheduler.MixedScheduler {
  steps = 0
  /** Whether the turn came before the run had ended. */
  reached = false
  private target: Fiber.Fiber<unknown, unknown> | undefined
  private act = () => {}
  private last = 0

  actAt(step: number, target: Fiber.Fiber<unknown, unknown>, act: () => void): void {
    this.steps = 0
    this.last = step
    this.target = target
    this.act = act
  }

  override shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    this.steps++
    if (this.target !== undefined && this.steps === this.last) {
      this.reached = this.target.pollUnsafe() === undefined
      // Both stand still when it comes, as in reality: an interrupt from inside a step would be noticed only after that step, also
      // when it enters an uninterruptible region, whose rest would then not run.
      queueMicrotask(this.act)
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
  function*<A, E, R>(
    effect: Effect.Effect<A, E, R>,
    scheduler: StepScheduler,
    tick: Duration.Input,
    at?: { readonly step: number; readonly act: (fiber: Fiber.Fiber<A, E>) => void }
  ) {
    const fiber = yield* Effect.forkChild(Effect.provideService(effect, Scheduler.Scheduler, scheduler))
    if (at !== undefined) scheduler.actAt(at.step, fiber, () => at.act(fiber))
    for (let ticks = 0; ticks < maxTicks; ticks++) {
      for (let seen = -1, quiet = 0; quiet < 4; quiet = seen === scheduler.steps ? quiet + 1 : 0) {
        seen = scheduler.steps
        yield* turn
        const exit = fiber.pollUnsafe()
        if (exit !== undefined) return exit
      }
      yield* TestClock.adjust(tick)
    }
    const what = at === undefined ? "the setup" : `the run of step ${at.step}`
    return yield* Effect.die(new Error(`${what} did not end`))
  }
)

const atEveryStep = Effect.fnUntraced(
  function*<S, A, E, R, E1, R1, E2, R2>(
    options: InterruptAtEveryStep<S, A, E, R, E1, R1, E2, R2>,
    act: (setup: S, fiber: Fiber.Fiber<A, E>) => void
  ) {
    const tick = options.tick ?? "100 millis"
    for (let step = 1;; step += options.every ?? 1) {
      const scheduler = new StepScheduler()
      yield* Effect.scoped(Effect.gen(function*() {
        const setup = yield* yield* drive(Scope.provide(options.setup, yield* Effect.scope), scheduler, tick)
        const at = { step, act: (fiber: Fiber.Fiber<A, E>) => act(setup, fiber) }
        const exit = yield* drive(options.run(setup), scheduler, tick, at)
        yield* options.check(setup, exit, step)
      }))
      if (!scheduler.reached) return step - 1
    }
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
export const interruptAtEveryStep = <S, A, E, R, E1, R1, E2, R2>(
  options: InterruptAtEveryStep<S, A, E, R, E1, R1, E2, R2>
) => atEveryStep(options, (_, fiber) => fiber.interruptUnsafe())

/** The same with something else that happens there: the run goes on. */
export const actAtEveryStep = <S, A, E, R, E1, R1, E2, R2>(options: ActAtEveryStep<S, A, E, R, E1, R1, E2, R2>) =>
  atEveryStep(options, options.act)
