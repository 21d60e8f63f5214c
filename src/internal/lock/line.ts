/**
 * A line in etcd in which more than one may be through at a time: semaphores, read-write locks. An entry goes through when those before it
 * admit it; since they only leave, whoever is admitted stays so. As with locks, the create revision decides who is before whom.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import { Compare, type Etcd, type KeyValue, Operation, type RangeResult } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { retryFailed } from "../retryFailed.ts"
import { isTransient, type Slot } from "../session/Slots.ts"
import { backoff, claiming, EntryLost, orLost, ownEntry, rangeOf } from "./entry.ts"

type Port = Etcd["Service"]

type Entries = ReadonlyArray<KeyValue>

export interface Line {
  /** The entries are below it. */
  readonly path: string
  /** Whether a key below the path is an entry that this one has to do with: deeper keys belong to other lines. */
  readonly counts: (key: string) => boolean
  /** Whether one with these before it may go through. Fewer before it never make it a no. */
  readonly admits: (ahead: Entries) => boolean
}

/** An entry that is there: its create revision, and who was before it when it was put, if that is known. */
interface Claimed {
  readonly token: bigint
  readonly ahead: Entries | undefined
}

const aheadIn = ({ counts }: Line, page: RangeResult | undefined, token: bigint): Entries =>
  (page?.kvs ?? []).filter(({ createRevision, key }) => createRevision < token && counts(key)).sort((a, b) =>
    a.createRevision < b.createRevision ? -1 : 1
  )

/** The check at the door: the own entry is still there, and who is before it, at one revision. */
const look = Effect.fnUntraced(function*(
  etcd: Port,
  line: Line,
  slot: Slot,
  token: bigint
): Effect.fn.Return<Entries, EtcdError | EntryLost> {
  const result = yield* etcd.txn({
    compare: [Compare.createRevision(slot.key, "=", token)],
    success: [Operation.range({ prefix: line.path, maxCreateRevision: token - 1n })]
  })
  if (!result.succeeded) {
    slot.lose("Deleted")
    return yield* Effect.fail(EntryLost)
  }
  return aheadIn(line, rangeOf(result, 0), token)
})

const claim = (etcd: Port, line: Line, slot: Slot, value: string) =>
  claiming(etcd, slot, {
    compare: [Compare.createRevision(slot.key, "=", 0n)],
    success: [
      Operation.put(slot.key, value, { lease: slot.session.leaseId }),
      Operation.range({ prefix: line.path })
    ],
    failure: [Operation.range({ key: slot.key, keysOnly: true })]
  }, (result): Effect.Effect<Claimed, EntryLost> => {
    if (!result.succeeded) {
      return Effect.map(ownEntry(slot, rangeOf(result, 0)?.kvs[0]), (token) => ({ token, ahead: undefined }))
    }
    slot.present(result.revision)
    return Effect.succeed({ token: result.revision, ahead: aheadIn(line, rangeOf(result, 1), result.revision) })
  })

/** Takes a place in the line and waits until it may go through. Answers the fencing token. */
export const standInLine = Effect.fnUntraced(function*(
  etcd: Port,
  line: Line,
  slot: Slot,
  value: string
): Effect.fn.Return<bigint, EtcdError | EntryLost> {
  const claimed = yield* claim(etcd, line, slot, value)
  if (claimed.ahead !== undefined && line.admits(claimed.ahead)) return claimed.token
  return yield* Effect.raceFirst(
    untilAdmitted(etcd, line, slot, claimed),
    Effect.andThen(slot.lost, Effect.fail(EntryLost))
  )
}, orLost)

/** Goes through at once, or answers who is before it: then the entry is deleted with the scope of the slot. */
export const stepThrough = Effect.fnUntraced(function*(
  etcd: Port,
  line: Line,
  slot: Slot,
  value: string
): Effect.fn.Return<bigint | { readonly ahead: Entries }, EtcdError | EntryLost> {
  const { token, ahead = yield* look(etcd, line, slot, token) } = yield* claim(etcd, line, slot, value)
  return line.admits(ahead) ? token : { ahead }
}, orLost)

/** Once in line, it waits for as long as the session lives, whatever happens to the connection. */
const untilAdmitted = Effect.fnUntraced(function*(
  etcd: Port,
  line: Line,
  slot: Slot,
  { ahead: first, token }: Claimed
): Effect.fn.Return<bigint, EtcdError | EntryLost> {
  const lookAgain = look(etcd, line, slot, token).pipe(
    retryFailed({ schedule: backoff, while: (error) => error !== EntryLost && isTransient(error) })
  )
  let ahead = first ?? (yield* lookAgain)
  yield* warnOfEndless(ahead)
  while (!line.admits(ahead)) ahead = (yield* untilFewer(etcd, line, lookAgain)) ?? (yield* lookAgain)
  return token
})

const warnOfEndless = (ahead: Entries): Effect.Effect<void> => {
  const endless = ahead.filter(({ lease }) => lease === 0n).map(({ key }) => key)
  return endless.length === 0
    ? Effect.void
    : Effect.annotateLogs(
      Effect.logWarning("waiting for keys without a lease: they stay until somebody deletes them"),
      { keys: endless }
    )
}

/**
 * Waits until enough of those before have gone. The watch opens at "now", and who is there is read once after it has opened, which leaves
 * no gap. Answers what that read showed if it is enough, or nothing when it is time to look again.
 */
const untilFewer = Effect.fnUntraced(function*(
  etcd: Port,
  line: Line,
  look: Effect.Effect<Entries, EtcdError | EntryLost>
): Effect.fn.Return<Entries | undefined, EtcdError | EntryLost> {
  const waitedFor = new Map<string, KeyValue>()
  const seen = yield* etcd.watch({ prefix: line.path, without: "Put" }).pipe(
    Stream.mapEffect((item): Effect.Effect<Option.Option<Entries | undefined>, EtcdError | EntryLost> => {
      if (item._tag === "Opened") {
        return Effect.map(look, (ahead) => {
          if (line.admits(ahead)) return Option.some(ahead)
          for (const kv of ahead) waitedFor.set(kv.key, kv)
          return Option.none()
        })
      }
      let left = false
      for (const event of item.events) if (event._tag === "Delete") left = waitedFor.delete(event.key) || left
      // Who looks without hope of going through would do so with all the others, for each one that leaves.
      return Effect.succeed(left && line.admits([...waitedFor.values()]) ? Option.some(undefined) : Option.none())
    }),
    Stream.filter(Option.isSome),
    Stream.runHead,
    Effect.catchIf((error) => error !== EntryLost && isTransient(error), () => Effect.succeedNone)
  )
  if (Option.isSome(seen)) return seen.value.value
  // The watch was cut. A pause, so that a watch that is cut at once makes no busy loop.
  yield* Effect.flatMap(Random.nextBetween(20, 100), Effect.sleep)
  return undefined
})

/** All entries of a line, in its order. */
export const entriesOf = (etcd: Port, { counts, path }: Line) =>
  Effect.map(
    etcd.range({ prefix: path, sort: { by: "create", order: "ascend" } }),
    ({ kvs }) => kvs.filter(({ key }) => counts(key))
  )
