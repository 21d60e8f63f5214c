import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import { Operation } from "../src/Etcd.ts"
import { PermissionDenied } from "../src/EtcdError.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import { makeLink } from "../src/internal/memory/link.ts"
import { Store } from "../src/internal/memory/Store.ts"
import { makeTransport } from "../src/internal/memory/transport.ts"
import { type KeyObserver, makeOwnKeys } from "../src/internal/registry/ownKeys.ts"
import { makeSharedWatch } from "../src/internal/SharedWatch.ts"
import { eventually, makeCountingPort } from "./utils/watching.ts"

const timeout = Duration.seconds(5)

const makeSetup = Effect.gen(function*() {
  const store = new Store(yield* Clock.Clock)
  const link = yield* makeLink(timeout)
  const operator = yield* makeEtcd(makeTransport(store), { retry: Schedule.recurs(0), timeout, namespace: "" })
  const port = makeCountingPort(
    yield* makeEtcd(makeTransport(store, link), { retry: Schedule.recurs(2), timeout, namespace: "" })
  )
  const scope = yield* Scope.fork(yield* Effect.scope)
  const ownKeys = yield* Scope.provide(Effect.flatMap(makeSharedWatch(port.etcd), makeOwnKeys), scope)
  const txn = (...success: ReadonlyArray<Operation>) => operator.txn({ success })
  return {
    link,
    port,
    ownKeys,
    txn,
    put: (key: string) => txn(Operation.put(`/a/${key}`, "")),
    remove: (key: string) => txn(Operation.delete(`/a/${key}`)),
    compact: Effect.sync(() => Result.getOrThrow(store.compact(store.revision))),
    close: Scope.close(scope, Exit.void)
  }
})

type Setup = Effect.Success<typeof makeSetup>

/** `+revision` of a put, `-revision` of what is not there, `?` of a doubt. */
const observer = (also: () => void = () => {}): KeyObserver & { readonly seen: Array<string> } => {
  const seen: Array<string> = []
  return {
    seen,
    look: (kv, revision) => {
      seen.push(kv === undefined ? `-${revision}` : `+${kv.modRevision}`)
      also()
    },
    doubt: () => {
      seen.push("?")
      also()
    }
  }
}

const observing = ({ ownKeys }: Setup, key: string, also?: () => void) => {
  const one = observer(also)
  ownKeys.observeUnsafe("/a/", `/a/${key}`, one)
  return { ...one, leave: () => ownKeys.leaveUnsafe("/a/", `/a/${key}`, one), one }
}

