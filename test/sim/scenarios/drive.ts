/** The course of every run: clients start, act at their times under faults, and have time to recover when these are over. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import type { InvalidOption } from "../../../src/Errors.ts"
import type { Etcd } from "../../../src/Etcd.ts"
import type { FaultName, Plan } from "../plan.ts"
import { millis } from "../Timeline.ts"
import type { Watcher } from "../WatchJudge.ts"
import { type Client, describe, type World } from "../World.ts"

export interface Part<Action, Services> {
  readonly layer: Layer.Layer<Services, InvalidOption, Etcd>
  /** When the last action begins, in milliseconds. */
  readonly length: number
  readonly run: (client: Client<Services>, action: Action, number: number) => Effect.Effect<unknown, unknown>
  readonly ended: (action: Action, number: number, exit: Exit.Exit<unknown, unknown>) => void
}

export interface Course<Services> {
  readonly clients: ReadonlyArray<Client<Services>>
  /** Begun, not ended, and in no process that has crashed. */
  readonly open: () => ReadonlyArray<number>
  /** Whether any is, of those that `which` says. Asked after every task. */
  readonly isOpen: (which?: (number: number) => boolean) => boolean
  /** Interrupts one that is open. */
  readonly stop: (number: number) => void
  /** Lets time pass, in milliseconds. */
  readonly wait: (length: number, enough?: () => boolean) => void
}

/** Until all faults are over, and all has begun. */
export const drive = <Action extends { readonly client: number; readonly at: number }, Services>(
  world: World,
  plan: Plan<Action>,
  part: Part<Action, Services>
): Course<Services> => {
  const clients: Array<Client<Services>> = []
  const open = new Map<number, { readonly client: number; fiber: Fiber.Fiber<unknown, unknown> | undefined }>()
  let pending = plan.actions.length
  for (let index = 0; index < plan.clients; index++) {
    world.client(index, part.layer, (client) => {
      clients[index] = client
    })
  }
  const wait = (length: number, enough: () => boolean = () => false) =>
    world.timeline.run(world.now + length * millis, enough)
  const begin = (action: Action, number: number): void => {
    const client = clients[action.client]
    if (client === undefined) {
      // Its process stood still since its beginning.
      if (!world.isCrashed(action.client)) world.timeline.after(100 * millis, () => begin(action, number))
      else pending--
      return
    }
    pending--
    if (client.process.crashed) return
    const entry = { client: action.client, fiber: undefined as Fiber.Fiber<unknown, unknown> | undefined }
    open.set(number, entry)
    client.process.fork(part.run(client, action, number), {
      onStart: (fiber) => {
        entry.fiber = fiber
      },
      onExit: (exit) => {
        open.delete(number)
        part.ended(action, number, exit)
      }
    })
  }
  plan.actions.forEach((action, number) => world.timeline.at(action.at * millis, () => begin(action, number)))
  let healed = part.length
  for (const fault of plan.faults) healed = Math.max(healed, fault.at + ("for" in fault ? fault.for : 0))
  world.timeline.calmFrom = healed * millis
  wait(healed)
  wait(10_000, () => pending === 0)
  if (pending > 0) world.violate("clients start", `${pending} actions have not begun`)
  return {
    clients: clients.filter((client) => client !== undefined),
    open: () => [...open].flatMap(([number, { client }]) => world.isCrashed(client) ? [] : [number]),
    isOpen: (which) => {
      for (const [number, { client }] of open) {
        if (!world.isCrashed(client) && which?.(number) !== false) return true
      }
      return false
    },
    stop: (number) => {
      const entry = open.get(number)
      if (entry !== undefined) clients[entry.client]?.process.post(() => entry.fiber?.interruptUnsafe())
    },
    wait
  }
}

export const hasFault = (plan: Plan<unknown>, ...names: ReadonlyArray<FaultName>): boolean =>
  plan.faults.some(({ fault }) => names.includes(fault))

/** An older state was restored, once: of several, the later ones can hide what the first one has undone. */
export const isRestoredOnce = (plan: Plan<unknown>): boolean =>
  plan.faults.filter(({ fault }) => fault === "restore").length === 1

/** Nothing goes wrong: what fails here fails without any excuse. */
export const isCalm = (plan: Plan<unknown>): boolean => plan.faults.length === 0 && plan.manners.stalls === 0

/** The tag of the error that it ended with, with that of its reason. */
export const tagOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (exit._tag === "Success") return "done"
  const failed = exit.cause.reasons.find((reason) => reason._tag === "Fail")
  const error = failed?._tag === "Fail" ? failed.error : undefined
  if (typeof error === "object" && error !== null && "_tag" in error) {
    const reason = "reason" in error && typeof error.reason === "object" && error.reason !== null ? error.reason : {}
    return "_tag" in reason ? `${String(error._tag)} ${String(reason._tag)}` : String(error._tag)
  }
  return describe(exit).split("\n")[0] ?? ""
}

/** What etcd that does not answer is allowed to cause. */
export const outages = ["EtcdError Unavailable", "EtcdError Timeout", "EtcdError Ambiguous"]

/** What has told nothing yet may fail in an outage, and is opened again; nothing that follows does. */
export const untilSynced = (watcher: Watcher) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.retry(effect, {
    schedule: Schedule.spaced("200 millis"),
    while: (error) => watcher.told.length === 0 && outages.includes(tagOf(Exit.fail(error)))
  })
