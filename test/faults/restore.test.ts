import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Operation } from "../../src/Etcd.ts"
import { ServiceInstance } from "../../src/ServiceInstance.ts"
import { makeCluster } from "../utils/Cluster.ts"
import { type EtcdctlError, type EtcdServer, makeEtcdServer } from "../utils/EtcdServer.ts"
import { writeFiles } from "../utils/tls.ts"
import { connect, ms, now, until } from "./clients.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] as const

const put = (key: string, value = "1") => ({ success: [Operation.put(key, value)] })

const instance = (id: string) => new ServiceInstance({ id, name: "orders", address: "127.0.0.1", port: 80 })

/** One server, or all members of a cluster, of one state. */
interface Store {
  readonly endpoints: ReadonlyArray<string>
  readonly any: EtcdServer
  readonly restore: (snapshot: string, ...flags: ReadonlyArray<string>) => Effect.Effect<unknown, EtcdctlError>
}

const single = (server: EtcdServer): Store => ({ endpoints: [server.endpoint], any: server, restore: server.restore })

const several = (members: ReadonlyArray<EtcdServer>): Store => ({
  endpoints: members.map(({ endpoint }) => endpoint),
  any: members[0] as EtcdServer,
  // All are stopped first: members of two histories must not meet.
  restore: (...args) =>
    Effect.andThen(
      Effect.forEach(members, ({ kill }) => kill),
      Effect.forEach(members, ({ restore }) => restore(...args), { concurrency: "unbounded" })
    )
})

const ttl = "3 seconds"
/** TTL/3 + 2 s. */
const back = 3000

/**
 * A snapshot, then a life after it with locks, registrations and configuration, then the restore. Expects of all users of
 * the store that they come to terms with the state of the snapshot.
 */
