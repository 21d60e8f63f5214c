/**
 * Layers that follow the configuration: what is built from it is built anew when it changes, without a moment in between.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import type { InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { follow, list, pause } from "./internal/follow.ts"
import { measured } from "./internal/Telemetry.ts"
import { validateDuration, validatePrefix } from "./internal/validate.ts"

/**
 * @category options
 * @since 0.1.0
 */
export interface ReloadableOptions {
  /** The folder whose changes count, as `/config/orders`: what `EtcdConfigProvider` and `ConfigCenter` keep there. `/config` unless said otherwise. */
  readonly prefix?: string | undefined
  /** How long to wait after a change for those that come with it. 100 ms unless said otherwise. */
  readonly settle?: Duration.Input | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ReloadableStatus<E> {
  /** Which one is in use: 1 for the first, one more with each reload that succeeded. */
  readonly generation: number
  /** Why the last attempt failed to build the next one; `undefined` when it did not. */
  readonly failure: Cause.Cause<E> | undefined
}

/**
 * The services of a layer, as its configuration is now.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reloadable<I, E = never> {
  /** Runs an effect with the services of this moment; they stay until it ends, whatever changes meanwhile. */
  readonly use: <A, E1, R>(effect: Effect.Effect<A, E1, R>) => Effect.Effect<A, E1, Exclude<R, I>>
  /** The services of this moment, for as long as the scope is open. */
  readonly context: Effect.Effect<Context.Context<I>, never, Scope.Scope>
  /** The same as a layer. */
  readonly layer: Layer.Layer<I>
  /** Builds the next one now. When that fails, the one in use stays. */
  readonly reload: Effect.Effect<void, E>
  readonly status: Effect.Effect<ReloadableStatus<E>>
}

interface Generation<I> {
  readonly context: Context.Context<I>
  readonly scope: Scope.Closeable
  users: number
  retired: boolean
}

