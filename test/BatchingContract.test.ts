/**
 * Requests that share calls get what they would have had alone, one after the other in some order: on memory and on etcd 3.4 and 3.5.
 * `BATCHING_SEED` repeats a run, `BATCHING_RUNS` says how many.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as fc from "fast-check"
import {
  Compare,
  Etcd,
  type KeyRange,
  Operation,
  type OperationResult,
  type RangeRequest,
  type RangeResult,
  type TxnRequest,
  type TxnResult
} from "../src/Etcd.ts"
import type { EtcdError } from "../src/EtcdError.ts"
import { layerEtcdPort } from "../src/EtcdLive.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { makeEtcd } from "../src/internal/client/Client.ts"
import { footprintOf, makeCompany } from "../src/internal/client/footprint.ts"
import { merged, partOf } from "../src/internal/client/merge.ts"
import { isReadOnly } from "../src/internal/client/retry.ts"
import { encodeKey } from "../src/internal/keys.ts"
import { makeLink } from "../src/internal/memory/link.ts"
import { Store } from "../src/internal/memory/Store.ts"
import { makeTransport as makeMemoryTransport } from "../src/internal/memory/transport.ts"
import type { Transport } from "../src/internal/Transport.ts"
import { as, asRoot, setUpAuth } from "./utils/auth.ts"
import { makeEtcdServer } from "./utils/EtcdServer.ts"
import { withHeld } from "./utils/gate.ts"
import { attempts, connect } from "./utils/live.ts"
import { makeProxy } from "./utils/Proxy.ts"
import { started } from "./utils/started.ts"
import { makeAuthority, makeTlsServer } from "./utils/tls.ts"
import { failure } from "./utils/virtual.ts"

const { BATCHING_RUNS = "25", BATCHING_SEED = String(Date.now() % 0x7fffffff) } = process.env
const runs = Number(BATCHING_RUNS)
const seed = Number(BATCHING_SEED)

// -----------------------------------------------------------------------------
// Requests
// -----------------------------------------------------------------------------

const keys = ["a", "a/1", "a/2", "b", "b/1", "ab", "é", "\udcc3\udca9", "c", "c/1/x"]
const key = fc.constantFrom(...keys)
const value = fc.constantFrom("", "v", "w")

const range: fc.Arbitrary<KeyRange> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ key }) },
  { weight: 2, arbitrary: fc.record({ prefix: fc.constantFrom("", "a", "a/", "b/", "c", "é") }) },
  { weight: 1, arbitrary: fc.constantFrom({ from: "a", to: "b" }, { from: "b", to: "z" }) }
)

const read: fc.Arbitrary<RangeRequest> = fc.tuple(
  range,
  fc.record({
    limit: fc.constantFrom(undefined, 1, 3, 100),
    keysOnly: fc.constantFrom(undefined, true),
    countOnly: fc.constantFrom(undefined, undefined, true)
  })
).map(([range, options]) => ({ ...range, ...options }))

const compare = fc.oneof(
  fc.tuple(range, fc.constantFrom("=" as const, "!=" as const)).map(([range, op]) =>
    Compare.createRevision(range, op, 0n)
  ),
  fc.tuple(range, fc.bigInt(0n, 3n)).map(([range, version]) => Compare.version(range, "<", version)),
  fc.tuple(range, value).map(([range, value]) => Compare.value(range, "=", value))
)

const { txn: transaction } = fc.letrec<{ txn: TxnRequest; operation: Operation }>((tie) => ({
  operation: fc.oneof(
    {
      weight: 4,
      arbitrary: fc.tuple(key, value, fc.boolean()).map(([k, v, previousKv]) => Operation.put(k, v, { previousKv }))
    },
    {
      weight: 2,
      arbitrary: fc.tuple(range, fc.boolean()).map(([r, previousKv]) => Operation.delete(r, { previousKv }))
    },
    { weight: 2, arbitrary: read.map((request) => Operation.range(request)) },
    { weight: 1, arbitrary: tie("txn").map(Operation.txn) }
  ),
  txn: fc.record({
    compare: fc.array(compare, { maxLength: 2 }),
    success: fc.array(tie("operation"), { maxLength: 3, depthIdentifier: "txn" }),
    failure: fc.array(tie("operation"), { maxLength: 2, depthIdentifier: "txn" })
  })
}))

/** As locks have them: what is done is mostly what is hoped for. */
const likely: fc.Arbitrary<TxnRequest> = fc.tuple(range, key, value, fc.boolean()).map(([compared, k, v, isPut]) => ({
  compare: [Compare.version(compared, "<", isPut ? 1n : 3n)],
  success: [isPut ? Operation.put(k, v) : Operation.delete({ key: k }, { previousKv: true })]
}))

