import { assert, describe, it, layer } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import { Etcd } from "../src/Etcd.ts"
import { layerEtcdPort } from "../src/EtcdLive.ts"
import type { EtcdOptions } from "../src/EtcdOptions.ts"
import { Lock } from "../src/Lock.ts"
import { makeCluster } from "./utils/Cluster.ts"
import { type EtcdServer, type EtcdVersion, TestEtcd } from "./utils/EtcdServer.ts"
import { run } from "./utils/processes.ts"
import { makeProxy } from "./utils/Proxy.ts"

const connect = (options: EtcdOptions) =>
  Layer.build(Layer.fresh(Lock.layer().pipe(Layer.provideMerge(layerEtcdPort(options))))).pipe(
    Effect.map((context) => ({ lock: Context.get(context, Lock), etcd: Context.get(context, Etcd) }))
  )

V8.setFlagsFromString("--expose-gc")
const collectGarbage: () => void = Vm.runInNewContext("gc")

const fixture = new URL("fixtures/holdLock.ts", import.meta.url).pathname

const leases = (server: EtcdServer) =>
  Effect.map(server.etcdctl("lease", "list"), (text) => text.split("\n").filter((line) => /^[0-9a-f]{10,}$/.test(line)))

const elapsed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([time]) => Duration.toSeconds(time))

const suite = (version: EtcdVersion) =>
  layer(TestEtcd.layer(version), { timeout: "60 seconds", excludeTestServices: true })(
    `locks on etcd ${version}`,
    (it) => {
      it.effect("etcdctl waits for a lock of ours, and we wait for one of etcdctl", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const { lock } = yield* connect({ endpoints: server.endpoint })
          const ours = yield* Scope.make()
          yield* Scope.provide(lock.acquire("interop"), ours)
          const etcdctl = yield* run(server.etcdctlPath, ["--endpoints", server.endpoint, "lock", "/locks/interop"])
          const theirs = yield* Effect.forkChild(etcdctl.line("/locks/interop/"))
          // In line behind us, and not in.
          yield* lock.waiters("interop").pipe(Effect.repeat({ until: (entries) => entries.length === 2 }))
          assert.strictEqual(theirs.pollUnsafe(), undefined)
          yield* Scope.close(ours, Exit.void)
          yield* Fiber.join(theirs)
          const held = yield* Effect.flip(lock.tryAcquire("interop"))
          assert.strictEqual(held._tag, "LockHeld")
          const next = yield* Effect.forkChild(lock.acquire("interop"))
          yield* lock.waiters("interop").pipe(Effect.repeat({ until: (entries) => entries.length === 2 }))
          assert.strictEqual(next.pollUnsafe(), undefined)
          yield* etcdctl.kill("SIGINT")
          yield* (yield* Fiber.join(next)).assertHeld
        }))

      it.effect("kill -9 of etcdctl hands its lock to us within the TTL and a second", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const { lock } = yield* connect({ endpoints: server.endpoint })
          const etcdctl = yield* run(server.etcdctlPath, [
            "--endpoints",
            server.endpoint,
            "lock",
            "--ttl",
            "3",
            "/locks/dead1"
          ])
          yield* etcdctl.line("/locks/dead1/")
          const next = yield* Effect.forkChild(elapsed(lock.acquire("dead1")))
          yield* lock.waiters("dead1").pipe(Effect.repeat({ until: (entries) => entries.length === 2 }))
          yield* etcdctl.kill("SIGKILL")
          // Three times the bar: the machine is shared.
          assert.isBelow(yield* Fiber.join(next), 12)
        }))

      it.effect("kill -9 of our process hands its lock to etcdctl within the TTL and a second", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const holder = yield* run(process.execPath, [fixture, server.endpoint, "dead2", "3"])
          yield* holder.line("held")
          const etcdctl = yield* run(server.etcdctlPath, ["--endpoints", server.endpoint, "lock", "/locks/dead2"])
          const { lock } = yield* connect({ endpoints: server.endpoint })
          yield* lock.waiters("dead2").pipe(Effect.repeat({ until: (entries) => entries.length === 2 }))
          yield* holder.kill("SIGKILL")
          assert.isBelow(yield* elapsed(etcdctl.line("/locks/dead2/")), 12)
        }))

      it.effect("two layers of one process, and the fibers of each, exclude each other", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const [one, other] = yield* Effect.all([
            connect({ endpoints: server.endpoint }),
            connect({ endpoints: server.endpoint })
          ])
          let inside = 0
          const tokens: Array<bigint> = []
          const work = ({ lock }: typeof one) =>
            lock.withLock("shared")((handle) =>
              Effect.gen(function*() {
                assert.strictEqual(++inside, 1)
                tokens.push(handle.fencingToken)
                yield* Effect.yieldNow
                inside--
              })
            )
          yield* Effect.forEach(Array.from({ length: 200 }, (_, i) => i), (i) => work(i % 2 === 0 ? one : other), {
            concurrency: 16
          })
          assert.strictEqual(tokens.length, 200)
          assert.deepStrictEqual(tokens, [...tokens].sort((a, b) => (a < b ? -1 : 1)))
          assert.deepStrictEqual(yield* one.lock.waiters("shared"), [])
        }))

      it.effect("a lost lease is known before the server gives the lock away", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const proxy = yield* makeProxy({ port: server.port })
          const cut = yield* connect({ endpoints: proxy.endpoint, timeout: "1 second" })
          const other = yield* connect({ endpoints: server.endpoint })
          const held = yield* Deferred.make<void>()
          const known = yield* Effect.forkChild(
            cut.lock.withLock("partition", { ttl: "3 seconds" })(
              Effect.andThen(Deferred.succeed(held, undefined), Effect.never)
            ).pipe(
              Effect.flip,
              Effect.flatMap((error) => Effect.map(Clock.monotonicTimeNanos, (at) => ({ error, at })))
            )
          )
          yield* Deferred.await(held)
          yield* proxy.freeze
          yield* Effect.scoped(other.lock.acquire("partition"))
          const entered = yield* Clock.monotonicTimeNanos
          const { at, error } = yield* Fiber.join(known)
          assert.strictEqual(error._tag, "LockLost")
          assert.isTrue(at < entered)
          yield* proxy.thaw
        }))

      it.effect("an acquire that timed out leaves no key", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const { etcd, lock } = yield* connect({ endpoints: server.endpoint })
          const other = yield* connect({ endpoints: server.endpoint })
          yield* other.lock.acquire("busy")
          for (let i = 0; i < 20; i++) {
            assert.isTrue(Option.isNone(yield* Effect.timeoutOption(lock.acquire("busy"), Duration.millis(i * 2))))
            assert.strictEqual((yield* etcd.range({ prefix: "/locks/busy/" })).count, 1)
          }
        }))
    }
  )

