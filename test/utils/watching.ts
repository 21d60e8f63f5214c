/**
 * What the tests of watches need: a port that counts and can be told to fail, and consumers that write down what they see.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import type { Etcd, RangeRequest, WatchRequest } from "../../src/Etcd.ts"
import { EtcdError, type EtcdErrorReason } from "../../src/EtcdError.ts"

export interface CountingPort {
  readonly etcd: Etcd["Service"]
  /** Watches that are open at the moment, and all that ever were. */
  readonly watches: () => { readonly open: number; readonly total: number }
  readonly ranges: () => number
  readonly lastWatch: () => WatchRequest | undefined
  /** Ends all watches that are open with this error. */
  readonly failWatches: (reason: EtcdErrorReason) => Effect.Effect<void>
  /** Runs before each range. */
  readonly beforeRange: (effect: (request: RangeRequest) => Effect.Effect<unknown, EtcdError>) => void
}

export const makeCountingPort = (inner: Etcd["Service"]): CountingPort => {
  let open = 0
  let total = 0
  let ranges = 0
  let last: WatchRequest | undefined
  let before: (request: RangeRequest) => Effect.Effect<unknown, EtcdError> = () => Effect.void
  let failure = Deferred.makeUnsafe<never, EtcdError>()
  return {
    etcd: {
      ...inner,
      range: (request) =>
        Effect.suspend(() => {
          ranges++
          return Effect.andThen(before(request), inner.range(request))
        }),
      watch: (request) =>
        Stream.unwrap(Effect.gen(function*() {
          yield* Effect.acquireRelease(
            Effect.sync(() => {
              open++
              total++
              last = request
            }),
            () => Effect.sync(() => open--)
          )
          const failed = Deferred.await(failure)
          return Stream.transformPull(inner.watch(request), (pull) => Effect.succeed(Effect.raceFirst(pull, failed)))
        }))
    },
    watches: () => ({ open, total }),
    ranges: () => ranges,
    lastWatch: () => last,
    failWatches: (reason) =>
      Effect.suspend(() => {
        const old = failure
        failure = Deferred.makeUnsafe()
        return Deferred.fail(old, new EtcdError({ operation: "watch", reason }))
      }),
    beforeRange: (effect) => {
      before = effect
    }
  }
}

/** Lets all fibers run until this holds; time stands still. */
export const eventually = (holds: () => boolean, what = holds.toString()): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let i = 0; i < 20_000; i++) {
      if (holds()) return
      yield* Effect.yieldNow
    }
    return yield* Effect.die(new Error(`it never came to: ${what}`))
  })

export interface Consumer<A, E> {
  readonly seen: Array<A>
  readonly exit: () => Exit.Exit<void, E> | undefined
  readonly error: () => E | undefined
  readonly stop: Effect.Effect<void>
}

/** Consumes in the background for the length of the scope. */
export const consume = Effect.fnUntraced(function*<A, E>(
  stream: Stream.Stream<A, E>,
  each: (a: A) => Effect.Effect<unknown> = () => Effect.void
) {
  const seen: Array<A> = []
  const fiber = yield* stream.pipe(
    Stream.runForEach((a) => {
      seen.push(a)
      return each(a)
    }),
    Effect.asVoid,
    Effect.forkScoped
  )
  const exit = () => fiber.pollUnsafe()
  const consumer: Consumer<A, E> = {
    seen,
    exit,
    error: () => {
      const end = exit()
      return end === undefined || Exit.isSuccess(end) ? undefined : end.cause.reasons.find(Cause.isFailReason)?.error
    },
    stop: Fiber.interrupt(fiber)
  }
  return consumer
})
