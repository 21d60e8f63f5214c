import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { inspect } from "node:util"
import { Compare, Operation } from "../../src/Etcd.ts"
import { EtcdLive, layerEtcd } from "../../src/EtcdLive.ts"
import { EtcdOptions } from "../../src/EtcdOptions.ts"
import { ServiceInstance } from "../../src/ServiceInstance.ts"
import { asRoot, password, setUpAuth } from "../utils/auth.ts"
import { makeEtcdServer } from "../utils/EtcdServer.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { makeAuthority, makeTlsServer } from "../utils/tls.ts"
import { connect, until } from "./clients.ts"
import { record } from "./report.ts"

const value = "planted-value"
const wrongPassword = "planted-wrong-password"

/** Everything that a program could print of it. */
const print = (thing: unknown): string => {
  const json = Exit.match(
    Effect.runSyncExit(
      Effect.try(() => JSON.stringify(thing, (_, part) => typeof part === "bigint" ? String(part) : part) ?? "")
    ),
    { onSuccess: (text) => text, onFailure: () => "" }
  )
  const stack = thing instanceof Error ? `${thing.stack} ${thing.message} ${String(thing.cause)}` : ""
  return [String(thing), json, stack, inspect(thing, { depth: 10, showHidden: true, maxStringLength: null })].join("\n")
}

/** A logger and a tracer that keep all they are told, and what tests hand in. */
const makeEars = () => {
  const heard: Array<string> = []
  const spans: Array<Tracer.NativeSpan> = []
  const logger = Logger.make((options) => {
    heard.push(print(options.message), Cause.pretty(options.cause), print(options.cause))
    heard.push(print(options.fiber.getRef(References.CurrentLogAnnotations)))
    heard.push(Logger.formatJson.log(options), Logger.formatLogFmt.log(options))
  })
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return {
    heard,
    spans,
    layer: Layer.mergeAll(
      Logger.layer([logger]),
      Layer.succeed(References.MinimumLogLevel, "All"),
      Layer.succeed(Tracer.Tracer, tracer)
    ),
    all: Effect.map(Metric.dump, (metrics) => [
      ...heard,
      metrics,
      ...spans.flatMap((span) => [
        span.name,
        print([...span.attributes]),
        print(span.events),
        span.status._tag === "Ended" && Exit.isFailure(span.status.exit)
          ? `${Cause.pretty(span.status.exit.cause)}\n${print(span.status.exit)}`
          : ""
      ])
    ])
  }
}

const instance = new ServiceInstance({ id: "one", name: "orders", address: "127.0.0.1", port: 80 })