describe("OwnKeys", () => {
  it.effect("each hears of its own key, from the state on, over one watch", () =>
    Effect.gen(function*() {
      const setup = yield* makeSetup
      yield* setup.put("x")
      const x = observing(setup, "x")
      const y = observing(setup, "y")
      yield* eventually(() => x.seen.length === 1 && y.seen.length === 1)
      yield* setup.put("y")
      yield* setup.txn(Operation.delete("/a/x"), Operation.put("/a/y", "2"), Operation.put("/a/z", ""))
      yield* setup.put("z")
      yield* eventually(() => x.seen.length === 2 && y.seen.length === 3)
      // Of what is there already, at once.
      const z = observing(setup, "z")
      assert.deepStrictEqual(z.seen, ["+5"])
      assert.deepStrictEqual(x.seen, ["+2", "-4"])
      assert.deepStrictEqual(y.seen, ["-2", "+3", "+4"])
      assert.deepStrictEqual(setup.port.watches(), { open: 1, total: 1 })
      assert.strictEqual(setup.port.ranges(), 1)
    }))

  it.effect("where etcd cannot tell what happened, everybody doubts", () =>
    Effect.gen(function*() {
      const setup = yield* makeSetup
      const x = observing(setup, "x")
      const y = observing(setup, "y")
      yield* eventually(() => x.seen.length === 1 && setup.port.watches().open === 1)
      yield* setup.link.refuse
      yield* setup.put("y")
      yield* setup.put("z")
      yield* setup.compact
      yield* setup.link.accept
      yield* TestClock.adjust("10 seconds")
      yield* eventually(() => x.seen.length === 2)
      assert.deepStrictEqual(x.seen, ["-1", "?"])
      assert.deepStrictEqual(y.seen, ["-1", "+2", "?"])
    }))

  it.effect("a watch that is denied is tried again, and tells the state anew", () =>
    Effect.gen(function*() {
      const setup = yield* makeSetup
      const x = observing(setup, "x")
      yield* eventually(() => x.seen.length === 1 && setup.port.watches().open === 1)
      yield* setup.port.failWatches(new PermissionDenied())
      yield* eventually(() => setup.port.watches().open === 0)
      yield* setup.put("x")
      // What was known before the failure is no longer told.
      const y = observing(setup, "y")
      yield* TestClock.adjust("29 seconds")
      assert.deepStrictEqual(x.seen, ["-1"])
      assert.deepStrictEqual(y.seen, [])
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(x.seen, ["-1", "+2"])
      assert.deepStrictEqual(y.seen, ["-2"])
    }))

  it.effect("who leaves hears no more, and with the last one the watch ends", () =>
    Effect.gen(function*() {
      const setup = yield* makeSetup
      const x = observing(setup, "x")
      const y = observing(setup, "y")
      yield* eventually(() => x.seen.length === 1 && y.seen.length === 1)
      x.leave()
      yield* setup.put("x")
      yield* setup.put("y")
      yield* eventually(() => y.seen.length === 2)
      assert.deepStrictEqual(x.seen, ["-1"])
      y.leave()
      // The next one comes in the same breath.
      const z = observing(setup, "z")
      yield* eventually(() => z.seen.length === 1)
      yield* setup.put("z")
      yield* eventually(() => z.seen.length === 2)
      assert.deepStrictEqual(z.seen, ["-3", "+4"])
      assert.deepStrictEqual(setup.port.watches(), { open: 1, total: 1 })
      z.leave()
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(setup.port.watches().open, 0)
      // Before the first listing too.
      observing(setup, "x").leave()
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(setup.port.watches().open, 0)
    }))

  it.effect("who joins or leaves while an event is handed out disturbs nobody", () =>
    Effect.gen(function*() {
      const setup = yield* makeSetup
      const others: Array<ReturnType<typeof observing>> = []
      let turn = 0
      const x = observing(setup, "x", () => {
        turn++
        if (turn === 2) others.push(observing(setup, "y"), observing(setup, "x2"))
        if (turn === 3) { for (const other of others) other.leave() }
        if (turn === 4) x.leave()
      })
      yield* eventually(() => x.seen.length === 1 && setup.port.watches().open === 1)
      // Both keys of one revision: who joins at the first is told the state, which has the second, and that one as well.
      yield* setup.txn(Operation.put("/a/x", ""), Operation.put("/a/y", ""))
      yield* eventually(() => x.seen.length === 2)
      assert.deepStrictEqual(others.map(({ seen }) => [...new Set(seen)]), [["+2"], ["-2"]])
      yield* setup.txn(Operation.put("/a/x", ""), Operation.put("/a/y", ""), Operation.put("/a/x2", ""))
      yield* eventually(() => x.seen.length === 3)
      assert.deepStrictEqual(others.map(({ seen }) => [...new Set(seen)]), [["+2"], ["-2"]])
      yield* setup.put("x")
      yield* eventually(() => x.seen.length === 4)
      const next = observing(setup, "x")
      yield* setup.put("x")
      yield* eventually(() => next.seen.length === 2)
      assert.deepStrictEqual(next.seen, ["+4", "+5"])
      assert.strictEqual(x.seen.length, 4)
    }))

  it.effect("a key that moves, and another that has taken its place", () =>
    Effect.gen(function*() {
      const setup = yield* makeSetup
      const { ownKeys } = setup
      const x = observing(setup, "1")
      yield* eventually(() => x.seen.length === 1)
      const y = observing(setup, "1")
      ownKeys.moveUnsafe("/a/", "/a/1", "/a/2", x.one)
      yield* setup.put("1")
      yield* setup.put("2")
      yield* eventually(() => x.seen.length === 2 && y.seen.length === 2)
      assert.deepStrictEqual(x.seen, ["-1", "+3"])
      assert.deepStrictEqual(y.seen, ["-1", "+2"])
      y.leave()
      yield* setup.put("2")
      yield* eventually(() => x.seen.length === 3)
      ownKeys.leaveUnsafe("/a/", "/a/2", x.one)
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(setup.port.watches().open, 0)
    }))

  it.effect("the layer takes its watches along, and nobody starts another", () =>
    Effect.gen(function*() {
      const setup = yield* makeSetup
      const x = observing(setup, "x")
      yield* eventually(() => x.seen.length === 1 && setup.port.watches().open === 1)
      yield* setup.close
      assert.strictEqual(setup.port.watches().open, 0)
      setup.ownKeys.observeUnsafe("/b/", "/b/y", observer())
      yield* setup.put("x")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(x.seen, ["-1"])
      assert.strictEqual(setup.port.watches().total, 1)
      x.leave()
    }))
})
