/**
 * For tests of applications: an etcd in memory that fails when it is told to.
 *
 * All time is Effect's: under `TestClock` a test takes none, and each run is like the last one.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import { type EtcdErrorReason, Unavailable } from "./EtcdError.ts"
import { EtcdMemory, type EtcdMemoryOptions, type EtcdMemoryStore, layerMemory } from "./EtcdMemory.ts"
import { makeEtcd } from "./internal/client/Client.ts"
import { makeSettings } from "./internal/etcd3/settings.ts"
import { type FaultyLink, type Link, makeLink } from "./internal/memory/link.ts"
import { StoreId } from "./internal/memory/Store.ts"
import { makeTransport } from "./internal/memory/transport.ts"
import { layerServices, type Services } from "./internal/services.ts"
import type { Transport } from "./internal/Transport.ts"

/**
 * The requests that an application sends. A watch is a stream: only its opening is a request.
 *
 * @category models
 * @since 0.1.0
 */
export type RequestName =
  | "range"
  | "txn"
  | "leaseGrant"
  | "leaseKeepAlive"
  | "leaseRevoke"
  | "leaseTimeToLive"
  | "watch"

/**
 * What a test can do to the application that it tests, and to its etcd.
 *
 * **Example**
 *
 * ```ts
 * import { Effect, Fiber } from "effect"
 * import { Lock } from "effect-coord"
 * import * as CoordTesting from "effect-coord/testing"
 * import { TestClock } from "effect/testing"
 *
 * const test = Effect.gen(function*() {
 *   const lock = yield* Lock
 *   const etcd = yield* CoordTesting.EtcdTest
 *   const working = yield* Effect.forkChild(Effect.flip(lock.withLock("job")(Effect.never)))
 *   yield* TestClock.adjust("1 second")
 *   yield* etcd.partition
 *   yield* TestClock.adjust("15 seconds")
 *   const error = yield* Fiber.join(working) // LockLost: Expired
 * }).pipe(Effect.provide(CoordTesting.layer()))
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class EtcdTest extends Context.Service<EtcdTest, {
  /**
   * Cuts the application off: nothing passes, and nobody is told. After 10 seconds the connection is given up, and what waits for an answer
   * fails. What was sent arrives after `heal`, also when its sender has given up.
   */
  readonly partition: Effect.Effect<void>
  readonly heal: Effect.Effect<void>
  /**
   * Stops the application for so long: none of its timers fires and no answer reaches it; then they do, late. Only what waits for
   * neither goes on. The time of etcd goes on: leases run out. Returns at once; it is the test that lets time pass.
   */
  readonly pause: (duration: Duration.Input) => Effect.Effect<void>
  /** Ends the leases of the application, as an operator does it, and so deletes its keys. */
  readonly loseLease: Effect.Effect<void>
  /** What the client notices of an expired token: its watches are cut, and opened again. */
  readonly expireToken: Effect.Effect<void>
  /** Forgets all revisions before the present one: a watch that was cut off meanwhile has to list again. */
  readonly compact: Effect.Effect<void>
  /** The next request of this name (of any, if there is none) is carried out, and its answer is lost. */
  readonly dropResponse: (request?: RequestName) => Effect.Effect<void>
  /** From now on each request, and each answer, takes so long. */
  readonly delay: (duration: Duration.Input) => Effect.Effect<void>
  /** Refuses connections: requests fail at once, and have certainly not been sent; until `heal`. */
  readonly refuse: Effect.Effect<void>
  /** The etcd itself: restart it, restore an older state, delete a key. */
  readonly store: EtcdMemoryStore
  /** Another process on the same etcd, which nothing happens to. */
  readonly peer: Layer.Layer<Etcd | Services, InvalidOption>
}>()("effect-coord/testing/EtcdTest") {}

/** While it is closed, the application stands still. */
const paused = (inner: Clock.Clock, running: Latch.Latch): Clock.Clock =>
  // It is still the clock that it was made of, so that `TestClock.adjust` finds it.
  Object.assign(Object.create(inner), {
    sleep: (duration: Duration.Duration) => Effect.andThen(inner.sleep(duration), running.await)
  })