// -----------------------------------------------------------------------------
// What they get
// -----------------------------------------------------------------------------

/** Revisions as `name` says them. */
const told = (name: (revision: bigint) => unknown) => {
  const kv = (kv: RangeResult["kvs"][number]) => ({
    ...kv,
    // Two texts can be the same bytes.
    key: Buffer.from(encodeKey(kv.key)).toString("hex"),
    value: String(new TextDecoder().decode(kv.value)),
    createRevision: name(kv.createRevision),
    modRevision: name(kv.modRevision)
  })
  const one = (result: OperationResult): unknown => {
    switch (result._tag) {
      case "Put":
        return { put: result.previous === undefined ? undefined : kv(result.previous) }
      case "Delete":
        return { deleted: result.deleted, previous: result.previous.map(kv) }
      case "Range":
        return ranged(result)
      case "Txn":
        return { succeeded: result.succeeded, responses: result.responses.map(one) }
    }
  }
  const ranged = ({ count, kvs, more }: RangeResult) => ({ count, more, kvs: kvs.map(kv) })
  return {
    txn: ({ responses, succeeded }: TxnResult): unknown => ({ succeeded, responses: responses.map(one) }),
    range: ranged
  }
}

const wrote = (results: ReadonlyArray<OperationResult>): boolean =>
  results.some((result) =>
    result._tag === "Put" || (result._tag === "Delete" && result.deleted > 0) ||
    (result._tag === "Txn" && wrote(result.responses))
  )

const clock = { monotonicTimeNanosUnsafe: () => 0n } as never

describe("footprints", () => {
  it("those who may travel together get, merged into one transaction or nested in it, what they get one after the other", () => {
    let joined = 0
    let inVain = 0
    let mergedAll = 0
    fc.assert(
      fc.property(
        fc.array(transaction, { maxLength: 4 }),
        fc.oneof(
          fc.array(transaction, { minLength: 2, maxLength: 8 }),
          fc.array(likely, { minLength: 2, maxLength: 8 })
        ),
        (before, offered) => {
          const stores = [new Store(clock), new Store(clock)] as const
          for (const request of before) for (const store of stores) store.txn(request)
          const base = stores[0].revision
          const { join } = makeCompany()
          const parts = offered.flatMap((request) => {
            const footprint = footprintOf(request)
            // What etcd refuses goes apart in the end.
            const valid = Result.isSuccess(copy(stores[0]).txn(request))
            if (footprint === undefined || !valid || isReadOnly(request) || !join(footprint)) return []
            return [partOf(request, footprint, true)]
          })
          const company = parts.map(({ request }) => request)
          const send = (trusted: boolean) => {
            const { answers, request } = merged(parts, trusted)
            const result = Result.getOrThrow(stores[0].txn(request))
            return result.succeeded ? answers(result) : undefined
          }
          const trusted = send(true)
          if (trusted === undefined) inVain++
          else if (parts.filter(({ isMergeable }) => isMergeable).length > 1) mergedAll++
          const whole = trusted ?? send(false)
          const apart = company.map((request) => Result.getOrThrow(stores[1].txn(request)))
          if (company.length > 1) joined++
          const { txn } = told((revision) => revision > base ? "new" : revision)
          assert.deepStrictEqual(
            whole?.map((result) => txn({ ...result, revision: 0n })),
            apart.map((result) => txn({ ...result, revision: 0n }))
          )
          const all = stores.map((store) =>
            txn(Result.getOrThrow(store.txn({ success: [Operation.range({ prefix: "" })] })))
          )
          assert.deepStrictEqual(all[0], all[1])
        }
      ),
      { seed, numRuns: 100 * runs }
    )
    assert.isAbove(joined, 10 * runs)
    assert.isAbove(inVain, runs)
    assert.isAbove(mergedAll, 10 * runs)
  })
})

