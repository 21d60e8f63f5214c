/** Requests that share calls: what is sent, and what each of them gets. */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Compare, Operation, type OperationResult, type TxnRequest, type TxnResult } from "../src/Etcd.ts"
import {
  Compacted,
  EtcdError,
  type EtcdErrorReason,
  InvalidArgument,
  LeaseNotFound,
  NoSpace,
  PermissionDenied,
  Timeout,
  TooLarge,
  Unauthenticated,
  Unavailable
} from "../src/EtcdError.ts"
import type { Batching } from "../src/internal/client/batching.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import type { Transport } from "../src/internal/Transport.ts"
import { makeGate } from "./utils/gate.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { failure, settle } from "./utils/virtual.ts"

const make = Effect.fnUntraced(function*(batching: Batching = "all", answers: Partial<Transport> = {}) {
  const gate = makeGate()
  const etcd = yield* makeEtcd({ ...gate.transport, ...answers }, {
    retry: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 2 })),
    timeout: Duration.seconds(5),
    namespace: "",
    batching
  })
  /** Submitted in this order. */
  const submit = (request: TxnRequest) => Effect.forkChild(etcd.txn(request), { startImmediately: true })
  /** As many calls on their way as many can have, until they are answered by what this says. */
  const occupy = Effect.gen(function*() {
    const { txns } = gate
    const before = txns.length
    for (let index = 0; index < 17; index++) yield* submit(put(`busy/${index}`))
    assert.deepStrictEqual(txns.slice(before).map(({ request }) => request.success?.length), [1, 16])
    return () => {
      const [one, many] = txns.slice(before)
      one?.answer(Exit.succeed(done))
      many?.answer(Exit.succeed(answerOf(many.request)))
    }
  })
  return { ...gate, etcd, submit, occupy }
})

const put = (key: string, value = "v"): TxnRequest => ({ success: [Operation.put(key, value)] })
const remove = (key: string): TxnRequest => ({ success: [Operation.delete(key)] })

const fail = (reason: EtcdErrorReason) => Exit.fail(new EtcdError({ operation: "txn", reason }))

const done: TxnResult = { revision: 7n, succeeded: true, responses: [{ _tag: "Put", previous: undefined }] }

/** What fails where something is there. */
const putNew = (key: string): TxnRequest => ({ compare: [Compare.version(key, "=", 0n)], ...put(key) })

/** What etcd would say to a group, each told apart by its place, other than what cannot fail. */
const answerOf = (request: TxnRequest, revision = 9n): TxnResult => ({
  revision,
  succeeded: true,
  responses: (request.success ?? []).map((operation, index): OperationResult =>
    operation._tag === "Txn"
      ? { _tag: "Txn", succeeded: index % 2 === 0, responses: [{ _tag: "Put", previous: undefined }] }
      : operation._tag === "Range"
      ? { _tag: "Range", revision: 0n, kvs: [], count: index, more: false }
      : { _tag: "Put", previous: undefined }
  )
})

/** The keys that each call writes, in order. */
const written = (request: TxnRequest): string =>
  (request.success ?? []).map((operation) =>
    operation._tag === "Txn" ? written(operation) : "key" in operation ? operation.key : "?"
  ).join(" ")

