/**
 * What a seed decides before a run: what the clients do, and what befalls them. It is data, so that a failure can be made
 * small by leaving parts of it out.
 */
import type { Random } from "./random.ts"
import type { Manners } from "./Timeline.ts"

/** Times and lengths in milliseconds; `client` is an index. */
export type Fault =
  & { readonly at: number }
  & (
    | { readonly fault: "partition" | "refuse" | "pause" | "suspend"; readonly client: number; readonly for: number }
    | { readonly fault: "lose"; readonly client: number; readonly for: number; readonly way: "request" | "response" }
    | { readonly fault: "slow"; readonly client: number; readonly for: number; readonly slowest: number }
    /** Answers come slower and slower, then none. */
    | { readonly fault: "degrade"; readonly client: number; readonly for: number }
    /** Cut again and again. */
    | { readonly fault: "flap"; readonly client: number; readonly for: number; readonly every: number }
    /** Requests are applied after their sender has given up. */
    | { readonly fault: "late"; readonly client: number; readonly for: number }
    | { readonly fault: "cut" | "crash" | "expireToken"; readonly client: number }
    | { readonly fault: "freeze"; readonly for: number }
    | { readonly fault: "restart" }
    | { readonly fault: "compact"; readonly keep: number }
    /** Of the leases, or keys, that there are then. */
    | { readonly fault: "revoke" | "delete"; readonly index: number }
    /** Goes back to what was at `since`. */
    | { readonly fault: "restore"; readonly since: number }
  )

export type FaultName = Fault["fault"]

export interface Plan<Action> {
  readonly clients: number
  /** Of the clients, then of the server. */
  readonly rates: ReadonlyArray<number>
  readonly manners: Manners
  readonly faults: ReadonlyArray<Fault>
  readonly actions: ReadonlyArray<Action>
}

/** The bound on how much the clocks of two machines may differ in rate: the margin of a lease is a fiftieth. */
export const clockBound = 0.009

export const planRates = (random: Random, count: number): ReadonlyArray<number> => {
  const differ = random.chance(0.5)
  return Array.from({ length: count }, () => differ ? 1 + (random.next() * 2 - 1) * clockBound : 1)
}

export const planManners = (random: Random): Manners => ({
  shuffled: random.chance(0.5),
  yields: random.chance(0.4) ? random.pick([0.3, 0.1, 0.02]) : 0,
  stalls: random.chance(0.4) ? random.pick([0.1, 0.02, 0.005]) : 0,
  longestStall: random.pick([5, 50, 500, 4000])
})

export interface FaultOptions {
  readonly clients: number
  /** Faults begin before this. */
  readonly until: number
  readonly most: number
  readonly kinds: ReadonlyArray<FaultName>
}

export const planFaults = (random: Random, options: FaultOptions): ReadonlyArray<Fault> => {
  const faults: Array<Fault> = []
  // One in five runs is calm: what fails there fails without any excuse.
  if (random.chance(0.2)) return faults
  const count = 1 + random.below(options.most)
  // Half of the runs are about a few kinds of faults: all of them at once hide what one of them does, and excuse too much.
  const { kinds: all } = options
  const kinds = random.chance(0.5) ? all : [0, 1].flatMap(() => all[random.below(all.length)] ?? [])
  for (let index = 0; index < count; index++) {
    const kind = kinds[random.below(kinds.length)]
    if (kind !== undefined) faults.push(planFault(random, kind, options))
  }
  return faults.sort((a, b) => a.at - b.at)
}

const planFault = (random: Random, fault: FaultName, { clients, until }: FaultOptions): Fault => {
  const at = random.between(0, until)
  const client = random.below(clients)
  const length = random.pick([random.between(20, 200), random.between(200, 2000), random.between(2000, 7000)])
  switch (fault) {
    case "partition":
    case "refuse":
    case "pause":
    case "suspend":
    case "late":
      return { at, fault, client, for: length }
    case "degrade":
      return { at, fault, client, for: random.between(3000, 7000) }
    case "lose":
      return { at, fault, client, for: length, way: random.pick(["request", "response"]) }
    case "slow":
      return { at, fault, client, for: length, slowest: random.pick([50, 500, 1500, 3000]) }
    case "flap":
      return { at, fault, client, for: length, every: random.pick([5, 20, 100]) }
    case "cut":
    case "crash":
    case "expireToken":
      return { at, fault, client }
    case "freeze":
      return { at, fault, for: length }
    case "restart":
      return { at, fault }
    case "compact":
      return { at, fault, keep: random.pick([0, 0, 1, 5]) }
    case "revoke":
    case "delete":
      return { at, fault, index: random.below(1000) }
    case "restore":
      return { at, fault, since: random.between(0, at + 1) }
  }
}
