/**
 * The queue of a lock in etcd: claim an entry, see who is before it, wait for that one alone.
 *
 * The layout is that of Go's `concurrency.Mutex` and of `etcdctl lock`: `<prefix>/<key>/<lease in hex>`, served by create
 * revision. Entries of a lock are the keys directly below it; deeper keys belong to other locks.
 */
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import { Compare, Operation } from "../../Etcd.ts"
import type { Etcd, KeyValue, RangeResult, TxnRequest, TxnResult } from "../../Etcd.ts"
import { EtcdError, Unavailable } from "../../EtcdError.ts"
import { type Started, startFiber, startOf } from "../client/start.ts"
import type { Observer } from "../observe.ts"
import { retryAfter, retryFailed } from "../retryFailed.ts"
import { isTransient, mayBeApplied, type Pending, type Slot } from "../session/Slots.ts"
import { type End, unless } from "../unless.ts"
import type { Crowded } from "./Crowded.ts"
import { Cut, type Deletions } from "./deletions.ts"

/** The entry was gone before it got its turn: its lease was lost, or somebody deleted it. Queue again. */
export const EntryLost = "EntryLost" as const
export type EntryLost = typeof EntryLost

type Port = Etcd["Service"]

/** Deeper keys are rare; a few keys more than needed save the second look where there are some. */
const pageSize = 8

export const backoff = Schedule.min([Schedule.exponential("20 millis"), Schedule.spaced("1 second")]).pipe(
  Schedule.jittered
)

export const entryKey = (lease: bigint, path: string): string => `${path}${lease.toString(16)}`

export const isEntryOf = (path: string, key: string): boolean => !key.slice(path.length).includes("/")

export const rangeOf = (result: TxnResult, index: number): RangeResult | undefined => {
  const response = result.responses[index]
  return response?._tag === "Range" ? response : undefined
}

/** The predecessor was there at this revision. */
interface Behind {
  readonly _tag: "Behind"
  readonly predecessor: KeyValue
  readonly revision: bigint
}

/** What a look at the queue shows: nobody before us, the entry just before ours, or only keys of deeper locks, with more to come. */
type Position =
  | { readonly _tag: "First" }
  | Behind
  | { readonly _tag: "Unknown" }

const first: Position = { _tag: "First" }

/** Reads keys in the order of their create revisions, greatest first. */
const positionIn = (path: string, result: TxnResult, index: number, token: bigint): Position => {
  const page = rangeOf(result, index)
  const predecessor = page?.kvs.find((kv) => kv.createRevision < token && isEntryOf(path, kv.key))
  if (predecessor !== undefined) return { _tag: "Behind", predecessor, revision: result.revision }
  return page === undefined || page.more ? { _tag: "Unknown" } : { _tag: "First" }
}

/**
 * The check at the door: the own entry is still there, and nobody is before it, at one revision.
 */
const look = (etcd: Port, path: string, slot: Slot, token: bigint): Effect.Effect<Position, EtcdError | EntryLost> => {
  const upTo = (limit: number | undefined): Effect.Effect<Position, EtcdError | EntryLost> =>
    Effect.flatMap(
      etcd.txn({
        compare: [Compare.createRevision(slot.key, "=", token)],
        success: [
          Operation.range({
            prefix: path,
            keysOnly: true,
            sort: { by: "create", order: "descend" },
            maxCreateRevision: token - 1n,
            limit
          })
        ]
      }),
      (result) => {
        if (!result.succeeded) {
          slot.lose("Deleted")
          return Effect.fail(EntryLost)
        }
        const position = positionIn(path, result, 0, token)
        // All of them where a page showed only deeper ones: many keys can share one create revision, so there is no next page.
        return position._tag === "Unknown" && limit !== undefined ? upTo(undefined) : Effect.succeed(position)
      }
    )
  return upTo(pageSize)
}

/** An entry that is there, and where, if that is known. */
export interface Claimed {
  /** The create revision of the entry. */
  readonly token: bigint
  readonly position: Position | undefined
}

/** Puts an entry, and reads who is before it. */
export const claimRequest = (path: string, slot: Slot, label: string) => ({
  compare: [Compare.createRevision(slot.key, "=", 0n)],
  success: [
    Operation.put(slot.key, label, { lease: slot.session.leaseId }),
    Operation.range({ prefix: path, keysOnly: true, sort: { by: "create", order: "descend" }, limit: pageSize })
  ]
})

/** What a claim has put; `index` is that of its range among the responses. */
export const claimedBy = (path: string, slot: Slot, result: TxnResult, index: number): Claimed => {
  slot.present(result.revision)
  return { token: result.revision, position: positionIn(path, result, index, result.revision) }
}