const copy = (store: Store): Store => {
  const other = new Store(clock)
  other.restore(store.snapshot())
  return other
}

// -----------------------------------------------------------------------------
// On every implementation
// -----------------------------------------------------------------------------

interface World {
  readonly etcd: Etcd["Service"]
  readonly held: ReturnType<typeof withHeld>
}

const settings = { retry: Schedule.recurs(0), timeout: Duration.seconds(5), namespace: "" }

const makeWorld = (transport: Transport): Effect.Effect<World, never, Scope.Scope> =>
  Effect.gen(function*() {
    const held = withHeld(transport)
    return { held, etcd: yield* makeEtcd(held.transport, settings) }
  })

const server = (version: "3.4" | "3.5", ...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const server = yield* makeEtcdServer({ version, args })
    return { server, ...(yield* makeWorld(yield* attempts(server.port))) }
  })

const memory = Effect.gen(function*() {
  const store = yield* EtcdMemory.make({ retention: Infinity })
  const link = yield* makeLink(Duration.seconds(5))
  yield* link.setFate(() => ({ response: "1 millis" }))
  return yield* makeWorld(makeMemoryTransport(store, link))
})

type Asked = { readonly txn: TxnRequest; readonly isLikely?: boolean } | { readonly range: RangeRequest }

interface Answered {
  readonly request: Asked
  readonly result: TxnResult | RangeResult
}

const ask = (etcd: World["etcd"], prefix: string, request: Asked): Effect.Effect<TxnResult | RangeResult, EtcdError> =>
  "range" in request
    ? etcd.range(below(prefix, request.range))
    : request.isLikely === true
    ? started(etcd, within(prefix, request.txn))
    : etcd.txn(within(prefix, request.txn))

/** Requests that gather behind one that is held, and what they get. */
const together = Effect.fnUntraced(function*(
  { etcd, held }: World,
  requests: ReadonlyArray<TxnRequest>
) {
  yield* held.hold
  const first = yield* Effect.forkChild(etcd.txn({ success: [Operation.put("first", "")] }), { startImmediately: true })
  const fibers = yield* Effect.forEach(
    requests,
    (request) => Effect.forkChild(etcd.txn(request), { startImmediately: true })
  )
  const before = held.counts.txn
  yield* held.release
  const answered = yield* Effect.exit(Fiber.join(first))
  const exits = yield* Effect.forEach(fibers, Fiber.await)
  return { answered, exits, calls: held.counts.txn - before }
})

const putAt = (key: string, value: string | Uint8Array = "", lease?: bigint): TxnRequest => ({
  success: [Operation.put(key, value, { lease })]
})

const reasons = (exits: ReadonlyArray<Exit.Exit<TxnResult, { readonly reason: { readonly _tag: string } }>>) =>
  exits.map((exit) => Exit.isSuccess(exit) ? "answered" : failure(exit)?.reason._tag)

const worlds: ReadonlyArray<readonly [string, Effect.Effect<World, unknown, Scope.Scope>]> = [
  ["memory", memory],
  ["etcd 3.4", server("3.4")],
  ["etcd 3.5", server("3.5")]
]

