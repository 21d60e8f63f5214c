import * as Effect from "effect/Effect"
import type { Etcd, TxnRequest } from "../../../src/Etcd.ts"
import { Closed, EtcdError, Unavailable } from "../../../src/EtcdError.ts"
import type { Variant } from "../World.ts"

const changed = (change: (request: TxnRequest) => TxnRequest): Variant => ({
  port: (etcd) => ({ ...etcd, txn: (request) => etcd.txn(change(request)) })
})

/** At the door of a lock only those before are looked at, and not whether the own entry is still there. */
export const waiterTrustsItsKey: Variant = changed((request) => {
  const [first] = request.success ?? []
  return first?._tag === "Range" && first.maxCreateRevision !== undefined ? { ...request, compare: [] } : request
})

/** What is given back is deleted by its name, whoever has it. */
export const releaseByName: Variant = changed((request) => {
  const [first, second] = request.success ?? []
  return first?._tag === "Delete" && second === undefined ? { ...request, compare: [] } : request
})

/** A transaction of a holder does not ask whether it still is one. */
export const unfenced: Variant = changed((request) => {
  const [first] = request.success ?? []
  return first?._tag === "Put" && first.key.startsWith("/data/") ? { ...request, compare: [] } : request
})

/** A transaction whose answer was lost is sent once more. */
export const blindRetry: Variant = {
  transport: (transport) => ({
    ...transport,
    txn: (request) =>
      Effect.retry(transport.txn(request), {
        times: 2,
        while: ({ reason }) => reason._tag === "Timeout" || (reason._tag === "Unavailable" && reason.sent)
      })
  })
}

/**
 * A write that timed out has failed if what it wrote is not there, for good: a key that it puts there later all the same is not looked for
 * among those of the lease either.
 */
export const absenceIsProof: Variant = {
  port: (etcd) => {
    const failed = new Set<string>()
    return {
      ...etcd,
      txn: (request) => {
        const [put] = request.success ?? []
        if (put?._tag !== "Put") return etcd.txn(request)
        return Effect.catch(Effect.tap(etcd.txn(request), () => Effect.sync(() => failed.delete(put.key))), (error) => {
          if (error.reason._tag !== "Ambiguous") return Effect.fail(error)
          const reason = new Unavailable({ detail: "it is not there", sent: false })
          return Effect.flatMap(holds(etcd, put.key, put.value), (written) => {
            if (written) return Effect.fail(error)
            failed.add(put.key)
            return Effect.fail(new EtcdError({ ...error, reason }))
          })
        })
      },
      leaseTimeToLive: (id) =>
        Effect.map(etcd.leaseTimeToLive(id), (lease) => ({
          ...lease,
          keys: lease.keys.filter((key) => !failed.has(key))
        }))
    }
  }
}

const holds = (etcd: Etcd["Service"], key: string, value: string | Uint8Array) =>
  Effect.map(
    etcd.range({ key }),
    ({ kvs: [kv] }) =>
      kv !== undefined &&
      new TextDecoder().decode(kv.value) === (typeof value === "string" ? value : new TextDecoder().decode(value))
  )

/** A registration that cannot look after its key once leaves it at that. */
export const givesUp: Variant = {
  port: (etcd) => ({
    ...etcd,
    range: (request) =>
      "key" in request && request.keysOnly !== true
        ? Effect.mapError(etcd.range(request), (error) => new EtcdError({ ...error, reason: new Closed() }))
        : etcd.range(request)
  })
}

/** Several values are written one after the other. */
export const inParts: Variant = {
  port: (etcd) => ({
    ...etcd,
    txn: (request) => {
      const [first, ...rest] = request.success ?? []
      const isOfSeveral = first?._tag === "Put" && first.key.startsWith("/config/") && rest.length > 0
      return isOfSeveral
        ? Effect.tap(
          etcd.txn({ ...request, success: [first] }),
          ({ succeeded }) => succeeded ? etcd.txn({ success: rest }) : Effect.void
        )
        : etcd.txn(request)
    }
  })
}

/** What cannot be read is not there. */
export const emptyInAnOutage: Variant = {
  port: (etcd) => {
    let revision = 1n
    return {
      ...etcd,
      range: (request) =>
        Effect.map(etcd.range(request), (result) => {
          revision = result.revision
          return result
        }).pipe(Effect.catchIf(
          ({ reason }) => "prefix" in request && (reason._tag === "Timeout" || reason._tag === "Unavailable"),
          () => Effect.sync(() => ({ revision, kvs: [], count: 0, more: false }))
        ))
    }
  }
}
