/**
 * The quick start: two workers share a lock, a service is registered and discovered, gRPC calls find its instances, a configuration value
 * is kept in step.
 *
 *     npm start                                     # on an etcd inside this process
 *     npm run start:etcd                            # on an etcd that is started for it
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npm start       # on a cluster
 */
import { NodeRuntime } from "@effect/platform-node"
import { makeClientConstructor, type sendUnaryData, type ServiceError } from "@grpc/grpc-js"
import {
  Cause,
  Console,
  Effect,
  Exit,
  Fiber,
  Latch,
  type Layer,
  Queue,
  References,
  Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import {
  ConfigCenter,
  type ConfigEvent,
  Etcd,
  EtcdMemory,
  EtcdOptions,
  layerEtcd,
  layerMemory,
  Lock,
  Operation,
  Registry,
  serve,
  type ServiceEvent,
  ServiceInstance
} from "../src/index.ts"

// Every call is a client of its own, as another process would be.
type Client = () => Layer.Layer<Etcd | Lock | Registry | ConfigCenter, unknown>

// -----------------------------------------------------------------------------
// 1. A lock
// -----------------------------------------------------------------------------

const locks = Effect.fn(function*(client: Client) {
  yield* step("1. A lock: one worker at a time, whatever process it is in")
  const lock = yield* Lock

  const worker = (name: string, work: Effect.Effect<void>) =>
    Effect.gen(function*() {
      const lock = yield* Lock
      return yield* lock.withLock("report", { label: name })((handle) =>
        Effect.gen(function*() {
          yield* say(`${name} holds the lock, fencing token ${handle.fencingToken}`)
          yield* work
          yield* say(`${name} has done its work and releases it`)
          return handle.fencingToken
        })
      )
    }).pipe(Effect.provide(client()), Effect.forkChild)

  const held = yield* Latch.make()
  const ready = yield* Latch.make()
  const a = yield* worker("worker A", Effect.andThen(held.open, ready.await))
  yield* held.await
  const refusal = yield* lock.tryAcquire("report").pipe(Effect.scoped, Effect.flip)
  yield* say(`tryAcquire does not wait. It answers ${refusal._tag}`)

  const b = yield* worker("worker B", Effect.void)
  const queue = yield* lock.waiters("report").pipe(
    Effect.repeat({ until: (entries) => entries.length === 2, schedule: tick })
  )
  yield* say(`in line: ${queue.map((entry) => entry.label).join(", ")}`)

  yield* ready.open
  const [tokenA, tokenB] = yield* Effect.all([Fiber.join(a), Fiber.join(b)])
  yield* say(`B's token is greater than A's: ${tokenB > tokenA}`)
})

// -----------------------------------------------------------------------------
// 2. A lock that is lost
// -----------------------------------------------------------------------------

const fencing = Effect.fn(function*() {
  yield* step("2. A lock that is lost: who held it can no longer write")
  const lock = yield* Lock
  const etcd = yield* Etcd
  const balance = (amount: string) => ({ success: [Operation.put("/bank/balance", amount)] })

  const handle = yield* lock.acquire("account", { label: "teller" })
  yield* handle.fenced(balance("100"))
  yield* say("the teller holds the lock and writes a balance of 100")

  for (const entry of yield* lock.waiters("account")) {
    yield* etcd.txn({ success: [Operation.delete(entry.entryKey)] })
  }
  yield* say("an operator deletes the teller's key in etcd")

  const refusal = yield* Effect.flip(handle.fenced(balance("0")))
  yield* say(`the teller writes 0 and is refused: ${refusal._tag}${"why" in refusal ? ` (${refusal.why})` : ""}`)
  const { kvs } = yield* etcd.range({ key: "/bank/balance" })
  yield* say(`the balance is ${kvs.map((kv) => new TextDecoder().decode(kv.value)).join()}`)
  yield* etcd.txn({ success: [Operation.delete("/bank/balance")] })
}, Effect.scoped)

// -----------------------------------------------------------------------------
// 3. A registry
// -----------------------------------------------------------------------------

const describeService = (event: ServiceEvent): string => {
  if (event._tag === "Synced") return "Synced: that is all for now"
  const { address, id, metadata, port } = event.instance
  return `${event._tag} ${id} at ${address}:${port}, zone ${metadata["zone"]}`
}

const services = Effect.fn(function*() {
  yield* step("3. A registry: instances come and go, and others see it")
  const registry = yield* Registry
  const orders = (id: string, port: number, zone: string) =>
    new ServiceInstance({ id, name: "orders", address: "10.0.0.7", port, metadata: { zone } })

  const first = yield* registry.register(orders("orders-1", 8081, "north"))
  yield* say("registered orders-1; it stays for as long as its scope is open")
  const showNext = yield* follow(registry.watch("orders"), describeService)
  yield* showNext(2)

  const second = yield* registry.register(orders("orders-2", 8082, "south"))
  yield* say("registered orders-2")
  yield* showNext(1)
  const found = yield* registry.discover("orders")
  yield* say(`discovered: ${found.map((instance) => `${instance.address}:${instance.port}`).join(", ")}`)

  yield* second.update({ zone: "west" })
  yield* say("moved orders-2")
  yield* showNext(1)
  yield* first.unregister
  yield* say("unregistered orders-1")
  yield* showNext(1)
}, Effect.scoped)

// -----------------------------------------------------------------------------
// 4. gRPC
// -----------------------------------------------------------------------------

const toBytes = (text: string) => Buffer.from(text)
const toText = (bytes: Buffer) => bytes.toString()

// Usually generated from a .proto file: see the other examples. This service takes a text, and answers with one.
const greeter = {
  greet: {
    path: "/quickstart.Greeter/Greet",
    requestStream: false,
    responseStream: false,
    requestSerialize: toBytes,
    requestDeserialize: toText,
    responseSerialize: toBytes,
    responseDeserialize: toText
  }
} as const

/** Answers with its id. */
const serveGreeter = (id: string) => {
  const answer = (_: unknown, callback: sendUnaryData<string>) => callback(null, id)
  return serve("greeter", (server) => server.addService(greeter, { greet: answer }), {
    host: "127.0.0.1",
    id,
    propagation: "300 millis"
  })
}

const calls = Effect.fn(function*() {
  yield* step("4. gRPC: calls find the instances, and none fails while one is replaced")
  const registry = yield* Registry
  const life1 = yield* Scope.make()
  yield* Effect.all([Scope.provide(serveGreeter("greeter-1"), life1), serveGreeter("greeter-2")])
  yield* say("greeter-1 and greeter-2 serve, each on a port of its own")

  const client = yield* registry.client(makeClientConstructor(greeter, "Greeter"), "greeter")
  const greet = Effect.callback<string, ServiceError>((resume) => {
    client["greet"]?.(
      "hello",
      (error: ServiceError | null, id: string) => resume(error === null ? Effect.succeed(id) : Effect.fail(error))
    )
  })
  const answers = new Map<string, number>()
  const calling = yield* greet.pipe(
    Effect.catch((error) => Effect.succeed(`nobody: ${error.message}`)),
    Effect.map((id) => answers.set(id, (answers.get(id) ?? 0) + 1)),
    Effect.repeat(Schedule.spaced("2 millis")),
    Effect.forkScoped
  )
  const answered = (...ids: ReadonlyArray<string>) =>
    Effect.repeat(Effect.sync(() => ids.every((id) => answers.has(id))), { until: (all) => all, schedule: tick })

  yield* answered("greeter-1", "greeter-2")
  yield* say("a client calls them in turn, and goes on calling")
  yield* serveGreeter("greeter-3")
  yield* answered("greeter-3")
  yield* say("greeter-3 starts, and has its share")
  yield* Scope.close(life1, Exit.void)
  yield* say("greeter-1 has ended: its scope is closed, its calls are answered, its port is free")
  yield* Fiber.interrupt(calling)

  const count = (failed: boolean) =>
    [...answers].filter(([id]) => id.startsWith("nobody") === failed).reduce((sum, [, calls]) => sum + calls, 0)
  yield* say(`who answered: ${[...answers].map(([id, calls]) => `${id} ${calls}`).toSorted().join(", ")}`)
  yield* say(`calls: ${count(false) + count(true)}, of which failed: ${count(true)}`)
}, Effect.scoped)

// -----------------------------------------------------------------------------
// 5. Configuration
// -----------------------------------------------------------------------------

const Limits = Schema.Struct({ perSecond: Schema.Int, burst: Schema.Int })
type Limits = typeof Limits.Type

const show = ({ burst, perSecond }: Limits) => `${perSecond}/s, burst ${burst}`

const describeConfig = (event: ConfigEvent<Limits>): string => {
  switch (event._tag) {
    case "Put":
      return `Put ${show(event.value)}${event.previous === undefined ? "" : `, before: ${show(event.previous)}`}`
    case "Delete":
      return `Delete${event.previous === undefined ? "" : `, before: ${show(event.previous)}`}`
    case "Invalid":
      return `Invalid: ${event.error.issue.replaceAll("\n", ", ")}`
    case "Synced":
      return "Synced: that is all for now"
  }
}

const configuration = Effect.fn(function*() {
  yield* step("5. Configuration: typed values that everybody sees change")
  const config = yield* ConfigCenter
  const etcd = yield* Etcd

  const version = yield* config.set("api/limits", Limits, { perSecond: 100, burst: 20 })
  yield* say(`set, and read back: ${show(yield* config.get("api/limits", Limits))}`)
  const showNext = yield* follow(config.watch("api/limits", Limits), describeConfig)
  yield* showNext(2)
  const live = yield* config.live("api/limits", Limits)

  yield* config.compareAndSet("api/limits", Limits, { perSecond: 200, burst: 20 }, version)
  yield* say("compareAndSet over the version that was read: written")
  yield* showNext(1)
  const conflict = yield* Effect.flip(config.compareAndSet("api/limits", Limits, { perSecond: 1, burst: 1 }, version))
  yield* say(`the same over the old version: ${conflict._tag}, nothing was written`)

  yield* etcd.txn({ success: [Operation.put("/config/api/limits", `{"perSecond":"many","burst":20}`)] })
  yield* say("somebody writes a value that does not fit the schema, past this library")
  yield* showNext(1)
  // It follows by itself, and may be a moment behind who watches.
  yield* live.statusChanges.pipe(Stream.takeUntil((status) => status._tag === "Invalid"), Stream.runDrain)
  yield* say(`a live reference keeps the last good value: ${show(yield* live.get)}`)

  yield* config.delete("api/limits")
  yield* say("deleted")
  yield* showNext(1)
}, Effect.scoped)

// -----------------------------------------------------------------------------
// 6. The end
// -----------------------------------------------------------------------------

const nothingIsLeft = Effect.fn(function*(client: Client) {
  yield* step("6. The end: everything has been released by its scope")
  const { count } = yield* Effect.provide(
    Effect.flatMap(Etcd, (etcd) => etcd.range({ prefix: "", countOnly: true })),
    client()
  )
  yield* say(`keys left in etcd: ${count}`)
})

// -----------------------------------------------------------------------------

const step = (title: string) => Console.log(`\n${title}`)
const say = (text: string) => Console.log(`   ${text}`)
const tick = Schedule.spaced("10 millis")

/** Follows a stream in the background, and shows as many of its events as are asked for. */
const follow = Effect.fnUntraced(function*<A, E, R>(stream: Stream.Stream<A, E, R>, describe: (event: A) => string) {
  const events = yield* Stream.toQueue(stream, { capacity: "unbounded" })
  return (count: number) =>
    Effect.repeat(Effect.flatMap(Queue.take(events), (event) => Console.log(`     > ${describe(event)}`)), {
      times: count - 1
    })
})

/** A folder of etcd for this run alone, so that runs on one cluster do not meet, and on memory if there is no cluster. */
const connect = Effect.gen(function*() {
  const options = yield* EtcdOptions.fromEnv
  const namespace = `${options.namespace ?? ""}/quickstart/${crypto.randomUUID()}`
  if (options.endpoints === undefined) {
    yield* Console.log("On an etcd inside this process (EtcdMemory). For a real one: npm run start:etcd")
    const store = yield* EtcdMemory.make()
    return (): ReturnType<Client> => layerMemory(store, { namespace })
  }
  yield* Console.log(`On the etcd at ${options.endpoints} (ETCD_ENDPOINTS)`)
  return (): ReturnType<Client> => layerEtcd({ ...options, namespace, configPrefix: "/config" })
})

const program = Effect.gen(function*() {
  const client = yield* connect
  yield* locks(client).pipe(
    Effect.andThen(fencing()),
    Effect.andThen(services()),
    Effect.andThen(calls()),
    Effect.andThen(configuration()),
    Effect.provide(client())
  )
  yield* nothingIsLeft(client)
}).pipe(
  Effect.scoped,
  Effect.timeout("30 seconds"),
  // The library logs what an operator should know; here that would only come between the steps.
  Effect.provideService(References.MinimumLogLevel, "Error"),
  Effect.tapCause((cause) => Console.error(`\nThe quick start failed. ${Cause.prettyErrors(cause).join("\n")}`))
)

NodeRuntime.runMain(program, { disableErrorReporting: true })
