/** Semaphores and read-write locks under faults, in virtual time. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Operation } from "../src/Etcd.ts"
import { ReadWriteLock } from "../src/ReadWriteLock.ts"
import { Semaphore } from "../src/Semaphore.ts"
import { clientOf } from "./utils/clientOf.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { failure, settle, within } from "./utils/virtual.ts"
import { makeWorld } from "./utils/world.ts"

type World = Effect.Success<typeof makeWorld>

const client = (world: World) =>
  Effect.map(
    clientOf(world, Layer.merge(Semaphore.layer(), ReadWriteLock.layer())),
    (made) => ({
      ...made,
      semaphore: Context.get(made.context, Semaphore),
      rw: Context.get(made.context, ReadWriteLock)
    })
  )

type Client = Effect.Success<ReturnType<typeof client>>

const options = { ttl: "10 seconds" } as const

interface Held {
  readonly lost: Effect.Effect<never, unknown>
  readonly assertHeld: Effect.Effect<void, unknown>
}

interface Kind {
  readonly root: string
  readonly acquire: (client: Client) => Effect.Effect<Held, unknown, Scope.Scope>
  readonly attempt: (client: Client) => Effect.Effect<Held, unknown, Scope.Scope>
}

const writer: Kind = {
  root: "/rwlocks/job/",
  acquire: ({ rw }) => rw.writeLock("job", options),
  attempt: ({ rw }) => rw.tryWriteLock("job", options)
}

/** What can be held by one alone, three times the same. */
const kinds: Record<string, Kind> = {
  semaphore: {
    root: "/semaphores/job/",
    acquire: ({ semaphore }) => semaphore.acquire("job", { permits: 1, ...options }),
    attempt: ({ semaphore }) => semaphore.tryAcquire("job", { permits: 1, ...options })
  },
  writer,
  "reader behind a writer": {
    root: "/rwlocks/job/",
    acquire: ({ rw }) => rw.readLock("job", options),
    attempt: ({ rw }) => rw.tryReadLock("job", options)
  }
}