const scenario = Effect.fnUntraced(function*(
  store: Store,
  { bump, version }: { readonly bump: boolean; readonly version: string }
) {
  const { folder } = yield* writeFiles({ folder: "" })
  const snapshot = `${folder}.snapshot`
  const client = connect({ endpoints: store.endpoints })
  const early = yield* client
  const late = yield* client
  const waiter = yield* client
  const observer = yield* client
  const set = (key: string, value: number) => early.config.set(key, Schema.Int, value)

  yield* set("kept", 0)
  yield* set("changed", 1)
  yield* set("deleted", 1)
  const oldLock = yield* early.lock.acquire("old", { ttl })
  const oldRegistration = yield* early.registry.register(instance("old"), { ttl })
  yield* store.any.etcdctl("snapshot", "save", snapshot)

  const events: Array<string> = []
  yield* observer.config.watchPrefix("", Schema.Int).pipe(
    Stream.runForEach((event) =>
      Effect.sync(() => {
        const previous = "previous" in event ? ` (${String(event.previous)})` : ""
        events.push(
          event._tag === "Synced"
            ? "Synced"
            : `${event._tag} ${event.key}${event._tag === "Put" ? `=${event.value}` : ""}${previous}`
        )
      })
    ),
    Effect.forkScoped
  )
  const lists: Array<string> = []
  yield* observer.registry.instances("orders").pipe(
    Stream.runForEach((all) => Effect.sync(() => lists.push(all.map(({ id }) => id).join("+")))),
    Effect.forkScoped
  )
  const serviceEvents: Array<string> = []
  yield* observer.registry.watch("orders").pipe(
    Stream.runForEach((event) =>
      Effect.sync(() => serviceEvents.push(event._tag === "Synced" ? "Synced" : `${event._tag} ${event.instance.id}`))
    ),
    Effect.forkScoped
  )
  yield* until("the first state", Effect.sync(() => events.includes("Synced") && lists.length > 0), 10_000)

  yield* set("changed", 2)
  yield* observer.config.delete("deleted")
  yield* set("created", 3)
  const changed = yield* observer.config.live("changed", Schema.Int)
  const created = yield* observer.config.live("created", Schema.Int)
  const newRegistration = yield* late.registry.register(instance("new"), { ttl })
  const newLock = yield* late.lock.acquire("new", { ttl })
  const body = yield* late.lock.withLock("body", { ttl })(Effect.never).pipe(Effect.flip, Effect.forkScoped)
  yield* until("the lock of the body", Effect.map(late.lock.waiters("body"), (all) => all.length === 1), 10_000)
  const next = yield* waiter.lock.acquire("new", { ttl }).pipe(Effect.forkScoped)
  yield* until("the waiter", Effect.map(late.lock.waiters("new"), (all) => all.length === 2), 10_000)
  // More than what the services write by themselves once the store is back: otherwise nobody could see that it went back.
  let revision = 0n
  for (let i = 0; i < 200; i++) revision = (yield* early.etcd.txn(put("/elsewhere", String(i)))).revision
  const seen = yield* Deferred.make<void>()
  const raw = yield* observer.etcd.watch({ prefix: "/elsewhere", startRevision: revision }).pipe(
    Stream.runForEach((item) => item._tag === "Batch" ? Deferred.succeed(seen, undefined) : Effect.void),
    Effect.flip,
    Effect.forkScoped
  )
  yield* Deferred.await(seen)
  yield* until(
    "all is seen",
    Effect.sync(() => events.at(-1) === "Put created=3" && lists.at(-1) === "new+old"),
    10_000
  )
  events.length = 0
  const listsBefore = lists.length

  yield* store.restore(snapshot, ...(bump ? ["--bump-revision=1000000", "--mark-compacted"] : []))
  const start = now()
  const since = () => now() - start

  // The watches.
  const ended = yield* Effect.timeout(Fiber.join(raw), "20 seconds")
  const noticed = since()
  assert.strictEqual(ended.reason._tag, bump ? "Compacted" : "HistoryLost")
  if (ended.reason._tag === "HistoryLost") {
    assert.isTrue(ended.reason.expected >= revision && ended.reason.actual < revision)
  }
  yield* until("configuration is told anew", Effect.sync(() => events.includes("Synced")), 20_000)
  const resynced = since()
  const [last, ...rest] = [...events].reverse()
  assert.strictEqual(last, "Synced")
  assert.sameMembers(
    // Bumped or not, the writes are those of the snapshot; `kept` has changed for nobody.
    rest.filter((event) => !event.includes("kept")),
    ["Put changed=1 (2)", "Put deleted=1", "Delete created (3)"]
  )
  yield* until("the live value goes back", Effect.map(changed.get, (value) => value === 1), 10_000)
  yield* until("the live value is gone", Effect.map(created.status, (status) => status._tag === "Deleted"), 10_000)
  assert.strictEqual(yield* created.get, 3)
  yield* set("changed", 5)
  yield* until("what comes then is seen", Effect.sync(() => events.at(-1) === "Put changed=5 (1)"), 10_000)

  // The registrations.
  const present = Effect.map(observer.registry.discover("orders"), (all) => all.map(({ id }) => id).join("+"))
  yield* until("both are registered", Effect.map(present, (ids) => ids === "new+old"), 30_000)
  const registered = since()
  for (const { status } of [oldRegistration, newRegistration]) {
    yield* until("the status says so", Effect.map(status.get, (is) => is === "Registered"), 20_000)
  }
  yield* until("the list shows both", Effect.sync(() => lists.at(-1) === "new+old"), 10_000)
  assert.notInclude(lists.slice(listsBefore), "", "an outage empties no list")
  yield* Effect.sleep("5 seconds")
  assert.strictEqual(yield* present, "new+old")

  // The locks: what the snapshot knows is held, what it does not know is lost, and its waiters come in.
  yield* oldLock.assertHeld
  assert.strictEqual((yield* early.lock.waiters("old")).length, 1)
  const lost = yield* Effect.flip(newLock.assertHeld)
  assert.strictEqual(lost._tag, "LockLost")
  const interrupted = yield* Effect.timeout(Fiber.join(body), "10 seconds")
  assert.strictEqual(interrupted._tag, "LockLost")
  const fenced = yield* Effect.flip(newLock.fenced(put("/fenced")))
  assert.strictEqual(fenced._tag, "LockLost")
  const turn = yield* Effect.timeout(Fiber.join(next), "20 seconds")
  yield* turn.assertHeld
  if (bump) assert.isTrue(turn.fencingToken > newLock.fencingToken, "tokens still grow")
  assert.strictEqual((yield* early.etcd.range({ key: "/fenced" })).count, 0)
  yield* turn.unlock
  yield* Effect.scoped(late.lock.acquire("new", { ttl })).pipe(Effect.timeout("10 seconds"))

  const what = `older snapshot restored${bump ? ", with --bump-revision" : ""} (${store.endpoints.length} node(s))`
  record({
    what: `${what}: noticed by a watch`,
    bar: "no hang",
    measured: `${ended.reason._tag} after ${ms(noticed)}`,
    ok: true,
    version
  })
  record({
    what: `${what}: configuration resynchronised`,
    bar: "synthetic events, then Synced",
    measured: `so it is, after ${ms(resynced)}`,
    ok: true,
    version
  })
  record({
    what: `${what}: registrations back`,
    bar: `TTL/3 + 2 s = ${ms(back)}`,
    measured: ms(registered),
    ok: registered <= back,
    version
  })
  record({
    what: `${what}: locks unknown to it`,
    bar: "lost, the waiter comes in",
    measured: `holder: ${lost.why}, the waiter has it`,
    ok: true,
    version
  })
  assert.isBelow(registered, 3 * back)
}, Effect.scoped)

