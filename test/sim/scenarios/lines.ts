/**
 * Fibers of several processes use a semaphore and a read-write lock, in every way that there is.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { Operation, type TxnRequest } from "../../../src/Etcd.ts"
import { ReadWriteLock } from "../../../src/ReadWriteLock.ts"
import { Semaphore } from "../../../src/Semaphore.ts"
import { type Plan, planFaults, planManners, planRates } from "../plan.ts"
import type { Scenario } from "../Scenario.ts"
import type { Client, World } from "../World.ts"
import { drive } from "./drive.ts"
import { LineJudge, permits } from "./LineJudge.ts"

/** Times in milliseconds. */
export interface LineAction {
  readonly client: number
  readonly at: number
  readonly key: string
  readonly mode: "semaphore" | "read" | "write"
  readonly how: "with" | "acquire" | "try"
  /** Seconds. */
  readonly ttl: number
  readonly steps: number
  readonly pace: number
  /** Gives up waiting after this. */
  readonly patience?: number | undefined
  readonly fenced: boolean
}

const length = 6000

const mixes: readonly [Modes, Modes, Modes, Modes] = [
  ["semaphore"],
  ["read", "write"],
  ["read", "read", "write"],
  ["semaphore", "read", "write"]
]

type Modes = readonly [LineAction["mode"], ...Array<LineAction["mode"]>]

const plan: Scenario<LineAction>["plan"] = (random): Plan<LineAction> => {
  const clients = random.between(2, 4)
  const ttl = random.pick([2, 2, 3, 6])
  const modes = random.pick(mixes)
  const actions = Array.from({ length: random.between(4, 9) }, (): LineAction => {
    const pace = random.pick([50, 50, 300, 1000])
    return {
      client: random.below(clients),
      at: random.between(0, length - 2000),
      key: "k",
      mode: random.pick(modes),
      how: random.pick(["with", "with", "acquire", "try"]),
      ttl,
      steps: random.between(0, pace === 50 ? 60 : 5),
      pace,
      patience: random.chance(0.2) ? random.between(1, 4000) : undefined,
      fenced: random.chance(0.3)
    }
  })
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
        "slow",
        "degrade",
        "degrade",
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

const play = (world: World, plan: Plan<LineAction>): void => {
  const judge = new LineJudge(world, plan)
  const course = drive<LineAction, Semaphore | ReadWriteLock>(world, plan, {
    layer: Layer.merge(Semaphore.layer(), ReadWriteLock.layer()),
    length,
    run: (client, action, number) => attempt(judge, client, action, number),
    ended: (action, number, exit) => judge.ended(action, number, exit)
  })
  course.wait(patience, () => !course.isOpen())
  judge.afterAll(course.open())
  const ttl = Math.max(2, ...plan.actions.map((action) => action.ttl))
  course.wait((ttl * 1000 + 3000) * 1.02)
  judge.orphans()
  for (const number of course.open()) course.stop(number)
  course.wait(5000, () => !course.isOpen())
  world.finish(course.clients)
}

/** What both kinds of handles have. */
interface Held {
  readonly fencingToken: bigint
  readonly lost: Effect.Effect<never, unknown>
  readonly assertHeld: Effect.Effect<void, unknown>
  readonly guard: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, unknown>
  readonly fenced: (txn: TxnRequest) => Effect.Effect<unknown, unknown>
  readonly release: Effect.Effect<void, unknown>
}

const takerOf = (
  { services }: Client<Semaphore | ReadWriteLock>,
  { how, key, mode, ttl }: LineAction,
  label: string
): Effect.Effect<Held, unknown, Scope.Scope> => {
  const options = { ttl: `${ttl} seconds`, label } as const
  if (mode === "semaphore") {
    const semaphore = Context.get(services, Semaphore)
    return how === "try"
      ? semaphore.tryAcquire(key, { permits, ...options })
      : semaphore.acquire(key, { permits, ...options })
  }
  const lock = Context.get(services, ReadWriteLock)
  if (mode === "read") return how === "try" ? lock.tryReadLock(key, options) : lock.readLock(key, options)
  return how === "try" ? lock.tryWriteLock(key, options) : lock.writeLock(key, options)
}

const attempt = (
  judge: LineJudge,
  client: Client<Semaphore | ReadWriteLock>,
  action: LineAction,
  number: number
) => {
  judge.asks(action, number)
  const body = (held: Held, checked: Effect.Effect<void, unknown>) =>
    Effect.gen(function*() {
      const lost = yield* Effect.forkChild(
        Effect.catch(held.lost, () => Effect.sync(() => judge.lossKnown(action, number, held.fencingToken)))
      )
      for (let step = 0; step < action.steps; step++) {
        yield* checked
        judge.step(action, number, held.fencingToken)
        if (action.pace > 0) yield* Effect.sleep(action.pace)
      }
      if (action.fenced) {
        const exit = yield* Effect.exit(held.fenced({
          success: [Operation.put(`/data/${action.key}`, judge.id(action, held.fencingToken))]
        }))
        judge.fenced(action, number, held.fencingToken, exit)
      }
      yield* Fiber.interrupt(lost)
    })
  return Effect.scopedWith(Effect.fnUntraced(function*(scope) {
    const taking = Scope.provide(takerOf(client, action, `${client.process.name}.${number}`), scope)
    const taken = action.patience === undefined
      ? Option.some(yield* taking)
      : yield* Effect.timeoutOption(taking, action.patience)
    if (Option.isNone(taken)) return
    const held = taken.value
    const use = action.how === "with"
      ? held.guard(body(held, Effect.void))
      : body(held, held.assertHeld)
    yield* Effect.suspend(() => {
      judge.enters(action, number, held.fencingToken)
      return use
    }).pipe(Effect.ensuring(Effect.sync(() => judge.leaves(action, number, held.fencingToken))))
    if (number % 2 === 0) yield* held.release
  }))
}

export const lines: Scenario<LineAction> = { name: "lines", plan, play }