describe("requests that are made together", () => {
  it.effect("go as one as soon as the call before them is answered; who comes alone waits for nobody", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      const first = yield* submit(put("a"))
      assert.deepStrictEqual(txns.map(({ request }) => request), [put("a")])
      const others = [
        yield* submit(putNew("b")),
        yield* submit(putNew("c")),
        yield* submit(putNew("d")),
        yield* submit(put("e"))
      ]
      assert.strictEqual(txns.length, 1)
      txns[0]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(yield* Fiber.join(first), done)
      assert.strictEqual(txns.length, 2)
      const group = txns[1]?.request ?? {}
      // What cannot fail needs no transaction of its own.
      assert.deepStrictEqual(group, {
        compare: [],
        success: [...[putNew("b"), putNew("c"), putNew("d")].map(Operation.txn), Operation.put("e", "v")]
      })
      txns[1]?.answer(Exit.succeed(answerOf(group)))
      const results = yield* Effect.forEach(others, Fiber.join)
      // The revision is that of the whole, and each has its own outcome.
      assert.deepStrictEqual(
        results,
        [true, false, true, true].map((succeeded) => ({ ...done, revision: 9n, succeeded }))
      )
      // Nothing is on its way any more.
      yield* submit(put("f"))
      assert.deepStrictEqual(txns[2]?.request, put("f"))
    }))

  it.effect("those who were answered together ask again together, of whatever kind", () =>
    Effect.gen(function*() {
      const { etcd, ranges, submit, txns } = yield* make()
      yield* submit(put("first"))
      for (const name of ["a", "b", "c"]) {
        yield* Effect.forkChild(
          etcd.txn(put(name)).pipe(Effect.andThen(etcd.txn(remove(name))), Effect.andThen(etcd.range({ key: name }))),
          { startImmediately: true }
        )
      }
      txns[0]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(txns.map(({ request }) => written(request)), ["first", "a b c"])
      txns[1]?.answer(Exit.succeed(answerOf(txns[1].request)))
      assert.deepStrictEqual(txns.slice(2).map(({ request }) => written(request)), ["a b c"])
      txns[2]?.answer(Exit.succeed(answerOf(txns[2].request)))
      assert.strictEqual(ranges.length, 0)
      assert.strictEqual(txns[3]?.request.success?.length, 3)
    }))

  it.effect("sixteen do not wait for one call, and more than 32 go in two, so that both sides are at work", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      const sizes = () => txns.map(({ request }) => request.success?.length)
      const submitMany = (name: string, count: number) =>
        Effect.forEach(Array.from({ length: count }), (_, index) => submit(put(`${name}/${index}`)))
      yield* submitMany("a", 16)
      assert.deepStrictEqual(sizes(), [1])
      yield* submitMany("b", 1)
      assert.deepStrictEqual(sizes(), [1, 16])
      // Two are on their way.
      yield* submitMany("c", 64)
      assert.deepStrictEqual(sizes(), [1, 16])
      txns[0]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(sizes(), [1, 16, 32, 32])
      // Three are, and one of them is answered.
      yield* submitMany("d", 16)
      txns[1]?.answer(Exit.succeed(answerOf(txns[1].request)))
      assert.deepStrictEqual(sizes(), [1, 16, 32, 32])
      txns[2]?.answer(Exit.succeed(answerOf(txns[2].request)))
      assert.deepStrictEqual(sizes(), [1, 16, 32, 32, 16])
    }))

  it.effect("reads go as ranges of one transaction; those of any length, and transactions, go by themselves", () =>
    Effect.gen(function*() {
      const { etcd, ranges, txns } = yield* make()
      const ask = (request: Parameters<typeof etcd.range>[0]) =>
        Effect.forkChild(etcd.range(request), { startImmediately: true })
      yield* ask({ key: "a" })
      yield* ask({ prefix: "/list/" })
      yield* ask({ from: "a", to: "b" })
      yield* ask({ prefix: "/list/", limit: 0 })
      assert.strictEqual(ranges.length, 4)
      const waiting = [
        yield* ask({ key: "b" }),
        yield* ask({ prefix: "/c", limit: 3 }),
        yield* ask({ prefix: "/c", countOnly: true })
      ]
      yield* Effect.forkChild(etcd.txn({ success: [Operation.range("x")] }), { startImmediately: true })
      assert.strictEqual(ranges.length, 4)
      assert.strictEqual(txns.length, 1)
      ranges[0]?.answer(Exit.succeed({ revision: 3n, kvs: [], count: 0, more: false }))
      const group = txns[1]?.request ?? {}
      assert.deepStrictEqual(group, {
        success: [
          Operation.range({ key: "b" }),
          Operation.range({ prefix: "/c", limit: 3 }),
          Operation.range({ prefix: "/c", countOnly: true })
        ]
      })
      txns[1]?.answer(Exit.succeed(answerOf(group, 5n)))
      const results = yield* Effect.forEach(waiting, Fiber.join)
      assert.deepStrictEqual(results, [0, 1, 2].map((count) => ({ revision: 5n, kvs: [], count, more: false })))
    }))

  it.effect("conflicting ones are not in one call, and do not wait for each other", () =>
    Effect.gen(function*() {
      const reading = (request: TxnRequest): TxnRequest => ({ ...request, compare: [Compare.version("x", "=", 0n)] })
      const cases: ReadonlyArray<readonly [string, TxnRequest, TxnRequest]> = [
        ["the same key", put("x"), put("x")],
        ["a compare", put("x"), reading(put("y"))],
        ["a compare, the other way round", reading(put("y")), put("x")],
        ["a compare of a prefix", put("x/1"), {
          compare: [Compare.createRevision({ prefix: "x/" }, "=", 0n)],
          success: [Operation.put("y", "")]
        }],
        ["a range", { success: [Operation.put("y", ""), Operation.range({ key: "x", keysOnly: true })] }, put("x")],
        ["a range of a prefix", {
          success: [Operation.put("y", ""), Operation.range({ prefix: "x", keysOnly: true, limit: 1 })]
        }, put("x/1")],
        ["a deleted prefix", { success: [Operation.put("y", ""), Operation.delete({ prefix: "x/" })] }, put("x/1")],
        [
          "a branch that may not run",
          { success: [Operation.put("y", "")], failure: [Operation.put("x", "")] },
          put("x")
        ],
        ["a nested one", { success: [Operation.put("y", ""), Operation.txn(put("x"))] }, put("x")],
        ["everything", put("y"), { success: [Operation.put("x", ""), Operation.delete({ prefix: "" })] }],
        ["a range that is no prefix", put("x"), {
          success: [Operation.put("y", ""), Operation.delete({ from: "a", to: "b" })]
        }],
        ["bytes that are no text", put("y"), put("\udcc3")],
        ["values of any number", put("x"), {
          success: [Operation.put("y", ""), Operation.range({ prefix: "z" })]
        }]
      ]
      for (const [what, one, other] of cases) {
        const { submit, txns } = yield* make()
        yield* submit(put("first"))
        yield* submit(one)
        yield* submit(other)
        yield* submit(put("free"))
        txns[0]?.answer(Exit.succeed(done))
        const calls = txns.slice(1).map(({ request }) => request)
        const together = calls.some(({ success = [] }) =>
          [one, other].every((request) =>
            success.some((operation) =>
              operation === request.success?.[0] ||
              (operation._tag === "Txn" && operation.success === request.success)
            )
          )
        )
        assert.isFalse(together, what)
        assert.isAtMost(calls.length, 3, what)
      }
    }))

  it.effect("wait until all calls before them are answered, so that they stay together", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      yield* submit(put("first"))
      yield* submit(put("x"))
      yield* submit(put("x"))
      txns[0]?.answer(Exit.succeed(done))
      yield* submit(put("b"))
      yield* submit(put("c"))
      txns[1]?.answer(Exit.succeed(done))
      assert.strictEqual(txns.length, 3)
      txns[2]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(txns.map(({ request }) => written(request)), ["first", "x", "x", "b c"])
    }))

  it.effect("what a full store refuses does not travel with what it lets pass, and is shown to it", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      yield* submit(put("first"))
      yield* submit(putNew("b"))
      yield* submit(remove("c"))
      yield* submit(putNew("d"))
      yield* submit(remove("e"))
      // etcd does not look into nested ones.
      yield* submit({ success: [Operation.delete("f"), Operation.txn(put("g"))] })
      // The first deletion found nobody of its kind on the way.
      assert.deepStrictEqual(txns.map(({ request }) => written(request)), ["first", "c"])
      txns[0]?.answer(Exit.succeed(done))
      txns[1]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(txns.slice(2).map(({ request }) => written(request)), ["b d", "e f g"])
      assert.deepStrictEqual(txns.slice(2).map(({ request }) => request.failure), [[Operation.put("b", "")], undefined])
      // Where a put is seen, it needs no other one to be seen.
      const [, , ...groups] = txns
      for (const { answer, request } of groups) answer(Exit.succeed(answerOf(request)))
      for (const request of [put("first"), put("b"), putNew("d")]) yield* submit(request)
      txns[4]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(txns[5]?.request, {
        compare: [],
        success: [Operation.put("b", "v"), Operation.txn(putNew("d"))]
      })
    }))

  it.effect("keep to etcd's limits of operations, bytes and values", () =>
    Effect.gen(function*() {
      const sizes = Effect.fnUntraced(function*(requests: ReadonlyArray<TxnRequest>) {
        const { occupy, submit, txns } = yield* make()
        const free = yield* occupy
        for (const request of requests) yield* submit(request)
        free()
        return txns.slice(2).map(({ request }) => request.success?.length)
      })
      const many = (count: number, request: (key: string) => TxnRequest) =>
        Array.from({ length: count }, (_, index) => request(`k${index}`))
      // 127 and the one level below them.
      assert.deepStrictEqual(yield* sizes(many(400, put)), [127, 127, 127, 19])
      const wide = (key: string): TxnRequest => ({
        success: Array.from({ length: 60 }, (_, index) => Operation.put(`${key}/${index}`, ""))
      })
      assert.deepStrictEqual(yield* sizes(many(200, wide)), [68, 68, 64])
      const deep = (key: string): TxnRequest => ({ success: [Operation.put(key, ""), Operation.txn(wide(`${key}/x`))] })
      assert.deepStrictEqual(yield* sizes(many(200, deep)), [66, 66, 66, 2])
      assert.deepStrictEqual(yield* sizes(many(5, (key) => put(key, "é".repeat(200_000)))), [2, 2, 1])
      assert.deepStrictEqual(
        yield* sizes(many(80, (key) => ({ success: [Operation.put(key, "", { previousKv: true })] }))),
        [32, 32, 16]
      )
      // As it is, for etcd to refuse.
      const over = { success: many(130, put).flatMap(({ success = [] }) => success) }
      assert.deepStrictEqual(yield* sizes([put("a"), over, put("b"), put("c")]), [1, 130, 2])
    }))

  it.effect("switched off, nothing shares a call; with a user name, only reads do", () =>
    Effect.gen(function*() {
      for (const batching of ["off", "reads"] as const) {
        const { etcd, ranges, submit, txns } = yield* make(batching)
        for (const key of ["a", "b", "c"]) {
          yield* submit(put(key))
          yield* Effect.forkChild(etcd.range({ key }), { startImmediately: true })
        }
        assert.strictEqual(txns.length, 3)
        assert.strictEqual(ranges.length, batching === "off" ? 3 : 1)
      }
    }))
})

