/**
 * What semaphores and read-write locks do on every implementation of the port. The tests share one store: each has a prefix of its own.
 */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { type Etcd, Operation } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import { ReadWriteLock } from "../../src/ReadWriteLock.ts"
import { Semaphore } from "../../src/Semaphore.ts"
import type { Operator } from "./Operator.ts"
import { freshPrefix, keys, put, remove } from "./support.ts"

interface Process {
  readonly semaphore: Semaphore["Service"]
  readonly rw: ReadWriteLock["Service"]
}

interface Given {
  readonly one: Process
  readonly other: Process
  readonly root: string
}

const hold = Effect.fnUntraced(function*<A, E>(acquire: Effect.Effect<A, E, Scope.Scope>) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const handle = yield* Scope.provide(acquire, scope)
  return { handle, close: Scope.close(scope, Exit.void) }
})

/** Bounded: until something in etcd is so. */
const until = <R>(what: string, holds: Effect.Effect<boolean, EtcdError, R>) =>
  Effect.repeat(Effect.delay(holds, "10 millis"), { until: (yes) => yes, times: 1000 }).pipe(
    Effect.filterOrElse((yes) => yes, () => Effect.die(new Error(`not: ${what}`)))
  )

/** On the real clock, also where there is a virtual one. */
export const lineContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    const test = (title: string, body: (given: Given) => Effect.Effect<void, unknown, Etcd | Scope.Scope>) =>
      it.effect(title, () =>
        Effect.gen(function*() {
          const root = freshPrefix().slice(0, -1)
          const client = Effect.map(
            Layer.build(
              Layer.merge(Semaphore.layer({ prefix: `${root}/s` }), ReadWriteLock.layer({ prefix: `${root}/rw` }))
            ),
            (all): Process => ({ semaphore: Context.get(all, Semaphore), rw: Context.get(all, ReadWriteLock) })
          )
          yield* body({ root, one: yield* client, other: yield* client })
          yield* until("everything is given back", Effect.map(keys({ prefix: `${root}/` }), (all) => all.length === 0))
        }))

    test("a semaphore: as many as there are permits, then in the order in which they came", ({ one, other }) =>
      Effect.gen(function*() {
        const options = { permits: 2 }
        const first = yield* hold(one.semaphore.acquire("job", options))
        const second = yield* hold(other.semaphore.acquire("job", options))
        assert.isTrue(second.handle.fencingToken > first.handle.fencingToken)
        const order: Array<string> = []
        const wait = ({ semaphore }: Process, id: string, before: number) =>
          Effect.gen(function*() {
            const fiber = yield* Effect.forkChild(
              Effect.tap(hold(semaphore.acquire("job", { ...options, label: id })), () =>
                Effect.sync(() => order.push(id)))
            )
            yield* until(
              `${id} is in line`,
              Effect.map(Effect.orDie(semaphore.entries("job")), (all) =>
                all.length === before + 1)
            )
            return fiber
          })
        const third = yield* wait(other, "third", 2)
        const fourth = yield* wait(one, "fourth", 3)
        const entries = yield* one.semaphore.entries("job")
        assert.deepStrictEqual(
          entries.map(({ holds, label, permits }) => [label, permits, holds]),
          [["", 2, true], ["", 2, true], ["third", 2, false], ["fourth", 2, false]]
        )
        assert.strictEqual(
          (yield* Effect.flip(Effect.scoped(one.semaphore.tryAcquire("job", options))))._tag,
          "NoPermit"
        )
        assert.strictEqual((yield* one.semaphore.entries("job")).length, 4)
        yield* second.close
        const { close: closeThird } = yield* Fiber.join(third)
        assert.deepStrictEqual(order, ["third"])
        yield* first.close
        const { close: closeFourth } = yield* Fiber.join(fourth)
        assert.deepStrictEqual(order, ["third", "fourth"])
        yield* closeThird
        yield* Effect.scoped(one.semaphore.tryAcquire("job", options))
        yield* closeFourth
      }))

    test("a semaphore whose users say different numbers is as narrow as the narrowest before", ({ one, other }) =>
      Effect.gen(function*() {
        const wide = yield* hold(one.semaphore.acquire("job", { permits: 5 }))
        const narrow = yield* hold(other.semaphore.acquire("job", { permits: 2 }))
        const refused = yield* Effect.flip(Effect.scoped(one.semaphore.tryAcquire("job", { permits: 5 })))
        assert.deepInclude(refused, { _tag: "NoPermit", name: "job" })
        yield* narrow.close
        const next = yield* hold(one.semaphore.tryAcquire("job", { permits: 5 }))
        assert.strictEqual(
          (yield* Effect.flip(Effect.scoped(other.semaphore.tryAcquire("job", { permits: 2 }))))._tag,
          "NoPermit"
        )
        yield* Effect.all([wide.close, next.close])
      }))

    test("a semaphore: keys of others count as entries, and deeper ones do not", ({ one, root }) =>
      Effect.gen(function*() {
        yield* put(`${root}/s/job/by-hand`, "not of this library")
        yield* put(`${root}/s/job/deeper/key`, "")
        assert.strictEqual(
          (yield* Effect.flip(Effect.scoped(one.semaphore.tryAcquire("job", { permits: 1 }))))._tag,
          "NoPermit"
        )
        const held = yield* hold(one.semaphore.tryAcquire("job", { permits: 2 }))
        assert.deepStrictEqual((yield* one.semaphore.entries("job")).map(({ holds }) => holds), [true, true])
        yield* hold(one.semaphore.acquire("job/deeper", { permits: 2 }))
        const waiting = yield* Effect.forkChild(hold(one.semaphore.acquire("job", { permits: 2 })))
        yield* until(
          "it waits",
          Effect.map(Effect.orDie(one.semaphore.entries("job")), (all) => all.length === 3)
        )
        yield* remove(`${root}/s/job/by-hand`)
        yield* Effect.flatMap(Fiber.join(waiting), ({ close }) => close)
        yield* held.close
        yield* remove({ prefix: `${root}/s/` })
      }))

    test("never more than the permits, and nobody is forgotten", ({ one, other }) =>
      Effect.gen(function*() {
        let inside = 0
        let most = 0
        let done = 0
        const use = ({ semaphore }: Process) =>
          semaphore.withPermit("job", { permits: 3 })(
            Effect.sync(() => {
              inside++
              most = Math.max(most, inside)
            }).pipe(
              Effect.andThen(Effect.sleep("2 millis")),
              Effect.ensuring(Effect.sync(() => {
                inside--
                done++
              }))
            )
          )
        yield* Effect.forEach(
          Array.from({ length: 40 }, (_, n) => n % 2 === 0 ? one : other),
          use,
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual({ inside, done }, { inside: 0, done: 40 })
        assert.isAtMost(most, 3)
        assert.isAtLeast(most, 2)
      }))

    test("readers together, a writer alone, and nobody passes a writer that waits", ({ one, other }) =>
      Effect.gen(function*() {
        const [a, b] = [yield* hold(one.rw.readLock("doc")), yield* hold(other.rw.readLock("doc", { label: "b" }))]
        const inLine = (count: number) =>
          until(
            `${count} in line`,
            Effect.map(Effect.orDie(one.rw.entries("doc")), (all) => all.length === count)
          )
        const writer = yield* Effect.forkChild(hold(one.rw.writeLock("doc", { label: "w" })))
        yield* inLine(3)
        const late = yield* Effect.forkChild(hold(other.rw.readLock("doc")))
        yield* inLine(4)
        assert.deepStrictEqual(
          (yield* other.rw.entries("doc")).map(({ holds, label, mode }) => [mode, label, holds]),
          [["read", "", true], ["read", "b", true], ["write", "w", false], ["read", "", false]]
        )
        const refused = yield* Effect.flip(Effect.scoped(one.rw.tryReadLock("doc")))
        if (refused._tag !== "ReadWriteLockHeld") return assert.fail(refused._tag)
        assert.deepInclude(refused.holder, { mode: "write", label: "w" })
        yield* a.close
        assert.isUndefined(writer.pollUnsafe())
        yield* b.close
        const writing = yield* Fiber.join(writer)
        assert.strictEqual(writing.handle.mode, "write")
        assert.isUndefined(late.pollUnsafe())
        for (const trying of [one.rw.tryReadLock, other.rw.tryWriteLock]) {
          assert.strictEqual((yield* Effect.flip(Effect.scoped(trying("doc"))))._tag, "ReadWriteLockHeld")
        }
        yield* writing.close
        const reading = yield* Fiber.join(late)
        assert.isTrue(reading.handle.fencingToken > writing.handle.fencingToken)
        yield* Effect.scoped(one.rw.tryReadLock("doc"))
        yield* reading.close
        yield* Effect.scoped(one.rw.tryWriteLock("doc"))
      }))

    test("never a reader with a writer, never two writers, and nobody is forgotten", ({ one, other }) =>
      Effect.gen(function*() {
        let readers = 0
        let writers = 0
        let together = 0
        const wrong: Array<string> = []
        let done = 0
        const check = () => {
          together = Math.max(together, readers)
          if (writers > 1 || (writers > 0 && readers > 0)) wrong.push(`${readers} readers, ${writers} writers`)
        }
        const reading = Effect.acquireUseRelease(
          Effect.sync(() => {
            readers++
            check()
          }),
          () => Effect.sleep("3 millis"),
          () => Effect.sync(() => readers--)
        )
        const writing = Effect.acquireUseRelease(
          Effect.sync(() => {
            writers++
            check()
          }),
          () => Effect.sleep("1 millis"),
          () => Effect.sync(() => writers--)
        )
        yield* Effect.forEach(
          Array.from({ length: 48 }, (_, n) => n),
          (n) => {
            const { rw } = n % 2 === 0 ? one : other
            const use = n % 4 === 3 ? rw.withWriteLock("doc")(writing) : rw.withReadLock("doc")(reading)
            return Effect.andThen(use, Effect.sync(() => done++))
          },
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual({ wrong, done }, { wrong: [], done: 48 })
        assert.isAtLeast(together, 2)
      }))

    test("names that look like the folders of others are locks of their own", ({ one, root }) =>
      Effect.gen(function*() {
        yield* put(`${root}/rw/doc/by-hand`, "")
        for (const name of ["doc", "doc/read", "doc/write", "doc/write/write"]) yield* hold(one.rw.tryWriteLock(name))
        yield* Effect.flip(Effect.scoped(one.rw.tryReadLock("doc")))
        yield* remove(`${root}/rw/doc/by-hand`)
      }).pipe(Effect.scoped))

    test("a permit or a lock whose key is deleted is lost, and fenced writes are refused", ({ one, root }) =>
      Effect.gen(function*() {
        for (
          const acquire of [
            one.semaphore.acquire("job", { permits: 2, ttl: "3 seconds" }),
            one.rw.readLock("doc", { ttl: "3 seconds" }),
            one.rw.writeLock("page", { ttl: "3 seconds" })
          ] as ReadonlyArray<Effect.Effect<Lost, unknown, Scope.Scope>>
        ) {
          const { close, handle } = yield* hold(acquire)
          const written = yield* handle.fenced({ success: [Operation.put(`${root}/written`, "1")] })
          assert.isTrue(written.succeeded)
          const inside = yield* Effect.flip(
            handle.fenced({ success: [Operation.put(`${root}/s/x/y`, "1"), Operation.put(`${root}/rw/x/y`, "1")] })
          )
          assert.deepInclude(inside, { _tag: "EtcdError" })
          yield* remove({ prefix: `${root}/s/` })
          yield* remove({ prefix: `${root}/rw/` })
          const lost = yield* Effect.flip(handle.fenced({ success: [Operation.put(`${root}/written`, "2")] }))
          assert.deepInclude(lost, { why: "Deleted" })
          assert.deepInclude(yield* Effect.flip(handle.assertHeld), { why: "Deleted" })
          yield* close
        }
        yield* remove(`${root}/written`)
      }))

    test("names and options are checked before anything is sent", ({ one }) =>
      Effect.gen(function*() {
        for (const permits of [0, -1, 1.5, Number.NaN]) {
          const error = yield* Effect.flip(Effect.scoped(one.semaphore.acquire("job", { permits })))
          assert.deepInclude(error, { _tag: "InvalidOption", option: "permits" })
        }
        assert.strictEqual(
          (yield* Effect.flip(Effect.scoped(one.semaphore.acquire("/a", { permits: 1 }))))._tag,
          "InvalidKey"
        )
        assert.strictEqual((yield* Effect.flip(Effect.scoped(one.rw.readLock("a//b"))))._tag, "InvalidKey")
        assert.strictEqual((yield* Effect.flip(Effect.scoped(one.rw.writeLock("a", { ttl: 0 }))))._tag, "InvalidOption")
        assert.strictEqual((yield* Effect.flip(one.rw.entries("")))._tag, "InvalidKey")
      }))
  })

interface Lost {
  readonly fenced: (
    txn: { readonly success: ReadonlyArray<Operation> }
  ) => Effect.Effect<{ readonly succeeded: boolean }, unknown>
  readonly assertHeld: Effect.Effect<void, unknown>
}
