/** This library at work. */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { ConfigCenter, Etcd, layerEtcd, Lock, Operation, Registry, ServiceInstance } from "../../src/index.ts"
import { type Answer, type Request, serve } from "./protocol.ts"

const [, , endpoint = ""] = process.argv

const scope = Effect.runSync(Scope.make())
const context = await Effect.runPromise(Layer.buildWithScope(layerEtcd({ endpoints: endpoint }), scope))
const lock = Context.get(context, Lock)
const config = Context.get(context, ConfigCenter)
const registry = Context.get(context, Registry)
const etcd = Context.get(context, Etcd)

const repeat = (request: Request, step: (index: number) => Effect.Effect<unknown, unknown>) =>
  Effect.gen(function*() {
    const micros: Array<number> = []
    let count = 0
    const start = performance.now()
    const loop = Effect.fnUntraced(function*(index: number) {
      for (let now = performance.now(); now < start + request.millis;) {
        yield* step(index)
        const after = performance.now()
        if (request.concurrency === 1) micros.push((after - now) * 1000)
        now = after
        count++
      }
    })
    yield* Effect.forEach(Array.from({ length: request.concurrency }, (_, index) => index), loop, {
      concurrency: "unbounded",
      discard: true
    })
    return { count, seconds: (performance.now() - start) / 1000, micros }
  })

const heap = Effect.sync(() => {
  globalThis.gc?.()
  globalThis.gc?.()
  return process.memoryUsage().heapUsed
})

/** What is at hand, again and again. */
const reading = Effect.fnUntraced(function*<A, E>(request: Request, read: Effect.Effect<A, E>) {
  const start = performance.now()
  let count = 0
  for (; performance.now() < start + request.millis; count += 1000) {
    for (let index = 0; index < 1000; index++) yield* read
  }
  return { count, seconds: (performance.now() - start) / 1000 }
})

/** Of a core, while nothing happens. */
const idle = (millis: number) =>
  Effect.gen(function*() {
    const before = process.cpuUsage()
    const start = performance.now()
    yield* Effect.sleep(millis)
    const { system, user } = process.cpuUsage(before)
    return (user + system) / 10 / (performance.now() - start)
  })

/** What etcd says of itself: the sum of a metric over those of its lines that `has` is in. */
const metric = (name: string, has = "") =>
  Effect.promise(async () => {
    const lines = (await (await fetch(`http://${endpoint}/metrics`)).text()).split("\n")
    return lines.filter((line) => line.startsWith(name) && line.includes(has))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0)
  })
const etcdWatches = metric("etcd_debugging_mvcc_watcher_total")
/** Streams for beats that are open, of all clients. */
const beatStreams = Effect.all([
  metric("grpc_server_started_total", "\"LeaseKeepAlive\""),
  metric("grpc_server_handled_total", "\"LeaseKeepAlive\"")
]).pipe(Effect.map(([started, handled]) => started - handled))

/** Holds `concurrency` of them, and says what they cost. */
const holding = <E>(request: Request, one: (index: number) => Effect.Effect<unknown, E, Scope.Scope>) =>
  Effect.gen(function*() {
    const holder = yield* Scope.make()
    // What is made with the first is not the price of each.
    yield* Scope.provide(one(-1), holder)
    const before = yield* heap
    const start = performance.now()
    yield* Effect.forEach(Array.from({ length: request.concurrency }, (_, index) => index), one, {
      concurrency: 1024,
      discard: true
    }).pipe(Scope.provide(holder))
    const seconds = (performance.now() - start) / 1000
    const bytesEach = ((yield* heap) - before) / request.concurrency
    const { kvs } = yield* etcd.range({ prefix: request.key, keysOnly: true })
    const onLease = new Map<bigint, number>()
    for (const kv of kvs) onLease.set(kv.lease, (onLease.get(kv.lease) ?? 0) + 1)
    const idlePercent = yield* idle(request.millis)
    const streams = yield* beatStreams
    const closing = performance.now()
    yield* Scope.close(holder, Exit.void)
    return {
      figures: {
        perSecond: request.concurrency / seconds,
        bytesEach,
        leases: onLease.size,
        keysPerLease: Math.max(...onLease.values()),
        idlePercent,
        streams,
        releasedPerSecond: request.concurrency / ((performance.now() - closing) / 1000)
      }
    }
  })

