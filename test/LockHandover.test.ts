/** From one fiber of a process to the next: the release and the next claim are one transaction. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Etcd, type TxnRequest } from "../src/Etcd.ts"
import { EtcdError, NoSpace } from "../src/EtcdError.ts"
import type { Fate } from "../src/internal/memory/link.ts"
import { Lock, type LockHandle } from "../src/Lock.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

const ttl = "30 seconds"

/** A fiber that takes the lock, says so, and holds it until told to let go. */
const worker = Effect.fnUntraced(function*(lock: Lock["Service"], options: { readonly label?: string } = {}) {
  const entered = yield* Deferred.make<LockHandle>()
  const end = yield* Deferred.make<void>()
  const fiber = yield* Effect.forkChild(
    lock.withLock("job", { ttl, ...options })((handle) =>
      Effect.andThen(Deferred.succeed(entered, handle), Deferred.await(end))
    )
  )
  yield* settle
  return {
    fiber,
    handle: Deferred.await(entered),
    isInside: () => Deferred.isDoneUnsafe(entered) && fiber.pollUnsafe() === undefined,
    end: Deferred.succeed(end, undefined),
    done: Fiber.join(fiber)
  }
})

const ownKeys = (keys: ReadonlyArray<string>) => keys.filter((key) => key.startsWith("/locks/job/"))

/** A client whose transactions are seen, and can be refused. */
const spied = Effect.fnUntraced(function*(world: Effect.Success<typeof makeWorld>) {
  const { etcd, link } = yield* world.client
  const sent: Array<TxnRequest> = []
  const spy = { refuse: (_request: TxnRequest): EtcdError | undefined => undefined }
  const service: Etcd["Service"] = {
    ...etcd,
    txn: (request) =>
      Effect.suspend(() => {
        sent.push(request)
        const refusal = spy.refuse(request)
        return refusal === undefined ? etcd.txn(request) : Effect.fail(refusal)
      })
  }
  const context = yield* Layer.build(Lock.layer().pipe(Layer.provide(Layer.succeed(Etcd, service))))
  return { lock: Context.get(context, Lock), link, sent, spy }
})

const tagsOf = (request: TxnRequest) => (request.success ?? []).map(({ _tag }) => _tag).join(" ")

