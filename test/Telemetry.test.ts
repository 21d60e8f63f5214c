/** The metrics: dashboards and alerts rely on their names, and on when they move. */
import { assert, describe, it } from "@effect/vitest"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import { PrometheusMetrics } from "effect/observability"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as Tracer from "effect/Tracer"
import * as Fs from "node:fs"
import * as Path from "node:path"
import {
  ConfigCenter,
  ConfigChange,
  Election,
  Etcd,
  EtcdConfigProvider,
  InstanceId,
  Lock,
  ReadWriteLock,
  Registry,
  reloadable,
  Semaphore,
  ServiceInstance
} from "../src/index.ts"
import { makeKeyValueStore } from "../src/KeyValueStore.ts"
import { EtcdTest, layer } from "../src/testing.ts"

/** Of the page for Prometheus: what stands behind a name with its labels. */
const read = (line: string) =>
  Effect.map(PrometheusMetrics.format(), (page) => {
    const found = page.split("\n").find((text) => text.startsWith(`${line} `))
    return found === undefined ? undefined : Number(found.slice(line.length + 1))
  })

const operations = (operation: string, outcome: string) =>
  read(`coord_operation_duration_count{operation="${operation}",outcome="${outcome}"}`)

const test = (
  title: string,
  body: Effect.Effect<void, unknown, Layer.Success<ReturnType<typeof layer>> | Scope.Scope>
) => it.effect(title, () => body.pipe(Effect.provide(layer()), Effect.provideService(Metric.MetricRegistry, new Map())))

describe("metrics", () => {
  test(
    "those that alerts watch are there before anything happens",
    Effect.gen(function*() {
      for (
        const line of [
          "coord_sessions_lost{why=\"Expired\"}",
          "coord_sessions_lost{why=\"Revoked\"}",
          "coord_watch_reopens",
          "coord_watches_interrupted",
          "coord_registrations_recovering"
        ]
      ) assert.strictEqual(yield* read(line), 0, line)
    })
  )

  test(
    "operations are counted by how they end, and holding a lock is timed",
    Effect.gen(function*() {
      const lock = yield* Lock
      const config = yield* ConfigCenter
      yield* lock.withLock("job")(
        Effect.andThen(TestClock.adjust("3 seconds"), Effect.flip(Effect.scoped(lock.tryAcquire("job"))))
      )
      yield* Effect.flip(config.get("nothing", Schema.String))
      yield* lock.acquire("busy")
      const waiting = yield* Effect.forkChild(Effect.scoped(lock.acquire("busy")), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(waiting)
      assert.strictEqual(yield* operations("Lock.tryAcquire", "LockHeld"), 1)
      assert.strictEqual(yield* operations("ConfigCenter.get", "ConfigNotFound"), 1)
      assert.strictEqual(yield* operations("Lock.acquire", "interrupted"), 1)
      const waited = "coord_operation_duration_sum{operation=\"Lock.acquire\",outcome=\"interrupted\"}"
      assert.strictEqual(yield* read(waited), 1000)
      assert.strictEqual(yield* read("coord_lock_hold_duration_count"), 1)
      assert.strictEqual(yield* read("coord_lock_hold_duration_sum"), 3000)
    })
  )

  test(
    "a lease that expires counts as a lost session, and the registration as recovering until it is back",
    Effect.gen(function*() {
      const registry = yield* Registry
      const etcd = yield* EtcdTest
      const scope = yield* Scope.fork(yield* Effect.scope)
      yield* Scope.provide(
        registry.register(new ServiceInstance({ id: "a", name: "orders", address: "10.0.0.7", port: 80 })),
        scope
      )
      yield* etcd.partition
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* read("coord_sessions_lost{why=\"Expired\"}"), 1)
      assert.strictEqual(yield* read("coord_registrations_recovering"), 1)
      yield* etcd.heal
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* read("coord_registrations_recovering"), 0)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* read("coord_sessions_lost{why=\"Expired\"}"), 1)
    })
  )

  test(
    "who gives up what he has loses no session",
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Layer.fresh(layer()), scope)
      yield* Scope.provide(Context.get(context, Lock).acquire("job"), scope)
      // Long enough to be told of the end of the session.
      yield* Context.get(context, EtcdTest).delay("100 millis")
      yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* PrometheusMetrics.format()).match(/^coord_sessions_lost.* [1-9]/m), null)
      assert.notInclude(yield* PrometheusMetrics.format(), "Closed")
    })
  )

  test(
    "channels are counted while they are open, and each list that they are handed",
    Effect.gen(function*() {
      const registry = yield* Registry
      const scope = yield* Scope.make()
      const channel = yield* Scope.provide(registry.channel("orders"), scope)
      assert.strictEqual(yield* read("coord_channels_open"), 1)
      channel.getConnectivityState(true)
      yield* TestClock.adjust("1 second")
      const lists = (yield* read("coord_channel_updates")) ?? 0
      assert.isAbove(lists, 0)
      yield* registry.register(new ServiceInstance({ id: "a", name: "orders", address: "127.0.0.1", port: 9 }))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* read("coord_channel_updates"), lists + 1)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* read("coord_channels_open"), 0)
    })
  )

  test(
    "a watch counts as interrupted from its cut until it is open again, or is given up",
    Effect.gen(function*() {
      const config = yield* ConfigCenter
      const etcd = yield* EtcdTest
      const watching = yield* Effect.forkChild(Stream.runDrain(config.watch("limit", Schema.Number)))
      yield* TestClock.adjust("1 second")
      yield* etcd.expireToken
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* read("coord_watch_reopens"), 1)
      assert.strictEqual(yield* read("coord_watches_interrupted"), 0)
      yield* etcd.partition
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* read("coord_watches_interrupted"), 1)
      yield* etcd.heal
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* read("coord_watches_interrupted"), 0)
      assert.strictEqual(yield* read("coord_watch_reopens"), 2)
      yield* etcd.partition
      yield* TestClock.adjust("1 minute")
      yield* Fiber.interrupt(watching)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* read("coord_watches_interrupted"), 0)
      yield* etcd.heal
    })
  )
})

