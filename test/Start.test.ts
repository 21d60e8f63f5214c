/** Transactions that are started without a fiber: who is told what, when, and how often. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Compare, type Etcd, type KeyRange, Operation, type TxnRequest, type TxnResult } from "../src/Etcd.ts"
import {
  EtcdError,
  type EtcdErrorReason,
  LeaseNotFound,
  PermissionDenied,
  Timeout,
  Unavailable
} from "../src/EtcdError.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import type { Batching } from "../src/internal/client/batching.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import { startOf } from "../src/internal/client/start.ts"
import { claimEntry } from "../src/internal/lock/entry.ts"
import { StoreId } from "../src/internal/memory/Store.ts"
import { makeTransport } from "../src/internal/memory/transport.ts"
import { makeLeaseSession } from "../src/internal/session/LeaseSession.ts"
import type { SlotOwner } from "../src/internal/session/Slots.ts"
import type { Transport } from "../src/internal/Transport.ts"
import { makeGate } from "./utils/gate.ts"
import { failure, settle } from "./utils/virtual.ts"

interface Options {
  readonly namespace?: string
  readonly batching?: Batching
  readonly retry?: Schedule.Schedule<unknown>
  readonly answers?: (transport: Transport) => Partial<Transport>
}

const thrice = Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 2 }))

const make = Effect.fnUntraced(function*({ answers, batching, namespace = "", retry = thrice }: Options = {}) {
  const gate = makeGate()
  const scope = yield* Scope.fork(yield* Effect.scope)
  const etcd = yield* Scope.provide(
    makeEtcd({ ...gate.transport, ...answers?.(gate.transport) }, {
      retry,
      timeout: Duration.seconds(5),
      namespace,
      batching
    }),
    scope
  )
  const context = yield* Effect.context<never>()
  /** Notes what it is told. */
  const start = (request: TxnRequest, service = etcd, caller: Context.Context<never> = Context.empty()) => {
    const told: Array<Exit.Exit<TxnResult, EtcdError>> = []
    const started = startOf(service)(request, Context.merge(context, caller), {
      ended: (exit) => {
        told.push(exit)
      }
    })
    return { told, cancel: () => started.cancel() }
  }
  return { ...gate, etcd, start, close: Scope.close(scope, Exit.void) }
})

const put = (key: string): TxnRequest => ({ success: [Operation.put(key, "v")] })
const done: TxnResult = { revision: 7n, succeeded: true, responses: [{ _tag: "Put", previous: undefined }] }
const both: TxnResult = {
  revision: 9n,
  succeeded: true,
  responses: [1, 2].flatMap(() => done.responses)
}
const nested = (...succeeded: ReadonlyArray<boolean>): TxnResult => ({
  revision: 9n,
  succeeded: true,
  responses: succeeded.map((succeeded) => ({ _tag: "Txn", succeeded, responses: succeeded ? done.responses : [] }))
})
/** Put if nothing is there. */
const claim = (key: string): TxnRequest => ({ compare: [Compare.version(key, "=", 0n)], ...put(key) })
const fail = (reason: EtcdErrorReason) => Exit.fail(new EtcdError({ operation: "txn", reason }))
const unsent = fail(new Unavailable({ detail: "connection refused", sent: false }))

const reasons = (told: ReadonlyArray<Exit.Exit<TxnResult, EtcdError>>) =>
  told.map((exit) => failure(exit)?.reason._tag ?? "none")

