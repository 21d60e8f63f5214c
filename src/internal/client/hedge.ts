/**
 * A read that is not answered for long is asked a second time while the first goes on: another member may be quick where this
 * one is frozen, and a slow cluster loses nothing.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import type { EtcdError } from "../../EtcdError.ts"
import { Link, Linked } from "../Linked.ts"
import { observe, type Observer } from "../observe.ts"
import type { RetrySettings } from "./retry.ts"

export type Hedge = <A, R>(attempt: Effect.Effect<A, EtcdError, R>) => Effect.Effect<A, EtcdError, R>

class Asked extends Link<Asked> {
  readonly since: bigint
  readonly again: () => void

  constructor(since: bigint, again: () => void) {
    super()
    this.since = since
    this.again = again
  }
}

export const makeHedge = Effect.fnUntraced(function*(
  { timeout }: Pick<RetrySettings, "timeout">
): Effect.fn.Return<Hedge, never, Scope.Scope> {
  const patience = Duration.toNanosUnsafe(Duration.min(Duration.seconds(2), Duration.divideUnsafe(timeout, 2)))
  const clock = yield* Clock.Clock
  const fork = yield* FiberSet.makeRuntime()
  // In the order in which they were asked. One timer for all of them: hardly any is still there when its time has come.
  const waiting = new Linked<Asked>()
  let watching = false

  const watch = Effect.gen(function*() {
    for (let asked = waiting.first; asked !== undefined; asked = waiting.first) {
      yield* Effect.sleep(Duration.nanos(asked.since + patience - clock.monotonicTimeNanosUnsafe()))
      if (waiting.delete(asked)) asked.again()
    }
    watching = false
  })

  const untilAnswered = (asked: Asked) => {
    waiting.add(asked)
    if (watching) return
    watching = true
    fork(watch)
  }

  return <A, R>(attempt: Effect.Effect<A, EtcdError, R>) =>
    Effect.contextWith((context: Context.Context<R>) =>
      Effect.callback<A, EtcdError>((resume) => {
        const start = Effect.runForkWith(context)
        const attempts = new Attempts<A>(() => start(attempt), (outcome) => {
          waiting.delete(asked)
          resume(outcome)
        })
        const asked: Asked = new Asked(clock.monotonicTimeNanosUnsafe(), () => attempts.begin())
        attempts.begin()
        if (attempts.isOver) return
        untilAnswered(asked)
        return Effect.suspend(() => {
          waiting.delete(asked)
          return attempts.end
        })
      })
    )
})

/** The first one to be answered ends the other. */
class Attempts<A> implements Observer<A, EtcdError> {
  #start: (() => Fiber.Fiber<A, EtcdError>) | undefined
  #resume: ((outcome: Effect.Effect<A, EtcdError>) => void) | undefined
  #fibers: Array<Fiber.Fiber<A, EtcdError>> = []

  constructor(start: () => Fiber.Fiber<A, EtcdError>, resume: (outcome: Effect.Effect<A, EtcdError>) => void) {
    this.#start = start
    this.#resume = resume
  }

  get isOver(): boolean {
    return this.#resume === undefined
  }

  begin(): void {
    const fiber = this.#start?.()
    if (fiber === undefined) return
    this.#fibers.push(fiber)
    observe(fiber, this)
  }

  ended(exit: Exit.Exit<A, EtcdError>): void {
    const resume = this.#resume
    const fibers = this.#fibers
    this.#start = this.#resume = undefined
    // Whoever is interrupted before the other one has ended waits for it as well.
    if (fibers.every((fiber) => fiber.pollUnsafe() !== undefined)) this.#fibers = []
    resume?.(fibers.length <= 1 ? exit : Effect.andThen(Fiber.interruptAll(fibers), exit))
  }

  get end(): Effect.Effect<void> {
    return Fiber.interruptAll(this.#fibers)
  }
}
