/**
 * All servers of a service replaced, again and again, while a client that follows the registry calls it: how many calls fail.
 *
 *     npm run bench:rolling                  # 10,000 calls at 500 a second, 3 servers
 *     CALLS=50000 npm run bench:rolling
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Logger } from "effect"
import { GreeterClient } from "../examples/greeter/ts-proto/greeter.ts"
import { layerEtcd, Registry } from "../src/index.ts"
import { makeEtcdServer } from "../test/utils/EtcdServer.ts"
import { load, replaceAll, startServers } from "../test/utils/rolling.ts"

const perSecond = 500

const program = Effect.gen(function*() {
  const calls = yield* Config.withDefault(Config.Int("CALLS"), 10_000)
  const { endpoint } = yield* makeEtcdServer()
  let servers = yield* startServers(endpoint, ["0a", "0b", "0c"])
  yield* Effect.gen(function*() {
    const registry = yield* Registry
    const running = yield* load(yield* registry.client(GreeterClient, "greeter"), perSecond)
    let replaced = 0
    yield* running.sent(perSecond)
    while (running.load.sent < calls || replaced === 0) {
      const round = ++replaced
      servers = yield* replaceAll(endpoint, servers, ["a", "b", "c"].map((id) => `${round}${id}`))
    }
    yield* running.end
    const { byInstance, failures, sent, times } = running.load
    const sorted = times.toSorted((a, b) => a - b)
    const percentile = (p: number) => Math.round(sorted[Math.floor(sorted.length * p)] ?? Number.NaN)
    yield* Console.log(`${sent} calls at ${perSecond}/s, 50 ms each; 3 servers replaced ${replaced} times`)
    yield* Console.log(`failed: ${failures.length}${failures.slice(0, 5).map((failure) => `\n  ${failure}`).join("")}`)
    yield* Console.log(`answered by ${byInstance.size} servers; p50 ${percentile(0.5)} ms, p99 ${percentile(0.99)} ms`)
    if (failures.length > 0) return yield* Effect.die("calls failed")
  }).pipe(Effect.scoped, Effect.provide(layerEtcd({ endpoints: endpoint })))
}).pipe(Effect.scoped, Effect.provide(Logger.layer([])))

NodeRuntime.runMain(program)
