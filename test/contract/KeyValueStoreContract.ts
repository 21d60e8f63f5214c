/**
 * What a program may expect of a `KeyValueStore`, whatever it stands on. Effect's own store in memory is held to it as well.
 */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Schema from "effect/Schema"

let folders = 0

export const keyValueStoreContract = (name: string, store: Layer.Layer<KeyValueStore.KeyValueStore, unknown>): void =>
  layer(store, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    /** The tests share a store: it is empty at the start of each. */
    const test = (
      title: string,
      body: (store: KeyValueStore.KeyValueStore) => Effect.Effect<void, unknown>
    ) =>
      it.effect(
        title,
        () => Effect.flatMap(KeyValueStore.KeyValueStore, (store) => Effect.andThen(store.clear, body(store)))
      )

    test("what was set is there, also under a key with slashes, until it is removed", (store) =>
      Effect.gen(function*() {
        for (const key of ["/foo/bar", "foo", "", "..", "a//b", "line\nbreak", "\u{1F600}", "\uFEFFbom"]) {
          assert.isUndefined(yield* store.get(key))
          assert.isFalse(yield* store.has(key))
          yield* store.set(key, `value of ${key}`)
          assert.strictEqual(yield* store.get(key), `value of ${key}`)
          assert.isTrue(yield* store.has(key))
          assert.strictEqual(yield* store.size, 1)
          assert.deepStrictEqual(yield* store.keys, [key])
          yield* store.remove(key)
          assert.isUndefined(yield* store.get(key))
          assert.isUndefined(yield* store.getUint8Array(key))
          assert.isTrue(yield* store.isEmpty)
          yield* store.remove(key)
        }
      }))

    test("text comes back as it was, and as UTF-8", (store) =>
      Effect.gen(function*() {
        for (const text of ["", "bar", "\"quoted\"", "null", "\uFEFFbom", "\u0000\uFFFD", "\u{1F600}".repeat(1000)]) {
          yield* store.set("key", text)
          assert.strictEqual(yield* store.get("key"), text)
          assert.deepStrictEqual(yield* store.getUint8Array("key"), new TextEncoder().encode(text))
        }
      }))

    test("bytes come back as they were, and as Base64", (store) =>
      Effect.gen(function*() {
        const all = Uint8Array.from({ length: 256 }, (_, index) => index)
        for (
          const bytes of [Uint8Array.of(), Uint8Array.of(0xff), Uint8Array.of(0xff, 0xff), Uint8Array.of(104, 105), all]
        ) {
          yield* store.set("key", bytes)
          assert.deepStrictEqual(yield* store.getUint8Array("key"), bytes)
          assert.strictEqual(yield* store.get("key"), Base64.encode(bytes))
        }
        yield* store.set("key", "text again")
        assert.strictEqual(yield* store.get("key"), "text again")
      }))

    test("clear leaves nothing", (store) =>
      Effect.gen(function*() {
        yield* store.set("a", "1")
        yield* store.set("b/c", "2")
        assert.strictEqual(yield* store.size, 2)
        yield* store.clear
        assert.strictEqual(yield* store.size, 0)
        assert.deepStrictEqual(yield* store.keys, [])
        assert.isTrue(yield* store.isEmpty)
      }))

    test("clearPrefix leaves what begins otherwise", (store) =>
      Effect.gen(function*() {
        const keys = ["user:1", "user:2", "users", "use", "User:1", "%", "_", "user%"]
        for (const key of keys) yield* store.set(key, key)
        yield* store.clearPrefix("user:")
        assert.deepStrictEqual(
          (yield* store.keys).toSorted(),
          keys.filter((key) => !key.startsWith("user:")).toSorted()
        )
        yield* store.clearPrefix("%")
        assert.isFalse(yield* store.has("%"))
        assert.isTrue(yield* store.has("_"))
        yield* store.clearPrefix("")
        assert.isTrue(yield* store.isEmpty)
      }))

    test("modify changes what is there, and nothing else", (store) =>
      Effect.gen(function*() {
        assert.isUndefined(yield* store.modify("key", (text) => `${text}!`))
        assert.isFalse(yield* store.has("key"))
        yield* store.set("key", "a")
        assert.strictEqual(yield* store.modify("key", (text) => `${text}b`), "ab")
        assert.strictEqual(yield* store.get("key"), "ab")
        assert.isUndefined(yield* store.modifyUint8Array("other", (bytes) => bytes))
        yield* store.set("bytes", Uint8Array.of(1, 2))
        const reversed = yield* store.modifyUint8Array("bytes", (bytes) => bytes.toReversed())
        assert.deepStrictEqual(reversed, Uint8Array.of(2, 1))
        assert.deepStrictEqual(yield* store.getUint8Array("bytes"), Uint8Array.of(2, 1))
      }))

    test("a view with a prefix sees its own entries", (store) =>
      Effect.gen(function*() {
        const folder = `folder-${folders++}/`
        const view = KeyValueStore.prefix(store, folder)
        yield* store.set("key", "outside")
        yield* view.set("key", "inside")
        assert.strictEqual(yield* store.get(`${folder}key`), "inside")
        assert.deepStrictEqual(yield* view.keys, ["key"])
        assert.strictEqual(yield* view.size, 1)
        yield* view.clear
        assert.isTrue(yield* view.isEmpty)
        assert.deepStrictEqual(yield* store.keys, ["key"])
      }))

    test("a store of a schema stands on it", (store) =>
      Effect.gen(function*() {
        class User extends Schema.Class<User>("User")({ name: Schema.String, age: Schema.BigInt }) {}
        const users = KeyValueStore.toSchemaStore(store, User)
        const ann = new User({ name: "ann", age: 2n ** 70n })
        yield* users.set("ann", ann)
        assert.deepStrictEqual(yield* users.get("ann"), Option.some(ann))
        assert.deepStrictEqual(yield* users.get("bob"), Option.none())
        const older = yield* users.modify("ann", (user) => new User({ ...user, age: user.age + 1n }))
        assert.deepStrictEqual(older, Option.some(new User({ name: "ann", age: 2n ** 70n + 1n })))
        yield* store.set("eve", "not json")
        assert.strictEqual((yield* Effect.flip(users.get("eve")))._tag, "SchemaError")
      }))

    test("a large value, and many entries", (store) =>
      Effect.gen(function*() {
        const large = "x".repeat(1_000_000)
        yield* store.set("large", large)
        assert.strictEqual((yield* store.get("large"))?.length, large.length)
        const keys = Array.from({ length: 300 }, (_, index) => `key-${index}`)
        yield* Effect.forEach(keys, (key) => store.set(key, key), { concurrency: "unbounded" })
        assert.strictEqual(yield* store.size, 301)
        yield* store.clearPrefix("key-")
        assert.deepStrictEqual(yield* store.keys, ["large"])
      }))
  })
