import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Inspectable from "effect/Inspectable"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as SchemaGetter from "effect/SchemaGetter"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as Tracer from "effect/Tracer"
import { ConfigCenter, type ConfigEvent } from "../src/ConfigCenter.ts"
import { ConfigChange } from "../src/ConfigChange.ts"
import { VersionConflict } from "../src/ConfigError.ts"
import { Etcd } from "../src/Etcd.ts"
import { EtcdMemory } from "../src/EtcdMemory.ts"
import { makeConfigClient, timeout } from "./utils/configClient.ts"
import { consume, eventually } from "./utils/watching.ts"

/** Everything in it, whatever it is. */
const dump = (value: unknown): string =>
  JSON.stringify(
    value,
    (_, inner) =>
      typeof inner === "bigint" ? `${inner}` : Exit.isExit(inner) ? Inspectable.toStringUnknown(inner) : inner
  )

const reasonOf = (error: { readonly _tag: string }): string =>
  "reason" in error ? (error.reason as { readonly _tag: string })._tag : error._tag

describe("bad input", () => {
  /** A port on which nothing may be asked. */
  const untouched = Layer.succeed(
    Etcd,
    new Proxy({} as Etcd["Service"], {
      get: (_, operation) => () => {
        throw new Error(`${String(operation)} was called`)
      }
    })
  )

  it.effect("keys and prefixes that are none are refused before anything is sent", () =>
    Effect.gen(function*() {
      const config = yield* ConfigCenter
      for (const key of ["/app", "app/", "a//b", "a/../b", "./a", "a\n", "\ud800", "x".repeat(5000)]) {
        const operations: ReadonlyArray<Effect.Effect<unknown, { readonly _tag: string; readonly key?: string }>> = [
          config.list(key),
          config.entries(key, Schema.Int),
          Stream.runDrain(config.watchPrefix(key, Schema.Int)),
          config.get(key, Schema.Int),
          config.getVersioned(key, Schema.Int),
          config.set(key, Schema.Int, 1),
          config.compareAndSet(key, Schema.Int, 1, 0n),
          config.update(key, Schema.Int, (n) => n),
          config.delete(key),
          Stream.runDrain(config.watch(key, Schema.Int)),
          Effect.scoped(config.live(key, Schema.Int))
        ]
        for (const operation of operations) {
          assert.deepInclude(yield* Effect.flip(operation), { _tag: "InvalidKey", key })
        }
      }
      assert.strictEqual((yield* Effect.flip(config.get("", Schema.Int)))._tag, "InvalidKey")
    }).pipe(Effect.provide(ConfigCenter.layer().pipe(Layer.provide(untouched)))))

  it.effect("a prefix that is none fails the layer, by name", () =>
    Effect.gen(function*() {
      for (const prefix of ["config", "/", "/config/", ""]) {
        const error = yield* Effect.flip(Effect.provide(ConfigCenter, ConfigCenter.layer({ prefix })))
        assert.deepInclude(error, { _tag: "InvalidOption", option: "configPrefix" })
      }
    }).pipe(Effect.provide(untouched)))

  it.effect("a value that does not encode is refused before anything is sent", () =>
    Effect.gen(function*() {
      const config = yield* ConfigCenter
      const Port = Schema.Struct({ ports: Schema.Array(Schema.Int.check(Schema.isLessThan(65536))) })
      const error = yield* Effect.flip(config.set("key", Port, { ports: [80, 70000] }))
      assert.deepInclude(error, {
        _tag: "ConfigEncodeError",
        key: "key",
        issue: "Expected a value less than 65536 at ports[1]"
      })
      assert.strictEqual((yield* Effect.flip(config.set("key", Schema.Any, undefined)))._tag, "ConfigEncodeError")
      assert.strictEqual(
        (yield* Effect.flip(config.compareAndSet("key", Port, { ports: [0.5] }, 0n)))._tag,
        "ConfigEncodeError"
      )
    }).pipe(Effect.provide(ConfigCenter.layer().pipe(Layer.provide(untouched)))))
})

