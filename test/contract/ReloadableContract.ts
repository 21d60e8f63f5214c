/**
 * Layers that follow their configuration, on every implementation of the port. The tests share one store: each has a folder of its own.
 */
import { assert, layer } from "@effect/vitest"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { type Etcd, Operation } from "../../src/Etcd.ts"
import { EtcdConfigProvider } from "../../src/EtcdConfigProvider.ts"
import { type Reloadable, reloadable, type ReloadableStatus } from "../../src/Reloadable.ts"
import { from, Mailer, makeMailers } from "../utils/mailers.ts"
import type { Operator } from "./Operator.ts"
import { freshPrefix, put, remove, txn } from "./support.ts"

const fallback = ConfigProvider.fromEnv({ env: { FROM: "fallback" } })

/** Until it says what is waited for. */
const until = <E>(mailer: Reloadable<Mailer, E>, what: (status: ReloadableStatus<E>) => boolean) =>
  Effect.delay(mailer.status, "10 millis").pipe(Effect.repeat({ until: what }), Effect.timeout("20 seconds"))

/** On the real clock, also where there is a virtual one. */
export const reloadableContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    const makeGiven = Effect.sync(() => {
      const prefix = freshPrefix().slice(0, -1)
      const mailers = makeMailers()
      return {
        ...mailers,
        prefix,
        key: `${prefix}/FROM`,
        make: reloadable(mailers.layer, { prefix }).pipe(
          Effect.provide(EtcdConfigProvider.layer({ prefix, fallback }))
        )
      }
    })
    const test = (
      title: string,
      body: (given: Effect.Success<typeof makeGiven>) => Effect.Effect<void, unknown, Etcd | Scope.Scope>
    ) => it.effect(title, () => Effect.flatMap(makeGiven, body))

    test("follows what is written, and what is deleted", ({ key, log, make }) =>
      Effect.gen(function*() {
        yield* put(key, "a")
        const mailer = yield* make
        assert.strictEqual(yield* mailer.use(from), "a")
        yield* put(key, "b")
        yield* until(mailer, ({ generation }) => generation === 2)
        assert.strictEqual(yield* mailer.use(from), "b")
        yield* remove(key)
        yield* until(mailer, ({ generation }) => generation === 3)
        assert.strictEqual(yield* mailer.use(from), "fallback")
        assert.deepStrictEqual(log, ["built a", "built b", "released a", "built fallback", "released b"])
      }))

    test("what is written in one transaction counts once", ({ key, make, prefix }) =>
      Effect.gen(function*() {
        yield* put(key, "a")
        const mailer = yield* make
        yield* txn({
          success: [Operation.put(`${prefix}/HOST`, "h"), Operation.put(key, "b"), Operation.put(`${prefix}/x/y`, "z")]
        })
        yield* until(mailer, ({ generation }) => generation > 1)
        assert.strictEqual(yield* mailer.use(from), "b")
        yield* put(key, "c")
        yield* until(mailer, ({ generation }) => generation > 2)
        assert.deepStrictEqual([yield* mailer.use(from), (yield* mailer.status).generation], ["c", 3])
      }))

    test("who uses one keeps it to the end, and then it is released", ({ key, log, make }) =>
      Effect.gen(function*() {
        yield* put(key, "a")
        const mailer = yield* make
        const scope = yield* Scope.make()
        const context = yield* Scope.provide(mailer.context, scope)
        const go = yield* Deferred.make<void>()
        const using = yield* Effect.forkChild(mailer.use(Effect.andThen(Deferred.await(go), from)), {
          startImmediately: true
        })
        for (const [index, name] of ["b", "c"].entries()) {
          yield* put(key, name)
          yield* until(mailer, ({ generation }) => generation === index + 2)
        }
        assert.deepStrictEqual(log, ["built a", "built b", "built c", "released b"])
        yield* Deferred.succeed(go, undefined)
        assert.deepStrictEqual([yield* Fiber.join(using), Context.get(context, Mailer).from], ["a", "a"])
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(log.slice(4), ["released a"])
      }))

    test("what cannot be built leaves the one in use, until somebody mends it", ({ key, log, make }) =>
      Effect.gen(function*() {
        yield* put(key, "a")
        const mailer = yield* make
        yield* put(key, "nobody")
        yield* until(mailer, ({ failure }) => failure !== undefined)
        assert.strictEqual(yield* mailer.use(from), "a")
        assert.strictEqual(yield* Effect.flip(mailer.reload), "nobody")
        yield* put(key, "b")
        yield* until(mailer, ({ generation }) => generation === 2)
        assert.strictEqual((yield* mailer.status).failure, undefined)
        assert.deepStrictEqual(log, ["built a", "built b", "released a"])
      }))

    test("the first one fails as its layer does, and a bad option by its name", ({ key, make, open }) =>
      Effect.gen(function*() {
        yield* put(key, "nobody")
        assert.strictEqual(yield* Effect.flip(make), "nobody")
        assert.strictEqual(open.size, 0)
        const error = yield* Effect.flip(reloadable(makeMailers().layer, { prefix: "no-slash" }))
        assert.deepInclude(error, { _tag: "InvalidOption", option: "prefix" })
      }))

    test("its end releases what is in use, and nothing follows any more", ({ key, log, make, open }) =>
      Effect.gen(function*() {
        yield* put(key, "a")
        const scope = yield* Scope.make()
        const mailer = yield* Scope.provide(make, scope)
        yield* put(key, "b")
        yield* until(mailer, ({ generation }) => generation === 2)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(open.size, 0)
        // Another one sees the change: by then the first would have, too.
        const next = yield* make
        yield* put(key, "c")
        yield* until(next, ({ generation }) => generation === 2)
        assert.deepStrictEqual(log, [
          "built a",
          "built b",
          "released a",
          "released b",
          "built b",
          "built c",
          "released b"
        ])
      }))
  })
