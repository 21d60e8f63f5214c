import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { Etcd, Operation } from "../src/Etcd.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"

describe("EtcdMemory", () => {
  it.effect("a lease that is not kept alive takes all its keys with it in one revision", () =>
    Effect.gen(function*() {
      const store = yield* EtcdMemory.make()
      yield* Effect.gen(function*() {
        const etcd = yield* Etcd
        const lease = yield* etcd.leaseGrant(Duration.seconds(5))
        yield* etcd.txn({
          success: [Operation.put("b", "1", { lease: lease.id }), Operation.put("a", "2", { lease: lease.id })]
        })
        const events = yield* etcd.watch({ prefix: "", startRevision: 3n }).pipe(
          Stream.filter((item) => item._tag === "Batch"),
          Stream.take(1),
          Stream.runCollect,
          Effect.forkChild
        )
        yield* TestClock.adjust("4999 millis")
        assert.strictEqual((yield* etcd.range({ prefix: "" })).count, 2)
        yield* TestClock.adjust("1 millis")
        const [batch] = yield* Fiber.join(events)
        assert.deepStrictEqual(batch, {
          _tag: "Batch",
          revision: 3n,
          events: [
            { _tag: "Delete", key: "a", modRevision: 3n, previous: undefined },
            { _tag: "Delete", key: "b", modRevision: 3n, previous: undefined }
          ]
        })
        assert.strictEqual((yield* etcd.range({ prefix: "" })).count, 0)
      }).pipe(Effect.provide(EtcdMemory.layerPort(store)))
    }))
})
