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
import { millis } from "../Timeline.ts"
import type { Client, World } from "../World.ts"
import { LockJudge } from "./LockJudge.ts"

/** Times in milliseconds. */
export interface LockAction {
  readonly client: number
  readonly at: number
  readonly key: string
  readonly how: "withLock" | "acquire" | "try"
  /** Seconds. */
  readonly ttl: number
  readonly steps: number
  readonly pace: number
  /** Gives up waiting after this. */
  readonly patience?: number | undefined
  readonly fenced: boolean
}

const length = 8000

const plan: Scenario<LockAction>["plan"] = (random): Plan<LockAction> => {
  const clients = random.between(2, 5)
  const ttl = random.pick([2, 3, 5])
  const keys = random.between(1, 3)
  const actions = Array.from({ length: random.between(4, 11) }, (): LockAction => ({
    client: random.below(clients),
    at: random.between(0, length),
    key: `k${random.below(keys)}`,
    how: random.pick(["withLock", "withLock", "acquire", "try"]),
    ttl,
    steps: random.between(0, 5),
    pace: random.pick([0, 20, 300, 1200]),
    patience: random.chance(0.2) ? random.between(1, 4000) : undefined,
    fenced: random.chance(0.4)
  }))
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
        "refuse",
        "pause",
        "suspend",
        "lose",
        "lose",
        "slow",
        "late",
        "cut",
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
  const clients: Array<Client<Lock>> = []
  let open = 0
  const start = (action: LockAction, number: number): void => {
    const client = clients[action.client]
    if (client === undefined || client.process.crashed) return
    open++
    client.process.fork(attempt(judge, client, action, number), (fiber) => {
      open--
      judge.ended(action, number, fiber.pollUnsafe())
    })
  }
  for (let index = 0; index < plan.clients; index++) {
    world.client(index, Lock.layer(), (client) => {
      clients[index] = client
    })
  }
  let healed = length
  for (const fault of plan.faults) healed = Math.max(healed, fault.at + ("for" in fault ? fault.for : 0))
  world.timeline.calmFrom = healed * millis
  let pending = plan.actions.length
  plan.actions.forEach((action, number) =>
    world.timeline.at(action.at * millis, () => {
      pending--
      start(action, number)
    })
  )
  world.timeline.run(healed * millis, () => false)
  const crashed = (client: number) => world.isCrashed(client)
  world.timeline.run(world.now + patience * millis, () => pending === 0 && open - judge.abandoned(crashed) <= 0)
  judge.afterAll(crashed)
  const ttl = Math.max(2, ...plan.actions.map((action) => action.ttl))
  world.timeline.run(world.now + (ttl * 1000 + 3000) * 1.02 * millis, () => false)
  judge.orphans(crashed)
  world.finish(clients.filter((client) => client !== undefined))
}

const attempt = (judge: LockJudge, client: Client<Lock>, action: LockAction, number: number) => {
  const lock = Context.get(client.services, Lock)
  const options = { ttl: `${action.ttl} seconds`, label: `${client.process.name}.${number}` } as const
  judge.asks(action, number)

  const body = (handle: LockHandle, checked: Effect.Effect<void, unknown>) =>
    Effect.gen(function*() {
      const lost = yield* Effect.forkChild(
        Effect.catch(handle.lost, () => Effect.sync(() => judge.lossKnown(action, handle.fencingToken)))
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
      judge.enters(action, number, handle.fencingToken)
      return use
    }).pipe(Effect.ensuring(Effect.sync(() => judge.leaves(action, number, handle.fencingToken))))

  switch (action.how) {
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
