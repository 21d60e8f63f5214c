import { assert, describe, it } from "@effect/vitest"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import { Operation } from "../../src/Etcd.ts"
import { EtcdLive } from "../../src/EtcdLive.ts"
import type { EtcdOptions } from "../../src/EtcdOptions.ts"
import { Lock } from "../../src/Lock.ts"
import { as, asRoot, setUpAuth } from "../utils/auth.ts"
import { makeEtcdServer } from "../utils/EtcdServer.ts"
import { connect } from "../utils/live.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { type Identity, makeAuthority, makeTlsServer } from "../utils/tls.ts"
import { record } from "./report.ts"

const versions = ["3.5", "3.4"] as const

const authority = makeAuthority()
const stranger = makeAuthority("Somebody else's authority")
/** Names of the address that tests connect to. */
const loopback = { commonName: "etcd", ip: ["127.0.0.1"] }
const local = authority.issue(loopback)
const client = authority.issue({ commonName: "client" })

const pair = ({ cert, key }: Identity) => ({ cert, key: Redacted.make(key) })
const put = (key: string, value = "1") => ({ success: [Operation.put(key, value)] })

/** Why the layer does not come up, and how long it takes to say so. */
const refusal = Effect.fnUntraced(function*(options: EtcdOptions) {
  const [time, error] = yield* Effect.timed(Effect.scoped(Effect.flip(connect(options))))
  return { error, seconds: Duration.toSeconds(time) }
})