describe("a call that fails", () => {
  const refusals: ReadonlyArray<EtcdErrorReason> = [
    new InvalidArgument({ detail: "duplicate key given in txn request" }),
    new LeaseNotFound({ leaseId: 5n }),
    new PermissionDenied({}),
    new Unauthenticated({ detail: "" }),
    new Compacted({ compactRevision: 0n }),
    new TooLarge({ detail: "etcdserver: request is too large" }),
    new TooLarge({ detail: "grpc: received message larger than max (9 vs. 8)" })
  ]

  it.effect("because etcd refused one of its requests is repeated for each apart, and for those only who still wait", () =>
    Effect.gen(function*() {
      for (const reason of refusals) {
        const { submit, txns } = yield* make()
        yield* submit(put("first"))
        const good = yield* submit(put("b"))
        const bad = yield* submit(put("c"))
        const impatient = yield* submit(put("d"))
        txns[0]?.answer(Exit.succeed(done))
        yield* Fiber.interrupt(impatient)
        txns[1]?.answer(fail(reason))
        assert.deepStrictEqual(txns.slice(2).map(({ request }) => request), [put("b"), put("c")])
        txns[3]?.answer(fail(reason))
        txns[2]?.answer(Exit.succeed(done))
        assert.deepStrictEqual(yield* Fiber.join(good), done)
        assert.deepStrictEqual(failure(yield* Fiber.await(bad))?.reason, reason)
      }
    }))

  it.effect("without a certain outcome fails so for all, and nothing is sent again", () =>
    Effect.gen(function*() {
      const losses: ReadonlyArray<EtcdErrorReason> = [
        new Timeout({ detail: "Deadline exceeded" }),
        new Unavailable({ detail: "Connection dropped", sent: true }),
        // A store that fills up while it applies.
        new NoSpace({}),
        // An answer that is too long for this process.
        new TooLarge({ detail: "Received message larger than max (9 vs 8)" })
      ]
      for (const reason of losses) {
        const { submit, txns } = yield* make()
        yield* submit(put("first"))
        const others = [yield* submit(put("b")), yield* submit(put("c"))]
        txns[0]?.answer(Exit.succeed(done))
        txns[1]?.answer(fail(reason))
        const expected = reason._tag === "Timeout" || reason._tag === "Unavailable" ? "Ambiguous" : reason._tag
        for (const fiber of others) {
          const error = failure(yield* Fiber.await(fiber))
          assert.strictEqual(error?.reason._tag, expected)
          assert.include(["b", "c"], error?.key)
        }
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(txns.length, 2)
      }
    }))

  it.effect("that was not sent is repeated by the schedule of each", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      yield* submit(put("first"))
      const others = [yield* submit(put("b")), yield* submit(put("c"))]
      txns[0]?.answer(Exit.succeed(done))
      txns[1]?.answer(fail(new Unavailable({ detail: "No connection established", sent: false })))
      yield* TestClock.adjust("1 second")
      for (let index = 2; index < txns.length; index++) {
        txns[index]?.answer(Exit.succeed(index === 2 ? done : answerOf(txns[index]?.request ?? {})))
        yield* settle
      }
      for (const fiber of others) assert.isTrue((yield* Fiber.await(fiber))._tag === "Success")
      assert.deepStrictEqual(txns.slice(2).map(({ request }) => written(request)), ["b", "c"])
    }))

  it.effect("with a defect is a defect of each, and the next are served", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      const first = yield* submit(put("first"))
      const others = [yield* submit(put("b")), yield* submit(put("c"))]
      txns[0]?.answer(Exit.die("broken"))
      assert.isTrue(Exit.hasDies(yield* Fiber.await(first)))
      txns[1]?.answer(Exit.die("broken"))
      for (const fiber of others) assert.isTrue(Exit.hasDies(yield* Fiber.await(fiber)))
      yield* submit(put("d"))
      assert.strictEqual(written(txns[2]?.request ?? {}), "d")
    }))

  it.effect("for a limit teaches how much the server takes", () =>
    Effect.gen(function*() {
      const { occupy, submit, txns } = yield* make()
      const group = Effect.fnUntraced(function*(value: string) {
        const free = yield* occupy
        const before = txns.length
        for (let index = 0; index < 62; index++) yield* submit(put(`k${index}`, value))
        free()
        return txns.slice(before).map(({ request }) => request.success?.length)
      })
      /** Each of those is sent again apart. */
      const refuse = (reason: EtcdErrorReason) => {
        for (const call of txns) if (call.state === "open") call.answer(fail(reason))
        for (const call of txns) if (call.state === "open") call.answer(fail(new NoSpace({})))
      }
      assert.deepStrictEqual(yield* group(""), [32, 30])
      refuse(new InvalidArgument({ detail: "etcdserver: too many operations in txn request" }))
      assert.deepStrictEqual(yield* group(""), [31, 31])
      refuse(new NoSpace({}))
      // 30 kB each.
      const value = "x".repeat(30_000)
      assert.deepStrictEqual(yield* group(value), [31, 31])
      refuse(new TooLarge({ detail: "etcdserver: request is too large" }))
      assert.deepStrictEqual(yield* group(value), [8, 8, 8, 8, 8, 8, 8, 6])
    }))
})

