import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as fc from "fast-check"
import { Compare, type Etcd, type KeyRange, type KeyValue, Operation, type OperationResult } from "../../src/Etcd.ts"
import { ServiceInstance } from "../../src/ServiceInstance.ts"
import { makeEtcdServer } from "../utils/EtcdServer.ts"
import { connect } from "./clients.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] as const

const outsider = "OUTSIDE"
const namespace = "/app/"

/** Around the namespace and the prefixes of the services, at both ends of the key space, and not UTF-8. */
const canaries = [
  "\0",
  "\0\0",
  " ",
  "/",
  "/ap",
  "/app",
  "/app.",
  "/app0",
  "/apq",
  "/config",
  "/config/x",
  "/locks/x",
  "/services/x/y",
  "/other/app/x",
  "a",
  "app/x",
  "~",
  "\udc80",
  "\udcff",
  "\udcff\udcff",
  "\u{10ffff}"
]
/** In the namespace, around what the services may touch. */
const neighbours = [
  "",
  "/",
  "/config",
  "/config0",
  "/confif",
  "/locks",
  "/locks0",
  "/services",
  "/services0",
  "config/x"
]
  .map((key) => namespace + key)

const piece = fc.constantFrom(
  "",
  "/",
  "//",
  ".",
  "..",
  "../",
  "\0",
  "\u0001",
  "a",
  "x",
  "app",
  "/app/",
  "config",
  "/config/",
  "locks",
  "services",
  "\u007f",
  "é",
  "\uffff",
  "\u{10ffff}",
  "\udc00",
  "\udcff",
  "\ud800",
  "%2e%2e%2f",
  "~"
)
const text = fc.array(piece, { maxLength: 4 }).map((pieces) => pieces.join(""))
const range: fc.Arbitrary<KeyRange> = fc.oneof(
  fc.record({ key: text }),
  fc.record({ prefix: text }),
  fc.record({ from: text, to: text })
)
const put = text.map((key) => Operation.put(key, "inside", { previousKv: true }))
const operation: fc.Arbitrary<Operation> = fc.letrec<{ op: Operation }>((tie) => ({
  op: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    put,
    range.map((range) => Operation.delete(range, { previousKv: true })),
    range.map((range) => Operation.range(range)),
    fc.record({
      compare: fc.array(range.map((range) => Compare.modRevision(range, ">", 0n)), { maxLength: 1 }),
      success: fc.array(tie("op"), { maxLength: 2 }),
      failure: fc.array(tie("op"), { maxLength: 2 })
    }).map(Operation.txn)
  )
})).op

const show = (value: unknown): string =>
  JSON.stringify(value, (_, part) => typeof part === "bigint" ? String(part) : part) ?? ""

const isOutsider = (kv: KeyValue | undefined) => kv !== undefined && new TextDecoder().decode(kv.value) === outsider

const kvsOf = (result: OperationResult): ReadonlyArray<KeyValue> => {
  switch (result._tag) {
    case "Put":
      return result.previous === undefined ? [] : [result.previous]
    case "Delete":
      return result.previous
    case "Range":
      return result.kvs
    case "Txn":
      return result.responses.flatMap(kvsOf)
  }
}

const plant = (etcd: Etcd["Service"], keys: ReadonlyArray<string>) =>
  Effect.map(etcd.txn({ success: keys.map((key) => Operation.put(key, outsider)) }), ({ revision }) => revision)

/** Those that are still as they were planted. */
const untouched = (etcd: Etcd["Service"], revision: bigint) =>
  Effect.map(
    etcd.range({ prefix: "" }),
    ({ kvs }) => kvs.filter((kv) => isOutsider(kv) && kv.modRevision === revision).map((kv) => kv.key).sort()
  )

