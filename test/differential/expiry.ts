/**
 * Leases that run out, in real time on every store. When exactly is the store's affair, as long as it is not too soon; what happens then is not.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { Etcd, Operation } from "../../src/Etcd.ts"

export interface Expiry {
  /** In words that mean the same on every store. */
  readonly told: unknown
  /** By how many nanoseconds each lease was outlived by its keys. */
  readonly late: ReadonlyArray<bigint>
}

const name = (prefix: string, key: string): string => key.slice(prefix.length)

export const runExpiry = Effect.fnUntraced(function*(prefix: string) {
  const etcd = yield* Etcd
  const failure = <A, E extends { readonly reason: { readonly _tag: string } }>(effect: Effect.Effect<A, E>) =>
    Effect.match(effect, { onFailure: ({ reason }): string => reason._tag, onSuccess: () => "answered" })

  // The shortest is granted as two seconds.
  const leases = yield* Effect.forEach([1, 4], (seconds) => etcd.leaseGrant(Duration.seconds(seconds)))
  const kept = yield* etcd.leaseGrant(Duration.seconds(3))
  const ids = [...leases, kept].map(({ id }) => id)
  const on = (lease: number) => ({ lease: ids[lease] })
  const put = (key: string, options?: { readonly lease: bigint | undefined }) =>
    Operation.put(`${prefix}${key}`, key, options)
  const { revision: start } = yield* etcd.txn({
    success: [
      put("b", on(0)),
      put("a", on(0)),
      put("moved", on(0)),
      put("freed", on(0)),
      put("c", on(1)),
      put("kept", on(2))
    ]
  })
  yield* etcd.txn({ success: [put("moved", on(1)), put("freed")] })
  yield* Effect.forkScoped(Effect.repeat(etcd.leaseKeepAlive(kept.id), Schedule.spaced("500 millis")))

  const late: Array<bigint> = []
  const batches = yield* etcd.watch({ prefix, startRevision: start + 2n, previousKv: true }).pipe(
    Stream.flatMap((item) => item._tag === "Batch" ? Stream.succeed(item) : Stream.empty),
    Stream.mapEffect((batch) =>
      Effect.map(Clock.monotonicTimeNanos, (now) => {
        const deadline = leases[late.length]?.deadline ?? now
        late.push(now - deadline)
        return {
          revision: batch.revision - start,
          tooSoon: now < deadline,
          events: batch.events.map((event) =>
            event._tag === "Delete" && {
              deleted: name(prefix, event.key),
              was: ids.indexOf(event.previous?.lease ?? 0n)
            }
          )
        }
      })
    ),
    Stream.take(leases.length),
    Stream.runCollect,
    Effect.timeout("30 seconds")
  )
  const [first = 0n] = ids
  const told = {
    granted: [...leases, kept].map(({ ttl }) => Duration.toSeconds(ttl)),
    batches,
    beat: yield* failure(etcd.leaseKeepAlive(first)),
    status: yield* failure(etcd.leaseTimeToLive(first)),
    revoke: yield* failure(etcd.leaseRevoke(first)),
    put: yield* failure(etcd.txn({ success: [put("late", on(0))] })),
    left: (yield* etcd.range({ prefix })).kvs.map((kv) => [name(prefix, kv.key), ids.indexOf(kv.lease)])
  }
  return { told, late } satisfies Expiry
}, Effect.scoped)
