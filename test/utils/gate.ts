/** A transport whose calls are answered one by one, by the test. */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import type { RangeRequest, RangeResult, TxnRequest, TxnResult } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import type { Transport } from "../../src/internal/Transport.ts"

export interface GatedCall<Request, Answer> {
  readonly request: Request
  readonly answer: (effect: Exit.Exit<Answer, EtcdError>) => void
  state: "open" | "answered" | "cancelled"
}

const gated = <Request, Answer>() => {
  const calls: Array<GatedCall<Request, Answer>> = []
  return {
    calls,
    call: (request: Request): Effect.Effect<Answer, EtcdError> =>
      Effect.suspend(() => {
        const deferred = Deferred.makeUnsafe<Answer, EtcdError>()
        const call: GatedCall<Request, Answer> = {
          request,
          state: "open",
          answer: (exit) => {
            call.state = "answered"
            Deferred.doneUnsafe(deferred, exit)
          }
        }
        calls.push(call)
        return Effect.onInterrupt(Deferred.await(deferred), () =>
          Effect.sync(() => {
            if (call.state === "open") call.state = "cancelled"
          }))
      })
  }
}

export const makeGate = () => {
  const txn = gated<TxnRequest, TxnResult>()
  const range = gated<RangeRequest, RangeResult>()
  const transport: Transport = {
    range: range.call,
    txn: txn.call,
    leaseGrant: (_, ttl) => Effect.succeed({ ttl, exists: false }),
    leaseKeepAlive: () => Effect.succeed(Duration.seconds(10)),
    leaseRevoke: () => Effect.void,
    leaseTimeToLive: () => Effect.succeed({ remaining: Duration.seconds(10), keys: [], revision: 1n }),
    watch: () => Stream.never,
    members: Effect.succeed([])
  }
  return { transport, txns: txn.calls, ranges: range.calls }
}

/** Lets a first call of each kind wait, so that those after it gather; and counts them. */
export const withHeld = (transport: Transport) => {
  const counts = { txn: 0, range: 0 }
  let held = Deferred.makeUnsafe<void>()
  Deferred.doneUnsafe(held, Exit.void)
  const wait = <A>(kind: keyof typeof counts, call: Effect.Effect<A, EtcdError>) =>
    Effect.suspend(() => {
      counts[kind]++
      return Effect.andThen(Deferred.await(held), call)
    })
  return {
    transport: {
      ...transport,
      range: (request: RangeRequest) => wait("range", transport.range(request)),
      txn: (request: TxnRequest) => wait("txn", transport.txn(request))
    } satisfies Transport,
    counts,
    hold: Effect.sync(() => {
      held = Deferred.makeUnsafe()
    }),
    release: Effect.suspend(() => Deferred.succeed(held, undefined))
  }
}
