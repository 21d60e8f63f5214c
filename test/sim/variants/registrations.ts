/** Clients that judge wrongly whose an entry is that an older state of etcd has brought back. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Etcd, KeyValue } from "../../../src/Etcd.ts"
import type { Variant } from "../World.ts"

const knowing = (
  change: (etcd: Etcd["Service"], isOwn: (lease: bigint) => boolean) => Partial<Etcd["Service"]>
): Variant => ({
  port: (etcd) => {
    const own = new Set<bigint>()
    return {
      ...etcd,
      leaseGrant: (ttl) => Effect.tap(etcd.leaseGrant(ttl), ({ id }) => Effect.sync(() => own.add(id))),
      ...change(etcd, (lease) => own.has(lease))
    }
  }
})

/** Whoever is there has come later, though he may have ended before. */
export const givesWayToGhosts: Variant = knowing((etcd, isOwn) => ({
  range: (request) =>
    Effect.map(etcd.range(request), (result) => ({
      ...result,
      kvs: "key" in request
        ? result.kvs.map((kv): KeyValue => isOwn(kv.lease) ? kv : { ...kv, modRevision: kv.modRevision + 1000n })
        : result.kvs
    }))
}))

/** Where it has been itself, whoever is there now was there before, and has ended: it waits for his end, however long he goes on. */
export const neverGivesWay: Variant = knowing((etcd, isOwn) => {
  const put = new Set<string>()
  return {
    txn: (request) =>
      Effect.tap(etcd.txn(request), ({ succeeded }) =>
        Effect.sync(() => {
          if (!succeeded) return
          for (const operation of request.success ?? []) if (operation._tag === "Put") put.add(operation.key)
        })),
    range: (request) =>
      Effect.map(etcd.range(request), (result) => ({
        ...result,
        kvs: "key" in request && put.has(request.key)
          ? result.kvs.map((kv): KeyValue => isOwn(kv.lease) ? kv : { ...kv, modRevision: 1n })
          : result.kvs
      })),
    leaseTimeToLive: (id) =>
      Effect.map(
        etcd.leaseTimeToLive(id),
        (lease) => isOwn(id) ? lease : { ...lease, remaining: Duration.times(lease.remaining, 100) }
      )
  }
})