suite("3.5")
suite("3.4")

layer(TestEtcd.layer("3.5"), { timeout: "60 seconds", excludeTestServices: true })("ten thousand locks", (it) => {
  it.effect(
    "taken and released leave no key, no lease but the shared ones, and flat memory",
    () =>
      Effect.gen(function*() {
        const server = yield* TestEtcd
        const { etcd, lock } = yield* connect({ endpoints: server.endpoint })
        const cycles = (count: number) =>
          Effect.forEach(
            Array.from({ length: count }, (_, i) => i),
            (i) => lock.withLock(`cycle/${i % 100}`)(Effect.void),
            {
              concurrency: 32,
              discard: true
            }
          )
        const used = Effect.sync(() => {
          collectGarbage()
          return process.memoryUsage().heapUsed
        })
        yield* cycles(2_000)
        const before = yield* used
        yield* cycles(8_000)
        const after = yield* used
        assert.strictEqual((yield* etcd.range({ prefix: "/locks/" })).count, 0)
        assert.isAtMost((yield* leases(server)).length, 2)
        assert.isBelow(after - before, 8 * 1024 * 1024)
      }),
    300_000
  )
})

describe("a frozen follower", () => {
  it.live(
    "that applies a claim after its caller gave up leaves no entry that blocks the lock",
    () =>
      Effect.gen(function*() {
        const cluster = yield* makeCluster({ version: "3.5" })
        const leader = yield* cluster.leader
        const follower = cluster.members.find((member) => member.endpoint !== leader.endpoint)
        if (follower === undefined) return yield* Effect.die("no follower")
        const through = yield* connect({
          endpoints: follower.endpoint,
          timeout: "1 second",
          retry: { maxAttempts: 1, initialDelay: "10 millis" }
        })
        const other = yield* connect({ endpoints: leader.endpoint })
        // Keeps the shared lease in use, so that an orphan would live as long.
        const bystander = yield* Scope.make()
        let late = 0
        for (let round = 0; round < 10; round++) {
          const key = `late/${round}`
          yield* Effect.scoped(Effect.gen(function*() {
            // Keeps the shared lease in use, so that an orphan would live as long.
            yield* through.lock.acquire(`bystander/${round}`, { ttl: "6 seconds" })
            const attempt = yield* Effect.forkChild(
              Effect.scoped(Effect.timeoutOption(through.lock.acquire(key, { ttl: "6 seconds" }), "300 millis"))
            )
            yield* Effect.yieldNow
            yield* follower.pause
            yield* Effect.exit(Fiber.join(attempt))
            yield* follower.resume
            // The claim may appear now, or have been there all along; within the next beats the lock must be free.
            const free = other.lock.tryAcquire(key).pipe(
              Effect.tapErrorTag("LockHeld", () => Effect.sync(() => late++)),
              Effect.retry({ schedule: Schedule.spaced("100 millis"), while: (error) => error._tag === "LockHeld" }),
              Effect.timeout("8 seconds")
            )
            yield* Effect.sleep("500 millis")
            yield* free
          }))
        }
        yield* Scope.close(bystander, Exit.void)
        yield* Effect.logInfo(`claims seen after their caller gave up: ${late}`)
      }),
    180_000
  )
})
