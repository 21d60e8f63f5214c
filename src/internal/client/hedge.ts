/**
 * A read that is not answered for long is asked a second time while the first goes on: another member may be quick where this
 * one is frozen, and a slow cluster loses nothing.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import type { EtcdError } from "../../EtcdError.ts"
import { Link, Linked } from "../Linked.ts"
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
        const attempts: Array<Fiber.Fiber<A, EtcdError>> = []
        const begin = () => {
          const fiber = start(attempt)
          attempts.push(fiber)
          fiber.addObserver((exit) => {
            waiting.delete(asked)
            resume(attempts.length === 1 ? exit : Effect.andThen(Fiber.interruptAll(attempts), exit))
          })
          return fiber
        }
        const asked: Asked = new Asked(clock.monotonicTimeNanosUnsafe(), begin)
        if (begin().pollUnsafe() !== undefined) return
        untilAnswered(asked)
        return Effect.suspend(() => {
          waiting.delete(asked)
          return Fiber.interruptAll(attempts)
        })
      })
    )
})
