/**
 * What the configuration center does on every implementation of the port. The tests share one store: each has a prefix of its own.
 */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { ConfigCenter, type ConfigEvent, RawBytes } from "../../src/ConfigCenter.ts"
import { type Etcd, Operation } from "../../src/Etcd.ts"
import { Operator } from "./Operator.ts"
import { freshPrefix, get as getKey, put, txn } from "./support.ts"

const Limits = Schema.Struct({ max: Schema.Int, label: Schema.NullOr(Schema.String) })

/** On the real clock, also where there is a virtual one. */
export const configContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
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

    test("what was set is read, with the version of the write", (config) =>
      Effect.gen(function*() {
        const first = yield* config.set("api/limits", Limits, { max: 1, label: "null" })
        const second = yield* config.set("api/limits", Limits, { max: 2, label: null })
        assert.isTrue(second > first)
        assert.deepStrictEqual(yield* config.get("api/limits", Limits), { max: 2, label: null })
        assert.deepStrictEqual(yield* config.getVersioned("api/limits", Limits), {
          key: "api/limits",
          value: { max: 2, label: null },
          version: second
        })
        yield* config.delete("api/limits")
        const missing = yield* Effect.flip(config.get("api/limits", Limits))
        assert.strictEqual(missing._tag, "ConfigNotFound")
        assert.strictEqual((yield* Effect.flip(config.delete("api/limits")))._tag, "ConfigNotFound")
      }))

    test("values are stored byte for byte as Go services write them", (config, root) =>
      Effect.gen(function*() {
        const stored = Effect.map(getKey(`${root}/key`), (kv) => new TextDecoder().decode(kv.value))
        yield* config.set("key", Schema.String, "bare <text> & more")
        assert.strictEqual(yield* stored, "bare <text> & more")
        yield* config.set("key", Schema.String, "null")
        assert.strictEqual(yield* stored, "\"null\"")
        yield* config.set("key", Limits, { max: 1, label: "x" })
        assert.strictEqual(yield* stored, "{\"max\":1,\"label\":\"x\"}")
        yield* config.set("key", Schema.BigInt, 2n ** 63n)
        assert.strictEqual(yield* stored, "9223372036854775808")
        const bytes = new Uint8Array([0, 0xff, 0xfe, 0x22])
        yield* config.set("key", RawBytes, bytes)
        assert.deepStrictEqual(new Uint8Array((yield* getKey(`${root}/key`)).value), bytes)
        assert.deepStrictEqual(new Uint8Array(yield* config.get("key", RawBytes)), bytes)
        yield* put(`${root}/key`, "{\"max\":3,\"label\":\"\\u003cb\\u003e\"}")
        assert.deepStrictEqual(yield* config.get("key", Limits), { max: 3, label: "<b>" })
      }))

    test("compare-and-set writes only over the version that was read", (config) =>
      Effect.gen(function*() {
        const created = yield* config.compareAndSet("key", Schema.Int, 1, 0n)
        const exists = yield* Effect.flip(config.compareAndSet("key", Schema.Int, 2, 0n))
        assert.deepInclude(exists, { _tag: "VersionConflict", key: "key", expected: 0n, actual: created })
        const replaced = yield* config.compareAndSet("key", Schema.Int, 2, created)
        const stale = yield* Effect.flip(config.compareAndSet("key", Schema.Int, 3, created))
        assert.deepInclude(stale, { _tag: "VersionConflict", expected: created, actual: replaced })
        yield* config.delete("key")
        const gone = yield* Effect.flip(config.compareAndSet("key", Schema.Int, 3, replaced))
        assert.deepInclude(gone, { _tag: "VersionConflict", expected: replaced, actual: 0n })
        assert.strictEqual((yield* Effect.flip(config.get("key", Schema.Int)))._tag, "ConfigNotFound")
      }))

    test("updates of several fibers are all counted", (config) =>
      Effect.gen(function*() {
        yield* config.set("counter", Schema.Int, 0)
        const increment = config.update("counter", Schema.Int, (n) => n + 1)
        const results = yield* Effect.all([increment, increment, increment], { concurrency: "unbounded" })
        const final = yield* config.getVersioned("counter", Schema.Int)
        assert.strictEqual(final.value, 3)
        assert.deepStrictEqual(results.map((result) => result.value).sort(), [1, 2, 3])
        assert.isTrue(results.some((result) => result.version === final.version))
      }))

    test("a prefix is a folder, and keys that are none stay out of it", (config, root) =>
      Effect.gen(function*() {
        for (const key of ["app", "app/y/z", "app/x", "apple", "app-2/x", "\u{1F600}", "\uFF5E"]) {
          yield* config.set(key, Schema.String, key)
        }
        for (const key of ["/app//x", "/app/", "/app/../x", "//app/x"]) yield* put(`${root}${key}`, "foreign")
        assert.deepStrictEqual(yield* config.list("app"), ["app/x", "app/y/z"])
        assert.deepStrictEqual(yield* config.list("app/y"), ["app/y/z"])
        assert.deepStrictEqual(yield* config.list("nothing"), [])
        assert.deepStrictEqual(
          yield* config.list(""),
          ["app", "app-2/x", "app/x", "app/y/z", "apple", "\uFF5E", "\u{1F600}"]
        )
        const entries = yield* config.entries("app", Schema.String)
        assert.deepStrictEqual(entries.map(({ key, value }) => [key, value]), [["app/x", "app/x"], [
          "app/y/z",
          "app/y/z"
        ]])
        assert.strictEqual(entries[0]?.version, (yield* config.getVersioned("app/x", Schema.String)).version)
      }))

    test(
      "a watch tells the present, then each change once and in order, and goes on after a bad value",
      (config, root) =>
        Effect.gen(function*() {
          const start = yield* config.set("key", Schema.Int, 1)
          const change = Effect.gen(function*() {
            yield* config.set("key", Schema.Int, 2)
            yield* put(`${root}/key`, "\"two\"")
            yield* put(`${root}/key2`, "3")
            yield* config.set("key", Schema.Int, 3)
            yield* config.delete("key")
            yield* config.set("key", Schema.Int, 4)
          })
          const events = yield* config.watch("key", Schema.Int).pipe(
            Stream.tap((event) => event._tag === "Synced" ? change : Effect.void),
            Stream.take(7),
            Stream.runCollect,
            Effect.timeout("20 seconds")
          )
          assert.deepStrictEqual(events.map(short), [
            "Put key 1",
            "Synced",
            "Put key 2 after 1",
            "Invalid key: Expected number",
            "Put key 3",
            "Delete key after 3",
            "Put key 4"
          ])
          const versions = events.map((event) => event.version)
          assert.strictEqual(versions[0], start)
          assert.isTrue(
            versions.slice(2).every((version, index) => index === 0 || version > (versions[index + 1] ?? 0n))
          )
        })
    )

    test("a watch goes on after a version, without a gap and without repetition", (config) =>
      Effect.gen(function*() {
        yield* config.set("app/a", Schema.Int, 1)
        const from = yield* config.set("app/b", Schema.Int, 2)
        yield* config.set("app/a", Schema.Int, 3)
        yield* config.set("apple", Schema.Int, 4)
        yield* config.delete("app/b")
        const events = yield* config.watchPrefix("app", Schema.Int, { from }).pipe(
          Stream.take(2),
          Stream.runCollect,
          Effect.timeout("20 seconds")
        )
        assert.deepStrictEqual(events.map(short), ["Put app/a 3 after 1", "Delete app/b after 2"])
      }))

    test("a watch from a version that has been forgotten says so", (config) =>
      Effect.gen(function*() {
        const from = yield* config.set("key", Schema.Int, 1)
        yield* config.set("key", Schema.Int, 2)
        const latest = yield* config.set("key", Schema.Int, 3)
        yield* Effect.flatMap(Operator, (operator) => operator.compact(latest))
        const error = yield* Effect.flip(Stream.runDrain(config.watch("key", Schema.Int, { from })))
        assert.strictEqual(error._tag === "EtcdError" ? error.reason._tag : error._tag, "Compacted")
      }))

    test(
      "a prefix is told as of one revision, and several keys of one transaction in a row",
      (config, root) =>
        Effect.gen(function*() {
          yield* config.set("app/b", Schema.Int, 1)
          yield* config.set("app/a", Schema.Int, 2)
          yield* put(`${root}/app//x`, "5")
          const write = txn({ success: [Operation.put(`${root}/app/c`, "3"), Operation.put(`${root}/app/a`, "4")] })
          const events = yield* config.watchPrefix("app", Schema.Int).pipe(
            Stream.tap((event) => event._tag === "Synced" ? write : Effect.void),
            Stream.take(5),
            Stream.runCollect,
            Effect.timeout("20 seconds")
          )
          assert.deepStrictEqual(events.slice(0, 3).map(short), ["Put app/b 1", "Put app/a 2", "Synced"])
          assert.deepStrictEqual(events.slice(3).map(short).sort(), ["Put app/a 4 after 2", "Put app/c 3"])
        })
    )

    test("a live value follows etcd", (config, root) =>
      Effect.gen(function*() {
        yield* config.set("key", Schema.Int, 1)
        const live = yield* config.live("key", Schema.Int, { onDelete: { default: 0 } })
        assert.strictEqual(yield* live.get, 1)
        // Each step is taken when the one before has been seen.
        const steps: Array<Effect.Effect<unknown, unknown>> = [
          config.set("key", Schema.Int, 2),
          config.delete("key"),
          config.set("key", Schema.Int, 3)
        ]
        const seen = yield* live.changes.pipe(
          Stream.tap(() => steps.shift() ?? Effect.void),
          Stream.take(4),
          Stream.runCollect,
          Effect.timeout("20 seconds")
        )
        assert.deepStrictEqual(seen, [1, 2, 0, 3])
        yield* put(`${root}/key`, "many")
        yield* live.statusChanges.pipe(
          Stream.filter((status) => status._tag === "Invalid"),
          Stream.runHead,
          Effect.timeout("20 seconds")
        )
        assert.strictEqual(yield* live.get, 3)
      }).pipe(Effect.scoped))

    test("a value over etcd's limit is refused, and nothing is written", (config) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(config.set("big", Schema.String, "x".repeat(2 * 1024 * 1024)))
        assert.strictEqual(error._tag === "EtcdError" ? error.reason._tag : error._tag, "TooLarge")
        assert.deepStrictEqual(yield* config.list(""), [])
      }))
  })

const short = (event: ConfigEvent<number>): string => {
  switch (event._tag) {
    case "Put":
      return `Put ${event.key} ${event.value}${event.previous === undefined ? "" : ` after ${event.previous}`}`
    case "Delete":
      return `Delete ${event.key}${event.previous === undefined ? "" : ` after ${event.previous}`}`
    case "Invalid":
      return `Invalid ${event.key}: ${event.error.issue}`
    case "Synced":
      return "Synced"
  }
}
