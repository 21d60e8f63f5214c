import { assert, describe, it } from "@effect/vitest"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import { TestClock } from "effect/testing"
import { EtcdOptions } from "../src/EtcdOptions.ts"
import { makeSettings } from "../src/internal/etcd3/settings.ts"

const refused = (options: EtcdOptions, option: string, rule: RegExp) =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(makeSettings(options))
    assert.strictEqual(error.option, option)
    assert.match(error.rule, rule)
    return error
  })

const password = Redacted.make("hunter2")

describe("options", () => {
  it.effect("have defaults", () =>
    Effect.gen(function*() {
      const { retry, ...settings } = yield* makeSettings({})
      assert.isTrue(Schedule.isSchedule(retry))
      assert.deepStrictEqual(settings, {
        batching: "all",
        endpoints: [{ host: "127.0.0.1", port: 2379 }],
        tls: undefined,
        credentials: undefined,
        timeout: Duration.seconds(5),
        dialTimeout: Duration.seconds(5),
        namespace: ""
      })
    }))

  it.effect("take endpoints with and without a scheme, host names, addresses, and a list as one string", () =>
    Effect.gen(function*() {
      const endpoints = (input: EtcdOptions["endpoints"]) =>
        Effect.map(makeSettings({ endpoints: input }), (s) => s.endpoints)
      assert.deepStrictEqual(yield* endpoints("a:1, b.c-d.example.:2,127.0.0.1:3,[::1]:4"), [
        { host: "a", port: 1 },
        { host: "b.c-d.example.", port: 2 },
        { host: "127.0.0.1", port: 3 },
        { host: "::1", port: 4 }
      ])
      assert.deepStrictEqual(yield* endpoints(["http://a:1/", "http://a:1"]), [{ host: "a", port: 1 }])
    }))

  it.effect("refuse endpoints that do not parse, and say what one looks like", () =>
    Effect.gen(function*() {
      for (
        const endpoint of [
          "localhost",
          "http://localhost",
          "::1:2379",
          "ftp://a:1",
          "a:1/path",
          "a:b",
          "a:1:2",
          ":2379"
        ]
      ) {
        const error = yield* Effect.flip(makeSettings({ endpoints: [endpoint] }))
        assert.strictEqual(error.option, "endpoints")
        assert.include(error.message, JSON.stringify(endpoint))
      }
      yield* refused({ endpoints: "localhost" }, "endpoints", /must be host:port/)
      yield* refused({ endpoints: [] }, "endpoints", /at least one/)
      yield* refused({ endpoints: "" }, "endpoints", /empty/)
      yield* refused({ endpoints: "a:1,,b:2" }, "endpoints", /empty/)
      yield* refused({ endpoints: "a:0" }, "endpoints", /from 1 to 65535/)
      yield* refused({ endpoints: "a:65536" }, "endpoints", /from 1 to 65535/)
      yield* refused({ endpoints: "[::g]:1" }, "endpoints", /IPv6/)
      yield* refused({ endpoints: "256.0.0.1:1" }, "endpoints", /host name or an IP address/)
      yield* refused({ endpoints: "a b:1" }, "endpoints", /host name/)
      yield* refused({ endpoints: "https://a:1,b:1" }, "endpoints", /same scheme/)
      yield* refused({ endpoints: "https://a:1,http://b:1" }, "endpoints", /same scheme/)
    }))

  it.effect("never show a password", () =>
    Effect.gen(function*() {
      const error = yield* refused({ endpoints: "http://root:hunter2@a:1" }, "endpoints", /username and password/)
      assert.notInclude(error.message, "hunter2")
    }))

  it.effect("want a user name and a password together", () =>
    Effect.gen(function*() {
      yield* refused({ username: "root" }, "password", /with username/)
      yield* refused({ password }, "username", /with password/)
      yield* refused({ username: "", password }, "username", /empty/)
      yield* refused({ username: "root", password: Redacted.make("") }, "password", /empty/)
      assert.deepStrictEqual((yield* makeSettings({ username: "root", password })).credentials, {
        username: "root",
        password
      })
    }))

  it.effect("switch TLS on by https or by the tls option", () =>
    Effect.gen(function*() {
      const none = { ca: undefined, cert: undefined, key: undefined, serverName: undefined }
      assert.deepStrictEqual((yield* makeSettings({ endpoints: "https://a:1" })).tls, none)
      assert.deepStrictEqual((yield* makeSettings({ endpoints: "a:1", tls: {} })).tls, none)
      assert.strictEqual((yield* makeSettings({ endpoints: "http://a:1" })).tls, undefined)
      yield* refused({ endpoints: "http://a:1", tls: {} }, "tls", /https/)
    }))

  it.effect("refuse TLS files that cannot be read or used", () =>
    Effect.gen(function*() {
      const pem = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
      yield* refused({ tls: { cert: pem } }, "tls.key", /with tls.cert/)
      yield* refused({ tls: { key: pem } }, "tls.cert", /with tls.key/)
      yield* refused({ tls: { ca: "" } }, "tls.ca", /empty/)
      yield* refused({ tls: { ca: "/does/not/exist" } }, "tls.ca", /ENOENT/)
      yield* refused({ tls: { cert: pem, key: Redacted.make("/does/not/exist") } }, "tls.key", /ENOENT/)
      yield* refused({ tls: { cert: pem, key: pem } }, "tls", /PEM/)
      yield* refused({ tls: { serverName: "" } }, "tls.serverName", /empty/)
      // A file that is there, but is something else.
      const file = new URL(import.meta.url).pathname
      yield* refused({ tls: { cert: file, key: file } }, "tls", /PEM/)
    }))

  it.effect("want times that are finite and greater than zero", () =>
    Effect.gen(function*() {
      for (const option of ["timeout", "dialTimeout"] as const) {
        for (const value of [0, -1, Infinity, NaN, "soon" as "1 second"]) {
          yield* refused({ [option]: value }, option, /must be/)
        }
        yield* refused({ [option]: "30 days" }, option, /at most/)
      }
      assert.deepStrictEqual((yield* makeSettings({ timeout: "2 seconds" })).timeout, Duration.seconds(2))
    }))

  it.effect("want a retry record that makes sense", () =>
    Effect.gen(function*() {
      yield* refused({ retry: { maxAttempts: 0 } }, "retry.maxAttempts", /from 1/)
      yield* refused({ retry: { maxAttempts: 1.5 } }, "retry.maxAttempts", /whole/)
      yield* refused({ retry: { multiplier: 0.5 } }, "retry.multiplier", /at least 1/)
      yield* refused({ retry: { multiplier: Infinity } }, "retry.multiplier", /finite/)
      yield* refused({ retry: { initialDelay: 0 } }, "retry.initialDelay", /greater than zero/)
      yield* refused({ retry: { maxDelay: Infinity } }, "retry.maxDelay", /finite/)
      yield* refused(
        { retry: { initialDelay: "2 seconds", maxDelay: "1 second" } },
        "retry.initialDelay",
        /retry.maxDelay/
      )
      const own = Schedule.recurs(1)
      assert.strictEqual((yield* makeSettings({ retry: own })).retry, own)
    }))

  it.effect("make a schedule of it: exponential, capped, jittered, bounded", () =>
    Effect.gen(function*() {
      const { retry } = yield* makeSettings({
        retry: { maxAttempts: 5, initialDelay: "100 millis", maxDelay: "300 millis", multiplier: 2 }
      })
      const at: Array<number> = []
      const fiber = yield* Effect.clockWith((clock) =>
        Effect.suspend(() => {
          at.push(clock.currentTimeMillisUnsafe())
          return Effect.fail("no")
        })
      ).pipe(Effect.retry(retry), Effect.forkChild({ startImmediately: true }))
      for (let i = 0; i < 2000; i++) yield* TestClock.adjust("1 millis")
      assert.isDefined(fiber.pollUnsafe())
      yield* Effect.exit(Fiber.join(fiber))
      const delays = at.slice(1).map((time, i) => time - (at[i] ?? 0))
      assert.strictEqual(delays.length, 4)
      for (const [i, expected] of [100, 200, 300, 300].entries()) {
        assert.closeTo(delays[i] ?? 0, expected, expected * 0.2 + 1)
      }

      const once = yield* makeSettings({ retry: { maxAttempts: 1 } })
      let attempts = 0
      yield* Effect.exit(Effect.retry(Effect.suspend(() => (attempts++, Effect.fail("no"))), once.retry))
      assert.strictEqual(attempts, 1)
    }))

  it.effect("keep the key spaces of the services apart", () =>
    Effect.gen(function*() {
      yield* refused({ lockPrefix: "locks" }, "lockPrefix", /start with "\/"/)
      yield* refused({ registryPrefix: "/" }, "registryPrefix", /empty/)
      yield* refused({ configPrefix: "/config/" }, "configPrefix", /end with/)
      yield* refused({ configPrefix: "/locks" }, "lockPrefix", /must not be configPrefix/)
      yield* refused({ lockPrefix: "/config/locks" }, "lockPrefix", /below/)
      yield* makeSettings({ lockPrefix: "/configs" })
      // @ts-expect-error -- no name of a layout
      yield* refused({ registryLayout: "nacos" }, "registryLayout", /one of coord, go-etcd, kratos, go-zero, or a/)
      yield* refused({ registryPrefix: "services" }, "registryPrefix", /start with "\/"/)
      yield* refused({ registryPrefix: "" }, "registryPrefix", /start with "\/"/)
      yield* refused({ registryLayout: "kratos", registryPrefix: "" }, "registryPrefix", /empty/)
      yield* refused({ registryLayout: "go-zero", registryPrefix: "a//b" }, "registryPrefix", /empty segment/)
      yield* refused({ registryLayout: "go-etcd", registryPrefix: "/locks/x" }, "registryPrefix", /below/)
      yield* refused({ registryLayout: "kratos", lockPrefix: "/microservices/l" }, "lockPrefix", /below/)
      yield* makeSettings({ registryLayout: "go-etcd" })
      yield* makeSettings({ registryLayout: "go-zero", registryPrefix: "rpc" })
      yield* makeSettings({ registryLayout: "kratos", registryPrefix: "apps/live" })
      yield* refused({ namespace: "\ud800" }, "namespace", /Unicode/)
      yield* refused({ namespace: "a\u0000" }, "namespace", /control/)
      yield* refused({ namespace: "x".repeat(2000) }, "namespace", /1024/)
    }))
})