/** Each operation of the recipes, under the name of its span and of its duration. */
const recipes: Record<string, Effect.Effect<unknown, unknown, Layer.Success<ReturnType<typeof layer>> | Scope.Scope>> =
  {
    "Election.campaign": Election.use((election) => election.campaign("job", "a")),
    "Election.leader": Election.use((election) => election.leader("job")),
    "Election.candidates": Election.use((election) => election.candidates("job")),
    "InstanceId.acquire": InstanceId.use((ids) => ids.acquire("job", { max: 2 })),
    "InstanceId.assigned": InstanceId.use((ids) => ids.assigned("job")),
    "Semaphore.acquire": Semaphore.use((semaphore) => semaphore.withPermit("job", { permits: 1 })(Effect.void)),
    "Semaphore.tryAcquire": Semaphore.use((semaphore) => semaphore.tryAcquire("job", { permits: 1 })),
    "Semaphore.entries": Semaphore.use((semaphore) => semaphore.entries("job")),
    "ReadWriteLock.readLock": ReadWriteLock.use((lock) => lock.withReadLock("job")(Effect.void)),
    "ReadWriteLock.writeLock": ReadWriteLock.use((lock) => lock.withWriteLock("job")(Effect.void)),
    "ReadWriteLock.tryReadLock": ReadWriteLock.use((lock) => lock.tryReadLock("a")),
    "ReadWriteLock.tryWriteLock": ReadWriteLock.use((lock) => lock.tryWriteLock("b")),
    "ReadWriteLock.entries": ReadWriteLock.use((lock) => lock.entries("job")),
    "ConfigCenter.transact": ConfigCenter.use((config) =>
      config.transact([ConfigChange.set("a", Schema.String, "1"), ConfigChange.delete("b")])
    ),
    "ConfigCenter.rollback": ConfigCenter.use((config) =>
      Effect.flatMap(config.set("a", Schema.String, "1"), (version) => config.rollback("a", version))
    ),
    "EtcdConfigProvider.load": Effect.provide(Config.option(Config.String("PORT")), EtcdConfigProvider.layer()),
    "reloadable.reload": Effect.flatMap(reloadable(Layer.empty), ({ reload }) => reload),
    "KeyValueStore.set": Effect.flatMap(makeKeyValueStore(), (store) => store.set("a", "1")),
    "Etcd.health": Etcd.use((etcd) => etcd.health)
  }

const makeTracer = () => {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, tracer }
}

