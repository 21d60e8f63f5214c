/**
 * What is to be seen from outside: metrics on a page for Prometheus, whether this can serve, and spans, metrics and logs sent by OTLP, all by
 * Effect's own exporters.
 *
 *     npx node examples/observability.ts                                   # on an etcd inside this process
 *     ETCD_ENDPOINTS=127.0.0.1:2379 npx node examples/observability.ts     # on a cluster
 *
 * OTLP goes to OTEL_EXPORTER_OTLP_ENDPOINT when that is set, and otherwise to a collector inside this process that counts what arrives.
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer, Option, Schema } from "effect"
import { FetchHttpClient, HttpClient, HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Otlp, PrometheusMetrics } from "effect/observability"
import { createServer } from "node:http"
import { ConfigCenter, Etcd, EtcdLive, EtcdMemory, Lock, Registry, ServiceInstance } from "../src/index.ts"

const work = Effect.gen(function*() {
  const lock = yield* Lock
  const registry = yield* Registry
  const config = yield* ConfigCenter
  yield* lock.withLock("example-report")(Effect.log("the report is written"))
  yield* lock.acquire("example-held")
  yield* lock.tryAcquire("example-held").pipe(Effect.catchTag("LockHeld", () => Effect.void))
  yield* registry.register(new ServiceInstance({ id: "one", name: "example", address: "10.0.0.7", port: 80 }))
  yield* config.set("example/limit", Schema.Number, 5)
  yield* config.get("example/limit", Schema.Number)
  yield* config.delete("example/limit")
}).pipe(Effect.scoped, Effect.withSpan("nightly"))

/** Servers on ports that are free. */
const serverAt = <E, R>(app: Layer.Layer<never, E, R | HttpRouter.HttpRouter>) =>
  HttpRouter.serve(app, { disableListenLog: true, disableLogger: true }).pipe(
    Layer.provideMerge(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0 }))
  )

const url = Effect.map(
  HttpServer.HttpServer,
  ({ address }) => "port" in address ? `http://127.0.0.1:${address.port}` : ""
)

const arrived = new Set<string>()
const collector = HttpRouter.add(
  "POST",
  "/v1/:signal",
  Effect.gen(function*() {
    const { signal = "" } = yield* HttpRouter.params
    const body = yield* Effect.orDie((yield* HttpServerRequest.HttpServerRequest).text)
    for (const name of ["nightly", "Lock.acquire", "Registry.register", "coord_operation_duration"]) {
      if (body.includes(`"${name}"`)) arrived.add(`${signal}: ${name}`)
    }
    return HttpServerResponse.empty()
  })
)

/** For a readiness probe: no answer of etcd, or one that is full, and nobody new is sent here. */
const readiness = HttpRouter.use((router) =>
  Effect.flatMap(Etcd, ({ health }) =>
    router.add(
      "GET",
      "/ready",
      health.pipe(
        Effect.map(({ alarms, leader, members }) =>
          HttpServerResponse.jsonUnsafe(
            { leader: leader !== undefined, alarms: alarms.map(({ alarm }) => alarm), members: members.length },
            { status: alarms.length === 0 ? 200 : 503 }
          )
        ),
        Effect.catch(({ message }) => Effect.succeed(HttpServerResponse.jsonUnsafe({ message }, { status: 503 })))
      )
    ))
)

const telemetry = Layer.unwrap(Effect.gen(function*() {
  const endpoint = yield* Config.option(Config.String("OTEL_EXPORTER_OTLP_ENDPOINT"))
  const baseUrl = Option.isSome(endpoint)
    ? endpoint.value
    : yield* Effect.provideContext(url, yield* Layer.build(serverAt(collector)))
  return Otlp.layerJson({ baseUrl, resource: { serviceName: "example" } })
})).pipe(Layer.provide(FetchHttpClient.layer))

const etcd = Layer.unwrap(Effect.gen(function*() {
  const endpoints = yield* Config.option(Config.String("ETCD_ENDPOINTS"))
  yield* Console.log(Option.isNone(endpoints) ? "On an etcd inside this process" : `On ${endpoints.value}`)
  return Option.isNone(endpoints) ? EtcdMemory.layer : EtcdLive
}))

const program = Effect.gen(function*() {
  yield* Effect.scoped(
    Effect.gen(function*() {
      const context = yield* Layer.build(etcd.pipe(Layer.provideMerge(telemetry)))
      yield* Effect.provideContext(work, context)
      const probe = Effect.flatMap(url, (url) => HttpClient.get(`${url}/ready`))
      const response = yield* probe.pipe(
        Effect.provide(Layer.provide(serverAt(readiness), Layer.succeedContext(context)))
      )
      yield* Console.log(`\nready: ${response.status} ${yield* response.text}`)
    })
  )
  const page = yield* HttpClient.get(`${yield* url}/metrics`).pipe(Effect.flatMap((response) => response.text))
  yield* Console.log("\nof the page for Prometheus:")
  for (const line of page.split("\n")) {
    if (/^coord_.*(_count|_held|_recovering|_lost)/.test(line)) yield* Console.log(line)
  }
  yield* Console.log("\nof what the collector was sent:")
  for (const what of [...arrived].toSorted()) yield* Console.log(what)
}).pipe(Effect.provide(Layer.merge(serverAt(PrometheusMetrics.layerHttp()), FetchHttpClient.layer)))

NodeRuntime.runMain(program)