/**
 * Builds a layer, and builds it again whenever the configuration below `prefix` changes. Fails as the layer does when the first one cannot be
 * built, and with `EtcdError` when the folder cannot be read.
 *
 * - The next one is complete before it takes the place of the one in use; that one is released when the last `use` of it has ended. So both exist
 *   for a while: what can exist only once, such as a port, does not belong into the layer.
 * - When the next one cannot be built, the one in use stays, a warning is logged, and it is tried again, in ever greater intervals up to half a
 *   minute, and at each change.
 * - Changes are not counted: after the last of them it is built at least once, with all of them. After a long outage, too.
 * - When the scope closes, all that was built is released, in use or not.
 *
 * **Example**
 *
 * ```ts
 * import { Config, Context, Effect, Layer } from "effect"
 * import { EtcdConfigProvider, layerEtcd, reloadable } from "effect-coord"
 *
 * class Mailer extends Context.Service<Mailer, { readonly from: string }>()("Mailer") {
 *   static readonly layer = Layer.effect(Mailer, Effect.map(Config.String("FROM"), (from) => ({ from })))
 * }
 *
 * const program = Effect.gen(function*() {
 *   const mailer = yield* reloadable(Mailer.layer, { prefix: "/config/mail" })
 *   // In a handler, once for each request:
 *   yield* mailer.use(Effect.flatMap(Mailer, ({ from }) => Effect.log(`mail from ${from}`)))
 * }).pipe(
 *   Effect.scoped,
 *   Effect.provide(EtcdConfigProvider.layer({ prefix: "/config/mail" })),
 *   Effect.provide(layerEtcd({ endpoints: "127.0.0.1:2379" }))
 * )
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const reloadable = Effect.fn("reloadable")(function*<I, E, R>(
  layer: Layer.Layer<I, E, R>,
  options: ReloadableOptions = {}
): Effect.fn.Return<Reloadable<I, E>, E | InvalidOption | EtcdError, R | Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const folder = { prefix: `${yield* validatePrefix(options.prefix ?? "/config", "prefix")}/` }
  const settle = yield* validateDuration("settle", options.settle, Duration.millis(100))
  const services = yield* Effect.context<R>()

  const scope = yield* Effect.scope
  const alive = new Set<Generation<I>>()
  let closed = false
  yield* Effect.addFinalizer((exit) =>
    Effect.suspend(() => {
      closed = true
      return Effect.forEach([...alive], (one) => Scope.close(one.scope, exit), {
        concurrency: "unbounded",
        discard: true
      })
    })
  )
  // Nobody waits for it, and nobody can end it: whoever used it last has ended his own work.
  const release = (generation: Generation<I>) =>
    Effect.suspend(() => {
      if (!generation.retired || generation.users > 0) return Effect.void
      const released = Effect.andThen(
        Scope.close(generation.scope, Exit.void),
        Effect.sync(() => alive.delete(generation))
      )
      // A scope that has begun to close forks nothing any more, and then releases what is alive.
      return Effect.asVoid(Effect.forkIn(Effect.uninterruptible(released), scope, { startImmediately: true }))
    })
  // What all generations have in common does not depend on the configuration: it comes from outside.
  const fresh = Layer.fresh(layer)
  const build = (restore: <A, E1, R1>(effect: Effect.Effect<A, E1, R1>) => Effect.Effect<A, E1, R1>) =>
    Effect.gen(function*() {
      const own = yield* Scope.make()
      const context = yield* restore(Effect.provideContext(Layer.buildWithScope(fresh, own), services)).pipe(
        Effect.onError((cause) => Scope.close(own, Exit.failCause(cause)))
      )
      const generation: Generation<I> = { context, scope: own, users: 0, retired: false }
      // Built for somebody who has not ended yet, by the reload of somebody else.
      if (closed) return yield* Effect.andThen(Scope.close(own, Exit.void), Effect.interrupt)
      alive.add(generation)
      return generation
    })

  // Read before the first is built: what changes from here on is told.
  let known = yield* list(etcd, folder)
  let current = yield* Effect.uninterruptibleMask(build)
  let status: ReloadableStatus<E> = { generation: 1, failure: undefined }

  const reload = Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const next = yield* build(restore).pipe(
        Effect.tapCause((failure) =>
          Effect.sync(() => {
            if (!Cause.hasInterruptsOnly(failure)) status = { ...status, failure }
          })
        )
      )
      const old = current
      current = next
      status = { generation: status.generation + 1, failure: undefined }
      old.retired = true
      yield* release(old)
    })
  ).pipe(measured("reloadable.reload"), Effect.withSpan("reloadable.reload"), Semaphore.makeUnsafe(1).withPermit)

  const changed = Latch.makeUnsafe(false)
  let cuts = 0
  const watching = Stream.suspend(() => follow(etcd, folder, known)).pipe(
    Stream.runForEach(({ changes, state }) =>
      Effect.suspend(() => {
        cuts = 0
        known = state
        return changes.some(({ _tag }) => _tag !== "Synced") ? changed.open : Effect.void
      })
    ),
    // The end of the client is the end of what stands on it.
    Effect.catchReason("EtcdError", "Closed", () => Effect.never),
    // Neither time nor a new listing mends what it fails with, but an operator may: a right that is granted again.
    Effect.catch((error) => Effect.logWarning("the configuration is not followed at the moment", error)),
    Effect.andThen(Effect.suspend(() => pause(++cuts, 30_000))),
    Effect.annotateLogs(folder)
  )
  yield* Effect.forkScoped(Effect.forever(watching))

  let failures = 0
  const following = Effect.gen(function*() {
    yield* failures === 0 ? changed.await : Effect.raceFirst(changed.await, pause(failures, 30_000))
    yield* Effect.sleep(settle)
    // Before it is built, so that a change from now on counts once more.
    yield* changed.close
    yield* reload
    failures = 0
  }).pipe(
    Effect.catchCause((cause) =>
      Effect.suspend(() => {
        failures++
        return Effect.logWarning("the new configuration cannot be used: the one before stays", cause)
      })
    ),
    Effect.annotateLogs(folder)
  )
  yield* Effect.forkScoped(Effect.forever(following))

  const context = Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const generation = current
        generation.users++
        return generation
      }),
      (generation) =>
        Effect.suspend(() => {
          generation.users--
          return release(generation)
        })
    ),
    (generation) => generation.context
  )
  return {
    use: <A, E1, R1>(effect: Effect.Effect<A, E1, R1>) =>
      Effect.scoped(Effect.flatMap(context, (built) => Effect.provideContext(effect, built))),
    context,
    layer: Layer.effectContext(context),
    reload,
    status: Effect.sync(() => status)
  }
})