describe("values that do not decode", () => {
  const secret = "s3cr3t-hunter2"
  const Account = Schema.Struct({ user: Schema.String, pin: Schema.Int })

  it.effect("the error names key, version and place", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      const version = yield* put("db/account", `{"user":"a","pin":"${secret}"}`)
      const error = yield* Effect.flip(config.get("db/account", Account))
      assert.deepInclude(error, {
        _tag: "ConfigDecodeError",
        key: "db/account",
        version,
        issue: "Expected number at pin"
      })
      assert.strictEqual(
        error.message,
        `the configuration value "db/account" (version ${version}) does not decode: Expected number at pin`
      )
    }))

  it.effect("entries fails with the one that does not decode, by name", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* put("app/a", "1")
      const version = yield* put("app/b", "one")
      const error = yield* Effect.flip(config.entries("app", Schema.Int))
      assert.deepInclude(error, { _tag: "ConfigDecodeError", key: "app/b", version })
    }))

  it.effect("no value appears in errors, spans, logs or metrics", () =>
    Effect.gen(function*() {
      const printed: Array<string> = []
      const logger = Logger.make((options) =>
        printed.push(Inspectable.toStringUnknown(options.message), Cause.pretty(options.cause))
      )
      const spans: Array<Tracer.NativeSpan> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      yield* Effect.gen(function*() {
        const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make())
        const Checked = Schema.Struct({
          user: Schema.String.check(Schema.makeFilter((value: string) => `${value} is no user`)),
          pin: Schema.Int
        })
        const bad = { user: secret, pin: 1 }
        const note = (exit: Exit.Exit<unknown, unknown>) => {
          printed.push(Inspectable.toStringUnknown(exit))
          if (Exit.isFailure(exit)) {
            printed.push(Cause.pretty(exit.cause), dump(exit.cause.reasons))
          }
        }
        yield* config.set("good", Schema.Redacted(Schema.String), Redacted.make(secret))
        const live = yield* config.live("good", Schema.Redacted(Schema.String.check(Schema.isMaxLength(20))))
        yield* put("good", secret.repeat(2))
        yield* Stream.runHead(Stream.filter(live.statusChanges, (status) => status._tag === "Invalid"))
        printed.push(dump(yield* live.status))
        yield* put("bad", JSON.stringify(bad))
        const operations: ReadonlyArray<Effect.Effect<unknown, unknown, Scope.Scope>> = [
          config.get("bad", Checked),
          config.get("good", Schema.Int),
          config.set("bad", Checked, bad),
          config.compareAndSet("bad", Checked, bad, 1n),
          config.compareAndSet("good", Schema.String, secret, 1n),
          config.update("bad", Checked, (value) => value),
          config.transact([ConfigChange.set("good", Schema.String, secret, { expected: 1n })]),
          config.transact([ConfigChange.set("bad", Checked, bad)]),
          Stream.runCollect(config.history("bad", Checked)),
          config.rollback("good", 1n, { expected: 1n }),
          config.entries("", Checked),
          Stream.runHead(Stream.filter(config.watchPrefix("", Checked), (event) => event._tag === "Invalid")),
          config.live("bad", Checked)
        ]
        for (const operation of operations) note(yield* Effect.exit(Effect.scoped(operation)))
        yield* config.set("huge", Schema.String, secret.repeat(200_000)).pipe(Effect.exit, Effect.map(note))
      }).pipe(
        Effect.withTracer(tracer),
        Effect.provide(Logger.layer([logger]))
      )
      for (const span of spans) printed.push(dump([span.name, [...span.attributes], span.events, span.status]))
      printed.push(yield* Metric.dump)
      assert.isAbove(printed.length, 20)
      assert.isTrue(spans.some((span) => span.name === "ConfigCenter.set" && span.attributes.get("key") === "huge"))
      assert.isTrue(printed.some((text) => text.includes("the last good one is kept")))
      assert.deepStrictEqual(printed.filter((text) => text.includes("hunter2")), [])
    }))

  it.effect("a schema may need services to be read and written", () =>
    Effect.gen(function*() {
      class Secret extends Context.Service<Secret, number>()("test/Secret") {}
      const Shifted = Schema.String.pipe(Schema.decodeTo(Schema.Finite, {
        decode: SchemaGetter.transformEffect((text: string) => Effect.map(Secret, (secret) => Number(text) - secret)),
        encode: SchemaGetter.transformEffect((n: number) => Effect.map(Secret, (secret) => String(n + secret)))
      }))
      const { config } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* config.set("key", Shifted, 1).pipe(Effect.provideService(Secret, 41))
      assert.strictEqual(yield* config.get("key", Schema.String), "42")
      const live = yield* config.live("key", Shifted).pipe(Effect.provideService(Secret, 2))
      assert.strictEqual(yield* live.get, 40)
    }))
})