describe("a transaction that is started", () => {
  it.effect("tells its answer once, and not before it is there", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      const { cancel, told } = start(put("a"))
      assert.deepStrictEqual(txns.map(({ request }) => request), [put("a")])
      assert.deepStrictEqual(told, [])
      txns[0]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(told, [Exit.succeed(done)])
      cancel()
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(told.length, 1)
    }))

  it.effect("tells at once what is answered at once, as in memory, and what is refused at once", () =>
    Effect.gen(function*() {
      const store = (yield* EtcdMemory.make())[StoreId]
      const { start } = yield* make({ answers: () => makeTransport(store) })
      assert.deepStrictEqual(start(put("a")).told.map(Exit.isSuccess), [true])
      const refused = start({ success: [Operation.put("b", "", { lease: 5n })] })
      assert.deepStrictEqual(reasons(refused.told), ["LeaseNotFound"])
      refused.cancel()
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(refused.told.length, 1)
    }))

  it.effect("tells nothing once it is cancelled, and etcd need not answer it any more", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      const { cancel, told } = start(put("a"))
      cancel()
      cancel()
      assert.deepStrictEqual(txns.map(({ state }) => state), ["cancelled"])
      txns[0]?.answer(Exit.succeed(done))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(told, [])
      assert.strictEqual(txns.length, 1)
    }))

  it.effect("in a group is cancelled alone, however often that is said", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      start(put("first"))
      const [one, other] = [start(put("a")), start(put("b"))]
      txns[0]?.answer(Exit.succeed(done))
      assert.strictEqual(txns[1]?.request.success?.length, 2)
      one.cancel()
      one.cancel()
      yield* settle
      assert.strictEqual(txns[1]?.state, "open")
      txns[1]?.answer(Exit.succeed(both))
      assert.deepStrictEqual(one.told, [])
      assert.deepStrictEqual(other.told, [Exit.succeed({ ...done, revision: 9n })])
    }))

  it.effect("is merged with others, in the hope that the compares of all hold; where one does not, each is answered for itself", () =>
    Effect.gen(function*() {
      const { etcd, start, txns } = yield* make()
      const refused = { revision: 8n, succeeded: false, responses: [] }
      /** Two that wait for one, in one call. */
      const pair = () => {
        start(put("first"))
        const told = [start(claim("a")).told, start(claim("b")).told]
        txns.at(-1)?.answer(Exit.succeed(done))
        return told
      }
      const merged = {
        compare: [claim("a"), claim("b")].flatMap(({ compare = [] }) => compare),
        success: [put("a"), put("b")].flatMap(({ success = [] }) => success)
      }
      const apart = {
        compare: [],
        success: [claim("a"), claim("b")].map(Operation.txn),
        failure: [Operation.put("a", "")]
      }

      const [one, other] = pair()
      assert.deepStrictEqual(txns.at(-1)?.request, merged)
      txns.at(-1)?.answer(Exit.succeed(both))
      const answer = Exit.succeed({ ...done, revision: 9n })
      assert.deepStrictEqual([one, other], [[answer], [answer]])

      const again = pair()
      txns.at(-1)?.answer(Exit.succeed(refused))
      assert.deepStrictEqual(again, [[], []])
      assert.deepStrictEqual(txns.at(-1)?.request, apart)
      txns.at(-1)?.answer(Exit.succeed(nested(true, false)))
      assert.deepStrictEqual(again, [[answer], [Exit.succeed({ ...refused, revision: 9n })]])

      // Nor are the next ones trusted, for a while.
      for (let group = 0; group < 8; group++) {
        pair()
        assert.deepStrictEqual(txns.at(-1)?.request, apart)
        txns.at(-1)?.answer(Exit.succeed(nested(true, true)))
      }
      pair()
      assert.deepStrictEqual(txns.at(-1)?.request, merged)
      txns.at(-1)?.answer(Exit.succeed(both))

      // Of what others ask for, a compare may well fail.
      start(put("first"))
      start(claim("a"))
      yield* Effect.forkChild(etcd.txn(claim("b")), { startImmediately: true })
      txns.at(-1)?.answer(Exit.succeed(done))
      assert.deepStrictEqual(txns.at(-1)?.request, {
        compare: claim("a").compare,
        success: [...put("a").success ?? [], Operation.txn(claim("b"))]
      })
    }))

  it.effect("is not merged with one that writes what it compares, nor with one that compares what it writes", () =>
    Effect.gen(function*() {
      const comparing = (range: KeyRange): TxnRequest => ({ ...put("y"), compare: [Compare.version(range, "=", 0n)] })
      for (const one of [comparing({ key: "x/1" }), comparing({ prefix: "x/" })]) {
        for (const [earlier, later] of [[one, put("x/1")], [put("x/1"), one]] as const) {
          const { start, txns } = yield* make()
          start(put("first"))
          start(earlier)
          start(later)
          txns[0]?.answer(Exit.succeed(done))
          assert.deepStrictEqual(txns.slice(1).map(({ request }) => request), [earlier, later])
        }
      }
    }))

  it.effect("in a group that was merged in vain is not sent again once it is cancelled: its caller may have written anew", () =>
    Effect.gen(function*() {
      const refused = Exit.succeed({ revision: 8n, succeeded: false, responses: [] })
      const { close, etcd, start, txns } = yield* make()
      const gather = () => {
        start(put("first"))
        const all = [start(claim("a")), start(claim("b")), start(put("x"))]
        txns.at(-1)?.answer(Exit.succeed(done))
        assert.strictEqual(txns.at(-1)?.request.success?.length, 3)
        return all
      }
      // The last two are left.
      const [, , written] = gather()
      written?.cancel()
      yield* TestClock.adjust("20 millis")
      const anew = yield* Effect.forkChild(etcd.txn(put("x")), { startImmediately: true })
      txns.at(-1)?.answer(Exit.succeed(done))
      assert.deepStrictEqual(yield* Fiber.join(anew), done)
      txns.at(-2)?.answer(refused)
      assert.deepStrictEqual(txns.at(-1)?.request.success, [claim("a"), claim("b")].map(Operation.txn))
      txns.at(-1)?.answer(Exit.succeed(nested(true, true)))

      // One is left, and goes alone.
      for (let group = 0; group < 8; group++) {
        gather()
        txns.at(-1)?.answer(
          Exit.succeed({ ...nested(true, true), responses: [...nested(true, true).responses, ...done.responses] })
        )
      }
      const [one, other, third] = gather()
      other?.cancel()
      third?.cancel()
      txns.at(-1)?.answer(refused)
      assert.deepStrictEqual(txns.at(-1)?.request, claim("a"))
      txns.at(-1)?.answer(Exit.succeed(done))
      assert.deepStrictEqual(one?.told, [Exit.succeed(done)])

      // Closed, while it is sent again. Who went alone was no group.
      for (let group = 0; group < 9; group++) {
        gather()
        txns.at(-1)?.answer(
          Exit.succeed({ ...nested(true, true), responses: [...nested(true, true).responses, ...done.responses] })
        )
      }
      const last = gather()
      txns.at(-1)?.answer(refused)
      const count = txns.length
      yield* close
      assert.deepStrictEqual(last.map(({ told }) => reasons(told)), [["Closed"], ["Closed"], ["Closed"]])
      assert.strictEqual(txns.length, count)
    }))

  it.effect("in a group that was merged in vain is not repeated once its answer is lost", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      start(put("first"))
      const told = [start(claim("a")).told, start(claim("b")).told]
      txns[0]?.answer(Exit.succeed(done))
      txns[1]?.answer(Exit.succeed({ revision: 8n, succeeded: false, responses: [] }))
      txns[2]?.answer(fail(new Timeout({ detail: "no answer" })))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(told.map(reasons), [["Ambiguous"], ["Ambiguous"]])
      assert.strictEqual(txns.length, 3)
    }))

  it.effect("that waits for the call before it is never sent when it is cancelled there", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      start(put("first"))
      const waiting = start(put("a"))
      waiting.cancel()
      txns[0]?.answer(Exit.succeed(done))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(txns.length, 1)
      assert.deepStrictEqual(waiting.told, [])
    }))

  it.effect("is sent again as `txn` does it, and tells how that ended", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      const { told } = start(put("a"))
      txns[0]?.answer(unsent)
      assert.strictEqual(txns.length, 1)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(txns.map(({ request }) => request), [put("a"), put("a")])
      assert.deepStrictEqual(told, [])
      txns[1]?.answer(fail(new Timeout({ detail: "late" })))
      assert.deepStrictEqual(reasons(told), ["Ambiguous"])
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(told.length, 1)
      assert.strictEqual(txns.length, 2)
    }))

  it.effect("is not sent again when its first attempt has waited for the whole timeout", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      const { told } = start(put("a"))
      yield* TestClock.adjust("5 seconds")
      txns[0]?.answer(unsent)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(reasons(told), ["Unavailable"])
      assert.strictEqual(txns.length, 1)
    }))

  it.effect("and cancelled in the pause before the next attempt is not sent any more", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      const { cancel, told } = start(put("a"))
      txns[0]?.answer(unsent)
      yield* TestClock.adjust("500 millis")
      cancel()
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(txns.length, 1)
      assert.deepStrictEqual(told, [])
    }))

  it.effect("and cancelled while it is sent again is cancelled there as well", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make()
      const { cancel, told } = start(put("a"))
      txns[0]?.answer(unsent)
      yield* TestClock.adjust("1 second")
      cancel()
      assert.deepStrictEqual(txns.map(({ state }) => state), ["answered", "cancelled"])
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(txns.length, 2)
      assert.deepStrictEqual(told, [])
    }))

  it.effect("and cancelled by what the next attempt sets off, before that has gone out, tells nothing either", () =>
    Effect.gen(function*() {
      // Of those that are sent again with nobody on the way, the fiber is not known yet when it begins.
      for (const [isAlone, isAtOnce] of [[false, false], [true, false], [true, true]]) {
        let cancel: (() => void) | undefined = undefined
        const { start, txns } = yield* make({
          retry: Schedule.recurs(2),
          answers: ({ txn }) => ({
            txn: (request) =>
              Effect.suspend(() => {
                cancel?.()
                return cancel !== undefined && isAtOnce === true ? Effect.succeed(done) : txn(request)
              })
          })
        })
        const started = start(put("a"))
        if (isAlone === true) {
          // The first call holds nobody back any longer when its time has passed.
          start(put("b"))
          yield* TestClock.adjust("10 millis")
          txns[1]?.answer(Exit.succeed(done))
        }
        cancel = started.cancel
        txns[0]?.answer(unsent)
        yield* settle
        for (const again of txns.slice(isAlone === true ? 2 : 1)) {
          assert.strictEqual(again.state, "cancelled")
          again.answer(Exit.succeed(done))
        }
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(started.told, [])
      }
    }))

  it.effect("stays below the namespace, also when it is sent again, and failures name the key as the caller does", () =>
    Effect.gen(function*() {
      const { start, txns } = yield* make({ namespace: "ns/" })
      const request: TxnRequest = {
        compare: [Compare.createRevision("a", "=", 3n)],
        success: [Operation.delete("a", { previousKv: true })]
      }
      const kv = { key: "ns/a", value: new Uint8Array(), createRevision: 3n, modRevision: 3n, version: 1n, lease: 0n }
      const { told } = start(request)
      txns[0]?.answer(unsent)
      yield* TestClock.adjust("1 second")
      for (const { request: { compare, success } } of txns) {
        assert.deepStrictEqual([...compare ?? [], ...success ?? []].map((part) => "key" in part && part.key), [
          "ns/a",
          "ns/a"
        ])
      }
      const answer = { revision: 4n, succeeded: true, responses: [{ _tag: "Delete", deleted: 1, previous: [kv] }] }
      txns[1]?.answer(Exit.succeed(answer as never))
      const direct = start(request)
      txns[2]?.answer(Exit.succeed(answer as never))
      for (const exit of [...told, ...direct.told]) {
        const response = Exit.isSuccess(exit) ? exit.value.responses[0] : undefined
        assert.deepStrictEqual(response?._tag === "Delete" && response.previous.map(({ key }) => key), ["a"])
      }
      const denied = start(request)
      txns[3]?.answer(fail(new PermissionDenied({})))
      const [exit = Exit.die("not told")] = denied.told
      assert.deepInclude(failure(exit), { operation: "txn", key: "a" })
      assert.deepStrictEqual([told, direct.told, denied.told].map(({ length }) => length), [1, 1, 1])
    }))

  it.effect("is refused by a client that is closed, and by one that closes", () =>
    Effect.gen(function*() {
      const { close, etcd, start, txns } = yield* make()
      const [sent, waiting, cancelled] = [start(put("a")), start(put("b")), start(put("c"))]
      cancelled.cancel()
      let meanwhile: ReturnType<typeof start> | undefined
      const context = yield* Effect.context<never>()
      startOf(etcd)(put("d"), context, {
        ended: () => {
          meanwhile = start(put("e"))
        }
      })
      yield* close
      const late = start(put("f"))
      late.cancel()
      yield* TestClock.adjust("1 minute")
      for (const { told } of [sent, waiting, meanwhile ?? cancelled, late]) {
        assert.deepStrictEqual(reasons(told), ["Closed"])
      }
      assert.deepStrictEqual(cancelled.told, [])
      assert.deepStrictEqual(txns.map(({ state }) => state), ["cancelled"])
    }))

  it.effect("is what a service says that wraps a client, or does not let writes travel together", () =>
    Effect.gen(function*() {
      const Caller = Context.Reference<string>("test/Caller", { defaultValue: () => "nobody" })
      for (const batching of ["all", "off", "reads"] as const) {
        const { etcd, start, txns } = yield* make({ batching })
        const callers: Array<string> = []
        const wrapped: Etcd["Service"] = {
          ...etcd,
          txn: (request) =>
            Effect.flatMap(Effect.service(Caller), (caller) => {
              callers.push(caller)
              return etcd.txn(request)
            })
        }
        const context = Context.make(Caller, "me")
        const answered = start(put("a"), wrapped, context)
        txns[0]?.answer(Exit.succeed(done))
        assert.deepStrictEqual(answered.told, [Exit.succeed(done)])
        const cancelled = start(put("b"), wrapped, context)
        cancelled.cancel()
        yield* settle
        const own = start(put("c"))
        own.cancel()
        yield* settle
        assert.deepStrictEqual(callers, ["me", "me"])
        assert.deepStrictEqual(txns.map(({ state }) => state), ["answered", "cancelled", "cancelled"])
        assert.deepStrictEqual([...cancelled.told, ...own.told], [])
      }
    }))
})