describe("an older snapshot is restored", () => {
  for (const version of versions) {
    it.live(
      `all services notice, resynchronise and go on (${version})`,
      () => Effect.flatMap(makeEtcdServer({ version }), (server) => scenario(single(server), { bump: false, version })),
      120_000
    )
  }

  it.live(
    "to a cluster of three",
    () => Effect.flatMap(makeCluster(), ({ members }) => scenario(several(members), { bump: false, version: "3.5" })),
    120_000
  )

  it.live(
    "with --bump-revision: the history is compacted away, and fencing tokens still grow",
    () => Effect.flatMap(makeEtcdServer(), (server) => scenario(single(server), { bump: true, version: "3.5" })),
    120_000
  )

  it.live(
    "twice, and to an empty store: a live value, a registration and a lock survive both",
    () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer()
        const { folder } = yield* writeFiles({ folder: "" })
        const empty = `${folder}.empty`
        yield* server.etcdctl("snapshot", "save", empty)
        const { config, etcd, lock, registry } = yield* connect({ endpoints: server.endpoint })
        const registration = yield* registry.register(instance("one"), { ttl })
        for (let round = 1; round <= 2; round++) {
          yield* config.set("limit", Schema.Int, round)
          const scope = yield* Scope.make()
          const live = yield* Scope.provide(config.live("limit", Schema.Int, { onDelete: { default: 0 } }), scope)
          const handle = yield* Scope.provide(lock.acquire("job", { ttl }), scope)
          for (let i = 0; i < 100; i++) yield* etcd.txn(put("/elsewhere"))
          yield* server.restore(empty)
          yield* until("the default", Effect.map(live.get, (value) => value === 0), 20_000)
          yield* until("registered", Effect.map(registry.discover("orders"), (all) => all.length === 1), 20_000)
          yield* until("the lock is lost", Effect.map(Effect.exit(handle.assertHeld), Exit.isFailure), 20_000)
          yield* Effect.timeout(Scope.close(scope, Exit.void), Duration.seconds(10))
          assert.strictEqual(yield* registration.status.get, "Registered")
        }
        yield* lock.withLock("job", { ttl })(Effect.void)
      }),
    120_000
  )
})