describe("watchers of the same changes", () => {
  class Unit extends Context.Service<Unit, number>()("test/Unit") {}
  const Scaled = Schema.Number.pipe(Schema.decodeTo(Schema.Number, {
    decode: SchemaGetter.transformEffect((n: number) => Effect.map(Unit, (unit) => n * unit)),
    encode: SchemaGetter.passthrough()
  }))

  it.effect("each sees what its schema and its services make of them, from the state on", () =>
    Effect.gen(function*() {
      const { config, port, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* put("app/n", "1")
      const values = <E>(events: Stream.Stream<ConfigEvent<unknown>, E>) =>
        consume(
          Stream.map(events, (event) =>
            event._tag === "Put" ? [event.value, event.previous ?? "-"].join("<") : event._tag)
        )
      const scaled = (unit: number) =>
        values(Stream.provideService(config.watchPrefix("app", Scaled), Unit, unit))
      const number = values(config.watchPrefix("app", Schema.Number))
      const consumers = yield* Effect.all([
        scaled(2),
        number,
        scaled(10),
        values(config.watchPrefix("app", Schema.Boolean)),
        number,
        scaled(2)
      ])
      yield* eventually(() => consumers.every(({ seen }) => seen.length === 2))
      yield* put("app/n", "3")
      yield* put("other", "3")
      yield* put("app/n", "x")
      yield* eventually(() => consumers.every(({ seen }) => seen.length === 4))
      assert.deepStrictEqual(consumers.map(({ seen }) => seen.join(" ")), [
        "2<- Synced 6<2 Invalid",
        "1<- Synced 3<1 Invalid",
        "10<- Synced 30<10 Invalid",
        "Invalid Synced Invalid Invalid",
        "1<- Synced 3<1 Invalid",
        "2<- Synced 6<2 Invalid"
      ])
      assert.strictEqual(port.watches().total, 1)
    }))

  it.effect("whoever decodes the same decodes it once for all", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      let decoded = 0
      const Counted = Schema.Number.check(Schema.makeFilter(() => {
        decoded++
        return undefined
      }))
      const consumers = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => consume(config.watchPrefix("app", Schema.Struct({ n: Counted })))
      )
      yield* eventually(() => consumers.every(({ seen }) => seen.length === 1))
      yield* put("app/x", `{"n":1}`)
      yield* eventually(() => consumers.every(({ seen }) => seen.length === 2))
      assert.isAtLeast(decoded, 20)
      decoded = 0
      const Shared = Schema.Struct({ n: Counted })
      const shared = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => consume(config.watchPrefix("app", Shared))
      )
      yield* eventually(() => shared.every(({ seen }) => seen.length === 2))
      assert.strictEqual(decoded, 1)
    }))

  it.effect.each(
    [
      ["an array", Schema.mutable(Schema.Array(Schema.Unknown))],
      ["a field", Schema.Struct({ list: Schema.mutableKey(Schema.mutable(Schema.Array(Schema.Number))) })],
      ["anything", Schema.Any]
    ] as const
  )("what a consumer may change is his own: %s", ([, schema]) =>
    Effect.gen(function*() {
      const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* put("app/x", schema.ast._tag === "Arrays" ? "[1]" : `{"list":[1]}`)
      const one = yield* consume(config.watchPrefix("app", schema))
      const other = yield* consume(config.watchPrefix("app", schema))
      yield* eventually(() => one.seen.length === 2 && other.seen.length === 2)
      const values = [one.seen[0], other.seen[0]].map((event) => event?._tag === "Put" ? event.value : undefined)
      assert.deepStrictEqual(values[0], values[1])
      assert.notStrictEqual(values[0], values[1])
    }))
})

