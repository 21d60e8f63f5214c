/** Beats over a stream that ends under them. */
import { assert, describe, it } from "@effect/vitest"
import { status as Code } from "@grpc/grpc-js"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Scheduler from "effect/Scheduler"
import type { Connection } from "../src/internal/etcd3/connection.ts"
import { makeKeepAlive } from "../src/internal/etcd3/lease.ts"
import type { Status } from "../src/internal/etcd3/status.ts"

const cut: Status = { code: Code.UNAVAILABLE, details: "cut" }

describe("a beat", () => {
  it.effect("whose fiber gives way between any two steps, while its stream ends, does not wait for an answer", () =>
    Effect.gen(function*() {
      for (let n = 0; n < 240; n++) {
        const ops = 4 + n % 4
        const turns = Math.floor(n / 4)
        yield* Effect.scoped(Effect.gen(function*() {
          const ends: Array<Deferred.Deferred<never, Status>> = []
          const connection = {
            open: () =>
              Effect.sync(() => {
                const end = Deferred.makeUnsafe<never, Status>()
                ends.push(end)
                return { write: () => {}, read: Deferred.await(end), cancel: () => {} }
              })
          } as unknown as Connection
          const { beat } = yield* makeKeepAlive(connection, (attempt) => attempt(undefined), Duration.seconds(5))
          yield* Effect.forkChild(beat(1n), { startImmediately: true })
          const second = yield* Effect.forkChild(Effect.provideService(beat(2n), Scheduler.MaxOpsBeforeYield, ops))
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          if (ends[0] !== undefined) yield* Deferred.fail(ends[0], cut)
          for (let turn = 0; turn < 100; turn++) yield* Effect.yieldNow
          // It failed with its stream, or is on the next one.
          assert.isTrue(second.pollUnsafe() !== undefined || ends.length === 2, `${ops} steps, ${turns} turns`)
        }))
      }
    }))
})
