/** Clients that are wrong on purpose, each in one way: a checker that does not find them would find nothing. */
import type { Variant } from "../World.ts"
import { apartWhenUnanswered, conflictsTogether, refusedForAnother, sharedReads } from "./batches.ts"
import {
  deadlineFromReceipt,
  lossAtTwiceTheTtl,
  overlooksSuspension,
  refusalIsAnOutage,
  sharedSession
} from "./leases.ts"
import { countsOneTooFew, overlooksReaders } from "./lines.ts"
import { givesWayToGhosts, neverGivesWay } from "./registrations.ts"
import {
  absenceIsProof,
  blindRetry,
  emptyInAnOutage,
  givesUp,
  inParts,
  releaseByName,
  unfenced,
  waiterTrustsItsKey
} from "./requests.ts"
import { fallsSilent, listAndWatchWithAGap, resumesAtTheHeader } from "./watches.ts"

export interface BrokenVariant {
  readonly name: string
  /** The promise that it is first seen to break. */
  readonly breaks: string
  /** Where it is looked for. */
  readonly scenario: string
  readonly client: Variant
  /** One that finds it. */
  readonly seed: number
}

export const variants: ReadonlyArray<BrokenVariant> = [
  {
    name: "deadline from receipt",
    breaks: "one holder at a time",
    scenario: "locks",
    client: deadlineFromReceipt,
    seed: 20
  },
  {
    name: "loss at twice the TTL",
    breaks: "one holder at a time",
    scenario: "locks",
    client: lossAtTwiceTheTtl,
    seed: 16
  },
  {
    name: "waiter trusts its key",
    breaks: "who enters was the first in line",
    scenario: "locks",
    client: waiterTrustsItsKey,
    seed: 272
  },
  {
    name: "watch resumes at header",
    breaks: "watchers end equal to the store",
    scenario: "config",
    client: resumesAtTheHeader,
    seed: 126
  },
  {
    name: "release by name",
    breaks: "nobody unregisters another's instance",
    scenario: "registry",
    client: releaseByName,
    seed: 297
  },
  { name: "blind retry", breaks: "compare-and-set is linearizable", scenario: "config", client: blindRetry, seed: 5 },
  {
    name: "absence is proof",
    breaks: "compare-and-set is linearizable",
    scenario: "config",
    client: absenceIsProof,
    seed: 115
  },
  {
    name: "absence disproves a claim",
    breaks: "no entry is left behind",
    scenario: "locks",
    client: absenceIsProof,
    seed: 418
  },
  {
    name: "list and watch with a gap",
    breaks: "every revision once and in order",
    scenario: "config",
    client: listAndWatchWithAGap,
    seed: 22
  },
  {
    name: "shared session",
    breaks: "a lock is not released under its holder",
    scenario: "locks",
    client: sharedSession,
    seed: 6
  },
  {
    name: "registration gives up",
    breaks: "the listed set is the live set",
    scenario: "registry",
    client: givesUp,
    seed: 807
  },
  {
    name: "fenced without a compare",
    breaks: "only the holder commits fenced writes",
    scenario: "locks",
    client: unfenced,
    seed: 786
  },
  {
    name: "one too many",
    breaks: "who enters was let in by those before",
    scenario: "lines",
    client: countsOneTooFew,
    seed: 101
  },
  {
    name: "readers overlooked",
    breaks: "who enters was let in by those before",
    scenario: "lines",
    client: overlooksReaders,
    seed: 103
  },
  {
    name: "a permit outlives its lease",
    breaks: "no step without an entry",
    scenario: "lines",
    client: lossAtTwiceTheTtl,
    seed: 111
  },
  {
    name: "conflicts together",
    breaks: "each has its own answer",
    scenario: "batching",
    client: conflictsTogether,
    seed: 50
  },
  {
    name: "apart when unanswered",
    breaks: "nothing is applied twice",
    scenario: "batching",
    client: apartWhenUnanswered,
    seed: 26
  },
  {
    name: "refused for another",
    breaks: "each has its own answer",
    scenario: "batching",
    client: refusedForAnother,
    seed: 2
  },
  {
    name: "shared reads",
    breaks: "what travels together is linearizable",
    scenario: "batching",
    client: sharedReads,
    seed: 124
  },
  {
    name: "loss of a role too late",
    breaks: "one holder of a number",
    scenario: "roles",
    client: lossAtTwiceTheTtl,
    seed: 328
  },
  {
    name: "observer with a gap",
    breaks: "observers end with the leader",
    scenario: "roles",
    client: listAndWatchWithAGap,
    seed: 22
  },
  {
    name: "leader without a compare",
    breaks: "only the holder commits fenced writes",
    scenario: "roles",
    client: unfenced,
    seed: 71
  },
  {
    name: "transaction in parts",
    breaks: "all of a transaction or nothing",
    scenario: "roles",
    client: inParts,
    seed: 3
  },
  {
    name: "refusal is an outage",
    breaks: "who lost it knows it in time",
    scenario: "locks",
    client: refusalIsAnOutage,
    seed: 376
  },
  { name: "a watch falls silent", breaks: "every waiter enters", scenario: "locks", client: fallsSilent, seed: 39 },
  { name: "gives way to ghosts", breaks: "every call ends", scenario: "registry", client: givesWayToGhosts, seed: 17 },
  {
    name: "never gives way",
    breaks: "a registration never gives up",
    scenario: "registry",
    client: neverGivesWay,
    seed: 9
  },
  {
    name: "empty in an outage",
    breaks: "it is told the present state",
    scenario: "config",
    client: emptyInAnOutage,
    seed: 49
  },
  {
    name: "suspension overlooked",
    breaks: "who lost it knows it in time",
    scenario: "locks",
    client: overlooksSuspension,
    seed: 937
  }
]
