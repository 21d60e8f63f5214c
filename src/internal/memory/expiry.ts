import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type { Store } from "./Store.ts"

/** Ends leases when their time has come, for those who watch; whoever asks finds them gone anyway. */
export const expireLeases = Effect.fnUntraced(function*(store: Store) {
  while (true) {
    Latch.closeUnsafe(store.leasesChanged)
    const next = store.nextExpiry()
    const changed = Latch.await(store.leasesChanged)
    if (next === undefined) {
      yield* changed
    } else {
      const now = yield* Clock.monotonicTimeNanos
      yield* Effect.raceFirst(Effect.sleep(Duration.min(Duration.nanos(next - now), longestSleep)), changed)
    }
  }
})

/** A timer of Node does not reach further than 24 days. */
const longestSleep = Duration.days(1)