describe("patience", () => {
  it.effect("a call without an answer holds nobody back for longer than 20 ms, and later nobody at all", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      yield* submit(put("frozen"))
      const other = yield* submit(put("b"))
      yield* TestClock.adjust("20 millis")
      assert.strictEqual(written(txns[1]?.request ?? {}), "b")
      txns[1]?.answer(Exit.succeed(done))
      yield* Fiber.join(other)
      yield* submit(put("c"))
      assert.strictEqual(written(txns[2]?.request ?? {}), "c")
      txns[2]?.answer(Exit.succeed(done))
      // What comes back after that is nobody's turn.
      yield* submit(put("d"))
      yield* submit(put("e"))
      txns[0]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(txns.map(({ request }) => written(request)), ["frozen", "b", "c", "d"])
    }))

  it.effect("is that of who came while answers were handed out, too, and was overtaken at their end", () =>
    Effect.gen(function*() {
      const { etcd, submit, txns } = yield* make("all", {
        range: () => Effect.succeed({ revision: 1n, kvs: [], count: 0, more: false })
      })
      yield* submit(put("first"))
      const fork = <A>(effect: Effect.Effect<A, EtcdError>) => Effect.forkChild(effect, { startImmediately: true })
      yield* fork(Effect.andThen(
        Effect.andThen(etcd.txn(put("a")), etcd.range({ key: "at once" })),
        etcd.txn(remove("frozen"))
      ))
      yield* fork(Effect.andThen(etcd.txn(put("b")), etcd.txn(remove("late"))))
      txns[0]?.answer(Exit.succeed(done))
      txns[1]?.answer(Exit.succeed(answerOf(txns[1].request)))
      assert.deepStrictEqual(txns.slice(2).map(({ request }) => written(request)), ["frozen"])
      yield* TestClock.adjust("20 millis")
      assert.deepStrictEqual(txns.slice(2).map(({ request }) => written(request)), ["frozen", "late"])
    }))

  it.effect("begins anew for each call", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      yield* submit(put("a"))
      yield* submit(put("b"))
      yield* TestClock.adjust("9 millis")
      txns[0]?.answer(Exit.succeed(done))
      yield* submit(put("c"))
      yield* TestClock.adjust("9 millis")
      assert.strictEqual(txns.length, 2)
      yield* TestClock.adjust("2 millis")
      assert.strictEqual(txns.length, 3)
    }))
})