for (const [name, world] of worlds) {
  describe(`on ${name}`, () => {
    it.live(
      `what is asked for at the same time is answered as in some order (seed ${seed})`,
      () =>
        Effect.gen(function*() {
          const { etcd, held } = yield* world
          let round = 0
          let shared = 0
          let asked = 0
          const rounds = fc.array(
            fc.oneof(
              transaction.map((txn) => ({ txn })),
              likely.map((txn) => ({ txn, isLikely: true })),
              read.map((range) => ({ range }))
            ),
            { minLength: 20, maxLength: 60 }
          )
          const property = fc.asyncProperty(rounds, (requests) => {
            const prefix = `/${round++}/`
            return Effect.runPromise(Effect.gen(function*() {
              const counted = held.counts.txn + held.counts.range
              // Refused alone, it is no part of any order.
              const valid = requests.filter((request) =>
                "range" in request || Result.isSuccess(new Store(clock).txn(request.txn))
              )
              const answers = yield* Effect.forEach(
                valid,
                (request) => Effect.map(ask(etcd, prefix, request), (result): Answered => ({ request, result })),
                { concurrency: "unbounded" }
              )
              asked += valid.length
              if (held.counts.txn + held.counts.range - counted < valid.length) shared++
              // Within one revision, who wrote comes first.
              const isWrite = ({ result }: Answered) => "responses" in result && wrote(result.responses)
              const order = answers.toSorted((a, b) =>
                Number(a.result.revision - b.result.revision) || Number(isWrite(b)) - Number(isWrite(a))
              )
              const store = new Store(clock)
              const real = new Map<bigint, bigint>()
              const seen = told((revision) => revision)
              const replayed = told((revision) => real.get(revision) ?? revision)
              for (const { request, result } of order) {
                if ("txn" in request && "responses" in result) {
                  const alone = Result.getOrThrow(store.txn(within(prefix, request.txn)))
                  if (wrote(alone.responses)) real.set(alone.revision, result.revision)
                  assert.deepStrictEqual(seen.txn(result), replayed.txn(alone), fc.stringify(request))
                } else if ("range" in request && "kvs" in result) {
                  const alone = Result.getOrThrow(store.range(below(prefix, request.range)))
                  assert.deepStrictEqual(seen.range(result), replayed.range(alone), fc.stringify(request))
                }
              }
            }))
          })
          yield* Effect.promise(() => fc.assert(property, { seed, numRuns: runs, endOnFailure: true, verbose: 0 }))
          assert.isAbove(shared, runs / 2)
          assert.isBelow(held.counts.txn + held.counts.range, asked)
        }),
      120_000
    )

    it.live("one that etcd refuses fails alone: a lease that is gone, a key twice, a revision to come, one compacted", () =>
      Effect.gen(function*() {
        const here = yield* world
        const lease = yield* here.etcd.leaseGrant(Duration.seconds(60))
        const { calls, exits } = yield* together(here, [
          putAt("a", "1", lease.id),
          putAt("b", "1", 12345n),
          { success: [Operation.put("c", ""), Operation.put("c", "")] },
          {
            success: [Operation.put("d", ""), Operation.range({ key: "x", keysOnly: true, atRevision: 1_000_000_000n })]
          },
          putAt("e")
        ])
        assert.deepStrictEqual(reasons(exits), [
          "answered",
          "LeaseNotFound",
          "InvalidArgument",
          "InvalidArgument",
          "answered"
        ])
        assert.strictEqual(calls, 1 + 5)
        const [, missing] = exits.map(failure)
        assert.deepStrictEqual(
          missing?.reason._tag === "LeaseNotFound" ? missing.reason.leaseId : undefined,
          12345n
        )
        assert.strictEqual(missing?.key, "b")
        const kvs = (yield* here.etcd.range({ prefix: "" })).kvs.map((kv) => [kv.key, kv.lease])
        assert.deepStrictEqual(kvs, [["a", lease.id], ["e", 0n], ["first", 0n]])
      }))

    it.live("those in one call have one revision, and each its own outcome", () =>
      Effect.gen(function*() {
        const here = yield* world
        yield* here.etcd.txn(putAt("b"))
        const create = (key: string): TxnRequest => ({
          compare: [Compare.createRevision(key, "=", 0n)],
          success: [Operation.put(key, "")],
          failure: [Operation.range({ key, keysOnly: true })]
        })
        const { calls, exits } = yield* together(here, [create("a"), create("b"), create("c")])
        assert.strictEqual(calls, 1)
        const results = exits.flatMap((exit) => Exit.isSuccess(exit) ? [exit.value] : [])
        assert.deepStrictEqual(results.map(({ succeeded }) => succeeded), [true, false, true])
        assert.strictEqual(new Set(results.map(({ revision }) => revision)).size, 1)
        const { kvs } = yield* here.etcd.range({ prefix: "" })
        assert.strictEqual(kvs.find((kv) => kv.key === "c")?.createRevision, results[0]?.revision)
      }))

    it.live("two that want the same are told apart", () =>
      Effect.gen(function*() {
        const here = yield* world
        const create: TxnRequest = {
          compare: [Compare.createRevision("lock", "=", 0n)],
          success: [Operation.put("lock", "")]
        }
        const { exits } = yield* together(here, Array.from({ length: 10 }, () => create))
        assert.deepStrictEqual(
          exits.map((exit) => Exit.isSuccess(exit) && exit.value.succeeded).filter(Boolean),
          [true]
        )
      }))
  })
}

