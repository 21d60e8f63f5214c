/** Clients lead, hold numbers and write several values at once, while others observe. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { ConfigCenter } from "../../../src/ConfigCenter.ts"
import { ConfigChange } from "../../../src/ConfigChange.ts"
import { Election, type Leadership } from "../../../src/Election.ts"
import { Operation } from "../../../src/Etcd.ts"
import { InstanceId } from "../../../src/InstanceId.ts"
import { type Plan, planFaults, planManners, planRates } from "../plan.ts"
import type { Scenario } from "../Scenario.ts"
import type { Client, World } from "../World.ts"
import { drive, outages, tagOf } from "./drive.ts"
import { LockJudge } from "./LockJudge.ts"
import { maxIds, RolesJudge, txKeys } from "./RolesJudge.ts"

/** Times in milliseconds. */
export interface RoleAction {
  readonly client: number
  readonly at: number
  readonly how: "campaign" | "whileLeader" | "observe" | "id" | "transact" | "entries"
  /** Of an election. */
  readonly key: string
  /** Seconds. */
  readonly ttl: number
  readonly steps: number
  readonly pace: number
  /** Gives up waiting after this. */
  readonly patience?: number | undefined
}

type Services = Election | InstanceId | ConfigCenter

const length = 6000
const plan: Scenario<RoleAction>["plan"] = (random): Plan<RoleAction> => {
  const clients = random.between(2, 4)
  const ttl = random.pick([2, 2, 3, 5])
  const keys = random.pick([1, 1, 2])
  const action = (how: RoleAction["how"]): RoleAction => {
    const pace = random.pick([0, 50, 300, 1000])
    return {
      client: random.below(clients),
      at: random.between(0, length - 1000),
      how,
      key: `e${random.below(keys)}`,
      ttl,
      steps: random.between(1, pace === 50 ? 40 : 6),
      pace,
      patience: random.chance(0.15) ? random.between(1, 4000) : undefined
    }
  }
  const some = (least: number, most: number, ...hows: readonly [RoleAction["how"], ...Array<RoleAction["how"]>]) =>
    Array.from({ length: random.between(least, most + 1) }, () => action(random.pick(hows)))
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
    actions: [
      ...some(1, 4, "campaign", "whileLeader"),
      ...some(0, 2, "observe"),
      ...some(2, 6, "id"),
      ...some(0, 3, "transact", "transact", "entries")
    ].sort((a, b) => a.at - b.at)
  }
}

const play = (world: World, plan: Plan<RoleAction>): void => {
  const leaders = new LockJudge(world, plan, "/elections/")
  const judge = new RolesJudge(world, plan)
  let closing = false
  const course = drive<RoleAction, Services>(world, plan, {
    layer: Layer.mergeAll(Election.layer(), InstanceId.layer(), ConfigCenter.layer()),
    length,
    run: (client, action, number) => {
      switch (action.how) {
        case "campaign":
        case "whileLeader":
          return lead(leaders, client, action, number)
        case "observe":
          return observe(judge, client, action, number)
        case "id":
          return hold(judge, client, action, number)
        case "transact":
        case "entries":
          return values(judge, client, action, number)
      }
    },
    ended: (action, number, exit) => {
      const tag = tagOf(exit)
      const name = `c${action.client}.${number}`
      world.record(name, "ends", tag)
      if (closing && ["EtcdError Closed", "done", "interrupted"].includes(tag)) return
      judge.mustBeAllowed(action, name, exit)
    }
  })
  const isWaiting = (number: number) => plan.actions[number]?.how !== "observe"
  course.wait(60_000, () => !course.isOpen(isWaiting))
  leaders.afterAll(course.open().filter(isWaiting))
  const ttl = Math.max(2, ...plan.actions.map((action) => action.ttl))
  course.wait((ttl * 1000 + 5000) * 1.02)
  leaders.orphans()
  judge.end()
  closing = true
  world.finish(course.clients)
}

