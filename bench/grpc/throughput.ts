/** What following a registry costs: against a channel with the same addresses written down, and for a channel that is opened and closed. */
import * as grpc from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { call, connected, Echo, startBackend } from "../../test/grpc/echo.ts"
import type { Figure } from "../grpc.ts"
import { closedLoop, median } from "./load.ts"
import type { World } from "./world.ts"

export const throughput = Effect.fnUntraced(function*(world: World, quick: boolean) {
  const service = yield* world.newService
  const backends = yield* Effect.forEach(["a", "b", "c"], (id) => world.backendProcess(id))
  for (const { id, port } of backends) yield* service.put(id, port)
  const discovered = yield* service.client()
  const fixed = yield* Effect.acquireRelease(
    Effect.sync(() =>
      new Echo(
        `ipv4:${backends.map(({ port }) => `127.0.0.1:${port}`).join(",")}`,
        grpc.credentials.createInsecure(),
        { "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }) }
      )
    ),
    (client) => Effect.sync(() => client.close())
  )
  for (const client of [discovered, fixed]) {
    yield* connected(client, ["a", "b", "c"])
    yield* closedLoop(client, 50, 2000)
  }
  const [ours, theirs]: [Array<number>, Array<number>] = [[], []]
  const ratios: Array<number> = []
  for (let index = 0; index < (quick ? 6 : 30); index++) {
    // Each first in turn.
    const order = index % 2 === 0 ? [discovered, fixed] : [fixed, discovered]
    for (const client of order) {
      const rate = yield* closedLoop(client, 50, 1000)
      ;(client === discovered ? ours : theirs).push(rate)
    }
    ratios.push((ours.at(-1) ?? 0) / (theirs.at(-1) ?? 1))
  }
  return [{
    what: "throughput against a static channel",
    measured: `${median(ratios).toFixed(3)} (${Math.round(median(ours))} and ${Math.round(median(theirs))} calls/s)`,
    bar: ">= 0.95",
    met: median(ratios) >= 0.95
  }] satisfies Array<Figure>
})

export const openAndClose = Effect.fnUntraced(function*(world: World, quick: boolean) {
  setFlagsFromString("--expose-gc")
  const collect: unknown = runInNewContext("gc")
  const heap = Effect.gen(function*() {
    for (let index = 0; index < 4; index++) {
      yield* Effect.sleep(100)
      if (typeof collect === "function") collect()
    }
    return process.memoryUsage().heapUsed
  })
  const sockets = () => process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length
  const service = yield* world.newService
  yield* service.put("a", (yield* startBackend("a")).port)
  const cycle = Effect.scoped(Effect.flatMap(service.client(), (client) => call(client)))
  const warmUp = quick ? 500 : 2000
  yield* Effect.replicateEffect(cycle, warmUp, { discard: true })
  const before = { heap: yield* heap, sockets: sockets() }
  const start = performance.now()
  yield* Effect.replicateEffect(cycle, 1000, { discard: true })
  const millis = (performance.now() - start) / 1000
  const grown = ((yield* heap) - before.heap) / 1000
  const left = sockets() - before.sockets
  return [{
    what: "1,000 channels opened, called and closed",
    measured: `${left} sockets, ${Math.round(grown)} kB more; ${millis.toFixed(1)} ms each`,
    bar: "0 sockets, no memory",
    met: left <= 0 && grown < 1000
  }] satisfies Array<Figure>
})
