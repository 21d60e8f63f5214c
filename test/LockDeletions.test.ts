/** How processes wait for each other: by a watch on the key before theirs, which stays for who waits for it again. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { Etcd, Operation, type WatchItem } from "../src/Etcd.ts"
import { EtcdError, PermissionDenied } from "../src/EtcdError.ts"
import { Cut, makeDeletions } from "../src/internal/lock/deletions.ts"
import { Lock } from "../src/Lock.ts"
import { settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

/** A client whose watches are counted. */
const counting = Effect.fnUntraced(function*(world: Effect.Success<typeof makeWorld>) {
  const { etcd, link } = yield* world.client
  const watches = { opened: 0, open: 0, refused: false }
  const service: Etcd["Service"] = {
    ...etcd,
    watch: (request) =>
      Stream.unwrap(Effect.acquireRelease(
        Effect.sync(() => {
          watches.opened++
          watches.open++
          return watches.refused
            ? Stream.fail(new EtcdError({ operation: "watch", reason: new PermissionDenied() }))
            : etcd.watch(request)
        }),
        () => Effect.sync(() => watches.open--)
      ))
  }
  const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, service))))
  return { lock: Context.get(context, Lock), link, watches }
})

const hold = Effect.fnUntraced(function*(lock: Lock["Service"], key = "job") {
  const scope = yield* Scope.fork(yield* Effect.scope)
  yield* Scope.provide(lock.acquire(key, { ttl: "60 seconds" }), scope)
  return { release: Scope.close(scope, Exit.void) }
})

/** One holds it while the other waits, then the other way round. */
const passOn = Effect.fnUntraced(function*(one: Lock["Service"], other: Lock["Service"], key?: string) {
  const { release } = yield* hold(one, key)
  const waiting = yield* Effect.forkChild(hold(other, key))
  yield* settle
  yield* release
  const next = yield* within("100 millis", Fiber.join(waiting))
  yield* next.release
})

