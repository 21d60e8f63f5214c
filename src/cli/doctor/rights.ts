/**
 * What this user may do where the services live. Nothing is written: a transaction that never holds is checked all the same.
 */
import * as Effect from "effect/Effect"
import { Compare, Etcd, Operation } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { type Finding, ok, problem } from "./Finding.ts"

const allowed = <A>(effect: Effect.Effect<A, EtcdError>) =>
  effect.pipe(
    Effect.as(true),
    Effect.catchReason("EtcdError", "PermissionDenied", () => Effect.succeed(false))
  )

/** The rights below each prefix, and of whom. */
export const rights = Effect.fnUntraced(
  function*(
    prefixes: ReadonlyArray<{ readonly service: string; readonly prefix: string }>,
    user: string | undefined,
    namespace: string
  ) {
    const etcd = yield* Etcd
    return yield* Effect.forEach(
      prefixes,
      ({ prefix, service }) =>
        Effect.gen(function*(): Effect.fn.Return<Finding, EtcdError> {
          const key = `${prefix}/coord-doctor`
          const read = yield* allowed(etcd.range({ prefix: `${prefix}/`, limit: 1, keysOnly: true }))
          const write = yield* allowed(etcd.txn({
            compare: [Compare.createRevision(key, "<", 0n)],
            success: [Operation.put(key, "")]
          }))
          const folder = `${namespace}${prefix}/`
          const check = `rights of ${service}`
          if (read && write) return ok(check, `read and write below ${folder}`)
          return problem(
            check,
            `${user ?? "this client"} may ${read ? "only read" : write ? "only write" : "do nothing"} below ${folder}`,
            `etcdctl role grant-permission --prefix ROLE readwrite ${folder}, if it needs that (readers of services and configuration do not)`
          )
        })
    )
  }
)
