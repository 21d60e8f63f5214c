import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Etcd, Operation } from "../src/Etcd.ts"
import { EtcdConfigProvider } from "../src/EtcdConfigProvider.ts"
import { Compacted, PermissionDenied } from "../src/EtcdError.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { type Reloadable, reloadable } from "../src/Reloadable.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { reloadableContract } from "./contract/ReloadableContract.ts"
import { makeConfigClient } from "./utils/configClient.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { from, Mailer, makeMailers } from "./utils/mailers.ts"

reloadableContract("layers that follow their configuration, on memory", layerMemory())
reloadableContract("layers that follow their configuration, on etcd 3.5", layerServer("3.5"))
reloadableContract("layers that follow their configuration, on etcd 3.4", layerServer("3.4"))

const makeWorld = Effect.gen(function*() {
  const store = yield* EtcdMemory.make()
  const client = yield* makeConfigClient(store)
  const other = yield* makeConfigClient(store)
  const mailers = makeMailers()
  yield* client.put("FROM", "a")
  const within = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    effect.pipe(
      Effect.provide(EtcdConfigProvider.layer()),
      Effect.provideService(Etcd, client.port.etcd)
    )
  return { ...client, ...mailers, store, other, make: within(reloadable(mailers.layer)) }
})

describe("reloadable", () => {
  it.effect("builds the next one when the configuration changes, and then releases the one before", () =>
    Effect.gen(function*() {
      const { log, make, put } = yield* makeWorld
      const mailer = yield* make
      assert.strictEqual(yield* mailer.use(from), "a")
      yield* put("FROM", "b")
      assert.strictEqual(yield* mailer.use(from), "a")
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* mailer.use(from), "b")
      assert.deepStrictEqual(log, ["built a", "built b", "released a"])
      assert.deepStrictEqual(yield* mailer.status, { generation: 2, failure: undefined })
      yield* TestClock.adjust("1 hour")
      assert.strictEqual((yield* mailer.status).generation, 2)
    }))

  it.effect("who uses one keeps it to the end, whatever changes meanwhile", () =>
    Effect.gen(function*() {
      const { log, make, put } = yield* makeWorld
      const mailer = yield* make
      const scope = yield* Scope.make()
      const context = yield* Scope.provide(mailer.context, scope)
      const go = yield* Deferred.make<void>()
      const using = yield* Effect.forkChild(
        mailer.use(Effect.andThen(Deferred.await(go), from)),
        { startImmediately: true }
      )
      yield* put("FROM", "b")
      yield* TestClock.adjust("100 millis")
      yield* put("FROM", "c")
      yield* TestClock.adjust("100 millis")
      assert.deepStrictEqual(log, ["built a", "built b", "built c", "released b"])
      assert.strictEqual(Context.get(context, Mailer).from, "a")
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* Fiber.join(using), "a")
      assert.deepStrictEqual(log.slice(4), [])
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(log.slice(4), ["released a"])
    }))

  it.effect("changes that come together count once, and one that comes while it is built counts again", () =>
    Effect.gen(function*() {
      const { held, log, make, put } = yield* makeWorld
      const mailer = yield* make
      for (const name of ["b", "c", "d"]) {
        yield* put("FROM", name)
        yield* TestClock.adjust("30 millis")
      }
      yield* TestClock.adjust("10 millis")
      assert.deepStrictEqual(log, ["built a", "built d", "released a"])
      held.building = Effect.sleep("1 second")
      yield* put("FROM", "e")
      yield* TestClock.adjust("600 millis")
      yield* put("FROM", "f")
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* mailer.use(from), "e")
      yield* TestClock.adjust("1100 millis")
      assert.strictEqual(yield* mailer.use(from), "f")
      assert.strictEqual((yield* mailer.status).generation, 4)
    }))

  it.effect("what cannot be built leaves the one in use, is tried again, and does no harm", () =>
    Effect.gen(function*() {
      const { log, make, other, put } = yield* makeWorld
      const mailer = yield* make
      yield* put("FROM", "nobody")
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* mailer.use(from), "a")
      const { failure, generation } = yield* mailer.status
      assert.strictEqual(generation, 1)
      assert.isDefined(failure)
      assert.strictEqual(yield* Effect.flip(mailer.reload), "nobody")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(log, ["built a"])
      yield* other.put("FROM", "b")
      yield* TestClock.adjust("100 millis")
      assert.deepStrictEqual(log, ["built a", "built b", "released a"])
      assert.deepStrictEqual(yield* mailer.status, { generation: 2, failure: undefined })
    }))

  it.effect("an outage while it is built costs only time: no further change is needed", () =>
    Effect.gen(function*() {
      const { link, log, make, other } = yield* makeWorld
      const mailer = yield* make
      yield* other.put("FROM", "b")
      yield* TestClock.adjust("50 millis")
      yield* link.setFate(() => ({ response: "lost" }))
      yield* TestClock.adjust("1 minute")
      assert.isDefined((yield* mailer.status).failure)
      yield* link.setFate(() => ({}))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(log, ["built a", "built b", "released a"])
    }))

  it.effect("a change during an outage is seen after it, compacted or not, and an older state that is restored, too", () =>
    Effect.gen(function*() {
      const { link, log, make, other, store } = yield* makeWorld
      const mailer = yield* make
      const before = yield* store.snapshot
      for (const name of ["b", "c"]) {
        yield* link.refuse
        yield* other.put("FROM", name)
        if (name === "c") yield* store.compact(yield* store.revision)
        yield* TestClock.adjust("1 minute")
        yield* link.accept
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* mailer.use(from), name)
      }
      yield* store.restore(before)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* mailer.use(from), "a")
      assert.deepStrictEqual(log.at(-1), "released c")
    }))

  it.effect("where nothing has changed, nothing is built: after a compaction, and after a right that was taken and given back", () =>
    Effect.gen(function*() {
      const { make, other, port } = yield* makeWorld
      const mailer = yield* make
      yield* other.put("FROM", "b")
      yield* TestClock.adjust("1 second")
      for (const reason of [new Compacted({ compactRevision: 1n }), new PermissionDenied({})]) {
        yield* port.failWatches(reason)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* mailer.status).generation, 2)
      }
      yield* other.put("FROM", "c")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* mailer.use(from), "c")
    }))

  it.effect("a change while the first one is built is not missed", () =>
    Effect.gen(function*() {
      const { held, make, other } = yield* makeWorld
      held.building = Effect.sleep("1 second")
      const making = yield* Effect.forkChild(make, { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      yield* other.put("FROM", "b")
      yield* TestClock.adjust("10 seconds")
      const mailer = yield* Fiber.join(making)
      assert.strictEqual(yield* mailer.use(from), "b")
    }))

  it.effect("each one is built anew, also where the layer is shared with others", () =>
    Effect.gen(function*() {
      class Mail extends Context.Service<Mail, Reloadable<Mailer, unknown>>()("Mail") {}
      const { layer, log, port, put } = yield* makeWorld
      const context = yield* Layer.build(Layer.merge(layer, Layer.effect(Mail, reloadable(layer)))).pipe(
        Effect.provide(EtcdConfigProvider.layer()),
        Effect.provideService(Etcd, port.etcd)
      )
      yield* put("FROM", "b")
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* Context.get(context, Mail).use(from), "b")
      assert.strictEqual(Context.get(context, Mailer).from, "a")
      assert.deepStrictEqual(log, ["built a", "built a", "built b", "released a"])
    }))

  it.effect("a reload that is interrupted is no failure", () =>
    Effect.gen(function*() {
      const { held, make } = yield* makeWorld
      const mailer = yield* make
      held.building = Effect.sleep("1 second")
      yield* Fiber.interrupt(yield* Effect.forkChild(mailer.reload, { startImmediately: true }))
      assert.deepStrictEqual(yield* mailer.status, { generation: 1, failure: undefined })
    }))

  it.effect("one that is being released at its end is released to its end", () =>
    Effect.gen(function*() {
      const { held, log, make, put } = yield* makeWorld
      const scope = yield* Scope.make()
      const mailer = yield* Scope.provide(make, scope)
      held.releasing = Effect.sleep("1 second")
      yield* put("FROM", "b")
      yield* TestClock.adjust("500 millis")
      assert.strictEqual((yield* mailer.status).generation, 2)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust("3 seconds")
      assert.isDefined(closing.pollUnsafe())
      assert.deepStrictEqual(log.toSorted(), ["built a", "built b", "released a", "released b"])
    }))

  it.effect("what else is in etcd does not count", () =>
    Effect.gen(function*() {
      const { make, port } = yield* makeWorld
      const mailer = yield* make
      for (const key of ["/config", "/configuration/FROM", "/other"]) {
        yield* port.etcd.txn({ success: [Operation.put(key, "x")] })
      }
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* mailer.status).generation, 1)
    }))

  it.effect("fails as its layer does when the first one cannot be built, and for bad options", () =>
    Effect.gen(function*() {
      const { layer, make, open, port, put } = yield* makeWorld
      yield* put("FROM", "nobody")
      assert.strictEqual(yield* Effect.flip(make), "nobody")
      assert.strictEqual(open.size, 0)
      for (const options of [{ prefix: "config" }, { settle: "0 seconds" }] as const) {
        const error = yield* Effect.flip(
          reloadable(layer, options).pipe(Effect.provideService(Etcd, port.etcd))
        )
        assert.deepInclude(error, { _tag: "InvalidOption" })
      }
    }))

  it.effect("its end releases what a request used to whose last word it waits", () =>
    Effect.gen(function*() {
      const { log, make, put } = yield* makeWorld
      const scope = yield* Scope.make()
      const mailer = yield* Scope.provide(make, scope)
      const over = yield* Deferred.make<void>()
      const request = yield* Effect.forkChild(mailer.use(Deferred.await(over)), { startImmediately: true })
      yield* put("FROM", "b")
      yield* TestClock.adjust("100 millis")
      assert.deepStrictEqual(log, ["built a", "built b"])
      // As a server that is drained.
      yield* Scope.addFinalizer(scope, Effect.andThen(Deferred.succeed(over, undefined), Fiber.await(request)))
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log.toSorted(), ["built a", "built b", "released a", "released b"])
    }))

  it.effect("its end releases all, what is in use and what is built at that moment as well", () =>
    Effect.gen(function*() {
      const { held, log, make, open, put } = yield* makeWorld
      const scope = yield* Scope.make()
      const mailer = yield* Scope.provide(make, scope)
      const using = yield* Effect.forkChild(mailer.use(Effect.never), { startImmediately: true })
      yield* put("FROM", "b")
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(open.size, 2)
      held.building = Effect.sleep("1 second")
      const byHand = yield* Effect.forkChild(mailer.reload, { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([...open], [])
      yield* TestClock.adjust("1 minute")
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(byHand)))
      assert.deepStrictEqual([...open], [])
      assert.deepStrictEqual(log, ["built a", "built b", "released a", "released b", "built b", "released b"])
      yield* Fiber.interrupt(using)
    }))

  it.effect("an interruption at any step of a reload leaves one in use, and nothing else", () =>
    Effect.gen(function*() {
      const steps = yield* interruptAtEveryStep({
        setup: Effect.gen(function*() {
          const world = yield* makeWorld
          const mailer = yield* world.make
          return { ...world, mailer }
        }),
        run: ({ mailer, other }) =>
          Effect.andThen(
            Effect.andThen(other.put("FROM", "b"), mailer.reload),
            mailer.use(Effect.sleep("1 second"))
          ),
        check: ({ mailer, open }) =>
          Effect.gen(function*() {
            yield* TestClock.adjust("1 second")
            assert.deepStrictEqual([...open], [yield* mailer.use(Mailer)])
          })
      })
      assert.isAbove(steps, 50)
    }))
})
