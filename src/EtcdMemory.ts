/**
 * An etcd inside this process, for development and tests: no server, and time is Effect's clock, so that `TestClock` decides when
 * leases run out.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { Etcd } from "./Etcd.ts"
import { makeEtcd } from "./internal/client/Client.ts"
import { Store } from "./internal/memory/Store.ts"
import { makeTransport } from "./internal/memory/transport.ts"

/** Ends leases when their time has come, for those who watch; whoever asks finds them gone anyway. */
const expireLeases = Effect.fnUntraced(function*(store: Store) {
  while (true) {
    Latch.closeUnsafe(store.leasesChanged)
    const next = store.nextExpiry()
    const changed = Latch.await(store.leasesChanged)
    if (next === undefined) {
      yield* changed
    } else {
      const now = yield* Clock.monotonicTimeNanos
      yield* Effect.raceFirst(Effect.sleep(Duration.nanos(next - now)), changed)
    }
  }
})

const make = Effect.fnUntraced(function*(): Effect.fn.Return<Store, never, Scope.Scope> {
  const store = new Store(yield* Clock.Clock)
  yield* Effect.forkScoped(expireLeases(store))
  return store
})

const layerPort = (store: Store): Layer.Layer<Etcd> =>
  Layer.effect(
    Etcd,
    makeEtcd(makeTransport(store), {
      retry: Schedule.recurs(3),
      timeout: Duration.seconds(5),
      namespace: ""
    })
  )

export const EtcdMemory = { make: make(), layerPort }