for (const [kind, { acquire, attempt, root }] of Object.entries(kinds)) {
  /** The one in the way. */
  const block = (other: Client) =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      const handle = yield* Scope.provide(
        kind === "semaphore" ? acquire(other) : writer.acquire(other),
        scope
      )
      return { handle, close: Scope.close(scope, Exit.void) }
    })
  const own = (world: World) => Effect.map(world.keys, (keys) => keys.filter((key) => key.startsWith(root)))

  describe(`${kind} under faults`, () => {
    it.effect("is not given on before its holder knows of the loss", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([client(world), client(world)])
        const { handle } = yield* block(other)
        yield* other.link.partition
        const lost = yield* Effect.forkChild(Effect.flip(handle.lost))
        let knownAt: number | undefined
        for (let tick = 0; tick < 400; tick++) {
          yield* TestClock.adjust("50 millis")
          if (lost.pollUnsafe() !== undefined) knownAt ??= tick
          const taken = yield* Effect.exit(Effect.scoped(attempt(one)))
          if (Exit.isFailure(taken)) continue
          assert.isAbove(tick, knownAt ?? tick)
          assert.deepInclude(yield* Effect.flip(handle.assertHeld), { why: "Expired" })
          return
        }
        assert.fail("it was never free again")
      }))

    it.effect("a claim whose answer is lost is settled: one entry, and it goes through", () =>
      Effect.gen(function*() {
        for (const way of ["request", "response"]) {
          for (const blocked of [false, true]) {
            const world = yield* makeWorld
            const [one, other] = yield* Effect.all([client(world), client(world)])
            const before = blocked ? yield* block(other) : undefined
            let sent = 0
            yield* one.link.setFate((operation) => operation === "txn" && sent++ === 0 ? { [way]: "lost" } : {})
            const waiting = yield* Effect.forkChild(acquire(one))
            yield* TestClock.adjust("7 seconds")
            assert.strictEqual((yield* own(world)).length, blocked ? 2 : 1)
            if (before !== undefined) yield* before.close
            const held = yield* within("1 second", Fiber.join(waiting))
            yield* held.assertHeld
            assert.strictEqual((yield* own(world)).length, 1)
          }
        }
      }))

    it.effect("who waits gets through after whatever happens to the connection meanwhile", () =>
      Effect.gen(function*() {
        for (const trouble of ["cut", "partition", "refuse", "restart"] as const) {
          const world = yield* makeWorld
          const [one, other] = yield* Effect.all([client(world), client(world)])
          const before = yield* block(other)
          const waiting = yield* Effect.forkChild(acquire(one))
          yield* TestClock.adjust("1 second")
          assert.strictEqual((yield* own(world)).length, 2)
          yield* trouble === "restart" ? Effect.sync(() => world.store.restart()) : one.link[trouble]
          yield* before.close
          yield* TestClock.adjust("2 seconds")
          yield* one.link.heal
          yield* one.link.accept
          const held = yield* within("12 seconds", Fiber.join(waiting))
          yield* held.assertHeld
        }
      }))

    it.effect("who waits and loses its entry, or its lease, stands in line again", () =>
      Effect.gen(function*() {
        for (const loss of ["key", "lease"]) {
          const world = yield* makeWorld
          const [one, other] = yield* Effect.all([client(world), client(world)])
          const before = yield* block(other)
          const waiting = yield* Effect.forkChild(acquire(one))
          yield* settle
          const [entry] =
            (yield* world.operator.range({ prefix: root, sort: { by: "create", order: "descend" }, limit: 1 })).kvs
          if (entry === undefined) return assert.fail("it does not wait")
          yield* loss === "key"
            ? world.operator.txn({ success: [Operation.delete(entry.key)] })
            : world.operator.leaseRevoke(entry.lease)
          yield* TestClock.adjust("5 seconds")
          assert.strictEqual((yield* own(world)).length, 2)
          yield* before.close
          yield* within("1 second", Fiber.join(waiting))
        }
      }))

    it.effect("a claim that is applied long after its caller gave up keeps nobody out", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const [one, other] = yield* Effect.all([client(world), client(world)])
        // Keeps the shared lease in use, so that an orphan would live as long.
        yield* one.semaphore.acquire("bystander", { permits: 1, ...options })
        yield* one.rw.readLock("bystander", options)
        let sent = 0
        yield* one.link.setFate((operation) => operation === "txn" && sent++ === 0 ? { request: "8 seconds" } : {})
        const waiting = yield* Effect.forkChild(acquire(one))
        yield* settle
        yield* Effect.all([Fiber.interrupt(waiting), TestClock.adjust("20 seconds")], { concurrency: "unbounded" })
        assert.deepStrictEqual(yield* own(world), [])
        yield* Effect.scoped(attempt(other))
      }))

    // A try is the same code for all of them.
    for (const trying of kind === "semaphore" ? [false, true] : [false]) {
      it.effect(
        `interrupted at any step ${trying ? "of a try" : "while it waits"}, it leaves no key and keeps nobody out`,
        () =>
          Effect.gen(function*() {
            const steps = yield* interruptAtEveryStep({
              setup: Effect.gen(function*() {
                const world = yield* makeWorld
                const [one, other] = yield* Effect.all([client(world), client(world)])
                return { world, one, other, before: yield* block(other) }
              }),
              run: ({ before, one }) =>
                trying
                  ? Effect.scoped(Effect.andThen(Effect.exit(attempt(one)), Effect.andThen(before.close, attempt(one))))
                  : Effect.scoped(
                    Effect.andThen(
                      Effect.forkScoped(Effect.delay(before.close, "100 millis")),
                      Effect.andThen(acquire(one), Effect.sleep("100 millis"))
                    )
                  ),
              check: ({ before, other, world }) =>
                Effect.gen(function*() {
                  yield* before.close
                  assert.deepStrictEqual(yield* own(world), [])
                  yield* Effect.scoped(attempt(other))
                })
            }).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, 7))
            assert.isAbove(steps, 100)
          }),
        120_000
      )
    }

    it.effect("a layer that closes ends what is held and what waits, and leaves nothing", () =>
      Effect.gen(function*() {
        const world = yield* makeWorld
        const other = yield* client(world)
        const scope = yield* Scope.make()
        const one = yield* Scope.provide(client(world), scope)
        const beside = yield* Scope.make()
        const held = yield* Scope.provide(one.semaphore.acquire("beside", { permits: 2, ...options }), beside)
        yield* block(other)
        const waiting = yield* Effect.forkChild(Effect.exit(Effect.scoped(acquire(one))))
        yield* settle
        yield* within("7 seconds", Scope.close(scope, Exit.void))
        assert.deepInclude(failure(yield* within("1 second", Fiber.join(waiting))), { _tag: "EtcdError" })
        assert.deepInclude(yield* Effect.flip(held.assertHeld), { why: "Closed" })
        assert.strictEqual((yield* own(world)).length, 1)
        yield* Scope.close(beside, Exit.void)
      }))
  })
}
