/** What a lock asks of etcd to be first in line: a put on condition that nobody is there, and only where somebody was a look at who it is. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Etcd, Operation, type TxnRequest } from "../src/Etcd.ts"
import { EtcdError, Unavailable } from "../src/EtcdError.ts"
import { Lock } from "../src/Lock.ts"
import { actAtEveryStep } from "./utils/interruptAtEveryStep.ts"
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

const deeper = "/locks/job/deeper/1"

const once = (lock: Lock["Service"], key = "job") => lock.withLock(key)(Effect.void)

describe("the claim of a lock", () => {
  it.effect("is a put and no more where nobody is, again and again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { claims, lock } = yield* watched(world)
      yield* Effect.repeat(once(lock), { times: 2 })
      assert.deepStrictEqual(claims(), ["Put", "Put", "Put"])
    }))

  it.effect("looks at who is there where somebody was, until nobody was three times", () =>
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
      yield* Effect.repeat(once(lock), { times: 4 })
      assert.deepStrictEqual(claims(), ["Put+Range", "Put+Range", "Put+Range", "Put", "Put"])
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
      let sent = 0
      yield* link.setFate((operation) => operation === "txn" && sent++ === 0 ? { response: "lost" } : {})
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
      assert.deepStrictEqual(claims(), ["Put", "Put"])
    }))

  it.effect("leaves nothing behind where its answer was lost, and who waited gives up while it is sent again", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      // So the lease stays.
      yield* one.lock.acquire("another")
      let sent = 0
      yield* one.link.setFate((operation) => {
        if (operation !== "txn") return {}
        sent++
        return sent === 1 ? { response: "lost" } : sent === 2 ? { response: "300 millis" } : {}
      })
      const waiting = yield* Effect.forkChild(
        Effect.scoped(Effect.timeoutOption(one.lock.acquire("job"), "5200 millis"))
      )
      yield* TestClock.adjust("5150 millis")
      yield* TestClock.adjust("500 millis")
      assert.deepStrictEqual(waiting.pollUnsafe(), Exit.succeed(Option.none()))
      assert.deepStrictEqual((yield* world.keys).filter((key) => key.includes("job")), [])
      yield* within("100 millis", Effect.scoped(other.lock.acquire("job")))
    }))

  for (const lost of [false, true]) {
    it.effect(
      `in vain leaves nothing behind at whatever step its scope closes${lost ? ", its first answer lost" : ""}`,
      () =>
        Effect.gen(function*() {
          const context = yield* Effect.context<never>()
          const steps = yield* actAtEveryStep({
            setup: Effect.gen(function*() {
              const world = yield* makeWorld
              const one = yield* world.client
              yield* world.operator.txn({ success: [Operation.put(deeper, "")] })
              yield* once(one.lock, "another")
              let sent = 0
              yield* one.link.setFate((operation) =>
                lost && operation === "txn" && ++sent === 1
                  ? { request: "20 millis", response: "lost" }
                  : { request: "20 millis", response: "20 millis" }
              )
              return { world, one, scope: yield* Scope.make() }
            }),
            run: ({ one, scope }) =>
              Scope.provide(one.lock.acquire("job"), scope).pipe(
                Effect.exit,
                Effect.tap(Scope.close(scope, Exit.void))
              ),
            act: ({ scope }) => {
              Effect.runForkWith(context)(Scope.close(scope, Exit.void))
            },
            check: ({ world }) =>
              Effect.gen(function*() {
                yield* TestClock.adjust("200 millis")
                assert.deepStrictEqual((yield* world.keys).filter((key) => key.includes("job")), [deeper])
              })
          })
          assert.isAbove(steps, 40)
        }),
      120_000
    )
  }

  it.effect("waits on where its answer was lost, and nothing can be sent once it has been found", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd, link } = yield* world.client
      let sent = 0
      let isDown = false
      const orRefused = <A>(operation: string, call: Effect.Effect<A, EtcdError>) =>
        Effect.suspend(() =>
          isDown
            ? Effect.fail(new EtcdError({ operation, reason: new Unavailable({ detail: "refused", sent: false }) }))
            : call
        )
      const service: Etcd["Service"] = {
        ...etcd,
        range: (request) => orRefused("range", etcd.range(request)),
        txn: (request) =>
          orRefused("txn", Effect.tap(etcd.txn(request), () => Effect.sync(() => isDown ||= sent === 2)))
      }
      const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, service))))
      const lock = Context.get(context, Lock)
      yield* lock.acquire("another")
      yield* link.setFate((operation) => operation === "txn" && ++sent === 1 ? { response: "lost" } : {})
      const waiting = yield* Effect.forkChild(lock.acquire("job"))
      yield* TestClock.adjust("6 seconds")
      assert.isTrue(isDown)
      assert.isUndefined(waiting.pollUnsafe())
      isDown = false
      yield* within("2 seconds", Fiber.join(waiting))
    }))
})
