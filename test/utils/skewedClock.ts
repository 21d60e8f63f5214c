import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

/** The clock of the test, which can be put forward behind the back of all timers. */
export const skewedClock = Clock.clockWith((inner) =>
  Effect.sync(() => {
    let monotonic = 0n
    let wall = 0
    const wallNanos = () => inner.currentTimeNanosUnsafe() + BigInt(Math.round(wall * 1e6))
    const clock: Clock.Clock = {
      currentTimeMillisUnsafe: () => inner.currentTimeMillisUnsafe() + wall,
      currentTimeMillis: Effect.sync(() => inner.currentTimeMillisUnsafe() + wall),
      currentTimeNanosUnsafe: wallNanos,
      currentTimeNanos: Effect.sync(wallNanos),
      monotonicTimeNanosUnsafe: () => inner.monotonicTimeNanosUnsafe() + monotonic,
      monotonicTimeNanos: Effect.sync(() => inner.monotonicTimeNanosUnsafe() + monotonic),
      sleep: (duration) => inner.sleep(duration)
    }
    return {
      clock,
      /** Time has passed and no timer has fired: a stopped process that goes on, a blocked event loop. */
      skip: (by: Duration.Duration) => {
        monotonic += BigInt(Math.round(Duration.toMillis(by) * 1e6))
        wall += Duration.toMillis(by)
      },
      /** The machine was suspended: the monotonic clock has stopped with it. */
      suspend: (by: Duration.Duration) => {
        wall += Duration.toMillis(by)
      }
    }
  })
)