describe("interruption", () => {
  it.effect("of one who waits for its turn: it is not sent", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      yield* submit(put("first"))
      const impatient = yield* submit(put("b"))
      const other = yield* submit(put("c"))
      yield* Fiber.interrupt(impatient)
      txns[0]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(txns.slice(1).map(({ request }) => request), [put("c")])
      txns[1]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(yield* Fiber.join(other), done)
    }))

  it.effect("of one by another who is answered at once, while both are being sent: it is not sent either", () =>
    Effect.gen(function*() {
      const gate = makeGate()
      const sent: Array<string> = []
      const etcd = yield* makeEtcd({
        ...gate.transport,
        txn: (request) => {
          sent.push(written(request))
          return sent.length === 1 ? gate.transport.txn(request) : Effect.succeed(done)
        }
      }, { retry: Schedule.recurs(0), timeout: Duration.seconds(5), namespace: "" })
      const submit = (key: string) => Effect.forkChild(etcd.txn(put(key)), { startImmediately: true })
      yield* submit("first")
      // Of the same key, so that they are two calls.
      const hasty = yield* Effect.forkChild(
        Effect.andThen(etcd.txn(put("x")), Effect.suspend(() => Fiber.interrupt(victim))),
        { startImmediately: true }
      )
      const victim = yield* submit("x")
      gate.txns[0]?.answer(Exit.succeed(done))
      yield* Fiber.join(hasty)
      assert.deepStrictEqual(sent, ["first", "x"])
    }))

  it.effect("of one in a group leaves the others alone; of the last one, cancels the call", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      const first = yield* submit(put("first"))
      const waiting = [yield* submit(put("b")), yield* submit(put("c")), yield* submit(put("d"))]
      yield* Fiber.interrupt(first)
      assert.strictEqual(txns[0]?.state, "cancelled")
      assert.strictEqual(written(txns[1]?.request ?? {}), "b c d")
      for (const fiber of waiting) {
        assert.strictEqual(txns[1]?.state, "open")
        yield* Fiber.interrupt(fiber)
      }
      assert.strictEqual(txns[1]?.state, "cancelled")
      yield* submit(put("e"))
      assert.strictEqual(written(txns[2]?.request ?? {}), "e")
    }))

  it.effect("of one who is sent apart after a refusal cancels that call alone", () =>
    Effect.gen(function*() {
      const { submit, txns } = yield* make()
      yield* submit(put("first"))
      const impatient = yield* submit(put("b"))
      const other = yield* submit(put("c"))
      txns[0]?.answer(Exit.succeed(done))
      txns[1]?.answer(fail(new LeaseNotFound({ leaseId: 1n })))
      yield* Fiber.interrupt(impatient)
      assert.deepStrictEqual(txns.slice(2).map(({ state }) => state), ["cancelled", "open"])
      txns[3]?.answer(Exit.succeed(done))
      assert.deepStrictEqual(yield* Fiber.join(other), done)
    }))

  it.live("at any step of one: the others are answered, and nothing of it is sent afterwards", () =>
    interruptAtEveryStep({
      setup: Effect.gen(function*() {
        const gate = makeGate()
        const sent: Array<string> = []
        let over = false
        const etcd = yield* makeEtcd({
          ...gate.transport,
          txn: (request) =>
            Effect.suspend(() => {
              if (over && written(request).includes("victim")) sent.push(written(request))
              return Effect.delay(Effect.sync(() => answerOf(request)), "3 millis")
            })
        }, { retry: Schedule.recurs(0), timeout: Duration.seconds(5), namespace: "" })
        const others = yield* Effect.forkChild(
          Effect.forEach(["a", "b", "c"], (key) => Effect.replicateEffect(etcd.txn(put(key)), 3), {
            concurrency: "unbounded"
          }),
          { startImmediately: true }
        )
        return { etcd, others, sent, end: () => (over = true) }
      }),
      run: ({ end, etcd }) =>
        Effect.ensuring(
          Effect.all([etcd.txn(put("victim1")), etcd.txn(put("victim2"))], { concurrency: "unbounded" }),
          Effect.sync(end)
        ),
      tick: "1 millis",
      check: ({ etcd, others, sent }, _, step) =>
        Effect.gen(function*() {
          const after = yield* Effect.forkChild(Effect.all([Fiber.join(others), etcd.txn(put("after"))]))
          for (let ticks = 0; ticks < 100 && after.pollUnsafe() === undefined; ticks++) {
            yield* TestClock.adjust("1 millis")
          }
          assert.isDefined(after.pollUnsafe(), `step ${step}: somebody was forgotten`)
          assert.deepStrictEqual(sent, [], `step ${step}`)
        })
    }).pipe(Effect.provide(TestClock.layer())))
})