/**
 * Sends a claim until it is answered, and so that its outcome is never lost: it goes on when the caller is interrupted, and whoever gives the
 * slot back waits for its answer. A lost lease ends it.
 *
 * A claim whose answer was lost is sent again: its compare finds the entry that the lost one made, and that is read where its own failure branch
 * reads nothing. Because the lost one may be applied at any later time, the lease is distrusted from then on.
 */
export const claiming = <A>(
  etcd: Port,
  slot: Slot,
  request: TxnRequest,
  /** Looks at the answer, also where nobody waits for it any more. */
  read: (result: TxnResult) => Effect.Effect<A, EtcdError | EntryLost>
): Effect.Effect<A, EtcdError | EntryLost> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.callback((resume) => {
      if (slot.isGivenBack) return resume(Effect.fail(EntryLost))
      const claim = new Claim(etcd, slot, request, read, context, resume)
      if (claim.isOver) return
      slot.pending = claim
      claim.begin()
    })
  )

class Claim<A> implements Pending, Observer<TxnResult, EtcdError> {
  readonly #etcd: Port
  readonly #slot: Slot
  readonly #request: TxnRequest
  readonly #read: (result: TxnResult) => Effect.Effect<A, EtcdError | EntryLost>
  readonly #context: Context.Context<never>
  readonly #resume: (outcome: Effect.Effect<A, EtcdError | EntryLost>) => void
  isOver = false
  #stop: (() => void) | undefined
  #underWay: Started | undefined
  #signal: Deferred.Deferred<void> | undefined

  constructor(
    etcd: Port,
    slot: Slot,
    request: TxnRequest,
    read: (result: TxnResult) => Effect.Effect<A, EtcdError | EntryLost>,
    context: Context.Context<never>,
    resume: (outcome: Effect.Effect<A, EtcdError | EntryLost>) => void
  ) {
    this.#etcd = etcd
    this.#slot = slot
    this.#request = request
    this.#read = read
    this.#context = context
    this.#resume = resume
    this.#stop = slot.whenLost(() => this.#give())
  }

  begin(): void {
    const started = startOf(this.#etcd)(this.#request, this.#context, this)
    // It was given up, or has gone on, before this was known.
    if (this.isOver) started.cancel()
    else this.#underWay ??= started
  }

  ended(exit: Exit.Exit<TxnResult, EtcdError>): void {
    if (Exit.isSuccess(exit)) return this.#goOn(this.#read(exit.value))
    const first = Option.getOrUndefined(Exit.findErrorOption(exit))
    if (first === undefined) return this.#end(Exit.failCause(exit.cause))
    const failure = this.#request.failure ?? [Operation.range({ key: this.#slot.key, keysOnly: true })]
    this.#goOn(settled(this.#etcd, this.#slot, { ...this.#request, failure }, first, this.#read))
  }

  #goOn(rest: Effect.Effect<A, EtcdError | EntryLost>): void {
    if (Exit.isExit(rest)) return this.#end(rest)
    const started = startFiber(rest, this.#context, { ended: (exit) => this.#end(exit) })
    if (this.isOver) started.cancel()
    else this.#underWay = started
  }

  /** `outcome` takes no step, other than to say what it is. */
  #end(outcome: Effect.Effect<A, EtcdError | EntryLost>): void {
    if (this.isOver) return
    this.isOver = true
    if (this.#slot.pending === this) this.#slot.pending = undefined
    this.#stop?.()
    this.#resume(Exit.isExit(outcome) && Exit.hasInterrupts(outcome) ? Exit.fail(EntryLost) : outcome)
    if (this.#signal !== undefined) Deferred.doneUnsafe(this.#signal, Exit.void)
  }

  #give(): void {
    this.#underWay?.cancel()
    this.#end(Exit.fail(EntryLost))
  }

  get settled(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.isOver) return Effect.void
      this.#signal ??= Deferred.makeUnsafe()
      return Deferred.await(this.#signal)
    })
  }

  get cancel(): Effect.Effect<void> {
    return Effect.sync(() => this.#give())
  }
}

/** After its first failure. */
const settled = <A>(
  etcd: Port,
  slot: Slot,
  request: TxnRequest,
  first: EtcdError,
  read: (result: TxnResult) => Effect.Effect<A, EtcdError | EntryLost>
): Effect.Effect<A, EtcdError | EntryLost> => {
  let sent = false
  const notice = (error: EtcdError) => {
    if (error.reason._tag === "LeaseNotFound") slot.session.revoked()
    if (error.reason._tag === "Ambiguous") sent = true
    if (mayBeApplied(error)) slot.session.distrust(slot.key)
  }
  notice(first)
  const again = Effect.tapError(etcd.txn(request), (error) => Effect.sync(() => notice(error)))
  return Effect.matchEffect(
    retryAfter<TxnResult, EtcdError, never>(first, again, {
      schedule: backoff,
      while: (error) => sent && isTransient(error)
    }),
    {
      onFailure: (error) => Effect.fail(error.reason._tag === "LeaseNotFound" ? EntryLost : error),
      onSuccess: read
    }
  )
}