describe("a lock that is handed over within a process", () => {
  it.effect("costs one transaction for each holder, on two leases, with growing tokens and in order", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock, sent } = yield* spied(world)
      const tokens: Array<readonly [number, bigint]> = []
      const all = yield* Effect.forkChild(Effect.forEach(
        Array.from({ length: 20 }, (_, i) => i),
        (i) =>
          lock.withLock("job", { label: `${i}` })((handle) =>
            Effect.gen(function*() {
              tokens.push([i, handle.fencingToken])
              const [holder, ...waiting] = yield* lock.waiters("job")
              assert.strictEqual(holder?.label, `${i}`)
              assert.strictEqual(holder?.fencingToken, handle.fencingToken)
              assert.strictEqual(waiting.length, 0)
              yield* Effect.sleep("10 millis")
            })
          ),
        { concurrency: "unbounded" }
      ))
      yield* TestClock.adjust("1 second")
      yield* within(0, Fiber.join(all))
      assert.deepStrictEqual(tokens.map(([i]) => i), Array.from({ length: 20 }, (_, i) => i))
      assert.deepStrictEqual(tokens, [...tokens].sort(([, a], [, b]) => Number(a - b)))
      assert.deepStrictEqual(sent.map(tagsOf), [
        "Put Range",
        ...Array.from({ length: 19 }, () => "Delete Put Range"),
        "Delete"
      ])
      assert.deepStrictEqual(yield* world.keys, [])
      assert.strictEqual(world.store.snapshot().leases.size, 2)
    }))

  it.effect("a thousand in line, none of which does anything", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      let count = 0
      const first = yield* worker(lock)
      const all = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: 1000 }),
          () => lock.withLock("job")(Effect.sync(() => count++)),
          { concurrency: "unbounded", discard: true }
        )
      )
      yield* settle
      yield* first.end
      yield* Fiber.join(all)
      assert.strictEqual(count, 1000)
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("does not jump the queue of other processes", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      const first = yield* worker(one.lock)
      const elsewhere = yield* worker(other.lock)
      const second = yield* worker(one.lock)
      yield* first.end
      yield* settle
      assert.deepStrictEqual([elsewhere.isInside(), second.isInside()], [true, false])
      assert.strictEqual(ownKeys(yield* world.keys).length, 2)
      yield* elsewhere.end
      yield* settle
      assert.isTrue(second.isInside())
      yield* second.end
      yield* Effect.all([first.done, second.done, elsewhere.done])
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("that was put behind another process: whoever gives up there leaves the turn to the next", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const [one, other] = yield* Effect.all([world.client, world.client])
      const first = yield* worker(one.lock)
      const elsewhere = yield* worker(other.lock)
      const second = yield* worker(one.lock)
      const third = yield* worker(one.lock)
      yield* first.end
      yield* settle
      yield* Fiber.interrupt(second.fiber)
      yield* elsewhere.end
      yield* settle
      assert.isTrue(third.isInside())
      yield* third.end
      yield* third.done
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  for (const way of ["request", "response"] as const) {
    it.effect(`the ${way} is lost: the one ends with its result, the next enters, nothing stays`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        const first = yield* worker(lock)
        const second = yield* worker(lock)
        assert.isFalse(second.isInside())
        let lost = false
        yield* link.setFate((operation) => {
          if (operation !== "txn" || lost) return {}
          lost = true
          return { [way]: "lost" }
        })
        yield* first.end
        yield* TestClock.adjust("7 seconds")
        yield* within("1 second", first.done)
        assert.isTrue(second.isInside())
        yield* (yield* second.handle).assertHeld
        assert.strictEqual(ownKeys(yield* world.keys).length, 1)
        yield* second.end
        yield* second.done
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual(yield* world.keys, [])
        yield* Effect.scoped(lock.tryAcquire("job"))
      }))
  }

  for (const [at, late] of [[2, 4], [2, 9], [7, 9]] as const) {
    it.effect(`applied after ${late} seconds, when the next one gave up after ${at}: it does not keep the lock`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const { link, lock } = yield* world.client
        const first = yield* worker(lock)
        const second = yield* worker(lock)
        let sent = 0
        yield* link.setFate((operation) => {
          if (operation !== "txn") return {}
          // The holder's key is still there when the first one comes, since its deletion is lost.
          return [{ request: `${late} seconds` } as const, { request: "lost" } as const][sent++] ?? {}
        })
        yield* first.end
        yield* TestClock.adjust(`${at} seconds`)
        yield* Effect.forkChild(Fiber.interrupt(second.fiber))
        yield* TestClock.adjust("14 seconds")
        yield* first.done
        assert.deepStrictEqual(yield* world.keys, [])
        yield* Effect.scoped(lock.tryAcquire("job"))
      }))
  }

  it.effect("refused by etcd, it is released and claimed apart", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock, sent, spy } = yield* spied(world)
      const first = yield* worker(lock)
      const second = yield* worker(lock)
      const full = new EtcdError({ operation: "txn", reason: new NoSpace() })
      spy.refuse = (request) => request.success?.some(({ _tag }) => _tag === "Put") === true ? full : undefined
      yield* first.end
      yield* settle
      yield* first.done
      // What the next one gets is its own error, as ever.
      assert.strictEqual((yield* Effect.flip(second.done))._tag, "EtcdError")
      assert.deepStrictEqual(sent.map(tagsOf), ["Put Range", "Delete Put Range", "Delete", "Put Range"])
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("onto a lease that an operator has revoked: the next one queues under a new one", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const first = yield* worker(lock)
      const second = yield* worker(lock)
      const [holder] = yield* lock.waiters("job")
      const spare = [...world.store.snapshot().leases.keys()].find((id) => id !== holder?.leaseId)
      yield* world.operator.leaseRevoke(spare ?? 0n)
      yield* first.end
      yield* settle
      yield* first.done
      assert.isTrue(second.isInside())
      yield* second.end
      yield* second.done
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  for (const what of ["key", "lease"] as const) {
    it.effect(`by a holder whose ${what} an operator has deleted: the next one enters, once`, () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([world.client, world.client])
        const first = yield* worker(one.lock)
        const second = yield* worker(one.lock)
        const [holder] = yield* one.lock.waiters("job")
        const elsewhere = yield* worker(other.lock)
        if (what === "lease") yield* world.operator.leaseRevoke(holder?.leaseId ?? 0n)
        else yield* world.operator.txn({ success: [{ _tag: "Delete", key: holder?.entryKey ?? "" }] })
        yield* first.end
        yield* settle
        assert.deepStrictEqual([elsewhere.isInside(), second.isInside()], [true, false])
        yield* elsewhere.end
        yield* settle
        assert.isTrue(second.isInside())
        yield* second.end
        yield* second.done
        yield* Effect.exit(first.done)
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual(yield* world.keys, [])
      }))
  }

  it.effect("keys without a lease that bear the name of the next one's entry block nobody here for ever", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const first = yield* worker(lock)
      const second = yield* worker(lock)
      const [holder] = yield* lock.waiters("job")
      const spare = [...world.store.snapshot().leases.keys()].find((id) => id !== holder?.leaseId)
      const foreign = `/locks/job/${(spare ?? 0n).toString(16)}`
      yield* world.operator.txn({ success: [{ _tag: "Put", key: foreign, value: "" }] })
      yield* first.end
      yield* settle
      assert.isFalse(second.isInside())
      yield* world.operator.txn({ success: [{ _tag: "Delete", key: foreign }] })
      yield* settle
      assert.isTrue(second.isInside())
      yield* second.end
      yield* second.done
    }))

  it.effect("an entry that a restored snapshot brought back on the lease of the next one is deleted by a renewal", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      yield* Effect.forEach([1, 2], () => lock.withLock("warm", { ttl })(Effect.sleep("1 millis")), {
        concurrency: 2
      }).pipe(Effect.forkChild)
      yield* TestClock.adjust("10 millis")
      const spare = [...world.store.snapshot().leases.keys()][1] ?? 0n
      yield* world.operator.txn({
        success: [{ _tag: "Put", key: `/locks/job/${spare.toString(16)}`, value: "", lease: spare }]
      })
      const first = yield* worker(lock)
      const second = yield* worker(lock)
      assert.isFalse(first.isInside())
      yield* TestClock.adjust("11 seconds")
      assert.deepStrictEqual([first.isInside(), second.isInside()], [true, false])
      yield* first.end
      yield* settle
      assert.isTrue(second.isInside())
      yield* second.end
      yield* second.done
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("unlock inside the body hands over before the body ends", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { lock } = yield* world.client
      const first = yield* worker(lock)
      const second = yield* worker(lock)
      yield* (yield* first.handle).unlock
      yield* settle
      assert.isTrue(second.isInside())
      assert.strictEqual((yield* Effect.flip((yield* first.handle).assertHeld)).why, "Released")
      yield* Effect.all([first.end, second.end])
      yield* Effect.all([first.done, second.done])
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  it.effect("a waiter that cannot get a lease in an outage still waits for its turn", () =>
    Effect.gen(function*() {
      const world = yield* makeWorld
      const { link, lock } = yield* world.client
      const first = yield* worker(lock)
      yield* link.refuse
      const second = yield* worker(lock)
      yield* TestClock.adjust("8 seconds")
      assert.strictEqual(second.fiber.pollUnsafe(), undefined)
      yield* link.accept
      yield* TestClock.adjust("2 seconds")
      yield* first.end
      yield* TestClock.adjust("2 seconds")
      assert.isTrue(second.isInside())
      yield* second.end
      yield* second.done
      assert.deepStrictEqual(yield* world.keys, [])
    }))

  const slow = (): Fate => ({ request: "200 millis", response: "200 millis" })
  const turn = Effect.promise(() => new Promise<void>((resume) => setImmediate(resume)))

  for (const who of ["the one that releases", "the next"] as const) {
    it.effect(
      `interrupted at any step, ${who} leaves no key, and the others get their turn, one at a time`,
      () =>
        Effect.gen(function*() {
          const steps = yield* interruptAtEveryStep({
            setup: Effect.gen(function*() {
              const world = yield* makeWorld
              const { link, lock } = yield* world.client
              const scope = yield* Scope.make()
              let inside = 0
              const entered: Array<number> = []
              const use = (i: number) =>
                Effect.acquireUseRelease(
                  Effect.sync(() => {
                    assert.strictEqual(++inside, 1)
                    entered.push(i)
                  }),
                  () => Effect.sleep("300 millis"),
                  () => Effect.sync(() => inside--)
                )
              const cycle = (i: number) => lock.withLock("job", { ttl: "60 seconds" })(use(i))
              const position = who === "the next" ? 1 : 0
              // Both leases are there, so that the steps are those of handing over.
              yield* Effect.all([cycle(-1), cycle(-2)], { concurrency: 2 })
              entered.length = 0
              yield* link.setFate(slow)
              const others: Array<Fiber.Fiber<void, unknown>> = []
              for (let i = 0; i < position; i++) {
                others.push(yield* Effect.forkIn(cycle(i), scope, { startImmediately: true }))
              }
              return { world, lock, link, scope, entered, others, cycle, position }
            }),
            run: ({ cycle, others, position, scope }) =>
              Effect.uninterruptibleMask((restore) =>
                Effect.gen(function*() {
                  for (let i = position + 1; i < 3; i++) {
                    others.push(yield* Effect.forkIn(Effect.delay(cycle(i), "10 millis"), scope))
                  }
                  yield* restore(cycle(position))
                })
              ),
            check: ({ entered, link, lock, others, world }, exit) =>
              Effect.gen(function*() {
                for (let i = 0; i < 100 && others.some((fiber) => fiber.pollUnsafe() === undefined); i++) {
                  yield* TestClock.adjust("100 millis")
                  yield* turn
                }
                yield* within(0, Fiber.joinAll(others))
                assert.strictEqual(new Set(entered).size, entered.length)
                assert.isAtLeast(entered.length, Exit.isSuccess(exit) ? 3 : others.length)
                yield* link.setFate(() => ({}))
                yield* TestClock.adjust("1 second")
                assert.deepStrictEqual(yield* world.keys, [])
                yield* Effect.scoped(lock.tryAcquire("job"))
              })
          }).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, 11))
          assert.isAbove(steps, 100)
        }),
      240_000
    )
  }
})
