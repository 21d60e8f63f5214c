/** Registrations come back after whatever took them away, and a process can end while its servers are frozen. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { Registration } from "../../src/index.ts"
import { makeCluster } from "../utils/Cluster.ts"
import { type EtcdServer, type EtcdVersion, makeEtcdServer } from "../utils/EtcdServer.ts"
import { run } from "../utils/processes.ts"
import { makeProxy, type Proxy } from "../utils/Proxy.ts"
import { connect, connectThroughProxy, instance, ms, now, quiet, summary, until } from "./clients.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] satisfies ReadonlyArray<EtcdVersion>
const ttl = 2
const bar = ttl * 1000 / 3 + 2000
const fixture = new URL("../fixtures/serviceUntilTold.ts", import.meta.url).pathname

interface Outage {
  readonly name: string
  readonly begin: (server: EtcdServer, proxy: Proxy) => Effect.Effect<unknown>
  readonly end: (server: EtcdServer, proxy: Proxy) => Effect.Effect<unknown>
}

const outages: ReadonlyArray<Outage> = [
  { name: "etcd killed and started", begin: (server) => server.kill, end: (server) => server.start },
  { name: "etcd frozen", begin: (server) => server.pause, end: (server) => server.resume },
  { name: "partition", begin: (_, proxy) => proxy.freeze, end: (_, proxy) => proxy.thaw },
  {
    name: "connections refused",
    begin: (_, proxy) => Effect.andThen(proxy.refuse, proxy.cut),
    end: (_, proxy) => proxy.accept
  }
]

const count = 10

const allRegistered = (registrations: ReadonlyArray<Registration>) =>
  Effect.map(
    Effect.forEach(registrations, ({ status }) => status.get),
    (all) => all.every((status) => status === "Registered")
  )

for (const version of versions) {
  describe(`registrations, etcd ${version}`, () => {
    for (const { begin, end, name } of outages) {
      it.live(`${name}, for half the TTL up to twenty times the TTL: all are back`, () =>
        Effect.gen(function*() {
          const measured = yield* Effect.forEach([0.5, 1, 5, 20], (times) =>
            Effect.gen(function*() {
              const server = yield* makeEtcdServer({ version })
              const { proxy, registry } = yield* connectThroughProxy(server)
              const registrations = yield* Effect.forEach(
                Array.from({ length: count }, (_, i) => `i${i}`),
                (id) => registry.register(instance("svc", id), { ttl: `${ttl} seconds` })
              )
              yield* begin(server, proxy)
              yield* Effect.sleep(times * ttl * 1000)
              yield* end(server, proxy)
              const back = now()
              const other = yield* connect({ endpoints: server.endpoint })
              const there = Effect.map(other.registry.discover("svc"), ({ length }) => length === count)
              yield* until(
                `all are registered after ${times} x TTL`,
                Effect.zipWith(there, allRegistered(registrations), (a, b) => a && b),
                60_000
              )
              // And stay: what looked registered may have been on a lease that was about to end.
              let since = now()
              const settled = now() + ttl * 1500
              while (now() < settled) {
                if (!(yield* there)) since = Number.NaN
                else if (Number.isNaN(since)) since = now()
                yield* Effect.sleep("50 millis")
              }
              yield* until("all are registered for good", there, 60_000)
              if (Number.isNaN(since)) since = now()
              return { times, took: since - back }
            }), { concurrency: "unbounded" })
          const worst = Math.max(...measured.map(({ took }) => took))
          record({
            what: `${count} registrations after an outage (${name})`,
            bar: `all back within TTL/3 + 2 s (${ms(bar)})`,
            measured: measured.map(({ times, took }) => `${times} x TTL: ${ms(took)}`).join(", "),
            ok: worst <= bar,
            version
          })
          assert.isBelow(worst, 3 * bar)
        }).pipe(quiet), 150_000)
    }

    it.live("a deleted key and a revoked lease: all are back", () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer({ version })
        const { registry } = yield* connect({ endpoints: server.endpoint })
        const other = yield* connect({ endpoints: server.endpoint })
        const registrations = yield* Effect.forEach(
          Array.from({ length: count }, (_, i) => `i${i}`),
          (id) => registry.register(instance("svc", id), { ttl: "6 seconds" })
        )
        const entries = Effect.map(other.etcd.range({ prefix: "/services/svc/" }), ({ kvs }) => kvs)
        const bar = 6000 / 3 + 2000
        const accidents = [
          ["one key deleted", server.etcdctl("del", "/services/svc/i3")],
          ["all keys deleted", server.etcdctl("del", "--prefix", "/services/svc/")],
          [
            "lease revoked",
            Effect.flatMap(entries, ([kv]) => server.etcdctl("lease", "revoke", (kv?.lease ?? 0n).toString(16)))
          ]
        ] as const
        for (const [name, accident] of accidents) {
          const times: Array<number> = []
          for (let round = 0; round < 3; round++) {
            const { revision } = yield* other.etcd.range({ key: "/none" })
            yield* accident
            const at = now()
            yield* until(
              `all are back: ${name}`,
              Effect.zipWith(entries, allRegistered(registrations), (kvs, registered) =>
                registered && kvs.length === count && kvs.some(({ createRevision }) =>
                  createRevision > revision
                )),
              60_000
            )
            times.push(now() - at)
          }
          const worst = Math.max(...times)
          record({
            what: `registrations after an accident: ${name}`,
            bar: `all back within TTL/3 + 2 s (${ms(bar)})`,
            measured: summary(times),
            ok: worst <= bar,
            version
          })
          assert.isBelow(worst, 3 * bar)
        }
      }).pipe(quiet), 90_000)
  })
}

describe("the end of a process whose servers are frozen", () => {
  const timeout = 2000
  const close = Effect.fnUntraced(function*(what: string, endpoints: string, freeze: Effect.Effect<unknown>) {
    const service = yield* run(process.execPath, [fixture, endpoints, `${timeout}`])
    yield* Effect.timeout(service.line("ready"), "30 seconds")
    yield* freeze
    // Calls are in flight by then.
    yield* Effect.sleep("300 millis")
    const at = now()
    yield* service.kill("SIGTERM")
    const layer = yield* Effect.forkChild(Effect.map(service.line("closed its layer"), () => now() - at))
    const closed = yield* Effect.timeout(Effect.map(service.line("closed its scope"), () => now() - at), "60 seconds")
    const everything = yield* Effect.timeout(Fiber.join(layer), "60 seconds")
    yield* Effect.timeout(service.ended, "60 seconds")
    const ended = now() - at
    record({
      what: `scope closed: ${what}`,
      bar: `each scope returns within the request timeout (${ms(timeout)}); the process exits`,
      measured: `scope of a lock and an instance ${ms(closed)}, then layer ${ms(everything - closed)}, then process ${
        ms(ended - everything)
      }`,
      ok: closed <= timeout + 200 && everything - closed <= timeout + 200 && ended - everything <= 1000
    })
    assert.isBelow(closed, 3 * timeout)
    assert.isBelow(everything - closed, 3 * timeout)
    assert.isBelow(ended - everything, 3000)
  })

  it.live("the only server is frozen", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      yield* close("the only server frozen", server.endpoint, server.pause)
    }), 90_000)

  it.live("all three servers are frozen", () =>
    Effect.gen(function*() {
      const cluster = yield* makeCluster()
      yield* close(
        "three servers frozen",
        cluster.endpoints.join(","),
        Effect.forEach(cluster.members, ({ pause }) => pause, { discard: true })
      )
    }), 90_000)

  it.live("the server accepts connections and never answers", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const proxy = yield* makeProxy(server)
      yield* close("connections accepted, never answered", proxy.endpoint, Effect.andThen(proxy.freeze, proxy.cut))
    }), 90_000)

  it.live("the server is gone", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      yield* close("the server gone", server.endpoint, server.kill)
    }), 90_000)

  it.live("nothing is wrong, and nothing is left behind", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      yield* close("nothing wrong", server.endpoint, Effect.void)
      assert.strictEqual((yield* server.etcdctl("lease", "list")).trim(), "found 0 leases")
    }), 90_000)
})
