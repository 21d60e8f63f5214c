/**
 * What is held by having gone through a line: the skeleton of semaphores and read-write locks.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { Etcd, KeyValue } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { type Held, type HoldLoss, makeHolds } from "../hold/Hold.ts"
import { inScope, untilTaken } from "../hold/inScope.ts"
import { makeSessionPool } from "../session/SessionPool.ts"
import type { Taken } from "./Attempt.ts"
import { EntryLost } from "./entry.ts"
import { type Line, standInLine, stepThrough } from "./line.ts"

export interface Pass<L> extends Held<L> {
  readonly fencingToken: bigint
}

export interface PassRequest<L, E> {
  /** What users call it. */
  readonly key: string
  readonly ttl: Duration.Duration
  readonly line: Line
  /** Where its own entry is put: below this, by the lease and a number. */
  readonly folder: string
  readonly value: string
  /** Waited for before anything is put, and given back when it is through. */
  readonly turn?: Effect.Effect<unknown, never, Scope.Scope> | undefined
  /** Does not wait: fails so. */
  readonly refuse?: ((ahead: ReadonlyArray<KeyValue>) => E) | undefined
  readonly lossOf: (token: bigint, why: HoldLoss) => L
}

export const makePasses = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  options: { readonly service: string; readonly prefix: string; readonly what: string }
) {
  const pool = yield* makeSessionPool(etcd, `${options.prefix}/`)
  const makeHold = makeHolds(etcd, options)
  let count = 0

  return Effect.fnUntraced(function*<L, E = never>(
    { folder, key, line, lossOf, refuse, ttl, turn = Effect.void, value }: PassRequest<L, E>
  ): Effect.fn.Return<Pass<L>, E | EtcdError, Scope.Scope> {
    // Many of one line can live on one lease.
    const number = ++count
    const request = {
      ttl,
      name: `${folder}${number}`,
      key: (lease: bigint) => `${folder}${lease.toString(16)}-${number}`
    }
    const enter: (taken: Taken["slot"]) => Effect.Effect<bigint | EntryLost, E | EtcdError, Scope.Scope> =
      refuse === undefined
        ? (slot) => standInLine(etcd, line, slot, value)
        : (slot) =>
          Effect.flatMap(
            stepThrough(etcd, line, slot, value),
            (through) => typeof through === "object" ? Effect.fail(refuse(through.ahead)) : Effect.succeed(through)
          )
    const attempt = Effect.flatMap(
      pool.slot(request),
      (slot) => Effect.map(enter(slot), (token) => token === EntryLost ? EntryLost : { slot, token })
    )
    const queued = Effect.scopedWith((turnScope) => Effect.andThen(Scope.provide(turn, turnScope), untilTaken(attempt)))
    return yield* inScope(
      Effect.annotateLogs(queued, { key }),
      ({ slot, token }, scope) =>
        Effect.gen(function*() {
          const hold = makeHold({ key, slot, token, scope, lossOf: (why) => lossOf(token, why) })
          yield* Scope.addFinalizer(scope, Effect.sync(() => hold.retire()))
          yield* Effect.annotateCurrentSpan({
            "coord.token": String(token),
            "coord.lease": slot.session.leaseId.toString(16)
          })
          return { fencingToken: token, ...hold.held }
        })
    )
  })
})