export const ownEntry = (slot: Slot, own: KeyValue | undefined): Effect.Effect<bigint, EntryLost> => {
  if (own !== undefined && own.lease === slot.session.leaseId) {
    slot.present(own.createRevision)
    return Effect.succeed(own.createRevision)
  }
  // Somebody put our name there without our lease: take another one.
  slot.session.distrust(slot.key)
  slot.lose("Deleted")
  return Effect.fail(EntryLost)
}

const ownClaim = (slot: Slot, own: KeyValue | undefined): Effect.Effect<Claimed, EntryLost> =>
  Effect.map(ownEntry(slot, own), (token) => ({ token, position: undefined }))

export const orLost = <A, R>(
  effect: Effect.Effect<A, EtcdError | EntryLost, R>
): Effect.Effect<A | EntryLost, EtcdError, R> =>
  Effect.catchIf(effect, (error): error is EntryLost => error === EntryLost, () => Effect.succeed(EntryLost))

/** Takes a place in the queue. */
export const claimEntry = (
  etcd: Port,
  path: string,
  slot: Slot,
  label: string,
  crowded?: Crowded
): Effect.Effect<Claimed, EtcdError | EntryLost> =>
  claiming(
    etcd,
    slot,
    claimRequest(path, slot, label),
    (result): Effect.Effect<Claimed, EtcdError | EntryLost> => {
      if (!result.succeeded) {
        const own = rangeOf(result, 0)?.kvs[0]
        return own === undefined ? alreadyThere(etcd, slot) : ownClaim(slot, own)
      }
      crowded?.note(path, (rangeOf(result, 1)?.kvs.length ?? 0) > 1)
      return Effect.succeed(claimedBy(path, slot, result, 1))
    }
  )

/**
 * The same in the hope that nobody is there, as is mostly so: a put that is made only then needs no look at those who are, which was a tenth
 * of the price of a claim. Where somebody is, it is a call in vain: so it is not tried where somebody was lately.
 */
export const claimFirst = (
  etcd: Port,
  path: string,
  slot: Slot,
  label: string,
  crowded: Crowded
): Effect.Effect<Claimed, EtcdError | EntryLost> =>
  crowded.has(path)
    ? claimEntry(etcd, path, slot, label, crowded)
    : Effect.flatMap(claimVacant(etcd, slot, label, isVacant(path)), (claimed) => {
      if (claimed !== undefined) return Effect.succeed(claimed)
      crowded.note(path, true)
      return claimEntry(etcd, path, slot, label, crowded)
    })

/** There is no entry, nor a key of a deeper lock. */
const isVacant = (path: string): Compare => Compare.createRevision({ prefix: path }, "=", 0n)

/**
 * Puts an entry if the queue is vacant, and else does nothing. Sent again, what is there can also be its own one, of the claim whose answer was
 * lost: that is to be known in the same answer, while whoever gives the slot back waits for it.
 */
const claimVacant = (
  etcd: Port,
  slot: Slot,
  label: string,
  vacant: Compare
): Effect.Effect<Claimed | undefined, EtcdError | EntryLost> =>
  claiming(
    etcd,
    slot,
    {
      compare: [vacant],
      success: [Operation.put(slot.key, label, { lease: slot.session.leaseId })]
    },
    (result): Effect.Effect<Claimed | undefined, EntryLost> => {
      if (result.succeeded) {
        slot.present(result.revision)
        return Effect.succeed({ token: result.revision, position: first })
      }
      const own = rangeOf(result, 0)?.kvs[0]
      return own === undefined ? Effect.undefined : ownClaim(slot, own)
    }
  )

/** Of a first claim that has found an entry in its place, which happens too rarely to be looked at by each. */
const alreadyThere = (etcd: Port, slot: Slot): Effect.Effect<Claimed, EtcdError | EntryLost> =>
  etcd.range({ key: slot.key, keysOnly: true }).pipe(
    retryFailed({ schedule: backoff, while: isTransient }),
    // Refused: nobody owns it then.
    Effect.tapError(() => Effect.sync(() => slot.session.distrust(slot.key))),
    Effect.flatMap(({ kvs: [own] }) => ownClaim(slot, own))
  )

/**
 * Takes a place in the queue, unless it has one already, and waits for the first one. Answers the fencing token.
 */