interface Faults {
  readonly link: Link
  readonly leases: Set<bigint>
  readonly controls: Omit<EtcdTest["Service"], "store" | "peer" | "loseLease" | "compact" | "pause">
  readonly calm: Effect.Effect<void>
}

const makeFaults = (faulty: FaultyLink, running: Latch.Latch): Faults => {
  let latency: Duration.Input | undefined
  const drops: Array<RequestName | undefined> = []
  let token = Deferred.makeUnsafe<never, EtcdErrorReason>()
  const fate = (operation: string) => {
    const dropped = drops.findIndex((name) => name === undefined || name === operation)
    if (dropped >= 0) drops.splice(dropped, 1)
    return { request: latency, response: dropped >= 0 ? "lost" as const : latency }
  }
  const heal = Effect.andThen(faulty.accept, faulty.heal)
  const link: Link = {
    call: (operation, server) => Effect.onExit(faulty.call(operation, server), () => running.await),
    watch: (items) =>
      Stream.suspend(() => {
        const valid = token
        return Stream.transformPull(faulty.watch(items), (pull) =>
          Effect.succeed(
            Effect.raceFirst(pull, Deferred.await(valid)).pipe(Effect.tap(() => running.await))
          ))
      })
  }
  return {
    link,
    leases: new Set(),
    controls: {
      partition: faulty.partition,
      heal,
      refuse: faulty.refuse,
      expireToken: Effect.suspend(() => {
        const old = token
        token = Deferred.makeUnsafe()
        return Deferred.fail(old, new Unavailable({ detail: "the token has expired", sent: true }))
      }),
      dropResponse: (request) => Effect.andThen(Effect.sync(() => drops.push(request)), faulty.setFate(fate)),
      delay: (duration) =>
        Effect.suspend(() => {
          latency = duration
          return faulty.setFate(fate)
        })
    },
    // Nobody moves the clock when the layer closes.
    calm: Effect.all([faulty.setFate(() => ({})), heal, running.open], { discard: true })
  }
}

/** Knows the leases that were granted through it. */
const remembering = (transport: Transport, leases: Set<bigint>): Transport => ({
  ...transport,
  leaseGrant: (id, ttl) =>
    Effect.suspend(() => {
      leases.add(id)
      return transport.leaseGrant(id, ttl)
    })
})

/**
 * All services on an etcd in memory, and `EtcdTest` to make trouble. The application gets a clock that `pause` can stop; it goes
 * on from the clock of the test.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: EtcdMemoryOptions = {}
): Layer.Layer<Etcd | Services | EtcdTest, InvalidOption> =>
  Layer.effectContext(Effect.gen(function*() {
    const store = yield* EtcdMemory.make()
    const settings = yield* makeSettings(options)
    const scope = yield* Effect.scope
    const running = Latch.makeUnsafe(true)
    const clock = paused(yield* Clock.Clock, running)
    // A scope that has begun to close takes no more fibers, and what is released then still sends requests.
    const faults = makeFaults(yield* Scope.provide(makeLink(settings.timeout), yield* Scope.fork(scope)), running)
    const services = yield* Effect.gen(function*() {
      const transport = remembering(makeTransport(store, faults.link), faults.leases)
      const etcd = Layer.succeed(Etcd, yield* makeEtcd(transport, settings))
      return yield* Layer.build(Layer.provideMerge(layerServices(options), etcd))
    }).pipe(Effect.provideService(Clock.Clock, clock))
    yield* Effect.addFinalizer(() => faults.calm)
    const controls = EtcdTest.of({
      ...faults.controls,
      pause: (duration) =>
        Effect.andThen(running.close, Effect.sleep(duration)).pipe(
          Effect.andThen(running.open),
          // By the clock of etcd: that of the application stands still.
          Effect.provideService(Clock.Clock, Object.getPrototypeOf(clock) as Clock.Clock),
          Effect.forkIn(scope, { startImmediately: true }),
          Effect.asVoid
        ),
      loseLease: Effect.sync(() => {
        for (const id of faults.leases) store[StoreId].leaseRevoke(id)
        faults.leases.clear()
      }),
      compact: Effect.flatMap(store.revision, (revision) => Effect.ignore(store.compact(revision))),
      store,
      peer: layerMemory(store, options)
    })
    return services.pipe(Context.add(EtcdTest, controls), Context.add(Clock.Clock, clock))
  }))
