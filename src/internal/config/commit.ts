/**
 * Writes that depend on versions, of one key or of several at once.
 */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { TransactionConflict, VersionConflict } from "../../ConfigError.ts"
import { Compare, type Etcd, Operation, type WatchEvent } from "../../Etcd.ts"
import { EtcdError, Unexpected } from "../../EtcdError.ts"
import { compareBytes } from "../keys.ts"

/** A `ConfigChange` whose value is encoded. No key is written twice. */
export type Change =
  | {
    readonly _tag: "Set"
    readonly key: string
    readonly bytes: Uint8Array
    readonly expected: bigint | undefined
  }
  | { readonly _tag: "Delete"; readonly key: string; readonly expected: bigint | undefined }
  | { readonly _tag: "Check"; readonly key: string; readonly expected: bigint }

type Expecting = Change & { readonly expected: bigint }

const isExpecting = (change: Change): change is Expecting => change.expected !== undefined

/** How many keys are asked for at once after a lost answer. */
const concurrency = 16

export const makeCommit = (etcd: Etcd["Service"], path: (key: string) => string) => {
  /**
   * The conflict, if it is certain that the change was not and never will be applied.
   *
   * It is applied only while its key is at `expected`, which a key leaves once and for all: so whatever changed the key first after
   * `expected` either is it, or has shut it out. A key that did not exist (`0n`) can come back to that: nothing is ever certain. A key
   * that is only looked at says nothing either: the transaction may have been applied before the key went on.
   */
  const shutOut = Effect.fnUntraced(function*(change: Expecting) {
    const { expected, key } = change
    if (expected <= 0n || change._tag === "Check") return Option.none()
    const { kvs: [kv] } = yield* etcd.range({ key: path(key) })
    // Unchanged, or a restored store that went back: no history to judge by.
    if (kv !== undefined && kv.modRevision <= expected) return Option.none()
    const first = yield* etcd.watch({ key: path(key), startRevision: expected + 1n }).pipe(
      Stream.map((item) => item._tag === "Batch" ? item.events : []),
      Stream.flattenIterable,
      Stream.runHead,
      // Only a key that never was at `expected` makes it wait.
      Effect.timeoutOption(etcd.settings.timeout)
    )
    return Option.exists(Option.flatten(first), (event) => !mayBeOf(change, event))
      ? Option.some(new VersionConflict({ key, expected, actual: kv?.modRevision ?? 0n }))
      : Option.none()
  }, Effect.orElseSucceed(() => Option.none<VersionConflict>()))

  const settle = (error: EtcdError, expecting: ReadonlyArray<Expecting>) =>
    error.reason._tag !== "Ambiguous" ? Effect.fail(error) : Effect.flatMap(
      Effect.forEach(expecting, shutOut, { concurrency }),
      (found) => {
        const conflicts = Arr.getSomes(found)
        return Effect.fail(Arr.isArrayNonEmpty(conflicts) ? new TransactionConflict({ conflicts }) : error)
      }
    )

  /** All or nothing, at one revision, which it answers. */
  return Effect.fnUntraced(function*(changes: ReadonlyArray<Change>) {
    // etcd answers an empty transaction without asking the others whether it is behind.
    if (changes.length === 0) return (yield* etcd.range({ prefix: path(""), limit: 1, keysOnly: true })).revision
    const expecting = changes.filter(isExpecting)
    const result = yield* etcd.txn({
      compare: expecting.map(({ expected, key }) => Compare.modRevision(path(key), "=", expected)),
      success: changes.flatMap((change) =>
        change._tag === "Set"
          ? Operation.put(path(change.key), change.bytes)
          : change._tag === "Delete"
          ? Operation.delete(path(change.key))
          : []
      ),
      failure: expecting.map(({ key }) => Operation.range({ key: path(key), keysOnly: true }))
    }).pipe(Effect.catch((error) => settle(error, expecting)))
    if (result.succeeded) return result.revision
    const conflicts = expecting.flatMap(({ expected, key }, index) => {
      const found = result.responses[index]
      const actual = found?._tag === "Range" ? found.kvs[0]?.modRevision ?? 0n : 0n
      return actual === expected ? [] : new VersionConflict({ key, expected, actual })
    })
    return Arr.isArrayNonEmpty(conflicts)
      ? yield* new TransactionConflict({ conflicts })
      : yield* new EtcdError({ operation: "txn", reason: new Unexpected({ detail: "a compare failed, but all hold" }) })
  })
}

/** What it would leave in the history; others can leave the same. */
const mayBeOf = (change: Change, event: WatchEvent): boolean =>
  change._tag === "Set"
    ? event._tag === "Put" && event.kv.lease === 0n && compareBytes(event.kv.value, change.bytes) === 0
    : change._tag === "Delete" && event._tag === "Delete"
