/** What a lock asks of etcd to be first in line: a put on condition that nobody is there, and only where somebody was a look at who it is. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { Etcd, type TxnRequest } from "../src/Etcd.ts"
import { Lock } from "../src/Lock.ts"
import { settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

const isPut = ({ success = [] }: TxnRequest): boolean => success.some(({ _tag }) => _tag === "Put")

/** A client whose claims are written down: what each does when its compare holds. */
const watched = Effect.fnUntraced(function*(world: Effect.Success<typeof makeWorld>) {
  const { etcd, link } = yield* world.client
  const claims: Array<string> = []
  const service: Etcd["Service"] = {
    ...etcd,
    txn: (request) => {
      if (isPut(request)) claims.push((request.success ?? []).map(({ _tag }) => _tag).join("+"))
      return etcd.txn(request)
    }
  }
  const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, service))))
  const lock = Context.get(context, Lock)
  // Its lease is there.
  yield* lock.withLock("first")(Effect.void)
  claims.length = 0
  return { lock, link, claims: () => claims.splice(0) }
})

const once = (lock: Lock["Service"], key = "job") => lock.withLock(key)(Effect.void)

describe("the claim of a lock", () => {
  it.effect("is a put and no more where nobody is, again and again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { claims, lock } = yield* watched(world)
      yield* Effect.repeat(once(lock), { times: 2 })
      assert.deepStrictEqual(claims(), ["Put", "Put", "Put"])
    }))

  it.effect("looks at who is there where somebody was the last time, until nobody was", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [{ claims, lock }, other] = yield* Effect.all([watched(world), world.client])
      const contended = Effect.gen(function*() {
        const waiting = yield* Effect.scoped(Effect.gen(function*() {
          yield* other.lock.acquire("job")
          const waiting = yield* Effect.forkChild(once(lock))
          yield* settle
          return waiting
        }))
        yield* within("100 millis", Fiber.join(waiting))
      })
      yield* contended
      assert.deepStrictEqual(claims(), ["Put", "Put+Range"])
      yield* contended
      assert.deepStrictEqual(claims(), ["Put+Range"])
      yield* Effect.repeat(once(lock), { times: 2 })
      assert.deepStrictEqual(claims(), ["Put+Range", "Put", "Put"])
    }))

  it.effect("is no longer in vain where the keys of deeper locks stay, and waits for none of them", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [{ claims, lock }, other] = yield* Effect.all([watched(world), world.client])
      yield* other.lock.acquire("job/deeper")
      yield* within("100 millis", Effect.repeat(once(lock), { times: 2 }))
      assert.deepStrictEqual(claims(), ["Put", "Put+Range", "Put+Range", "Put+Range"])
    }))

  it.effect("whose answer was lost finds the entry that it has made", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { claims, link, lock } = yield* watched(world)
      let lost = 0
      yield* link.setFate((operation) => operation === "txn" && lost++ === 0 ? { response: "lost" } : {})
      const { kvs: [entry] } = yield* within(
        "20 seconds",
        lock.withLock("job")(({ entryKey, fencingToken }) =>
          Effect.map(
            world.operator.range({ key: entryKey }),
            (found) => ({ ...found, kvs: found.kvs.filter(({ createRevision }) => createRevision === fencingToken) })
          )
        )
      )
      assert.isDefined(entry)
      assert.deepStrictEqual(claims().slice(0, 3), ["Put", "Put", "Put+Range"])
    }))
})