describe("what is started for a key on a lease", () => {
  const owner: SlotOwner = { gone: () => {}, left: () => {} }

  /** `sends` runs at the moment when each of them is sent. A service that wraps a client has a fiber for each. */
  const makeSlot = Effect.fnUntraced(function*(isWrapped: boolean, sends: () => void = () => {}) {
    const { etcd, txns } = yield* make({
      answers: ({ txn }) => ({
        txn: (request) =>
          Effect.suspend(() => {
            sends()
            return txn(request)
          })
      })
    })
    const service = isWrapped ? { ...etcd } : etcd
    const session = yield* makeLeaseSession(service, Duration.seconds(10))
    const slot = session.open("lock/me", "lock/me", owner)
    const claim = Effect.forkChild(Effect.exit(claimEntry(service, "lock/", slot, "")), { startImmediately: true })
    const release = Effect.forkChild(Effect.exit(slot.release), { startImmediately: true })
    return { claim, release, session, slot, txns }
  })

  const ended = <A, E>(fiber: Fiber.Fiber<Exit.Exit<A, E>>): string => {
    const exit = fiber.pollUnsafe()
    if (exit === undefined || Exit.isFailure(exit)) return "waits"
    if (Exit.isSuccess(exit.value)) return "done"
    const error = failure(exit.value)
    return error instanceof EtcdError ? error.reason._tag : String(error)
  }

  const each = <E, R>(test: (isWrapped: boolean) => Effect.Effect<void, E, R>) =>
    Effect.forEach([false, true], test, { discard: true })

  it.effect("is cancelled when the lease is lost in the step in which it is sent", () =>
    each(Effect.fnUntraced(function*(isWrapped) {
      let lose = () => {}
      const claiming = yield* makeSlot(isWrapped, () => lose())
      lose = claiming.session.revoked
      assert.strictEqual(ended(yield* claiming.claim), "EntryLost")
      assert.deepStrictEqual(claiming.txns.map(({ state }) => state), ["cancelled"])

      const held = yield* makeSlot(isWrapped, () => lose())
      lose = held.session.revoked
      held.slot.present(3n)
      assert.strictEqual(ended(yield* held.release), "done")
      assert.deepStrictEqual(held.txns.map(({ state }) => state), ["cancelled"])
    })))

  it.effect("is not repeated once the lease is lost, whatever it had failed with", () =>
    each(Effect.fnUntraced(function*(isWrapped) {
      for (const reason of [new Timeout({ detail: "late" }), new LeaseNotFound({ leaseId: 5n })]) {
        const { claim, session, txns } = yield* makeSlot(isWrapped)
        const claiming = yield* claim
        txns[0]?.answer(fail(reason))
        yield* settle
        session.revoked()
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(ended(claiming), "EntryLost")
        assert.strictEqual(txns.length, 1)
      }
      const { release, session, slot, txns } = yield* makeSlot(isWrapped)
      slot.present(3n)
      const releasing = yield* release
      txns[0]?.answer(fail(new Timeout({ detail: "late" })))
      yield* settle
      assert.strictEqual(ended(releasing), "waits")
      session.revoked()
      assert.strictEqual(ended(releasing), "done")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(txns.length, 1)
    })))

  it.effect("is repeated while its answer was lost, also where its caller has gone, and who gives it back waits for that", () =>
    each(Effect.fnUntraced(function*(isWrapped) {
      const { claim, session, slot, txns } = yield* makeSlot(isWrapped)
      const claiming = yield* claim
      yield* Fiber.interrupt(claiming)
      txns[0]?.answer(fail(new Timeout({ detail: "late" })))
      const givingBack = yield* Effect.forkChild(Effect.exit(slot.giveBack), { startImmediately: true })
      yield* TestClock.adjust("50 millis")
      assert.isTrue(session.distrustedUnsafe())
      const failure = [Operation.range({ key: "lock/me", keysOnly: true })]
      assert.deepStrictEqual(txns[1]?.request, { ...txns[0]?.request, failure })
      assert.strictEqual(ended(givingBack), "waits")
      txns[1]?.answer(Exit.succeed({ ...done, revision: 4n }))
      assert.deepStrictEqual(txns[2]?.request.success, [Operation.delete("lock/me")])
      assert.deepStrictEqual(txns[2]?.request.compare, [Compare.createRevision("lock/me", "=", 4n)])
      txns[2]?.answer(Exit.succeed(done))
      assert.strictEqual(ended(givingBack), "done")
      assert.strictEqual(slot.pending, undefined)
    })))

  it.effect("is distrusted and cancelled when its answer is not there a second after it is given back", () =>
    each(Effect.fnUntraced(function*(isWrapped) {
      for (const isRepeated of [false, true]) {
        const { claim, session, slot, txns } = yield* makeSlot(isWrapped)
        const claiming = yield* claim
        if (isRepeated) {
          txns[0]?.answer(fail(new Timeout({ detail: "late" })))
          yield* TestClock.adjust("50 millis")
        }
        const givingBack = yield* Effect.forkChild(Effect.exit(slot.giveBack), { startImmediately: true })
        yield* TestClock.adjust("999 millis")
        assert.deepStrictEqual([ended(claiming), ended(givingBack)], ["waits", "waits"])
        assert.strictEqual(session.distrustedUnsafe(), isRepeated)
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual([ended(claiming), ended(givingBack)], ["EntryLost", "done"])
        assert.isTrue(session.distrustedUnsafe())
        assert.strictEqual(txns.at(-1)?.state, "cancelled")
        txns.at(-1)?.answer(Exit.succeed(done))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(txns.length, isRepeated ? 2 : 1)
        assert.strictEqual(ended(yield* claim), "EntryLost")
      }
    })))

  it.effect("to delete it is sent once for all who release it, and each is told how that ended", () =>
    each(Effect.fnUntraced(function*(isWrapped) {
      for (const answer of [Exit.succeed(done), fail(new PermissionDenied({}))]) {
        const { release, session, slot, txns } = yield* makeSlot(isWrapped)
        slot.present(3n)
        const [one, gone, other] = [yield* release, yield* release, yield* release]
        yield* Fiber.interrupt(gone)
        assert.deepStrictEqual([ended(one), ended(other)], ["waits", "waits"])
        txns[0]?.answer(answer)
        yield* settle
        const told = Exit.isSuccess(answer) ? "done" : "PermissionDenied"
        assert.deepStrictEqual([one, other, yield* release].map(ended), [told, told, told])
        assert.strictEqual(session.distrustedUnsafe(), !Exit.isSuccess(answer))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(txns.length, 1)
      }
    })))

  it.effect("to hand it over is cancelled with the lease, and the next in line is told so once", () =>
    each(Effect.fnUntraced(function*(isWrapped) {
      for (const isAtOnce of [false, true]) {
        let lose = () => {}
        const { release, session, slot, txns } = yield* makeSlot(isWrapped, () => isAtOnce && lose())
        lose = session.revoked
        slot.present(3n)
        const told: Array<boolean> = []
        slot.onRelease({
          areThere: () => true,
          choose: () => ({ request: put("next"), ended: (exit) => told.push(Exit.hasInterrupts(exit)) })
        })
        const releasing = yield* release
        if (!isAtOnce) {
          assert.deepStrictEqual([ended(releasing), txns[0]?.state, told.length], ["waits", "open", 0])
          lose()
        }
        assert.strictEqual(ended(releasing), "done")
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(told, [true])
        assert.deepStrictEqual(txns.map(({ state }) => state), ["cancelled"])
      }
    })))

  it.effect("to delete it goes on when who releases it waits no longer, and its end is told to who asks again", () =>
    each(Effect.fnUntraced(function*(isWrapped) {
      const { release, slot, txns } = yield* makeSlot(isWrapped)
      slot.present(3n)
      const first = yield* release
      yield* TestClock.adjust("4 seconds")
      const second = yield* release
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([ended(first), ended(second)], ["Ambiguous", "Ambiguous"])
      assert.strictEqual(txns[0]?.state, "open")
      txns[0]?.answer(fail(new Timeout({ detail: "late" })))
      yield* TestClock.adjust("200 millis")
      assert.strictEqual(txns[1]?.state, "open")
      txns[1]?.answer(Exit.succeed(done))
      const third = yield* release
      assert.strictEqual(ended(third), "done")
      assert.strictEqual(txns.length, 2)
    })))
})