describe("TLS", () => {
  for (const version of versions) {
    describe(`on etcd ${version}`, () => {
      it.live("calls, beats and watches go on over cuts, and so does a lock", () =>
        Effect.gen(function*() {
          const server = yield* makeTlsServer({ authority, identity: local, version })
          const proxy = yield* makeProxy({ port: server.port })
          const etcd = yield* connect({ endpoints: proxy.endpoint, tls: { ca: authority.cert } })
          const { revision } = yield* etcd.txn(put("/a", "0"))
          const lease = yield* etcd.leaseGrant(Duration.seconds(30))
          const watch = yield* etcd.watch({ prefix: "/a", startRevision: revision }).pipe(
            Stream.filter((item) => item._tag === "Batch"),
            Stream.take(11),
            Stream.runCollect,
            Effect.forkChild({ startImmediately: true })
          )
          for (let i = 1; i <= 10; i++) {
            yield* proxy.cut
            yield* etcd.range({ key: "/a" })
            yield* etcd.txn(put("/a", String(i)))
            yield* etcd.leaseKeepAlive(lease.id)
          }
          const seen = yield* Effect.timeout(Fiber.join(watch), "30 seconds")
          assert.deepStrictEqual(
            seen.map((item) => item.revision),
            Array.from({ length: 11 }, (_, i) => revision + BigInt(i))
          )
          record({ what: "watch over TLS, 10 cuts", bar: "0 lost", measured: "0 lost", ok: true, version })
        }))

      it.live("https:// alone trusts the machine's authorities, and so not this one", () =>
        Effect.gen(function*() {
          const server = yield* makeTlsServer({ authority, identity: local, version })
          const { error } = yield* refusal({ endpoints: `https://${server.endpoint}` })
          assert.match(error.message, /unable to verify|self-signed|local issuer/)
          assert.match(error.message, /tls\.ca/)
          yield* connect({ endpoints: `https://${server.endpoint}`, tls: { ca: authority.cert } })
        }))

      it.live("a server of another authority is refused, with a word on tls.ca", () =>
        Effect.gen(function*() {
          const server = yield* makeTlsServer({ authority, identity: local, version })
          const { error, seconds } = yield* refusal({ endpoints: server.endpoint, tls: { ca: stranger.cert } })
          assert.strictEqual(error._tag === "EtcdError" && error.reason._tag, "Unavailable")
          assert.include(error.message, server.endpoint)
          assert.match(error.message, /certificate is not trusted: check the option tls\.ca/)
          assert.isBelow(seconds, 15)
          record({
            what: "TLS: wrong authority refused at the start",
            bar: "5 s",
            measured: `${seconds.toFixed(1)} s`,
            ok: seconds <= 5.5,
            version
          })
        }))

      it.live("a certificate for another name is refused, unless serverName says so", () =>
        Effect.gen(function*() {
          const identity = authority.issue({ commonName: "etcd", dns: ["etcd.test"] })
          const server = yield* makeTlsServer({ authority, identity, version })
          const tls = { ca: authority.cert }
          const { error } = yield* refusal({ endpoints: server.endpoint, tls })
          assert.match(error.message, /127\.0\.0\.1 is not in the cert.*for other names.*tls\.serverName/)
          const other = yield* refusal({ endpoints: server.endpoint, tls: { ...tls, serverName: "other.test" } })
          assert.match(other.error.message, /other\.test/)
          const etcd = yield* connect({ endpoints: server.endpoint, tls: { ...tls, serverName: "etcd.test" } })
          yield* etcd.txn(put("/a"))
        }))

      it.live("each member is held to the name of its own endpoint, not to that of another", () =>
        Effect.gen(function*() {
          const named = authority.issue({ commonName: "etcd", dns: ["localhost"] })
          const first = yield* makeTlsServer({ authority, identity: local, version })
          const second = yield* makeTlsServer({ authority, identity: named, version })
          const tls = { ca: authority.cert }
          const right = [first.endpoint, `localhost:${second.port}`]
          const both = yield* connect({ endpoints: right, tls, retry: { maxAttempts: 1 } })
          yield* Effect.forEach(Array.from({ length: 10 }), () => both.range({ key: "/a" }))
          // As if it were the first one's.
          const wrong = [first.endpoint, second.endpoint]
          const etcd = yield* connect({ endpoints: wrong, tls, retry: { maxAttempts: 1 } })
          yield* Effect.forEach(Array.from({ length: 10 }), () => etcd.range({ key: "/a" }))
          yield* first.kill
          const refused = yield* Effect.flip(etcd.range({ key: "/a" })).pipe(
            Effect.repeat({ until: (error) => /not in the cert/.test(error.message), times: 50 })
          )
          assert.match(refused.message, /127\.0\.0\.1 is not in the cert/)
        }))

      it.live("an expired certificate is refused, and is called so", () =>
        Effect.gen(function*() {
          const identity = authority.issue({ ...loopback, validFor: -1 })
          const server = yield* makeTlsServer({ authority, identity, version })
          const { error } = yield* refusal({ endpoints: server.endpoint, tls: { ca: authority.cert } })
          assert.match(error.message, /certificate has expired.*renew it/)
        }))

      it.live(
        "a server that wants client certificates takes one of its authority, and no other",
        () =>
          Effect.gen(function*() {
            const server = yield* makeTlsServer({ authority, identity: local, version, mutual: true })
            const tls = { ca: authority.cert }
            const etcd = yield* connect({ endpoints: server.endpoint, tls: { ...tls, ...pair(client) } })
            yield* etcd.txn(put("/a"))
            const wrong = {
              none: tls,
              "of a stranger": { ...tls, ...pair(stranger.issue({ commonName: "client" })) },
              expired: { ...tls, ...pair(authority.issue({ commonName: "client", validFor: -1 })) }
            }
            for (const [name, options] of Object.entries(wrong)) {
              const { error } = yield* refusal({ endpoints: server.endpoint, tls: options })
              assert.match(error.message, /client certificate.*tls\.cert and tls\.key/, name)
            }
            // Who was let in notices nothing of the others.
            yield* etcd.txn(put("/a"))
          }),
        60_000
      )

      it.live("without TLS the server's silence is explained, and the other way round", () =>
        Effect.gen(function*() {
          const secure = yield* makeTlsServer({ authority, identity: local, version })
          const plain = yield* refusal({ endpoints: secure.endpoint })
          assert.match(plain.error.message, /Does it want TLS\? Then write https:\/\//)
          const insecure = yield* makeEtcdServer({ version })
          const { error } = yield* refusal({ endpoints: insecure.endpoint, tls: { ca: authority.cert } })
          assert.match(error.message, /Does it speak TLS/)
        }))

      it.live("users and passwords over mTLS", () =>
        Effect.gen(function*() {
          const server = yield* makeTlsServer({ authority, identity: local, version, mutual: true })
          yield* setUpAuth(server, { guest: ["/guest/"] })
          const tls = { ca: authority.cert, ...pair(client) }
          const etcd = yield* connect({ endpoints: server.endpoint, tls, ...as("guest") })
          yield* etcd.txn(put("/guest/a"))
          const denied = yield* Effect.flip(etcd.txn(put("/other/a")))
          assert.strictEqual(denied.reason._tag, "PermissionDenied")
          const wrong = yield* refusal({ endpoints: server.endpoint, tls, ...as("guest", "wrong-password") })
          assert.strictEqual(wrong.error._tag === "EtcdError" && wrong.error.reason._tag, "Unauthenticated")
          assert.notInclude(wrong.error.message, "wrong-password")
          yield* asRoot(server)("get", "/guest/a")
        }))
    })
  }

  it.live("a renewed certificate is taken; a server that comes back as a stranger gets no request until it is itself again", () =>
    Effect.gen(function*() {
      const server = yield* makeTlsServer({ authority, identity: local })
      const etcd = yield* connect({
        endpoints: server.endpoint,
        tls: { ca: authority.cert },
        retry: { maxAttempts: 3 }
      })
      yield* etcd.txn(put("/a"))
      const comeBackAs = Effect.fnUntraced(function*({ cert, key }: Identity) {
        yield* server.kill
        Fs.writeFileSync(server.paths.cert, cert)
        Fs.writeFileSync(server.paths.key, key)
        yield* server.start
      })
      // A write that meets the old connection is ambiguous.
      const works = etcd.range({ key: "/a" }).pipe(Effect.retry({ schedule: Schedule.spaced("50 millis") }))
      yield* comeBackAs(authority.issue(loopback))
      yield* Effect.timeout(works, "10 seconds")
      yield* comeBackAs(stranger.issue(loopback))
      const refused = yield* Effect.flip(etcd.range({ key: "/a" })).pipe(
        // Before the first attempt to connect has ended nobody knows why.
        Effect.repeat({ schedule: Schedule.spaced("50 millis"), until: ({ message }) => /certificate/.test(message) }),
        Effect.timeout("10 seconds")
      )
      assert.isTrue(refused.reason._tag === "Unavailable" && !refused.reason.sent)
      const { reason } = yield* Effect.flip(etcd.txn(put("/a")))
      assert.strictEqual(reason._tag === "Unavailable" && reason.sent, false)
      yield* comeBackAs(local)
      yield* Effect.timeout(works, "10 seconds")
    }))

  it.live("files and the environment: PEM by path, the key as a secret", () =>
    Effect.gen(function*() {
      const server = yield* makeTlsServer({ authority, identity: local, mutual: true })
      const env = {
        ETCD_ENDPOINTS: `https://${server.endpoint}`,
        ETCD_TLS_CA: server.paths.ca,
        ETCD_TLS_CERT: client.cert,
        ETCD_TLS_KEY: client.key
      }
      const provider = ConfigProvider.fromUnknown(env)
      yield* Effect.gen(function*() {
        const lock = yield* Lock
        yield* lock.withLock("tls")(Effect.void)
      }).pipe(Effect.provide(Layer.fresh(EtcdLive).pipe(Layer.provide(ConfigProvider.layer(provider)))))
    }))

  it.live("half configured is refused before anything is sent, and names what is missing", () =>
    Effect.gen(function*() {
      const other = authority.issue({ commonName: "other" })
      const options: ReadonlyArray<readonly [EtcdOptions, RegExp]> = [
        [{ tls: { cert: client.cert } }, /tls\.key.*tls\.cert/],
        [{ tls: { key: client.key } }, /tls\.cert.*tls\.key/],
        [{ tls: { cert: client.cert, key: other.key } }, /belong together/],
        [{ tls: { cert: client.cert, key: Redacted.make("not a key") } }, /tls\.key.*PEM/],
        [{ tls: { ca: "/no/such/file.pem" } }, /tls\.ca.*ENOENT/],
        [{ tls: { ca: "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----" } }, /tls\.ca.*PEM/],
        [{ tls: { ca: client.key } }, /tls\.ca.*PEM/],
        [{ tls: { ca: "" } }, /tls\.ca/],
        [{ tls: { serverName: "" } }, /tls\.serverName/],
        [{ endpoints: "http://127.0.0.1:2379", tls: { ca: authority.cert } }, /http:\/\//],
        [{ endpoints: ["https://127.0.0.1:2379", "http://127.0.0.1:2380"] }, /same scheme/],
        [{ endpoints: ["https://127.0.0.1:2379", "127.0.0.1:2380"] }, /same scheme/]
      ]
      for (const [option, message] of options) {
        const { error, seconds } = yield* refusal(option)
        assert.strictEqual(error._tag, "InvalidOption", String(message))
        assert.match(error.message, message)
        assert.notMatch(error.message, /BEGIN|PRIVATE/)
        assert.isBelow(seconds, 2)
      }
    }))
})
