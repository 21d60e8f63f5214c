/** Whoever is told of the end of a fiber is held by nobody from then on, though the fiber's list of observers is. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import { EtcdError, Unavailable } from "../src/EtcdError.ts"
import { HandingOut, makeBatched } from "../src/internal/client/batch.ts"
import { makeHedge } from "../src/internal/client/hedge.ts"
import { startFiber } from "../src/internal/client/start.ts"
import { observe } from "../src/internal/observe.ts"
import { type End, unless } from "../src/internal/unless.ts"

V8.setFlagsFromString("--expose-gc")
const collectGarbage: () => void = Vm.runInNewContext("gc")

/** The lists of observers, as V8's old space may keep them. */
const kept: Array<unknown> = []

/** Ends when it is told so, and its fiber's list stays. */
const kind = () => {
  const gate = Deferred.makeUnsafe<void>()
  const body = Effect.withFiber((fiber) =>
    Effect.andThen(
      Effect.sync(() => {
        // Whoever observes it does so when it has begun.
        queueMicrotask(() => kept.push("_observers" in fiber ? fiber._observers : undefined))
      }),
      Deferred.await(gate)
    )
  )
  return { body, end: Effect.andThen(turn, Deferred.succeed(gate, undefined)) }
}

const turn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))

/** What is left of it when all is over. */
const isKept = Effect.fnUntraced(function*(thing: WeakRef<object>) {
  yield* turn
  collectGarbage()
  const last = kept.pop()
  assert.isArray(last)
  assert.lengthOf(Array.isArray(last) ? last : [], 1)
  return thing.deref() !== undefined
})

/** Big enough to matter, and referred to by nothing but what `use` makes. */
const withThing = (use: (thing: object) => Effect.Effect<unknown>) =>
  Effect.suspend(() => {
    const thing = { bytes: new Uint8Array(1000) }
    return Effect.as(use(thing), new WeakRef(thing))
  })

describe("who is told how a fiber ended", () => {
  it.live("is kept where he does not let go: what this is about", () =>
    Effect.gen(function*() {
      const thing = yield* withThing((thing) => {
        const { body, end } = kind()
        observe(Effect.runFork(body), { ended: () => void thing })
        return end
      })
      assert.isTrue(yield* isKept(thing))
    }))

  it.live("is let go of by an effect that an event could have ended", () =>
    Effect.gen(function*() {
      const thing = yield* withThing((thing) => {
        const { body, end } = kind()
        return Effect.all([unless<void, never, never, never, never>(body, () => () => void thing), end], {
          concurrency: "unbounded"
        })
      })
      assert.isFalse(yield* isKept(thing))
    }))

  it.live("is let go of by an effect that has ended before the event", () =>
    Effect.gen(function*() {
      let late: End<object, never> = () => {}
      const thing = yield* withThing((thing) => {
        const { body, end } = kind()
        const waiting = unless<void, never, never, object, never>(body, (end) => {
          late = end
          return () => {}
        })
        return Effect.andThen(
          Effect.all([waiting, end], { concurrency: "unbounded" }),
          Effect.sync(() => late(Exit.succeed(thing)))
        )
      })
      assert.isFalse(yield* isKept(thing))
      // Whoever subscribes may know it for ever.
      late(Exit.succeed({}))
    }))

  it.live("is let go of by what was started in a fiber, answered or given up", () =>
    Effect.gen(function*() {
      for (const givenUp of [false, true]) {
        const thing = yield* withThing((thing) =>
          Effect.contextWith((context) => {
            const { body, end } = kind()
            const started = startFiber(body, context, { ended: () => void thing })
            return Effect.andThen(end, Effect.sync(() => givenUp && started.cancel()))
          })
        )
        assert.isFalse(yield* isKept(thing))
      }
    }))

  it.live("is let go of by a read", () =>
    Effect.gen(function*() {
      const hedge = yield* makeHedge({ timeout: Duration.seconds(5) })
      // The timer knows the one that it waits for.
      yield* Effect.forkScoped(hedge(Effect.never), { startImmediately: true })
      const thing = yield* withThing((thing) => {
        const { body, end } = kind()
        return Effect.all([Effect.orDie(hedge(Effect.as(body, thing))), end], { concurrency: "unbounded" })
      })
      assert.isFalse(yield* isKept(thing))
    }))

  it.live("is let go of by those who were sent together, whether they are answered or fail", () =>
    Effect.gen(function*() {
      const failed = new EtcdError({ operation: "txn", reason: new Unavailable({ detail: "cut", sent: true }) })
      for (const exit of [Exit.void, Exit.fail(failed)]) {
        const { body, end } = kind()
        const first = Deferred.makeUnsafe<void>()
        let alone = 0
        const batched = yield* makeBatched<object, void>({
          alone: () => ++alone === 1 ? Deferred.await(first) : Effect.void,
          together: (requests) => Effect.as(Effect.andThen(body, exit), requests.map(() => {})),
          gather: () => () => true,
          isOfOne: () => false
        }, new HandingOut())
        const thing = yield* withThing((thing) =>
          Effect.all([
            batched.ask({}),
            Effect.exit(batched.ask(thing)),
            Effect.exit(batched.ask({})),
            Effect.andThen(Deferred.succeed(first, undefined), end)
          ], { concurrency: "unbounded" }).pipe(Effect.orDie)
        )
        assert.strictEqual(alone, 1)
        assert.isFalse(yield* isKept(thing))
      }
    }))
})