describe("secrets", () => {
  it.live(
    "no password, value, token or key is in an error, a log, a span, a metric, or in what is printed of options",
    () => {
      const ears = makeEars()
      let failures = 0
      /** Runs it, keeps how it fails, and goes on. */
      const provoke = <A, E>(what: string, effect: Effect.Effect<A, E, Scope.Scope>) =>
        Effect.gen(function*() {
          const exit = yield* Effect.exit(Effect.timeout(Effect.scoped(effect), "15 seconds"))
          assert.isTrue(Exit.isFailure(exit), `${what} does not fail`)
          if (Exit.isFailure(exit)) {
            ears.heard.push(Cause.pretty(exit.cause), print(exit.cause), print(Cause.squash(exit.cause)))
          }
          failures++
        })
      return Effect.gen(function*() {
        const authority = makeAuthority()
        const pair = authority.issue({ commonName: "client" })
        const server = yield* makeEtcdServer()
        const proxy = yield* makeProxy({ port: server.port })
        const secure = yield* makeTlsServer({
          authority,
          identity: authority.issue({ commonName: "x", ip: ["127.0.0.1"] })
        })
        const key = Redacted.make(pair.key)
        const credentials = { username: "app", password: Redacted.make(password) }
        const wrong = { username: "app", password: Redacted.make(wrongPassword) }
        const here = { endpoints: proxy.endpoint, timeout: "1 second", retry: { maxAttempts: 2 } } as const
        const start = (options: EtcdOptions) => Effect.asVoid(connect(options))

        // The start.
        yield* provoke("credentials while auth is off", start({ ...here, ...wrong }))
        yield* setUpAuth(server, { app: ["/app/"] })
        yield* provoke("a wrong password", start({ ...here, ...wrong }))
        yield* provoke("no password", start({ ...here, username: "app" }))
        yield* provoke("no user", start({ ...here, password: wrong.password }))
        yield* provoke("a user in an endpoint", start({ endpoints: `http://root:${wrongPassword}@127.0.0.1:2379` }))
        yield* provoke(
          "an unreachable server",
          start({ ...wrong, endpoints: "127.0.0.1:1", retry: { maxAttempts: 1 } })
        )
        yield* provoke("a key without a certificate", start({ tls: { key } }))
        yield* provoke("a key that is broken", start({ tls: { cert: pair.cert, key: pair.key.slice(0, -200) } }))
        yield* provoke(
          "a key for the path of one",
          start({ tls: { cert: pair.cert, key: pair.key.replaceAll("-----BEGIN", "") } })
        )
        yield* provoke(
          "another key",
          start({ tls: { cert: pair.cert, key: authority.issue({ commonName: "y" }).key } })
        )
        yield* provoke("a key for a certificate", start({ tls: { ca: pair.key } }))
        yield* provoke(
          "a stranger to the server",
          start({ endpoints: secure.endpoint, tls: { ca: makeAuthority("z").cert, cert: pair.cert, key } })
        )
        const env = {
          ETCD_USERNAME: "app",
          ETCD_PASSWORD: wrongPassword,
          ETCD_ENDPOINTS: proxy.endpoint,
          ETCD_TIMEOUT: "no time"
        }
        const provider = ConfigProvider.layer(ConfigProvider.fromUnknown(env))
        yield* provoke("a bad environment", Layer.build(Layer.fresh(EtcdLive)).pipe(Effect.provide(provider)))
        const options = yield* Config.unwrap({ all: EtcdOptions.fromEnv }).pipe(
          Effect.provide(
            ConfigProvider.layer(
              ConfigProvider.fromUnknown({ ...env, ETCD_TIMEOUT: "1 second", ETCD_TLS_KEY: pair.key })
            )
          )
        )
        ears.heard.push(
          print(options),
          print({ ...here, ...credentials, tls: { key } }),
          print(layerEtcd({ ...here, ...credentials }))
        )

        // The services, and what is printed of them.
        const app = yield* connect({ ...here, ...credentials, namespace: "/app" })
        const root = yield* connect({ endpoints: server.endpoint, username: "root", password: credentials.password })
        const other = yield* connect({ ...here, ...credentials, namespace: "/other" })
        ears.heard.push(print(app))
        const { config, etcd, lock, registry } = app
        const put = (name: string, text: string) => root.etcd.txn({ success: [Operation.put(name, text)] })
        const Limits = Schema.Struct({ limit: Schema.Int, name: Schema.Literals(["a", "b"]) })
        const bad = [
          value,
          `"${value}"`,
          `{"limit":"${value}","name":"${value}"}`,
          `{"limit":1.5,"name":"a","${"x"}":"${value}"}`,
          `{"limit":1,"name":"a"} ${value}`,
          `[${value}]`,
          `{"limit":99999999999999999999999,"name":"${value}"}`
        ]
        yield* config.set("live", Limits, { limit: 1, name: "a" })
        yield* config.live("live", Limits)
        const seen: Array<string> = []
        yield* config.watchPrefix("bad", Limits).pipe(
          Stream.runForEach((event) =>
            Effect.sync(() => {
              seen.push(event._tag)
              if (event._tag === "Invalid") ears.heard.push(print(event))
            })
          ),
          Effect.forkScoped
        )
        const registration = yield* registry.register(
          new ServiceInstance({ ...instance, metadata: { token: value } }),
          { ttl: "3 seconds" }
        )
        yield* registry.watch("orders").pipe(Stream.runDrain, Effect.forkScoped)
        for (const text of bad) {
          yield* put("/app/config/bad/x", text)
          yield* put("/app/config/live", text)
          yield* put("/app/services/orders/two", text)
          yield* provoke(`decode ${text}`, config.get("bad/x", Limits))
          yield* provoke(`decode all ${text}`, config.entries("bad", Limits))
          yield* provoke(`update ${text}`, config.update("bad/x", Limits, (limits) => limits))
          yield* registry.discover("orders")
        }
        yield* put("/app/services/orders/two", `{"id":"${value}","name":"${value}","address":"a b ${value}","port":1}`)
        yield* registry.discover("orders")
        yield* put("/app/services/orders/two", `{"id":"${value}","name":"${value}","address":"a","port":1}`)
        yield* registry.discover("orders")
        yield* until(
          "all bad values are seen",
          Effect.sync(() => seen.filter((tag) => tag === "Invalid").length >= bad.length),
          10_000
        )
        yield* provoke("encode", config.set("x", Limits, { limit: 1, name: value as "a" }))
        yield* provoke("encode a number", config.set("x", Schema.Int, value as unknown as number))
        yield* provoke(
          "a bad instance",
          registry.register(new ServiceInstance({ ...instance, id: "three", address: `a ${value}` }))
        )
        yield* provoke("bad metadata", registration.update({ token: `${value}\ud800` }))
        yield* config.set("x", Schema.String, value)
        yield* provoke("conflict", config.compareAndSet("x", Schema.String, value, 1n))
        yield* provoke("too large", config.set("x", Schema.String, value.repeat(200_000)))
        yield* provoke(
          "two puts of a key",
          etcd.txn({ success: [Operation.put("a", value), Operation.put("a", value)] })
        )
        yield* provoke("denied", other.config.set("x", Schema.String, value))
        yield* provoke(
          "denied txn",
          other.etcd.txn({ compare: [Compare.value("/a", "=", value)], success: [Operation.put("/a", value)] })
        )
        yield* provoke(
          "denied registration",
          other.registry.register(new ServiceInstance({ ...instance, metadata: { token: value } }))
        )
        yield* provoke("no lease", etcd.txn({ success: [Operation.put("/a", value, { lease: 77n })] }))
        yield* provoke("a throwing function", config.update("x", Schema.String, () => Effect.fail("of the user")))

        // Lost answers, cuts, expired tokens.
        yield* etcd.range({ key: "/a" })
        yield* proxy.dropResponses
        const lost = yield* Effect.forkChild(
          provoke("a lost answer", config.set("x", Schema.String, value)),
          { startImmediately: true }
        )
        yield* Fiber.join(lost)
        yield* proxy.passResponses
        yield* asRoot(server)("auth", "disable")
        yield* server.etcdctl("auth", "enable")
        yield* config.get("x", Schema.String).pipe(Effect.retry({ times: 5 }))
        const handle = yield* lock.acquire("job", { ttl: "3 seconds" })
        yield* asRoot(server)("del", "--prefix", "/app/locks/")
        yield* provoke("a lost lock", handle.guard(Effect.never))
        yield* provoke("a fenced write", handle.fenced({ success: [Operation.put("/a", value)] }))
        yield* asRoot(server)("user", "delete", "app")
        yield* provoke("a user who is gone", Effect.repeat(config.set("x", Schema.String, value), { times: 10 }))
        yield* provoke("a watch of a user who is gone", Stream.runDrain(etcd.watch({ prefix: "/", startRevision: 1n })))
        yield* server.kill
        yield* provoke("no server", config.set("x", Schema.String, value))
        yield* provoke("no server to read from", config.get("x", Schema.String))
      }).pipe(
        Effect.scoped,
        Effect.provide(ears.layer),
        Effect.andThen(ears.all),
        Effect.map((all) => {
          const secrets: Record<string, RegExp> = {
            value: new RegExp(value),
            password: new RegExp(password),
            "wrong password": new RegExp(wrongPassword),
            "simple token": /\b[A-Za-z]{16}\.\d+\b/,
            "private key": /PRIVATE KEY|MII[A-Za-z0-9+/]{40}/,
            // Buffers are printed as bytes.
            "value as bytes": new RegExp(Buffer.from(value).toString("hex").replace(/(..)(?!$)/g, "$1[ ,]+"))
          }
          const leaks = all.flatMap((text) =>
            Object.entries(secrets).flatMap(([name, secret]) => {
              const found = secret.exec(text)
              return found === null ? [] : [`${name}: ${text.slice(Math.max(0, found.index - 200), found.index + 60)}`]
            })
          )
          record({
            what: `secrets in ${all.length} texts of ${failures} failures, ${ears.spans.length} spans and all logs`,
            bar: "0",
            measured: String(leaks.length),
            ok: leaks.length === 0
          })
          assert.isAbove(ears.spans.length, 50)
          assert.deepStrictEqual(leaks.slice(0, 5), [])
        })
      )
    },
    120_000
  )
})