export const waitInLine = Effect.fnUntraced(function*(
  etcd: Port,
  deletions: Deletions,
  path: string,
  slot: Slot,
  label: string,
  already?: Claimed
): Effect.fn.Return<bigint, EtcdError | EntryLost> {
  const claimed = already ?? (yield* claimEntry(etcd, path, slot, label))
  if (claimed.position?._tag === "First") return claimed.token
  return yield* unless(
    untilFirst(etcd, deletions, path, slot, claimed),
    (end: End<never, EntryLost>) => slot.whenLost(() => end(Exit.fail(EntryLost)))
  )
}, orLost)

/** Once queued, it waits for as long as the session lives, whatever happens to the connection. */
const untilFirst = Effect.fnUntraced(function*(
  etcd: Port,
  deletions: Deletions,
  path: string,
  slot: Slot,
  claimed: Claimed
): Effect.fn.Return<bigint, EtcdError | EntryLost> {
  const lookAgain = look(etcd, path, slot, claimed.token).pipe(
    retryFailed({ schedule: backoff, while: (error) => error !== EntryLost && isTransient(error) })
  )
  let position = claimed.position
  while (position?._tag !== "First") {
    position = position?._tag === "Behind" ? yield* untilGone(deletions, position, lookAgain) : yield* lookAgain
  }
  return claimed.token
})

/**
 * Waits for the deletion of one predecessor, and looks where that leaves us. A watch opens at "now", because one from a past revision is
 * served by etcd's slow group, with a tick of 100 ms; so the queue is read once after it has opened, unless it was open before.
 */
const untilGone = (
  deletions: Deletions,
  { predecessor: { createRevision, key, lease }, revision }: Behind,
  look: Effect.Effect<Position, EtcdError | EntryLost>
): Effect.Effect<Position | undefined, EtcdError | EntryLost> => {
  const ifGone = (orElse: Effect.Effect<Position, EtcdError | EntryLost | Cut>) =>
    Effect.flatMap(
      look,
      (position) =>
        position._tag === "Behind" && position.predecessor.createRevision === createRevision
          ? orElse
          : Effect.succeed(position)
    )
  const gone = deletions.watching(key, (watch) => {
    // It tells of another history, before a snapshot was restored.
    const wrong = Effect.suspend(() => {
      watch.endUnsafe()
      return Effect.fail(Cut)
    })
    const deleted = Effect.flatMap(watch.deleted(createRevision), () => ifGone(wrong))
    return Effect.flatMap(watch.opened, (opened) => opened > revision ? ifGone(deleted) : deleted)
  }).pipe(
    // A pause, so that a watch that is cut at once makes no busy loop.
    Effect.catch((error) =>
      error === EntryLost || (error !== Cut && !isTransient(error))
        ? Effect.fail(error)
        : Effect.as(Effect.flatMap(Random.nextBetween(20, 100), Effect.sleep), undefined)
    )
  )
  return lease === 0n
    ? Effect.andThen(
      Effect.annotateLogs(
        Effect.logWarning("waiting for a key without a lease: it stays until somebody deletes it"),
        { key }
      ),
      gone
    )
    : gone
}

/** How often a lock is tried anew because keys below it, of other locks, came and went in between. */
const maxTries = 16

/**
 * Takes the lock only if nobody has an entry; never queues. Answers the fencing token, or who holds it.
 */
export const takeIfFree = Effect.fnUntraced(function*(
  etcd: Port,
  path: string,
  slot: Slot,
  label: string
): Effect.fn.Return<bigint | { readonly holder: KeyValue }, EtcdError | EntryLost> {
  let vacant = isVacant(path)
  for (let tries = 0; tries < maxTries; tries++) {
    let answer = yield* claimVacant(etcd, slot, label, vacant)
    let found = answer === undefined ? yield* entries(etcd, path) : undefined
    // One that waited: a restored snapshot brings it back behind whoever was before it.
    const own = found?.entries.find(({ key }) => key === slot.key)
    if (own !== undefined) answer = yield* ownClaim(slot, own)
    if (answer !== undefined) {
      const { token, position = yield* look(etcd, path, slot, token) } = answer
      if (position._tag === "First") return token
      found = undefined
    }
    const { entries: [holder], revision } = found ?? (yield* entries(etcd, path))
    if (holder !== undefined) return { holder }
    // Only deeper keys: nothing may have been created below the path since they were read.
    vacant = Compare.createRevision({ prefix: path }, "<", revision + 1n)
  }
  return yield* new EtcdError({
    operation: "txn",
    key: path,
    reason: new Unavailable({ detail: "keys below this lock are created faster than it can be tried", sent: false })
  })
}, orLost)

/** The entries of a lock, the holder first. */
export const entries = (etcd: Port, path: string) =>
  Effect.map(etcd.range({ prefix: path, sort: { by: "create", order: "ascend" } }), (result) => ({
    revision: result.revision,
    entries: result.kvs.filter((kv) => isEntryOf(path, kv.key))
  }))