describe("update", () => {
  it.effect("reads again and applies again when somebody else came first", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* put("key", "1")
      const applied: Array<number> = []
      const fiber = yield* Effect.forkChild(config.update("key", Schema.Int, (n) => {
        applied.push(n)
        return Effect.as(applied.length === 1 ? put("key", "10") : Effect.void, n + 1)
      }))
      yield* TestClock.adjust("1 second")
      const updated = yield* Fiber.join(fiber)
      assert.deepStrictEqual(applied, [1, 10])
      assert.deepStrictEqual(updated, yield* config.getVersioned("key", Schema.Int))
      assert.strictEqual(updated.value, 11)
    }))

  it.effect("gives up when the retry schedule does", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make(), 2)
      let version = yield* put("key", "0")
      let applied = 0
      const fiber = yield* Effect.forkChild(Effect.flip(config.update("key", Schema.Int, (n) =>
        Effect.gen(function*() {
          applied++
          version = yield* put("key", String(n + 1))
          return -1
        }))))
      yield* TestClock.adjust("1 minute")
      assert.deepInclude(yield* Fiber.join(fiber), { _tag: "VersionConflict", key: "key", actual: version })
      assert.strictEqual(applied, 3)
      assert.strictEqual(yield* config.get("key", Schema.Int), 3)
    }))

  it.effect("writes nothing when there is nothing, or when f fails, with whatever error", () =>
    Effect.gen(function*() {
      const { config, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      const missing = yield* Effect.flip(config.update("key", Schema.Int, (n) => n + 1))
      assert.strictEqual(missing.message, "there is no configuration value \"key\"")
      assert.strictEqual(missing._tag, "ConfigNotFound")
      const version = yield* put("key", "1")
      const stale = yield* Effect.flip(config.compareAndSet("key", Schema.Int, 2, 0n))
      assert.strictEqual(stale.message, `"key" has version ${version}, expected no value`)
      let applied = 0
      const own = new VersionConflict({ key: "key", expected: 1n, actual: 2n })
      const error = yield* Effect.flip(config.update("key", Schema.Int, () => {
        applied++
        return Effect.fail(own)
      }))
      assert.strictEqual(error, own)
      assert.strictEqual(applied, 1)
      assert.strictEqual((yield* config.getVersioned("key", Schema.Int)).version, version)
    }))

  it.effect("never applies f again when the answer to its write was lost", () =>
    Effect.gen(function*() {
      const { config, link, put } = yield* makeConfigClient(yield* EtcdMemory.make())
      yield* put("key", "1")
      yield* link.setFate((operation) => operation === "txn" ? { response: "lost" } : {})
      let applied = 0
      const fiber = yield* Effect.forkChild(Effect.flip(config.update("key", Schema.Int, (n) => {
        applied++
        return n + 1
      })))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Ambiguous")
      assert.strictEqual(applied, 1)
      assert.strictEqual(yield* config.get("key", Schema.Int), 2)
    }))

  it.effect("applies f again when the answer was lost and another write came first", () =>
    Effect.gen(function*() {
      const store = yield* EtcdMemory.make()
      const { config, link, put } = yield* makeConfigClient(store)
      const other = yield* makeConfigClient(store)
      yield* put("key", "1")
      let applied = 0
      const fiber = yield* Effect.forkChild(config.update("key", Schema.Int, (n) =>
        Effect.gen(function*() {
          applied++
          if (applied === 1) {
            yield* other.put("key", "10")
            let sent = false
            yield* link.setFate((operation) => {
              const first = operation === "txn" && !sent
              sent ||= first
              return first ? { response: "lost" } : {}
            })
          }
          return n + 1
        })))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(fiber)).value, 11)
      assert.strictEqual(applied, 2)
    }))
})