describe("recipes", () => {
  for (const [name, operation] of Object.entries(recipes)) {
    test(
      `${name} has a span, and is counted`,
      Effect.gen(function*() {
        const { spans, tracer } = makeTracer()
        yield* Effect.scoped(operation).pipe(Effect.provideService(Tracer.Tracer, tracer))
        const span = spans.find((span) => span.name === name)
        if (span === undefined) return assert.fail("no such span")
        assert.strictEqual(span.status._tag, "Ended")
        if (!/health|reload|transact/.test(name)) {
          assert.include([...span.attributes.keys()].map((key) => key.replace("coord.", "")), "key")
        }
        assert.strictEqual(yield* operations(name, "ok"), 1)
      })
    )
  }

  test(
    "who follows an election has a span for as long as he follows",
    Effect.gen(function*() {
      const { spans, tracer } = makeTracer()
      const following = yield* Election.use((election) => Stream.runDrain(election.observe("job"))).pipe(
        Effect.provideService(Tracer.Tracer, tracer),
        Effect.forkChild
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(spans.map(({ name, status }) => [name, status._tag]), [["Election.observe", "Started"]])
      yield* Fiber.interrupt(following)
      assert.strictEqual(spans[0]?.status._tag, "Ended")
    })
  )

  test(
    "who watches values has a span for as long as he watches, below that of the caller",
    Effect.gen(function*() {
      const { spans, tracer } = makeTracer()
      const config = yield* ConfigCenter
      const watches = yield* Effect.forEach(
        [config.watch("limit", Schema.String), config.watchPrefix("app", Schema.String)],
        (events) =>
          Stream.runDrain(events).pipe(
            Effect.withSpan("caller"),
            Effect.provideService(Tracer.Tracer, tracer),
            Effect.forkChild
          )
      )
      yield* TestClock.adjust("1 second")
      const seen = () =>
        spans.filter(({ name }) => name !== "caller").map(({ attributes, name, parent, status }) => [
          name,
          Option.getOrUndefined(parent)?._tag,
          Object.fromEntries(attributes),
          status._tag
        ])
      assert.deepStrictEqual(seen(), [
        ["ConfigCenter.watch", "Span", { key: "limit" }, "Started"],
        ["ConfigCenter.watchPrefix", "Span", { prefix: "app" }, "Started"]
      ])
      yield* Fiber.interruptAll(watches)
      assert.deepStrictEqual(seen().map(([, , , status]) => status), ["Ended", "Ended"])
    })
  )
})

describe("spans", () => {
  const cycle = Effect.gen(function*() {
    const lock = yield* Lock
    const config = yield* ConfigCenter
    yield* config.set("limit", Schema.String, "1")
    yield* lock.withLock("job")(Effect.annotateCurrentSpan({ mine: "yes" }))
  })

  test(
    "whoever traces sees each operation, with its key, below the one that it is part of",
    Effect.gen(function*() {
      const { spans, tracer } = makeTracer()
      yield* cycle.pipe(Effect.withSpan("caller"), Effect.provideService(Tracer.Tracer, tracer))
      const seen = spans.map(({ attributes, name, parent, status }) => ({
        name,
        parent: Option.getOrUndefined(Option.map(parent, (span) => span._tag === "Span" ? span.name : "")),
        attributes: [...attributes.keys()],
        status: status._tag
      }))
      assert.deepStrictEqual(seen, [
        { name: "caller", parent: undefined, attributes: [], status: "Ended" },
        { name: "ConfigCenter.set", parent: "caller", attributes: ["key"], status: "Ended" },
        { name: "Lock.withLock", parent: "caller", attributes: ["coord.key", "mine"], status: "Ended" },
        {
          name: "Lock.acquire",
          parent: "Lock.withLock",
          attributes: ["coord.key", "coord.token", "coord.lease"],
          status: "Ended"
        }
      ])
    })
  )

  test(
    "without a tracer the span of the caller stays as the caller has made it",
    Effect.gen(function*() {
      const span = yield* Effect.makeSpan("caller")
      yield* Effect.withParentSpan(cycle, span)
      assert.deepStrictEqual([...(span as Tracer.NativeSpan).attributes.keys()], ["mine"])
    })
  )
})

describe("the dashboard, the alerts and the documentation", () => {
  const root = Path.join(import.meta.dirname, "..")
  const text = (...path: ReadonlyArray<string>) => Fs.readFileSync(Path.join(root, ...path), "utf8")
  const names = (text: string) => new Set(text.match(/coord_[a-z_]+/g))
  const known = names(text("src", "internal", "Telemetry.ts"))
  const dashboard = text("docs", "observability", "dashboard.json")
  const alerts = text("docs", "observability", "alerts.yaml")

  it("ask for metrics that exist", () => {
    assert.doesNotThrow(() => JSON.parse(dashboard))
    for (const text of [dashboard, alerts]) {
      const asked = names(text)
      assert.isAbove(asked.size, 3)
      for (const name of asked) assert.isTrue(known.has(name.replace(/_(bucket|count|sum)$/, "")), name)
    }
  })

  it("ask for operations and outcomes that exist", () => {
    const sources = Fs.readdirSync(Path.join(root, "src"), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts")).map((file) => text("src", file)).join("\n")
    for (
      const [, label, value = ""] of `${dashboard.replaceAll("\\", "")}${alerts}`.matchAll(
        /(operation|outcome)[=!]~?"([^"]+)"/g
      )
    ) {
      for (const name of value.split("|").filter((name) => !name.includes("*"))) {
        // Tags of errors of Effect are not in quotes here.
        const found = sources.includes(`"${name}"`) || sources.includes(`.${name}(`)
        assert.isTrue(found, `${label} ${name}`)
      }
    }
  })

  it("list every metric, and none besides", () => {
    for (const [file, page] of [["README.md"], ["docs", "observability.md"]].map((path) => [path, text(...path)])) {
      const listed = [...String(page).matchAll(/^\| `(coord_\w+)`/gm)].map(([, name]) => name)
      assert.deepStrictEqual(listed.toSorted(), [...known].toSorted(), String(file))
    }
  })
})