describe("EtcdOptions.fromEnv", () => {
  const read = (env: Record<string, string>) => EtcdOptions.fromEnv.parse(ConfigProvider.fromEnv({ env }))

  it.effect("reads every option", () =>
    Effect.gen(function*() {
      const options = yield* read({
        ETCD_ENDPOINTS: "https://a:1,https://b:2",
        ETCD_USERNAME: "root",
        ETCD_PASSWORD: "hunter2",
        ETCD_TIMEOUT: "3 seconds",
        ETCD_DIAL_TIMEOUT: "4 seconds",
        ETCD_RETRY_MAX_ATTEMPTS: "3",
        ETCD_RETRY_INITIAL_DELAY: "10 millis",
        ETCD_RETRY_MAX_DELAY: "20 millis",
        ETCD_RETRY_MULTIPLIER: "1.5",
        ETCD_TLS_CA: "/ca.pem",
        ETCD_TLS_CERT: "/cert.pem",
        ETCD_TLS_KEY: "/key.pem",
        ETCD_TLS_SERVER_NAME: "etcd",
        ETCD_NAMESPACE: "app",
        ETCD_LOCK_PREFIX: "/l",
        ETCD_ELECTION_PREFIX: "/e",
        ETCD_ALLOCATOR_PREFIX: "/a",
        ETCD_SEMAPHORE_PREFIX: "/sem",
        ETCD_READ_WRITE_LOCK_PREFIX: "/rw",
        ETCD_REGISTRY_PREFIX: "/r",
        ETCD_REGISTRY_LAYOUT: "kratos",
        ETCD_CONFIG_PREFIX: "/c"
      })
      assert.deepStrictEqual(options, {
        endpoints: "https://a:1,https://b:2",
        username: "root",
        password,
        timeout: Duration.seconds(3),
        dialTimeout: Duration.seconds(4),
        retry: { maxAttempts: 3, initialDelay: Duration.millis(10), maxDelay: Duration.millis(20), multiplier: 1.5 },
        tls: { ca: "/ca.pem", cert: "/cert.pem", key: Redacted.make("/key.pem"), serverName: "etcd" },
        namespace: "app",
        lockPrefix: "/l",
        electionPrefix: "/e",
        allocatorPrefix: "/a",
        semaphorePrefix: "/sem",
        readWriteLockPrefix: "/rw",
        registryPrefix: "/r",
        registryLayout: "kratos",
        configPrefix: "/c"
      })
    }))

  it.effect("knows the names of layouts", () =>
    Effect.gen(function*() {
      for (const name of ["coord", "go-etcd", "kratos", "go-zero"]) {
        assert.deepStrictEqual(yield* read({ ETCD_REGISTRY_LAYOUT: name }), { registryLayout: name as "coord" })
      }
      const error = yield* Effect.flip(read({ ETCD_REGISTRY_LAYOUT: "nacos" }))
      assert.match(error.message, /"coord"[^]*ETCD_REGISTRY_LAYOUT/)
      assert.deepStrictEqual(yield* read({ ETCD_REGISTRY_LAYOUT: "" }), {})
    }))

  it.effect("leaves out what is not set, or empty", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* read({}), {})
      assert.deepStrictEqual(
        yield* read({ ETCD_USERNAME: "", ETCD_TLS_CA: "", ETCD_TIMEOUT: "", ETCD_RETRY_MAX_ATTEMPTS: "2" }),
        {
          retry: { maxAttempts: 2 }
        }
      )
    }))

  it.effect("names the variable that does not parse", () =>
    Effect.gen(function*() {
      for (const name of ["ETCD_TIMEOUT", "ETCD_RETRY_MAX_ATTEMPTS", "ETCD_RETRY_MULTIPLIER"]) {
        const error = yield* Effect.flip(read({ [name]: "soon" }))
        assert.include(String(error.message), name)
      }
    }))
})