describe("a lock that goes from process to process", () => {
  it.effect("costs one watch for as long as it goes to and fro, and none a second after that", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, counting(world)])
      for (let round = 0; round < 20; round++) yield* passOn(one.lock, other.lock)
      assert.strictEqual(other.watches.opened, 1)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(other.watches.open, 0)
      yield* passOn(one.lock, other.lock)
      assert.strictEqual(other.watches.opened, 2)
    }))

  it.effect("whoever waits for one after the other keeps the watches of the last two, in each queue", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const others = yield* Effect.replicateEffect(world.client, 3)
      const waiter = yield* counting(world)
      const { lock: elsewhere } = yield* world.client
      for (let round = 0; round < 3; round++) {
        yield* passOn(elsewhere, waiter.lock, "other")
        for (const { lock } of others) yield* passOn(lock, waiter.lock)
        yield* settle
        assert.strictEqual(waiter.watches.open, 3)
      }
      assert.strictEqual(waiter.watches.opened, 10)
      const [, second, third] = others
      for (const { lock } of [second, third, second, third].filter((other) => other !== undefined)) {
        yield* passOn(lock, waiter.lock)
      }
      assert.strictEqual(waiter.watches.opened, 10)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(waiter.watches.open, 0)
    }))

  it.effect("a watch ends when it has told nobody of three deletions, and stays when it was used in between", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, counting(world)])
      const unheard = Effect.andThen(Effect.scoped(one.lock.acquire("job", { ttl: "60 seconds" })), settle)
      for (let round = 0; round < 3; round++) {
        yield* passOn(one.lock, other.lock)
        yield* Effect.replicateEffect(unheard, 2, { discard: true })
        assert.strictEqual(other.watches.open, 1, `${round}`)
      }
      assert.strictEqual(other.watches.opened, 1)
      yield* unheard
      assert.strictEqual(other.watches.open, 0)
      yield* passOn(one.lock, other.lock)
      assert.strictEqual(other.watches.opened, 2)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(other.watches.open, 0)
    }))

  it.effect("processes in which more than one waits, and that have two keys in turn, watch both", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const clients = yield* Effect.replicateEffect(counting(world), 3)
      let turns = 0
      const loop = ({ lock }: (typeof clients)[number]) =>
        Effect.repeat(
          lock.withLock("job")(Effect.andThen(Effect.sync(() => turns++), Effect.sleep("5 millis"))),
          { times: 19 }
        )
      const looping = yield* Effect.forkChild(
        Effect.forEach([...clients, ...clients], loop, { concurrency: "unbounded" })
      )
      yield* within("5 seconds", Fiber.join(looping))
      assert.strictEqual(turns, 120)
      for (const { watches } of clients) assert.isAtMost(watches.opened, 4)
    }))

  it.effect("a watch that ends as soon as it is opened is used by nobody else", () =>
    Effect.gen(function*() {
      let opened = 0
      const { etcd } = yield* (yield* makeWorld).client
      const deletions = yield* makeDeletions({
        ...etcd,
        watch: (request) => ++opened === 1 ? Stream.empty : etcd.watch(request)
      })
      const use = deletions.watching("/locks/job/1", (watch) => watch.opened)
      assert.strictEqual(yield* Effect.flip(use), Cut)
      yield* within("100 millis", use)
      assert.strictEqual(opened, 2)
    }))

  it.effect("a watch that tells of many deletions while it is opened is in use by then", () =>
    Effect.gen(function*() {
      const { etcd } = yield* (yield* makeWorld).client
      const key = "/locks/job/1"
      const deletion = (revision: bigint): WatchItem => ({
        _tag: "Batch",
        revision,
        events: [{ _tag: "Delete", key, modRevision: revision, previous: undefined }]
      })
      const items: ReadonlyArray<WatchItem> = [{ _tag: "Opened", revision: 5n }, ...[6n, 7n, 8n].map(deletion)]
      const deletions = yield* makeDeletions({
        ...etcd,
        watch: () =>
          Stream.fromIterable(items).pipe(
            Stream.concat(Stream.fromEffect(Effect.as(Effect.sleep("10 millis"), deletion(9n)))),
            Stream.concat(Stream.never)
          )
      })
      yield* within("100 millis", deletions.watching(key, ({ deleted }) => deleted(8n)))
    }))

  it.effect("a watch that is in use again stays, whoever else is waited for in the same queue", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { etcd } = yield* world.client
      const deletions = yield* makeDeletions(etcd)
      const keyOf = (index: number) => `/locks/job/${index}`
      /** Puts the key and waits for its deletion. */
      const waitFor = Effect.fnUntraced(function*(index: number) {
        const { revision } = yield* etcd.txn({ success: [Operation.put(keyOf(index), "")] })
        const fiber = yield* Effect.forkChild(
          deletions.watching(keyOf(index), ({ deleted, opened }) => Effect.andThen(opened, deleted(revision)))
        )
        yield* settle
        const remove = etcd.txn({ success: [Operation.delete(keyOf(index))] })
        return { over: Effect.andThen(remove, within("100 millis", Fiber.join(fiber))) }
      })
      yield* (yield* waitFor(0)).over
      const again = yield* waitFor(0)
      const others = yield* Effect.forEach([1, 2], waitFor)
      yield* again.over
      for (const { over } of others) yield* over
    }))

  it.effect("a deletion that is told before the claim is answered wakes whoever waits for it then", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, counting(world)])
      yield* passOn(one.lock, other.lock)
      const { release } = yield* hold(one.lock)
      yield* other.link.setFate((operation) => operation === "txn" ? { response: "300 millis" } : {})
      const waiting = yield* Effect.forkChild(hold(other.lock))
      yield* TestClock.adjust("100 millis")
      yield* release
      yield* TestClock.adjust("200 millis")
      assert.strictEqual(waiting.pollUnsafe(), undefined)
      yield* Effect.asVoid(within("400 millis", Fiber.join(waiting)))
      yield* other.link.setFate(() => ({}))
      assert.strictEqual(other.watches.opened, 1)
    }))

  it.effect("a deletion before the watch opens is found by a look", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, counting(world)])
      const { release } = yield* hold(one.lock)
      yield* other.link.setFate((operation) => operation === "watch" ? { request: "300 millis" } : {})
      const waiting = yield* Effect.forkChild(hold(other.lock))
      yield* TestClock.adjust("100 millis")
      yield* release
      yield* Effect.asVoid(within("400 millis", Fiber.join(waiting)))
    }))

  it.effect("a watch that is cut, in use or between two uses, is opened anew", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, counting(world)])
      yield* passOn(one.lock, other.lock)
      yield* other.link.cut
      yield* settle
      yield* passOn(one.lock, other.lock)
      assert.strictEqual(other.watches.opened, 2)
      const { release } = yield* hold(one.lock)
      const waiting = yield* Effect.forkChild(hold(other.lock))
      yield* settle
      yield* other.link.cut
      yield* TestClock.adjust("200 millis")
      assert.strictEqual(other.watches.opened, 3)
      yield* release
      yield* Effect.asVoid(within("100 millis", Fiber.join(waiting)))
    }))

  it.effect("a watch that etcd refuses is an error of whoever waits", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, counting(world)])
      const { release } = yield* hold(one.lock)
      other.watches.refused = true
      const error = yield* Effect.flip(Effect.scoped(other.lock.acquire("job")))
      assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "PermissionDenied")
      other.watches.refused = false
      const waiting = yield* Effect.forkChild(hold(other.lock))
      yield* settle
      yield* release
      yield* Effect.asVoid(within("100 millis", Fiber.join(waiting)))
    }))
})
