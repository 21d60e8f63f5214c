/** All servers of a service replaced, again and again, under load: 500 calls a second of 50 ms. */
import * as Effect from "effect/Effect"
import { GreeterClient } from "../../examples/greeter/ts-proto/greeter.ts"
import { load, replaceAll, startServers } from "../../test/utils/rolling.ts"
import type { Figure } from "../grpc.ts"
import { percentile } from "./load.ts"
import type { World } from "./world.ts"

const perSecond = 500

export const rolling = Effect.fnUntraced(function*({ registry, server: { endpoint } }: World, quick: boolean) {
  const calls = quick ? 2000 : 10_000
  let servers = yield* startServers(endpoint, ["0a", "0b", "0c"])
  const running = yield* load(yield* registry.client(GreeterClient, "greeter"), perSecond)
  yield* running.sent(perSecond)
  let replaced = 0
  while (running.load.sent < calls || replaced === 0) {
    const round = ++replaced
    servers = yield* replaceAll(endpoint, servers, ["a", "b", "c"].map((id) => `${round}${id}`))
  }
  yield* running.end
  const { byInstance, failures, sent, times } = running.load
  return [{
    what: `all 3 servers replaced, ${replaced} times: failed calls`,
    measured: `${failures.length} of ${sent}${failures[0] === undefined ? "" : ` ${failures[0]}`}; p99 ${
      percentile(times, 0.99).toFixed(0)
    } ms`,
    bar: "0",
    met: failures.length === 0 && byInstance.size === 3 * (replaced + 1)
  }] satisfies Array<Figure>
})
