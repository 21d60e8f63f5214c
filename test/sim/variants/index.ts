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
  /** Where it is looked for. */
  readonly scenario: string
  readonly client: Variant
  /** One that finds it. */
  readonly seed: number
}

export const variants: ReadonlyArray<BrokenVariant> = [
  { name: "deadline from receipt", scenario: "locks", client: deadlineFromReceipt, seed: 20 },
  { name: "loss at twice the TTL", scenario: "locks", client: lossAtTwiceTheTtl, seed: 16 },
  { name: "waiter trusts its key", scenario: "locks", client: waiterTrustsItsKey, seed: 272 },
  { name: "watch resumes at header", scenario: "config", client: resumesAtTheHeader, seed: 126 },
  { name: "release by name", scenario: "registry", client: releaseByName, seed: 297 },
  { name: "blind retry", scenario: "config", client: blindRetry, seed: 5 },
  { name: "absence is proof", scenario: "config", client: absenceIsProof, seed: 115 },
  { name: "absence disproves a claim", scenario: "locks", client: absenceIsProof, seed: 53 },
  { name: "list and watch with a gap", scenario: "config", client: listAndWatchWithAGap, seed: 5 },
  { name: "shared session", scenario: "locks", client: sharedSession, seed: 1 },
  { name: "registration gives up", scenario: "registry", client: givesUp, seed: 807 },
  { name: "fenced without a compare", scenario: "locks", client: unfenced, seed: 786 },
  { name: "one too many", scenario: "lines", client: countsOneTooFew, seed: 101 },
  { name: "readers overlooked", scenario: "lines", client: overlooksReaders, seed: 103 },
  { name: "a permit outlives its lease", scenario: "lines", client: lossAtTwiceTheTtl, seed: 111 },
  { name: "conflicts together", scenario: "batching", client: conflictsTogether, seed: 50 },
  { name: "apart when unanswered", scenario: "batching", client: apartWhenUnanswered, seed: 2 },
  { name: "refused for another", scenario: "batching", client: refusedForAnother, seed: 2 },
  { name: "shared reads", scenario: "batching", client: sharedReads, seed: 124 },
  { name: "loss of a role too late", scenario: "roles", client: lossAtTwiceTheTtl, seed: 328 },
  { name: "observer with a gap", scenario: "roles", client: listAndWatchWithAGap, seed: 22 },
  { name: "leader without a compare", scenario: "roles", client: unfenced, seed: 71 },
  { name: "transaction in parts", scenario: "roles", client: inParts, seed: 3 },
  { name: "refusal is an outage", scenario: "locks", client: refusalIsAnOutage, seed: 376 },
  { name: "a watch falls silent", scenario: "locks", client: fallsSilent, seed: 39 },
  { name: "gives way to ghosts", scenario: "registry", client: givesWayToGhosts, seed: 17 },
  { name: "never gives way", scenario: "registry", client: neverGivesWay, seed: 9 },
  { name: "empty in an outage", scenario: "config", client: emptyInAnOutage, seed: 49 },
  { name: "suspension overlooked", scenario: "locks", client: overlooksSuspension, seed: 937 }
]