describe("nothing gets out", () => {
  for (const version of versions) {
    it.live(
      `of a namespace: no range, transaction, nested one, delete, compare or watch, whatever the keys (${version})`,
      () =>
        Effect.gen(function*() {
          const server = yield* makeEtcdServer({ version })
          const operator = (yield* connect({ endpoints: server.endpoint })).etcd
          const { etcd } = yield* connect({ endpoints: server.endpoint, namespace })
          const revision = yield* plant(operator, canaries)
          const intact = [...canaries].sort()
          let tried = 0
          let done = 0
          for (const op of fc.sample(operation, 1500)) {
            const result = yield* Effect.option(etcd.txn({ success: [op] }))
            tried++
            if (Option.isSome(result)) done++
            const kvs = Option.isSome(result) ? result.value.responses.flatMap(kvsOf) : []
            assert.isFalse(kvs.some(isOutsider), show(op))
            if (tried % 100 === 0) assert.deepStrictEqual(yield* untouched(operator, revision), intact)
          }
          assert.isAbove(done, 700, "most of them are requests that etcd takes")
          for (const one of fc.sample(range, 500)) {
            const found = yield* Effect.option(etcd.range(one))
            const kvs = Option.isSome(found) ? found.value.kvs : []
            assert.isFalse(kvs.some(isOutsider), show(one))
            // False as soon as one key outside is in the range: all of those, and only those, have this revision.
            const compared = yield* Effect.option(etcd.txn({ compare: [Compare.modRevision(one, "!=", revision)] }))
            if (Option.isSome(compared)) assert.isTrue(compared.value.succeeded, show(one))
            tried += 2
          }
          assert.deepStrictEqual(yield* untouched(operator, revision), intact)
          yield* Effect.forEach(fc.sample(range, 200), (one) =>
            etcd.watch({ ...one, startRevision: revision, previousKv: true }).pipe(
              Stream.runForEach((item) =>
                Effect.sync(() => {
                  const events = item._tag === "Batch" ? item.events : []
                  for (const event of events) {
                    assert.isFalse(isOutsider(event._tag === "Put" ? event.kv : event.previous), show(one))
                  }
                })
              ),
              // The past is told within etcd's tick of 100 ms.
              Effect.timeoutOption("1 second"),
              // What etcd refuses tells nothing.
              Effect.catchTag("EtcdError", () =>
                Effect.void)
            ), { concurrency: 50 })
          tried += 200
          record({
            what: `out of a namespace: ${tried} requests`,
            bar: "0 escape",
            measured: "0 escape",
            ok: true,
            version
          })
        }),
      120_000
    )

    it.live(`of the prefixes of the services, whatever their users pass (${version})`, () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const operator = (yield* connect({ endpoints: server.endpoint })).etcd
        const { config, lock, registry } = yield* connect({ endpoints: server.endpoint, namespace })
        const all = [...canaries, ...neighbours]
        const revision = yield* plant(operator, all)
        const instance = (name: string, id: string) => new ServiceInstance({ name, id, address: "127.0.0.1", port: 80 })
        const read = <A, E, R>(what: string, effect: Effect.Effect<A, E, R>) =>
          Effect.map(Effect.option(effect), (result) => {
            const found = Option.isSome(result) ? show(result.value) : ""
            assert.notInclude(found, outsider, what)
          })
        let tried = 0
        for (const [a, b] of fc.sample(fc.tuple(text, text), 300)) {
          yield* Effect.scoped(Effect.gen(function*() {
            yield* read(`get ${a}`, config.get(a, Schema.String))
            yield* read(`list ${a}`, config.list(a))
            yield* read(`entries ${a}`, config.entries(a, Schema.String))
            yield* read(`discover ${a}`, registry.discover(a))
            yield* read(`waiters ${a}`, lock.waiters(a))
            yield* Effect.option(config.set(a, Schema.String, "inside"))
            yield* Effect.option(config.update(b, Schema.String, () => "inside"))
            yield* Effect.option(config.delete(b))
            yield* Effect.option(Effect.timeout(lock.tryAcquire(a), "5 seconds"))
            yield* Effect.option(registry.unregister(a, b))
            yield* Effect.option(registry.register(instance(a, b)))
          }))
          tried += 11
          if (tried % 330 === 0) assert.deepStrictEqual(yield* untouched(operator, revision), [...all].sort())
        }
        assert.deepStrictEqual(yield* untouched(operator, revision), [...all].sort())
        const { kvs } = yield* operator.range({ prefix: "" })
        for (const kv of kvs) {
          if (!isOutsider(kv)) assert.match(kv.key, /^\/app\/\/(config|locks|services)\/[^/]/)
        }
        record({
          what: `out of a prefix: ${tried} calls of services`,
          bar: "0 escape",
          measured: "0 escape",
          ok: true,
          version
        })
      }), 120_000)
  }
})
