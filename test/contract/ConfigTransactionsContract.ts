/**
 * Transactions, history and rollback of configuration, on every implementation of the port.
 */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { ConfigCenter, type ConfigHistory } from "../../src/ConfigCenter.ts"
import { ConfigChange } from "../../src/ConfigChange.ts"
import type { Etcd } from "../../src/Etcd.ts"
import { Operator } from "./Operator.ts"
import { freshPrefix, get as getKey, put, range } from "./support.ts"

const Limits = Schema.Struct({ max: Schema.Int })

export const configTransactionsContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    const test = (
      title: string,
      body: (config: ConfigCenter["Service"], root: string) => Effect.Effect<void, unknown, Etcd | Operator>
    ) =>
      it.effect(title, () =>
        Effect.suspend(() => {
          const root = freshPrefix().slice(0, -1)
          return Effect.provide(
            Effect.flatMap(ConfigCenter, (config) => body(config, root)),
            ConfigCenter.layer({ prefix: root })
          )
        }))

    test(
      "several keys are set and deleted at one revision, each by its schema",
      (config, root) =>
        Effect.gen(function*() {
          const old = yield* config.set("a", Schema.Int, 1)
          yield* config.set("old", Schema.Int, 1)
          const version = yield* config.transact([
            ConfigChange.set("a", Limits, { max: 2 }, { expected: old }),
            ConfigChange.set("folder/b", Schema.String, "bare", { expected: 0n }),
            ConfigChange.delete("old"),
            ConfigChange.delete("was never there"),
            ConfigChange.check("nothing", 0n)
          ])
          assert.deepStrictEqual(yield* config.getVersioned("a", Limits), { key: "a", value: { max: 2 }, version })
          assert.deepStrictEqual(yield* config.getVersioned("folder/b", Schema.String), {
            key: "folder/b",
            value: "bare",
            version
          })
          assert.strictEqual(new TextDecoder().decode((yield* getKey(`${root}/folder/b`)).value), "bare")
          assert.deepStrictEqual(yield* config.list(""), ["a", "folder/b"])
        })
    )

    test("one version that is another one, and nothing is written: each such key is named", (config) =>
      Effect.gen(function*() {
        const a = yield* config.set("a", Schema.Int, 1)
        const b = yield* config.set("b", Schema.Int, 1)
        const c = yield* config.set("c", Schema.Int, 1)
        const error = yield* Effect.flip(config.transact([
          ConfigChange.set("a", Schema.Int, 2, { expected: a }),
          ConfigChange.set("b", Schema.Int, 2, { expected: a }),
          ConfigChange.delete("c", { expected: 0n }),
          ConfigChange.check("gone", 7n),
          ConfigChange.set("d", Schema.Int, 2)
        ]))
        assert.strictEqual(error._tag, "TransactionConflict")
        if (error._tag !== "TransactionConflict") return
        assert.deepStrictEqual(error.conflicts.map(({ actual, expected, key }) => [key, expected, actual]), [
          ["b", a, b],
          ["c", 0n, c],
          ["gone", 7n, 0n]
        ])
        assert.include(error.message, `"b" has version ${b}, expected version ${a}`)
        assert.deepStrictEqual(
          (yield* config.entries("", Schema.Int)).map(({ key, value }) => [key, value]),
          [["a", 1], ["b", 1], ["c", 1]]
        )
      }))

    test("a transaction that only looks writes nothing", (config, root) =>
      Effect.gen(function*() {
        const a = yield* config.set("a", Schema.Int, 1)
        assert.isTrue((yield* config.transact([ConfigChange.check("a", a), ConfigChange.check("b", 0n)])) >= a)
        assert.isTrue((yield* config.transact([])) >= a)
        const error = yield* Effect.flip(config.transact([ConfigChange.check("a", a), ConfigChange.check("a", 0n)]))
        assert.strictEqual(error._tag, "TransactionConflict")
        assert.strictEqual((yield* range({ prefix: `${root}/` })).count, 1)
        assert.strictEqual((yield* getKey(`${root}/a`)).version, 1n)
      }))

    test("more changes than etcd takes are refused, and none is made", (config) =>
      Effect.gen(function*() {
        const changes = Array.from({ length: 129 }, (_, index) => ConfigChange.set(`key-${index}`, Schema.Int, index))
        const error = yield* Effect.flip(config.transact(changes))
        assert.strictEqual(error._tag === "EtcdError" ? error.reason._tag : error._tag, "InvalidArgument")
        assert.deepStrictEqual(yield* config.list(""), [])
        yield* config.transact(changes.slice(0, 128))
        assert.strictEqual((yield* config.list("")).length, 128)
      }))

    test("transactions of several fibers over the same two keys: each is wholly there or not at all", (config) =>
      Effect.gen(function*() {
        yield* config.transact([ConfigChange.set("a", Schema.Int, 0), ConfigChange.set("b", Schema.Int, 0)])
        const both = Effect.gen(function*() {
          const [a, b] = yield* config.entries("", Schema.Int)
          assert.strictEqual(a?.value, b?.value)
          return { expected: a?.version ?? 0n, next: (a?.value ?? 0) + 1 }
        })
        const increment = Effect.gen(function*() {
          const { expected, next } = yield* both
          yield* config.transact([
            ConfigChange.set("a", Schema.Int, next, { expected }),
            ConfigChange.set("b", Schema.Int, next, { expected })
          ])
        }).pipe(Effect.retry({ while: (error) => error._tag === "TransactionConflict" }))
        yield* Effect.all(Array.from({ length: 10 }, () => increment), { concurrency: "unbounded" })
        assert.strictEqual((yield* both).next, 11)
      }))

    test(
      "the history is told from the newest to the first, with what does not decode",
      (config, root) =>
        Effect.gen(function*() {
          const versions = [
            yield* config.set("key", Schema.Int, 1),
            yield* put(`${root}/key`, "two"),
            yield* config.set("key", Schema.Int, 3)
          ]
          yield* config.set("other", Schema.Int, 4)
          const told = yield* Stream.runCollect(config.history("key", Schema.Int))
          assert.deepStrictEqual(told.map(brief), ["3", "Invalid: Expected JSON", "1", "Created"])
          assert.deepStrictEqual(told.map(({ version }) => version), [...versions.toReversed(), versions[0]])
          const [newest] = yield* config.history("key", Schema.Int).pipe(Stream.take(1), Stream.runCollect)
          assert.strictEqual(newest?.version, versions[2])
        })
    )

    test(
      "a deletion ends it, and what was before is found by the version of the deletion",
      (config, root) =>
        Effect.gen(function*() {
          yield* config.set("key", Schema.Int, 1)
          yield* config.set("key", Schema.Int, 2)
          const deleted = yield* config.transact([ConfigChange.delete("key")])
          const error = yield* Effect.flip(Stream.runDrain(config.history("key", Schema.Int)))
          assert.deepInclude(error, { _tag: "ConfigNotFound", key: "key" })
          yield* config.set("key", Schema.Int, 3)
          assert.deepStrictEqual(
            (yield* Stream.runCollect(config.history("key", Schema.Int))).map(brief),
            ["3", "Created"]
          )
          const before = yield* Stream.runCollect(config.history("key", Schema.Int, { before: deleted }))
          assert.deepStrictEqual(before.map(brief), ["2", "1", "Created"])
          const never = yield* Effect.flip(
            Stream.runDrain(config.history("never", Schema.Int, { before: deleted }))
          )
          assert.deepInclude(never, { _tag: "ConfigNotFound", key: "never", at: deleted - 1n })
          for (const before of [1n, 0n, -1n]) {
            const none = yield* Effect.flip(Stream.runDrain(config.history("key", Schema.Int, { before })))
            assert.deepInclude(none, { _tag: "ConfigNotFound", at: before - 1n })
          }
          assert.strictEqual((yield* getKey(`${root}/key`)).version, 1n)
        })
    )

    test("what etcd has forgotten ends it, and says so", (config) =>
      Effect.gen(function*() {
        const forgotten = yield* config.set("key", Schema.Int, 1)
        const second = yield* config.set("key", Schema.Int, 2)
        const third = yield* config.set("key", Schema.Int, 3)
        yield* config.set("key", Schema.Int, 4)
        yield* Effect.flatMap(Operator, (operator) => operator.compact(third))
        const told = yield* Stream.runCollect(config.history("key", Schema.Int))
        assert.deepStrictEqual(told.map(brief), ["4", "3", "Compacted"])
        assert.strictEqual(told.at(-1)?.version, third)
        const before = yield* Stream.runCollect(config.history("key", Schema.Int, { before: second }))
        assert.deepStrictEqual(before, [{ _tag: "Compacted", key: "key", version: second }])
        const error = yield* Effect.flip(config.rollback("key", forgotten))
        assert.strictEqual(error._tag === "EtcdError" ? error.reason._tag : error._tag, "Compacted")
        assert.strictEqual(yield* config.get("key", Schema.Int), 4)
      }))

    test(
      "a rollback writes the old bytes as a new version, also of a key that is gone",
      (config, root) =>
        Effect.gen(function*() {
          const first = yield* put(`${root}/key`, " {\"max\": 1}")
          const second = yield* config.set("key", Limits, { max: 2 })
          const third = yield* config.rollback("key", first)
          assert.isTrue(third > second)
          const kv = yield* getKey(`${root}/key`)
          assert.strictEqual(new TextDecoder().decode(kv.value), " {\"max\": 1}")
          assert.strictEqual(kv.modRevision, third)
          // As of a version at which another key was written.
          const other = yield* config.set("other", Schema.Int, 1)
          yield* config.delete("key")
          const restored = yield* config.rollback("key", other)
          assert.deepStrictEqual(yield* config.getVersioned("key", Limits), {
            key: "key",
            value: { max: 1 },
            version: restored
          })
        })
    )

    test("a rollback that would replace another version than expected writes nothing", (config) =>
      Effect.gen(function*() {
        const first = yield* config.set("key", Schema.Int, 1)
        const second = yield* config.set("key", Schema.Int, 2)
        const third = yield* config.set("key", Schema.Int, 3)
        const conflict = yield* Effect.flip(config.rollback("key", first, { expected: second }))
        assert.deepInclude(conflict, { _tag: "VersionConflict", key: "key", expected: second, actual: third })
        assert.strictEqual(yield* config.get("key", Schema.Int), 3)
        yield* config.rollback("key", first, { expected: third })
        assert.strictEqual(yield* config.get("key", Schema.Int), 1)
        for (const to of [0n, -1n, first - 1n]) {
          assert.deepInclude(yield* Effect.flip(config.rollback("key", to)), { _tag: "ConfigNotFound", at: to })
        }
        const future = yield* Effect.flip(config.rollback("key", third + 1_000_000n))
        assert.strictEqual(future._tag === "EtcdError" ? future.reason._tag : future._tag, "InvalidArgument")
      }))
  })

const brief = (told: ConfigHistory<unknown>): string =>
  told._tag === "Put" ? String(told.value) : told._tag === "Invalid" ? `Invalid: ${told.error.issue}` : told._tag
