import * as Effect from "effect/Effect"
import type { Etcd } from "../../src/Etcd.ts"

type Port = Etcd["Service"]

/** A port on which something happens just before a request is sent, or just after its answer: at the first of these places, the second, ... */
const actingAt = (etcd: Port, place: number, act: Effect.Effect<unknown>) => {
  let places = 0
  let over = false
  const pass = Effect.suspend(() => !over && ++places === place ? act : Effect.void)
  const around = <A extends ReadonlyArray<unknown>, B, E>(call: (...args: A) => Effect.Effect<B, E>) => (...args: A) =>
    pass.pipe(Effect.andThen(Effect.exit(call(...args))), Effect.tap(pass), Effect.flatten)
  const port: Port = {
    ...etcd,
    range: around(etcd.range),
    txn: around(etcd.txn),
    leaseGrant: around(etcd.leaseGrant)
  }
  const end = Effect.sync(() => {
    over = true
  })
  return { port, end, /** Whether there were so many. */ reached: () => places >= place }
}

/**
 * Runs it again and again, with something else that happens around each of its requests in turn; returns at how many places. Nothing happens
 * from `end` on.
 */
export const actAtEveryRequest = Effect.fnUntraced(function*<E, R>(
  etcd: Port,
  act: Effect.Effect<unknown>,
  run: (port: Port, place: number, end: Effect.Effect<void>) => Effect.Effect<unknown, E, R>
) {
  for (let place = 1;; place++) {
    const { end, port, reached } = actingAt(etcd, place, act)
    yield* run(port, place, end)
    if (!reached()) return place - 1
  }
})