describe("a compare-and-set whose answer was lost", () => {
  const lost = Effect.fnUntraced(function*(
    options: {
      /** Before it is sent. */
      readonly before?: (world: World) => Effect.Effect<unknown, unknown>
      /** How the request travels. */
      readonly request?: "lost" | "10 seconds"
      /** After it was sent, while nobody answers. */
      readonly after?: (world: World) => Effect.Effect<unknown, unknown>
      readonly expected?: bigint
    }
  ) {
    const store = yield* EtcdMemory.make()
    const client = yield* makeConfigClient(store)
    const other = yield* makeConfigClient(store)
    const version = yield* other.put("key", "1")
    const world: World = { store, other, client, version }
    yield* options.before?.(world) ?? Effect.void
    yield* client.link.setFate((operation) => operation === "txn" ? { request: options.request, response: "lost" } : {})
    const fiber = yield* Effect.forkChild(
      Effect.flip(client.config.compareAndSet("key", Schema.Int, 2, options.expected ?? version))
    )
    yield* TestClock.adjust("1 second")
    yield* options.after?.(world) ?? Effect.void
    yield* TestClock.adjust(timeout)
    // It is known as soon as the write has failed: nothing waits for events that need not come.
    const error = yield* Fiber.join(fiber)
    yield* TestClock.adjust("1 minute")
    return { ...world, error, stored: yield* Effect.option(other.config.get("key", Schema.Unknown)) }
  })
  interface World {
    readonly store: Effect.Success<ReturnType<typeof EtcdMemory.make>>
    readonly other: Effect.Success<ReturnType<typeof makeConfigClient>>
    readonly client: Effect.Success<ReturnType<typeof makeConfigClient>>
    readonly version: bigint
  }

  it.effect("is ambiguous when it was applied", () =>
    Effect.gen(function*() {
      const { error, stored } = yield* lost({})
      assert.strictEqual(reasonOf(error), "Ambiguous")
      assert.deepInclude(stored, { value: 2 })
    }))

  it.effect("is ambiguous while it may still be applied, which it then is", () =>
    Effect.gen(function*() {
      const { error, stored } = yield* lost({ request: "10 seconds" })
      assert.strictEqual(reasonOf(error), "Ambiguous")
      assert.deepInclude(stored, { value: 2 })
    }))

  it.effect("is a conflict when another value came first, and is not applied later", () =>
    Effect.gen(function*() {
      const { error, stored, version } = yield* lost({
        request: "10 seconds",
        after: ({ other }) => other.put("key", "3")
      })
      assert.deepInclude(error, { _tag: "VersionConflict", expected: version, actual: version + 1n })
      assert.deepInclude(stored, { value: 3 })
    }))

  it.effect("is a conflict when a deletion came first, also when the key is back", () =>
    Effect.gen(function*() {
      const gone = yield* lost({ request: "10 seconds", after: ({ other }) => other.config.delete("key") })
      assert.deepInclude(gone.error, { _tag: "VersionConflict", expected: gone.version, actual: 0n })
      assert.strictEqual(gone.stored._tag, "None")
      const back = yield* lost({
        request: "10 seconds",
        after: ({ other }) => Effect.andThen(other.config.delete("key"), other.put("key", "2"))
      })
      assert.deepInclude(back.error, { _tag: "VersionConflict", expected: back.version, actual: back.version + 2n })
    }))

  it.effect("is ambiguous when it was applied and then overwritten", () =>
    Effect.gen(function*() {
      const { error } = yield* lost({ after: ({ other }) => other.put("key", "3") })
      assert.strictEqual(reasonOf(error), "Ambiguous")
    }))

  it.effect("is ambiguous when the same bytes came first: they may be its own", () =>
    Effect.gen(function*() {
      const { error } = yield* lost({ request: "10 seconds", after: ({ other }) => other.put("key", "2") })
      assert.strictEqual(reasonOf(error), "Ambiguous")
    }))

  it.effect("is ambiguous for a key that must not exist, even where another one created it: it may be deleted again", () =>
    Effect.gen(function*() {
      const { error, stored } = yield* lost({
        expected: 0n,
        request: "10 seconds",
        after: ({ other }) =>
          // It comes too late for its own answer, but not for the store.
          other.config.delete("key")
      })
      assert.strictEqual(reasonOf(error), "Ambiguous")
      assert.deepInclude(stored, { value: 2 })
      const exists = yield* lost({ expected: 0n, request: "10 seconds" })
      assert.strictEqual(reasonOf(exists.error), "Ambiguous")
    }))

  it.effect("is ambiguous when the history that would tell is gone", () =>
    Effect.gen(function*() {
      const { error } = yield* lost({
        request: "10 seconds",
        after: ({ other, store }) =>
          Effect.flatMap(
            Effect.andThen(other.put("key", "3"), other.put("key", "4")),
            (latest) => store.compact(latest)
          )
      })
      assert.strictEqual(reasonOf(error), "Ambiguous")
    }))

  it.effect("is ambiguous when a restored store is behind the version", () =>
    Effect.gen(function*() {
      const { error } = yield* lost({
        request: "lost",
        before: ({ other }) => Effect.forEach([1, 2, 3], () => other.put("noise", "x")),
        expected: 5n,
        after: ({ store, other }) =>
          Effect.gen(function*() {
            const fresh = yield* Effect.flatMap(EtcdMemory.make(), (empty) => empty.snapshot)
            yield* store.restore(fresh)
            yield* other.put("key", "7")
          }).pipe(Effect.scoped)
      })
      assert.strictEqual(reasonOf(error), "Ambiguous")
    }))

  it.effect("is ambiguous when nothing can be read either", () =>
    Effect.gen(function*() {
      const { error } = yield* lost({ request: "lost", after: ({ client }) => client.link.refuse })
      assert.strictEqual(reasonOf(error), "Ambiguous")
    }))
})
