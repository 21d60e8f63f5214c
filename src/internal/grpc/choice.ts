/**
 * Which of the connected instances serves a call: one small function for each kind of load balancing.
 */
import type { experimental } from "@grpc/grpc-js"
import type { ServiceEndpoint } from "./endpoint.ts"
import { hash, mix } from "./hash.ts"

export type Policy =
  | { readonly kind: "round_robin" | "weighted" | "least_request" }
  | { readonly kind: "zone"; readonly zone: string; readonly spillBelow: number }
  | { readonly kind: "hash"; readonly header: string }

export interface Candidate {
  readonly endpoint: ServiceEndpoint
  /** Calls of this channel on it. */
  inFlight: number
}

/** What goes on from one list of candidates to the next. */
export interface Turn {
  /** Counts up with each choice; it begins anywhere, so that not all clients call the same instance first. */
  next: number
  /** At random, 0 to 2^32 - 1. */
  readonly random: () => number
}

/** Makes a choice among candidates, of which there is at least one. */
export type Choose = <C extends Candidate>(
  candidates: readonly [C, ...Array<C>],
  turn: Turn
) => (args: experimental.PickArgs) => C

type Candidates<C> = readonly [C, ...Array<C>]

const at = <C>(candidates: Candidates<C>, index: number): C => candidates[index] ?? candidates[0]

const isAny = <C>(candidates: ReadonlyArray<C>): candidates is Candidates<C> => candidates.length > 0

export const chooseBy = (policy: Policy): Choose => {
  switch (policy.kind) {
    case "round_robin":
      return roundRobin
    case "weighted":
      return weighted
    case "least_request":
      return leastRequest
    case "zone":
      return preferZone(policy.zone, policy.spillBelow)
    case "hash":
      return byHeader(policy.header)
  }
}

const roundRobin: Choose = (candidates, turn) => () => at(candidates, turn.next++ % candidates.length)

const preferZone = (zone: string, spillBelow: number): Choose => (candidates, turn) => {
  const near = candidates.filter(({ endpoint }) => endpoint.zone === zone)
  return roundRobin(isAny(near) && near.length >= spillBelow ? near : candidates, turn)
}

const maxWeight = 65535

/**
 * Rounds over all candidates, in which each is passed over as often as its weight is below the greatest: exact in the long run, spread evenly, and
 * nothing to build that grows with the weights.
 */
const weighted: Choose = (candidates, turn) => {
  const greatest = Math.max(...candidates.map(({ endpoint }) => endpoint.weight))
  // All are to take no calls: then none is better than another.
  if (greatest === 0) return roundRobin(candidates, turn)
  const scaled = candidates.map(({ endpoint }) =>
    endpoint.weight === 0 ? 0 : Math.max(1, Math.round(endpoint.weight / greatest * maxWeight))
  )
  return () => {
    for (;;) {
      const index = turn.next % candidates.length
      const round = Math.floor(turn.next++ / candidates.length)
      const weight = scaled[index] ?? 0
      // Each candidate passes over other rounds than its neighbours do.
      const offset = index * (maxWeight >> 1)
      if (weight > 0 && (weight * round + offset) % maxWeight >= maxWeight - weight) return at(candidates, index)
    }
  }
}

const leastRequest: Choose = (candidates, turn) => () => {
  const index = turn.random() % candidates.length
  const first = at(candidates, index)
  if (candidates.length === 1) return first
  const second = at(candidates, (index + 1 + turn.random() % (candidates.length - 1)) % candidates.length)
  return second.inFlight < first.inFlight ? second : first
}

/** Rendezvous hashing: the candidate whose hash with the value is greatest. Nothing moves but the share of one that comes or goes. */
const byHeader = (header: string): Choose => (candidates, turn) => ({ metadata }) => {
  const value = metadata.get(header)[0]
  const key = value === undefined ? turn.random() : hash(String(value))
  let best = candidates[0]
  let greatest = -1
  for (const candidate of candidates) {
    const score = mix(key ^ candidate.endpoint.hash)
    if (score > greatest) {
      greatest = score
      best = candidate
    }
  }
  return best
}
