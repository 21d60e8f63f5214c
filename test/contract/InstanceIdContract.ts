/**
 * What ids of instances do on every implementation of the port. The tests share one store: each has a prefix of its own.
 */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { Etcd, Operation } from "../../src/Etcd.ts"
import { InstanceId } from "../../src/InstanceId.ts"
import type { Operator } from "./Operator.ts"
import { freshPrefix, get, keys, put, remove, text } from "./support.ts"

interface Given {
  readonly ids: InstanceId["Service"]
  /** Another process. */
  readonly other: InstanceId["Service"]
  readonly root: string
}

const hold = Effect.fnUntraced(function*(...[service, ...args]: [InstanceId["Service"], string, { max: number }]) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const handle = yield* Scope.provide(service.acquire(...args), scope)
  return { handle, id: handle.id, close: Scope.close(scope, Exit.void) }
})

/** On the real clock, also where there is a virtual one. */
export const instanceIdContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    const test = (title: string, body: (given: Given) => Effect.Effect<void, unknown, Etcd | Scope.Scope>) =>
      it.effect(title, () =>
        Effect.gen(function*() {
          const root = freshPrefix().slice(0, -1)
          const client = Effect.map(
            Layer.build(InstanceId.layer({ prefix: root })),
            (all) => Context.get(all, InstanceId)
          )
          yield* body({ root, ids: yield* client, other: yield* client })
        }))

    test("everybody gets the smallest one that is free, and a released one is free again", ({ ids, other, root }) =>
      Effect.gen(function*() {
        const first = yield* hold(ids, "orders", { max: 8 })
        const second = yield* hold(other, "orders", { max: 8 })
        const third = yield* hold(ids, "orders", { max: 8 })
        assert.deepStrictEqual([first.id, second.id, third.id], [0, 1, 2])
        yield* second.close
        const again = yield* hold(ids, "orders", { max: 8 })
        assert.strictEqual(again.id, 1)
        assert.isTrue(again.handle.fencingToken > second.handle.fencingToken)
        assert.strictEqual((yield* Effect.flip(second.handle.assertHeld)).why, "Released")
        for (const held of [first, third, again]) yield* held.close
        assert.deepStrictEqual(yield* keys({ prefix: root }), [])
      }))

    test("the key is what a Go service writes, on a lease, and its ids are seen and left alone", ({ ids, root }) =>
      Effect.gen(function*() {
        yield* put(`${root}/orders/ids/1`, "1")
        const options = { max: 4, min: 1 }
        const held = yield* ids.acquire("orders", options)
        const kv = yield* get(`${root}/orders/ids/2`)
        assert.strictEqual(text(kv), "2")
        assert.strictEqual(kv.createRevision, held.fencingToken)
        const labelled = yield* ids.acquire("orders", { ...options, label: "pod-7" })
        assert.strictEqual(labelled.id, 3)
        const status = yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseTimeToLive(kv.lease))
        assert.deepStrictEqual([...status.keys].sort(), [2, 3].map((id) => `${root}/orders/ids/${id}`))
        yield* put(`${root}/orders/ids/x`, "")
        yield* put(`${root}/orders/ids/03`, "")
        const assigned = yield* ids.assigned("orders")
        assert.deepStrictEqual(assigned.map(({ id, label }) => [id, label]), [[1, "1"], [2, "2"], [3, "pod-7"]])
        assert.strictEqual(assigned[0]?.leaseId, 0n)
      }))

    test("when all are taken it says so at once, and again works when one is free", ({ ids, other }) =>
      Effect.gen(function*() {
        const first = yield* hold(ids, "orders", { max: 2 })
        yield* hold(other, "orders", { max: 2 })
        const none = yield* Effect.flip(Effect.scoped(other.acquire("orders", { max: 2 })))
        assert.deepInclude(none, { _tag: "IdsExhausted", service: "orders", min: 0, max: 2 })
        yield* first.close
        assert.strictEqual((yield* other.acquire("orders", { max: 2 })).id, 0)
      }))

    test("many who start at once get one each, and those who are too many are told so", ({ ids, other, root }) =>
      Effect.gen(function*() {
        const more = yield* Effect.all(
          Array.from(
            { length: 4 },
            () => Effect.map(Layer.build(InstanceId.layer({ prefix: root })), (all) => Context.get(all, InstanceId))
          )
        )
        const all = [ids, other, ...more].flatMap((client) => Array.from({ length: 4 }, () => client))
        const results = yield* Effect.forEach(
          all,
          (client) => Effect.result(client.acquire("orders", { max: 20 })),
          { concurrency: "unbounded" }
        )
        const got = results.flatMap((result) => result._tag === "Success" ? [result.success.id] : [])
        assert.deepStrictEqual(got.sort((a, b) => a - b), Array.from({ length: 20 }, (_, id) => id))
        const failures = results.flatMap((result) => result._tag === "Failure" ? [result.failure._tag] : [])
        assert.deepStrictEqual(failures, Array.from({ length: 4 }, () => "IdsExhausted"))
      }))

    test("services whose names begin alike have ids of their own", ({ ids, other }) =>
      Effect.gen(function*() {
        for (const service of ["a", "a/b", "ab", "a/ids"]) {
          assert.strictEqual((yield* ids.acquire(service, { max: 1 })).id, 0, service)
        }
        assert.strictEqual((yield* other.assigned("a")).length, 1)
      }))

    test("fenced writes of a former holder are refused, and writes to keys of ids always", ({ ids, other, root }) =>
      Effect.gen(function*() {
        const first = yield* hold(ids, "orders", { max: 2 })
        const write = (value: string) => ({ success: [Operation.put(`${root}-data`, value)] })
        assert.isTrue((yield* first.handle.fenced(write("1"))).succeeded)
        yield* remove(`${root}/orders/ids/0`)
        // It does not know of it yet.
        assert.strictEqual((yield* other.acquire("orders", { max: 2 })).id, 0)
        const lost = yield* Effect.flip(first.handle.fenced(write("2")))
        assert.strictEqual(lost._tag === "InstanceIdLost" && lost.why, "Deleted")
        const mine = yield* ids.acquire("orders", { max: 2 })
        const refused = yield* Effect.flip(mine.fenced({ success: [Operation.delete({ prefix: `${root}/` })] }))
        assert.strictEqual(refused._tag === "EtcdError" && refused.reason._tag, "InvalidArgument")
        yield* remove(`${root}-data`)
      }))

    test("withId interrupts its effect when somebody revokes the lease", ({ ids, other }) =>
      Effect.gen(function*() {
        const began = yield* Deferred.make<void>()
        const fiber = yield* Effect.forkChild(Effect.flip(
          ids.withId("orders", { max: 2, ttl: "2 seconds" })(
            Effect.andThen(Deferred.succeed(began, undefined), Effect.never)
          )
        ))
        yield* Deferred.await(began)
        const [holder] = yield* other.assigned("orders")
        yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseRevoke(holder?.leaseId ?? 0n))
        const error = yield* Effect.timeout(Fiber.join(fiber), "20 seconds")
        assert.deepInclude(error, { _tag: "InstanceIdLost", service: "orders", id: 0, why: "Revoked" })
        assert.strictEqual(yield* ids.withId("orders", { max: 2 })(({ id }) => Effect.succeed(id)), 0)
      }))

    test("bad names, bounds, durations and prefixes are refused before anything is sent", ({ ids, root }) =>
      Effect.gen(function*() {
        for (const bad of ["", "/orders", "orders/", "a//b", ".."]) {
          const error = yield* Effect.flip(Effect.scoped(ids.acquire(bad, { max: 2 })))
          assert.strictEqual(error._tag, "InvalidKey", bad)
          assert.strictEqual((yield* Effect.flip(ids.assigned(bad)))._tag, "InvalidKey", bad)
        }
        for (
          const [option, options] of [
            ["max", { max: 0 }],
            ["max", { max: 1.5 }],
            ["max", { max: Number.NaN }],
            ["max", { max: 2 ** 53 }],
            ["max", { max: 5, min: 5 }],
            ["min", { max: 5, min: -1 }],
            ["min", { max: 5, min: 0.5 }],
            ["ttl", { max: 5, ttl: "1 millis" }]
          ] as const
        ) {
          const error = yield* Effect.flip(Effect.scoped(ids.acquire("orders", options)))
          assert.deepInclude(error, { _tag: "InvalidOption", option })
        }
        const prefix = yield* Effect.flip(Layer.build(InstanceId.layer({ prefix: "ids" })))
        assert.deepInclude(prefix, { _tag: "InvalidOption", option: "allocatorPrefix" })
        assert.deepStrictEqual(yield* keys({ prefix: root }), [])
      }))
  })