const watchers = (request: Request) =>
  Effect.gen(function*() {
    const key = `${request.key}/0`
    yield* config.set(key, Schema.Int, 0)
    const watchesBefore = yield* etcdWatches
    const before = yield* heap
    let synced = 0
    let seen = 0
    const fibers = yield* Effect.forEach(Array.from({ length: request.concurrency }), () =>
      Effect.forkDetach(
        Stream.runForEach(config.watchPrefix(request.key, Schema.Int), (event) =>
          Effect.sync(() => {
            if (event._tag === "Synced") synced++
            else if (event._tag === "Put" && event.value > 0) seen++
          }))
      ))
    while (synced < request.concurrency) yield* Effect.sleep(20)
    const watches = (yield* etcdWatches) - watchesBefore
    const bytesEach = ((yield* heap) - before) / request.concurrency
    const millis: Array<number> = []
    for (let round = 1; round <= 5; round++) {
      seen = 0
      const start = performance.now()
      yield* config.set(key, Schema.Int, round)
      while (seen < request.concurrency) yield* Effect.yieldNow
      millis.push(performance.now() - start)
    }
    yield* Fiber.interruptAll(fibers)
    return { figures: { bytesEach, etcdWatches: watches, millisToAll: millis.toSorted((a, b) => a - b)[2] ?? 0 } }
  })

const run = (request: Request): Effect.Effect<Answer, unknown, Scope.Scope> => {
  const name = (index: number) => `${request.key}/${index}`
  switch (request.scenario) {
    case "get":
      return Effect.andThen(
        Effect.forEach(
          Array.from({ length: request.concurrency }),
          (_, index) => config.set(name(index), Schema.String, "value"),
          { concurrency: 64 }
        ),
        repeat(request, (index) => config.get(name(index), Schema.String))
      )
    case "set":
      return repeat(request, (index) => config.set(name(index), Schema.String, "value"))
    case "lock":
      return repeat(request, (index) => lock.withLock(name(index))(Effect.void))
    case "handoff":
      return repeat(request, () => lock.withLock(request.key)(Effect.void))
    case "live":
      return Effect.gen(function*() {
        yield* config.set(request.key, Schema.Int, 1)
        const live = yield* config.live(request.key, Schema.Int)
        return yield* reading(request, live.get)
      })
    case "instances":
      return Effect.gen(function*() {
        const service = request.key.replaceAll("/", "-")
        yield* registry.register(new ServiceInstance({ name: service, id: "i", address: "10.0.0.1", port: 80 }))
        const list = yield* SubscriptionRef.make<ReadonlyArray<ServiceInstance>>([])
        yield* Effect.forkScoped(
          Stream.runForEach(registry.instances(service), (instances) => SubscriptionRef.set(list, instances))
        )
        yield* Stream.runHead(Stream.filter(SubscriptionRef.changes(list), (instances) => instances.length > 0))
        return yield* reading(request, SubscriptionRef.get(list))
      })
    case "watch":
      return Effect.gen(function*() {
        yield* config.set(request.key, Schema.Int, 0)
        let seen = (): void => {}
        const synced = yield* Deferred.make<void>()
        const opened = yield* Effect.forkScoped(
          Stream.runForEach(config.watch(request.key, Schema.Int), (event) =>
            event._tag === "Synced"
              ? Deferred.succeed(synced, undefined)
              : Effect.sync(() => {
                if (event._tag === "Put") seen()
              }))
        )
        yield* Deferred.await(synced)
        const answer = yield* repeat({ ...request, concurrency: 1 }, () => {
          const event = new Promise<void>((resume) => {
            seen = resume
          })
          return Effect.all([config.set(request.key, Schema.Int, 1), Effect.promise(() => event)], {
            concurrency: 2
          })
        })
        yield* Fiber.interrupt(opened)
        return answer
      })
    case "watchers":
      return watchers(request)
    case "held":
      return holding({ ...request, key: `/locks/${request.key}` }, (index) => lock.acquire(name(index)))
    case "registered":
      return holding(
        { ...request, key: `/services/${request.key}` },
        (index) =>
          registry.register(new ServiceInstance({ name: request.key, id: `i${index}`, address: "10.0.0.1", port: 80 }))
      )
    case "idle":
      return Effect.map(idle(request.millis), (idlePercent) => ({ figures: { idlePercent } }))
    case "fill":
      // Keys that have nothing to do with the rest.
      return Effect.as(
        Effect.forEach(
          Array.from({ length: Math.ceil(request.concurrency / 100) }, (_, page) => page),
          (page) =>
            etcd.txn({
              success: Array.from({ length: 100 }, (_, index) =>
                Operation.put(`/unrelated/${request.key}/${page}/${index}`, "value"))
            }),
          { concurrency: 16, discard: true }
        ),
        { count: request.concurrency, seconds: 0 }
      )
    default:
      return Effect.succeed({ error: "no such scenario" })
  }
}

await serve((request) => Effect.runPromise(Effect.scoped(run(request))))