/** Leads for a few steps, says each time something else, and commits what only a leader may. */
const lead = (judge: LockJudge, { process, services }: Client<Services>, action: RoleAction, number: number) => {
  const election = Context.get(services, Election)
  const options = { ttl: `${action.ttl} seconds` } as const
  let terms = 0
  judge.asks(action, number)
  const body = (leadership: Leadership, checked: Effect.Effect<void, unknown>) => {
    const { fencingToken: token } = leadership
    // Each term is another attempt.
    const term = number + 100 * terms++
    return Effect.gen(function*() {
      judge.enters(action, term, leadership)
      const lost = yield* Effect.forkChild(
        Effect.catch(leadership.lost, () => Effect.sync(() => judge.lossKnown(action, term, token)))
      )
      for (let step = 0; step < action.steps; step++) {
        yield* checked
        judge.step(action, term, token)
        if (step % 3 === 1) yield* Effect.exit(leadership.proclaim(`${term}.${step}`))
        if (action.pace > 0) yield* Effect.sleep(action.pace)
      }
      const data = Operation.put(`/data/${action.key}`, String(token))
      judge.fenced(action, term, token, yield* Effect.exit(leadership.fenced({ success: [data] })))
      yield* Fiber.interrupt(lost)
    }).pipe(Effect.ensuring(Effect.sync(() => judge.leaves(action, term, leadership))))
  }
  const value = `${process.name}.${number}`
  if (action.how === "whileLeader") {
    const led = election.whileLeader(action.key, value, options)((leadership) => body(leadership, Effect.void))
    return action.patience === undefined ? led : Effect.asVoid(Effect.timeoutOption(led, action.patience))
  }
  return Effect.scopedWith(Effect.fnUntraced(function*(scope) {
    const won = Scope.provide(election.campaign(action.key, value, options), scope)
    const leadership = action.patience === undefined
      ? Option.some(yield* won)
      : yield* Effect.timeoutOption(won, action.patience)
    if (Option.isNone(leadership)) return
    yield* body(leadership.value, leadership.value.assertLeading)
    if (number % 2 === 0) yield* leadership.value.resign
  }))
}

const observe = (judge: RolesJudge, { process, services }: Client<Services>, action: RoleAction, number: number) => {
  const told = judge.observer(action, `${process.name}.${number}`)
  return Stream.runForEach(
    Context.get(services, Election).observe(action.key),
    (leader) =>
      Effect.sync(() =>
        told.tell(Option.match(leader, {
          onNone: () => undefined,
          onSome: ({ entryKey: key, fencingToken: token, value }) => ({ key, token, value })
        }))
      )
  ).pipe(
    Effect.retry({
      schedule: Schedule.spaced("200 millis"),
      while: (error) => told.isEmpty && outages.includes(tagOf(Exit.fail(error)))
    })
  )
}

/** Holds the smallest free number for a while. */
const hold = (judge: RolesJudge, { process, services }: Client<Services>, action: RoleAction, number: number) => {
  const ids = Context.get(services, InstanceId)
  const name = `${process.name}.${number}`
  return Effect.scopedWith(Effect.fnUntraced(function*(scope) {
    const asked = judge.now
    const taken = Scope.provide(ids.acquire("svc", { max: maxIds, ttl: `${action.ttl} seconds` }), scope)
    const handle = yield* Effect.tapError(
      taken,
      (error) => Effect.sync(() => error._tag === "IdsExhausted" && judge.exhausted(name, asked))
    )
    const { fencingToken: token, id } = handle
    judge.takes(action, name, id, token)
    for (let step = 0; step < action.steps; step++) {
      yield* handle.assertHeld
      judge.uses(action, name, id, token)
      if (action.pace > 0) yield* Effect.sleep(action.pace)
    }
    if (number % 2 === 0) yield* handle.release
  }))
}

/** Several values at once, always the same one in all of them; or a look at them. */
const values = (judge: RolesJudge, { process, services }: Client<Services>, action: RoleAction, number: number) => {
  const config = Context.get(services, ConfigCenter)
  const name = `${process.name}.${number}`
  const look = Effect.tap(config.entries("tx", Schema.Int), (found) => Effect.sync(() => judge.sees(name, found)))
  const write = Effect.fnUntraced(function*(value: number) {
    const found = yield* look
    const [first] = found
    const expected = (yield* Random.nextBoolean) ? first?.version ?? 0n : undefined
    const changes = value % 5 === 4
      ? txKeys.map((key) => ConfigChange.delete(key))
      : txKeys.map((key, index) =>
        ConfigChange.set(key, Schema.Int, value, { expected: index === 1 ? expected : undefined })
      )
    return yield* Effect.onExit(
      config.transact(changes),
      (exit) => Effect.sync(() => judge.transacted(name, value, exit))
    )
  })
  const once = (round: number): Effect.Effect<unknown, unknown> =>
    action.how === "entries" ? look : write(number * 100 + round)
  return Effect.gen(function*() {
    for (let round = 0; round < action.steps; round++) {
      const exit = yield* Effect.exit(once(round))
      judge.mustBeAllowed(action, name, exit)
      if (action.pace > 0) yield* Effect.sleep(action.pace)
    }
  })
}

export const roles: Scenario<RoleAction> = { name: "roles", plan, play }