describe("a busy process", () => {
  it.effect("a request whose fiber gives way between any two steps, while the call before it ends, is sent all the same", () =>
    Effect.gen(function*() {
      for (let n = 0; n < 120; n++) {
        const ops = 4 + n % 3
        const turns = Math.floor(n / 3)
        const { etcd, submit, txns } = yield* make()
        yield* submit(put("first"))
        const second = yield* Effect.forkChild(
          Effect.provideService(etcd.txn(put("second")), Scheduler.MaxOpsBeforeYield, ops)
        )
        for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
        txns[0]?.answer(Exit.succeed(done))
        for (let turn = 0; turn < 100; turn++) yield* Effect.yieldNow
        assert.strictEqual(txns.length, 2, `${ops} steps, ${turns} turns`)
        txns[1]?.answer(Exit.succeed(done))
        yield* Fiber.join(second)
      }
    }))
})

describe("closing", () => {
  it.effect("ends those on their way and those in line, and nobody hangs afterwards", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { etcd, submit, txns } = yield* Scope.provide(make(), scope)
      yield* submit(put("first"))
      const group = [yield* submit(put("b")), yield* submit(put("c"))]
      txns[0]?.answer(Exit.succeed(done))
      const line = yield* submit(put("d"))
      yield* Scope.close(scope, Exit.void)
      for (const fiber of [...group, line]) {
        const { reason } = failure(yield* Fiber.await(fiber)) ?? {}
        // Whether those on their way were applied, nobody knows.
        assert.strictEqual(reason?._tag, "Closed")
      }
      assert.strictEqual(txns[1]?.state, "cancelled")
      assert.strictEqual((yield* Effect.flip(etcd.txn(put("e")))).reason._tag, "Closed")
      assert.strictEqual(txns.length, 2)
    }))

  it.effect("ends those in line also where the transport forgets the one before them", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { submit, txns } = yield* Scope.provide(make(), scope)
      yield* submit(put("first"))
      const line = yield* submit(put("b"))
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(failure(yield* Fiber.await(line))?.reason._tag, "Closed")
      assert.strictEqual(txns.length, 1)
    }))

  it.effect("sends nothing for those who wait, where it is the first of them that closes the client when it is answered", () =>
    Effect.gen(function*() {
      const gate = makeGate()
      const sent: Array<string> = []
      const scope = yield* Scope.make()
      const { submit } = yield* Scope.provide(
        make("all", {
          txn: (request) => {
            sent.push(written(request))
            if (sent.length === 1) return gate.transport.txn(request)
            return sent.length === 2
              ? Effect.fail(new EtcdError({ operation: "txn", reason: new InvalidArgument({ detail: "of one" }) }))
              : Effect.succeed(done)
          }
        }),
        scope
      )
      yield* submit(put("first"))
      const b = yield* submit(put("b"))
      const closing = yield* Effect.forkChild(Effect.andThen(Fiber.join(b), Scope.close(scope, Exit.void)), {
        startImmediately: true
      })
      const line = yield* submit(put("c"))
      gate.txns[0]?.answer(Exit.succeed(done))
      yield* Fiber.join(closing)
      assert.strictEqual(failure(yield* Fiber.await(line))?.reason._tag, "Closed")
      assert.deepStrictEqual(sent, ["first", "b c", "b"])
    }))

  it.effect("ends also a call that begins as the client closes", () =>
    Effect.gen(function*() {
      const gate = makeGate()
      const scope = yield* Scope.make()
      const { submit } = yield* Scope.provide(
        make("all", {
          txn: (request) =>
            Effect.suspend(() => {
              // What it writes can be seen before it is answered, by somebody who closes the client.
              if (gate.txns.length === 1) Effect.runFork(Scope.close(scope, Exit.void))
              return gate.transport.txn(request)
            })
        }),
        scope
      )
      yield* submit(put("first"))
      const line = yield* submit(put("b"))
      gate.txns[0]?.answer(Exit.succeed(done))
      assert.strictEqual(failure(yield* Fiber.await(line))?.reason._tag, "Closed")
      assert.strictEqual(gate.txns[1]?.state, "cancelled")
    }))
})
