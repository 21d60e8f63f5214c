/**
 * Fibers of several processes take a few locks, in every way that there is, and write to a resource while they hold them.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { Operation } from "../../../src/Etcd.ts"
import { Lock, type LockHandle } from "../../../src/Lock.ts"
import { type Plan, planFaults, planManners, planRates } from "../plan.ts"
import type { Scenario } from "../Scenario.ts"
import type { Client, World } from "../World.ts"
import { drive } from "./drive.ts"
import { LockJudge } from "./LockJudge.ts"

/** Times in milliseconds. */
export interface LockAction {
  readonly client: number
  readonly at: number
  readonly key: string
  /** `keep`: a lock of its own, for the whole run, so that the lease goes on. */
  readonly how: "withLock" | "acquire" | "try" | "keep"
  /** Seconds. */
  readonly ttl: number
  readonly steps: number
  readonly pace: number
  /** Gives up waiting after this. */
  readonly patience?: number | undefined
  readonly fenced: boolean
}

const length = 6000

const plan: Scenario<LockAction>["plan"] = (random): Plan<LockAction> => {
  const clients = random.between(2, 4)
  const ttl = random.pick([2, 2, 3, 6])
  const keys = random.pick([1, 1, 2])
  const keepers = random.chance(0.3)
  const actions = Array.from({ length: random.between(3, 8) }, (): LockAction => {
    const pace = random.pick([0, 50, 50, 300, 1000])
    return {
      client: random.below(clients),
      at: random.between(0, length - 2000),
      key: `k${random.below(keys)}`,
      how: random.pick(["withLock", "withLock", "acquire", "try"]),
      ttl,
      steps: random.between(0, pace === 50 ? 90 : 6),
      pace,
      patience: random.chance(0.2) ? random.between(1, 4000) : undefined,
      fenced: random.chance(0.4)
    }
  })
  if (keepers) {
    const rest = { how: "keep", ttl, steps: 0, pace: 0, fenced: false } as const
    for (let client = 0; client < clients; client++) actions.push({ client, at: 0, key: `keep${client}`, ...rest })
  }
  return {
    clients,
    rates: planRates(random, clients + 1),
    manners: planManners(random),
    faults: planFaults(random, {
      clients,
      until: length,
      most: 5,
      kinds: [
        "partition",
        "partition",
        "refuse",
        "pause",
        "suspend",
        "lose",
        "lose",
        "slow",
        "slow",
        "degrade",
        "degrade",
        "degrade",
        "degrade",
        "late",
        "late",
        "cut",
        "flap",
        "crash",
        "expireToken",
        "freeze",
        "restart",
        "compact",
        "revoke",
        "delete",
        "restore"
      ]
    }),
    actions: actions.sort((a, b) => a.at - b.at)
  }
}

/** What is left to do when all faults are over. */
const patience = 60_000

const play = (world: World, plan: Plan<LockAction>): void => {
  const judge = new LockJudge(world, plan)
  const course = drive<LockAction, Lock>(world, plan, {
    layer: world.options.variant?.lock ?? Lock.layer(),
    length,
    run: (client, action, number) => attempt(judge, client, action, number),
    ended: (action, number, exit) => judge.ended(action, number, exit)
  })
  const isWaiting = (number: number) => plan.actions[number]?.how !== "keep"
  course.wait(patience, () => !course.isOpen(isWaiting))
  judge.afterAll(course.open().filter(isWaiting))
  const ttl = Math.max(2, ...plan.actions.map((action) => action.ttl))
  course.wait((ttl * 1000 + 3000) * 1.02)
  judge.orphans()
  for (const number of course.open()) course.stop(number)
  course.wait(5000, () => !course.isOpen())
  world.finish(course.clients)
}

const attempt = (judge: LockJudge, client: Client<Lock>, action: LockAction, number: number) => {
  const lock = Context.get(client.services, Lock)
  const options = { ttl: `${action.ttl} seconds`, label: `${client.process.name}.${number}` } as const
  judge.asks(action, number)

  const body = (handle: LockHandle, checked: Effect.Effect<void, unknown>) =>
    Effect.gen(function*() {
      const lost = yield* Effect.forkChild(
        Effect.catch(handle.lost, () => Effect.sync(() => judge.lossKnown(action, number, handle.fencingToken)))
      )
      for (let step = 0; step < action.steps; step++) {
        yield* checked
        judge.step(action, number, handle.fencingToken)
        if (action.pace > 0) yield* Effect.sleep(action.pace)
      }
      if (action.fenced) {
        const exit = yield* Effect.exit(handle.fenced({
          success: [Operation.put(`/data/${action.key}`, String(handle.fencingToken))]
        }))
        judge.fenced(action, number, handle.fencingToken, exit)
      }
      yield* Fiber.interrupt(lost)
    })

  const holding = <A, E>(handle: LockHandle, use: Effect.Effect<A, E>) =>
    Effect.suspend(() => {
      judge.enters(action, number, handle)
      return use
    }).pipe(Effect.ensuring(Effect.sync(() => judge.leaves(action, number, handle))))

  switch (action.how) {
    case "keep":
      return lock.withLock(action.key, options)(Effect.never).pipe(
        Effect.catch(() => Effect.sleep("100 millis")),
        Effect.forever
      )
    case "withLock": {
      const guarded = lock.withLock(action.key, options)((handle) => holding(handle, body(handle, Effect.void)))
      return action.patience === undefined ? guarded : Effect.asVoid(Effect.timeoutOption(guarded, action.patience))
    }
    case "acquire":
    case "try": {
      return Effect.scopedWith(Effect.fnUntraced(function*(scope) {
        const taken = Scope.provide(
          action.how === "try" ? lock.tryAcquire(action.key, options) : lock.acquire(action.key, options),
          scope
        )
        const handle = action.patience === undefined
          ? Option.some(yield* taken)
          : yield* Effect.timeoutOption(taken, action.patience)
        if (Option.isNone(handle)) return
        yield* holding(handle.value, body(handle.value, handle.value.assertHeld))
        if (number % 2 === 0) yield* handle.value.unlock
      }))
    }
  }
}

export const locks: Scenario<LockAction> = { name: "locks", plan, play }