for (const version of ["3.4", "3.5"] as const) {
  describe(`etcd ${version}`, () => {
    it.live("with less operations than usual: those that are too many for it go in parts", () =>
      Effect.gen(function*() {
        const here = yield* server(version, "--max-txn-ops=16")
        const puts = Array.from({ length: 60 }, (_, index) => putAt(`k${index}`))
        const first = yield* together(here, puts)
        assert.isTrue(first.exits.every(Exit.isSuccess))
        yield* together(here, puts)
        yield* together(here, puts)
        const fourth = yield* together(here, puts)
        assert.isTrue(fourth.exits.every(Exit.isSuccess))
        assert.isBelow(fourth.calls, 12)
      }))

    it.live("with shorter requests than usual: the same, and one that is too long is so alone", () =>
      Effect.gen(function*() {
        const here = yield* server(version, "--max-request-bytes=65536")
        // Beyond what its gRPC server takes, beyond what etcd takes, and within.
        for (const size of [30_000, 10_000, 1_000, 1_000]) {
          const puts = Array.from({ length: 40 }, (_, index) => putAt(`k${index}`, "x".repeat(size)))
          const { exits } = yield* together(here, puts)
          assert.isTrue(exits.every(Exit.isSuccess), `${size}`)
        }
        const { calls, exits } = yield* together(here, [putAt("a"), putAt("b", "x".repeat(70_000)), putAt("c")])
        assert.deepStrictEqual(reasons(exits), ["answered", "TooLarge", "answered"])
        assert.isBelow(calls, 5)
      }))

    it.live("when it is full refuses who puts, and lets the others through", () =>
      Effect.gen(function*() {
        const here = yield* server(version, "--quota-backend-bytes=2000000")
        yield* here.etcd.txn(putAt("old"))
        const fill = Effect.suspend(() => here.etcd.txn(putAt(`big${Math.random()}`, "x".repeat(100_000))))
        const full = yield* Effect.flip(Effect.repeat(fill, { times: 300 }))
        assert.strictEqual(full.reason._tag, "NoSpace")
        const { answered, exits } = yield* together(here, [
          putAt("a"),
          { success: [Operation.delete("old")] },
          putAt("b"),
          { success: [Operation.delete("older")] }
        ])
        assert.deepStrictEqual(reasons([answered, ...exits]), ["NoSpace", "NoSpace", "answered", "NoSpace", "answered"])
        assert.deepStrictEqual((yield* here.etcd.range({ key: "old" })).kvs, [])
      }))

    it.live("a lost answer is ambiguous for all, and what was sent is not sent again", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const proxy = yield* makeProxy(server)
        const here = yield* makeWorld(yield* attempts(proxy.port))
        yield* here.etcd.txn(putAt("warm"))
        yield* here.held.hold
        const first = yield* Effect.forkChild(here.etcd.txn(putAt("first")), { startImmediately: true })
        const fibers = yield* Effect.forEach(["a", "b"], (key) =>
          Effect.forkChild(here.etcd.txn(putAt(key)), { startImmediately: true }))
        yield* proxy.dropResponses
        yield* here.held.release
        // Both have arrived: the group is sent when its first was too slow.
        const direct = yield* makeWorld(yield* attempts(server.port))
        yield* Effect.repeat(
          direct.etcd.range({ prefix: "" }),
          {
            until: ({ kvs }) =>
              kvs.some((kv) => kv.key === "b"),
            schedule: Schedule.spaced("20 millis")
          }
        )
        yield* proxy.cut
        yield* proxy.passResponses
        const exits = yield* Effect.forEach([first, ...fibers], Fiber.await)
        assert.deepStrictEqual(reasons(exits), ["Ambiguous", "Ambiguous", "Ambiguous"])
        const { kvs } = yield* direct.etcd.range({ prefix: "" })
        assert.deepStrictEqual(kvs.map((kv) => [kv.key, kv.version]), [["a", 1n], ["b", 1n], ["first", 1n], [
          "warm",
          1n
        ]])
      }))

    it.live("with users: writes go alone, and a read that is denied fails alone", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        yield* setUpAuth(server, { alice: ["/mine/"] })
        yield* asRoot(server)("put", "/theirs/x", "secret")
        const etcd = yield* Effect.map(
          Layer.build(layerEtcdPort({ endpoints: server.endpoint, ...as("alice") })),
          (context) => Context.get(context, Etcd)
        )
        const writes = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, index) => index % 2 === 0 ? `/mine/${index}` : `/theirs/${index}`),
          (key) => Effect.exit(etcd.txn(putAt(key))),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          reasons(writes),
          writes.map((_, index) => index % 2 === 0 ? "answered" : "PermissionDenied")
        )
        const reads = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, index) => index % 5 === 0 ? "/theirs/x" : `/mine/${index}`),
          (key) => Effect.exit(etcd.range({ key })),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          reads.map((exit) => Exit.isSuccess(exit) ? "answered" : failure(exit)?.reason._tag),
          reads.map((_, index) => index % 5 === 0 ? "PermissionDenied" : "answered")
        )
      }))

    it.live("with users by the names in their certificates: what a role does not allow is denied in company, too", () =>
      Effect.gen(function*() {
        const authority = makeAuthority()
        const identity = authority.issue({ commonName: "root", ip: ["127.0.0.1"], dns: ["localhost"] })
        const server = yield* makeTlsServer({ authority, identity, version, mutual: true })
        yield* setUpAuth(server, { alice: ["/mine/"] })
        const tls = { ca: authority.cert, ...authority.issue({ commonName: "alice" }) }
        const etcd = yield* connect({ endpoints: `https://${server.endpoint}`, tls })
        const writes = yield* Effect.forEach(
          ["/mine/1", "/mine/2", "/theirs/3", "/mine/4"],
          (key) => Effect.exit(etcd.txn(putAt(key))),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(reasons(writes), ["answered", "answered", "PermissionDenied", "answered"])
      }))
  })
}

const below = <A extends KeyRange>(prefix: string, range: A): A => {
  if ("key" in range) return { ...range, key: prefix + range.key }
  if ("prefix" in range) return { ...range, prefix: prefix + range.prefix }
  return { ...range, from: prefix + range.from, to: prefix + range.to }
}

const within = (prefix: string, { compare, failure, success }: TxnRequest): TxnRequest => {
  const operation = (operation: Operation): Operation =>
    operation._tag === "Txn" ? { _tag: "Txn", ...within(prefix, operation) } : below(prefix, operation)
  return {
    compare: compare?.map((compare) => below(prefix, compare)),
    success: success?.map(operation),
    failure: failure?.map(operation)
  }
}
