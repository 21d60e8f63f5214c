/**
 * The session is lost in every state that a recipe can be in: at each step of taking, waiting, holding and releasing its lease is
 * revoked, or it is cut off for longer than a lease lives.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Election } from "../../src/Election.ts"
import { InstanceId } from "../../src/InstanceId.ts"
import { ReadWriteLock } from "../../src/ReadWriteLock.ts"
import { Semaphore } from "../../src/Semaphore.ts"
import { clientOf } from "../utils/clientOf.ts"
import { actAtEveryStep } from "../utils/interruptAtEveryStep.ts"
import { failure, within } from "../utils/virtual.ts"
import { makeWorld } from "../utils/world.ts"

type World = Effect.Success<typeof makeWorld>

const client = (world: World) =>
  Effect.map(
    clientOf(world, Layer.mergeAll(Election.layer(), InstanceId.layer(), ReadWriteLock.layer(), Semaphore.layer())),
    (made) => ({
      ...made,
      election: Context.get(made.context, Election),
      ids: Context.get(made.context, InstanceId),
      rw: Context.get(made.context, ReadWriteLock),
      semaphore: Context.get(made.context, Semaphore)
    })
  )

type Client = Effect.Success<ReturnType<typeof client>>

interface Held {
  readonly entryKey: string
  readonly fencingToken: bigint
  readonly assertHeld: Effect.Effect<void, { readonly why: string }>
}

interface Recipe {
  readonly take: (client: Client) => Effect.Effect<Held, { readonly _tag: string }, Scope.Scope>
  /** Who is in the way for a while, if anybody waits at all. */
  readonly block?: (client: Client) => Effect.Effect<unknown, unknown, Scope.Scope>
}

const ttl = "3 seconds"
const options = { ttl } as const

const recipes: Record<string, Recipe> = {
  Lock: {
    take: ({ lock }) => lock.acquire("job", options),
    block: ({ lock }) => lock.acquire("job")
  },
  Election: {
    take: ({ election }) =>
      Effect.map(election.campaign("job", "one", options), (held) => ({ ...held, assertHeld: held.assertLeading })),
    block: ({ election }) => election.campaign("job", "other")
  },
  InstanceId: {
    take: ({ ids }) => ids.acquire("job", { ...options, max: 3 })
  },
  Semaphore: {
    take: ({ semaphore }) => semaphore.acquire("job", { ...options, permits: 1 }),
    block: ({ semaphore }) => semaphore.acquire("job", { permits: 1 })
  },
  "a writer of ReadWriteLock": {
    take: ({ rw }) => rw.writeLock("job", options),
    block: ({ rw }) => rw.readLock("job")
  },
  "a reader of ReadWriteLock": {
    take: ({ rw }) => rw.readLock("job", options),
    block: ({ rw }) => rw.writeLock("job")
  }
}

/** Longer than the lease lives, and shorter than the patience of a claim. */
const cutOff = Duration.toNanosUnsafe("6 seconds")

const makeScenario = Effect.fnUntraced(function*(recipe: Recipe) {
  const world = yield* makeWorld
  const clock = yield* Clock.Clock
  const [one, other] = yield* Effect.all([client(world), client(world)])
  const blocking = yield* Scope.fork(yield* Effect.scope)
  if (recipe.block !== undefined) yield* Scope.provide(recipe.block(other), blocking)
  const others = new Set(world.store.snapshot().leases.keys())
  let cutAt: bigint | undefined
  yield* one.link.setFate(() =>
    cutAt === undefined || clock.monotonicTimeNanosUnsafe() > cutAt + cutOff ? {} : { request: "lost" }
  )
  const scenario = {
    world,
    one,
    other,
    unblock: Scope.close(blocking, Exit.void),
    /** Of a loss from then on, by somebody's hand, nobody knows in time. */
    tooLate: false,
    lost: false
  }
  const loss = {
    revoked: () => {
      for (const id of world.store.snapshot().leases.keys()) {
        if (others.has(id)) continue
        world.store.leaseRevoke(id)
        scenario.lost = true
      }
    },
    "cut off": () => {
      cutAt = clock.monotonicTimeNanosUnsafe()
      scenario.lost = true
    }
  }
  return Object.assign(scenario, { loss })
})

type Scenario = Effect.Success<ReturnType<typeof makeScenario>>

/** Takes it, holds it for a while, and looks whether it is what it believes to be. */
const takeAndHold = (recipe: Recipe, scenario: Scenario, hold: Duration.Input) =>
  Effect.scoped(Effect.gen(function*() {
    if (recipe.block !== undefined) yield* Effect.forkScoped(Effect.delay(scenario.unblock, "300 millis"))
    const held = yield* recipe.take(scenario.one)
    yield* Effect.sleep("300 millis")
    const judged = !scenario.lost
    scenario.tooLate = true
    yield* Effect.sleep(hold)
    const believes = yield* Effect.exit(held.assertHeld)
    // No other fiber in between: the store answers at once.
    const found = Result.getOrThrow(scenario.world.store.range({ key: held.entryKey })).kvs[0]
    return { judged, believes, isThere: found?.createRevision === held.fencingToken }
  }))

for (const [name, recipe] of Object.entries(recipes)) {
  describe(`${name}, at any step`, () => {
    for (const how of ["revoked", "cut off"] as const) {
      it.effect(
        `${how}: it is taken all the same or fails as etcd does, nobody believes to hold what he does not, and nothing stays`,
        () =>
          Effect.gen(function*() {
            const ends = { believed: 0, lost: 0, failed: 0 }
            const steps = yield* actAtEveryStep({
              setup: makeScenario(recipe),
              act: ({ loss }) => loss[how](),
              // A third of the TTL and a round trip, in which a loss by somebody's hand is noticed; or the whole TTL.
              run: (scenario) => takeAndHold(recipe, scenario, how === "revoked" ? "1500 millis" : "4 seconds"),
              tick: "300 millis",
              check: (scenario, exit, step) =>
                Effect.gen(function*() {
                  const at = `step ${step}`
                  const { lost, other, unblock, world } = scenario
                  if (Exit.isFailure(exit)) {
                    ends.failed++
                    // Only before it stands in line, and only while etcd does not answer.
                    assert.strictEqual(how, "cut off", at)
                    assert.strictEqual(failure(exit)?._tag, "EtcdError", at)
                  } else {
                    const { believes, isThere, judged } = exit.value
                    if (Exit.isSuccess(believes)) {
                      ends.believed++
                      if (how === "cut off" || !judged || !lost) assert.isTrue(isThere, at)
                    } else {
                      ends.lost++
                      assert.isTrue(lost, at)
                      assert.include(["Revoked", "Deleted", "Expired"], failure(believes)?.why, at)
                    }
                  }
                  yield* unblock
                  yield* TestClock.adjust("20 seconds")
                  assert.deepStrictEqual(yield* world.keys, [], at)
                  yield* Effect.scoped(within("1 second", recipe.take(other)))
                })
            })
            assert.isAbove(steps, 100)
            assert.isAbove(ends.lost, 0)
            assert.isAbove(ends.believed, 0)
          }),
        240_000
      )
    }
  })
}
