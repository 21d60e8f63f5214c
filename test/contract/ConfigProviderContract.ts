/**
 * Effect's configuration from etcd, on every implementation of the port.
 */
import { assert, layer } from "@effect/vitest"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { ConfigCenter } from "../../src/ConfigCenter.ts"
import type { Etcd } from "../../src/Etcd.ts"
import { EtcdConfigProvider } from "../../src/EtcdConfigProvider.ts"
import type { Operator } from "./Operator.ts"
import { freshPrefix, put } from "./support.ts"

const fallback = ConfigProvider.fromEnv({
  env: { PORT: "1", ONLY_HERE: "env", DB_USER: "from env", LIST_0: "env", EMPTY: "env" }
})

export const configProviderContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    const test = (
      title: string,
      body: (
        write: (key: string, value: string | Uint8Array) => Effect.Effect<unknown, unknown, Etcd>,
        root: string
      ) => Effect.Effect<void, unknown, Etcd>,
      options: { readonly preserveEmptyStrings?: boolean } = {}
    ) =>
      it.effect(title, () =>
        Effect.suspend(() => {
          const prefix = freshPrefix().slice(0, -1)
          return body((key, value) => put(`${prefix}/${key}`, value), prefix).pipe(
            Effect.provide(EtcdConfigProvider.layer({ prefix, fallback, ...options }))
          )
        }))

    test("what is in etcd comes first, what is not there from the fallback", (write) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* Config.Port("PORT"), 1)
        yield* write("PORT", "8080")
        assert.strictEqual(yield* Config.Port("PORT"), 8080)
        assert.strictEqual(yield* Config.String("ONLY_HERE"), "env")
        assert.deepStrictEqual(yield* Config.option(Config.String("NOWHERE")), Option.none())
        assert.strictEqual(yield* Config.String("NOWHERE").pipe(Config.withDefault("default")), "default")
        assert.strictEqual((yield* Effect.flip(Config.String("NOWHERE"))).cause._tag, "SchemaError")
      }))

    test("each constructor reads what it reads elsewhere", (write) =>
      Effect.gen(function*() {
        yield* write("flag", "true")
        yield* write("timeout", "5 seconds")
        yield* write("secret", "hunter2")
        yield* write("ratio", "0.5")
        yield* write("hosts", "a,b")
        assert.deepStrictEqual(yield* Config.Array(Schema.String, "hosts"), ["a", "b"])
        yield* write("json", "{\"max\": 3}")
        assert.isTrue(yield* Config.Boolean("flag"))
        assert.strictEqual(Duration.toMillis(yield* Config.Duration("timeout")), 5000)
        assert.strictEqual(Redacted.value(yield* Config.Redacted("secret")), "hunter2")
        assert.strictEqual(yield* Config.Finite("ratio"), 0.5)
        const json = Schema.fromJsonString(Schema.Struct({ max: Schema.Int }))
        assert.deepStrictEqual(yield* Config.schema(json, "json"), { max: 3 })
      }))

    test("a path is a folder, and a missing part of it comes from the fallback", (write) =>
      Effect.gen(function*() {
        yield* write("DB/HOST", "db-1")
        yield* write("DB", "co-located")
        yield* write("DBX/HOST", "another folder")
        const db = Schema.Struct({ HOST: Schema.String, USER: Schema.String })
        assert.deepStrictEqual(yield* Config.schema(db, "DB"), { HOST: "db-1", USER: "from env" })
        assert.strictEqual(yield* Config.String("HOST").pipe(Config.nested("DB")), "db-1")
        assert.strictEqual(yield* Config.String("DB/HOST"), "db-1")
        assert.strictEqual(yield* Config.String("DB"), "co-located")
        const all = yield* Config.schema(Schema.Record(Schema.String, Schema.Struct({ HOST: Schema.String })))
        assert.deepStrictEqual(all, { DB: { HOST: "db-1" }, DBX: { HOST: "another folder" } })
      }))

    test("a folder of numbers without gaps is a list", (write, root) =>
      Effect.gen(function*() {
        const list = Config.schema(Schema.Array(Schema.String), "LIST")
        assert.deepStrictEqual(yield* list, ["env"])
        for (let i = 0; i < 11; i++) yield* write(`LIST/${i}`, `host-${i}`)
        yield* put(`${root}/LIST//12`, "no key of ours")
        assert.deepStrictEqual(yield* list, Array.from({ length: 11 }, (_, index) => `host-${index}`))
        yield* write("LIST/4000000000", "far away")
        const error = yield* Effect.flip(list)
        assert.strictEqual(error.cause._tag, "SchemaError")
        yield* write("PORTS/1", "http")
        yield* write("PORTS/3", "https")
        const ports = Config.schema(Schema.Record(Schema.String, Schema.String), "PORTS")
        assert.deepStrictEqual(yield* ports, { 1: "http", 3: "https" })
        yield* write("PAIRS/0/name", "a")
        yield* write("PAIRS/1/name", "b")
        assert.deepStrictEqual(
          yield* Config.schema(Schema.Array(Schema.Struct({ name: Schema.String })), "PAIRS"),
          [{ name: "a" }, { name: "b" }]
        )
      }))

    test("it reads what ConfigCenter and Go services write as text", (write, root) =>
      Effect.gen(function*() {
        yield* Effect.gen(function*() {
          const config = yield* ConfigCenter
          yield* config.set("port", Schema.Int, 9000)
          yield* config.set("name", Schema.String, "null")
        }).pipe(Effect.provide(ConfigCenter.layer({ prefix: root })))
        yield* write("quoted", "\"5432\"")
        assert.strictEqual(yield* Config.Port("port"), 9000)
        assert.strictEqual(yield* Config.String("name"), "null")
        assert.strictEqual(yield* Config.Port("quoted"), 5432)
      }))

    test("an empty value is none", (write) =>
      Effect.gen(function*() {
        yield* write("EMPTY", "")
        assert.strictEqual(yield* Config.String("EMPTY"), "env")
      }))

    test("an empty value is one, where it is said so", (write) =>
      Effect.gen(function*() {
        yield* write("EMPTY", "")
        assert.strictEqual(yield* Config.String("EMPTY"), "")
      }), { preserveEmptyStrings: true })

    test("what is no text, or no key, is an error of the source that names it, not a default", (write) =>
      Effect.gen(function*() {
        yield* write("bytes", Uint8Array.of(0xff, 0x41))
        const bytes = yield* Effect.flip(Config.String("bytes").pipe(Config.withDefault("default")))
        assert.strictEqual(bytes.cause._tag, "SourceError")
        assert.include(bytes.message, "\"bytes\" is no text")
        for (const key of ["/PORT", "a//b", "..", "x".repeat(5000)]) {
          const error = yield* Effect.flip(Config.option(Config.String(key)))
          assert.strictEqual(error.cause._tag, "SourceError", key)
          assert.include(error.message, "invalid key")
        }
      }))
  })
