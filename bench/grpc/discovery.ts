/** How fast calls follow changes, and what an outage of etcd does to them: three backends, 500 calls a second. */
import * as Effect from "effect/Effect"
import { connected, startBackend } from "../../test/grpc/echo.ts"
import type { Figure } from "../grpc.ts"
import { failed, median, openLoop, percentile } from "./load.ts"
import type { World } from "./world.ts"

const waitFor = (what: string, check: () => boolean) =>
  Effect.gen(function*() {
    while (!check()) yield* Effect.sleep(1)
  }).pipe(Effect.timeoutOrElse({ duration: "10 seconds", orElse: () => Effect.die(new Error(`not seen: ${what}`)) }))

export const discovery = Effect.fnUntraced(function*(world: World, quick: boolean) {
  const service = yield* world.newService
  for (const id of ["a", "b", "c"]) yield* service.put(id, (yield* startBackend(id)).port)
  const client = yield* service.client()
  yield* connected(client, ["a", "b", "c"])
  const calls = yield* openLoop(client, 500)

  const added: Array<number> = []
  const removed: Array<number> = []
  for (let index = 0; index < (quick ? 20 : 100); index++) {
    yield* Effect.scoped(Effect.gen(function*() {
      const backend = yield* startBackend("d")
      yield* Effect.sleep(300)
      const put = performance.now()
      yield* service.put("d", backend.port)
      yield* waitFor("a call on the new instance", () => backend.calls > 0)
      added.push(backend.firstCall - put)
      yield* Effect.sleep(300)
      const deleted = performance.now()
      yield* service.delete("d")
      yield* Effect.sleep(300)
      removed.push(backend.lastCall - deleted)
    }))
  }

  const seconds = quick ? 5 : 30
  const before = failed(calls)
  const from = performance.now()
  yield* world.server.kill
  yield* Effect.sleep(`${seconds} seconds`)
  const peers = new Set(calls.filter(({ start }) => start > from).map(({ peer }) => peer))
  yield* world.server.start
  const fresh = yield* startBackend("fresh")
  const restarted = performance.now()
  yield* Effect.retry(service.put("fresh", fresh.port), { times: 100 })
  yield* waitFor("the list after the outage", () => fresh.calls > 0)
  const outage = failed(calls) - before

  return [
    latency("instance added to first call it serves", added, 100),
    latency("instance removed to last call sent to it", removed, 50),
    {
      what: `etcd killed for ${seconds} s: failed calls`,
      measured: `${outage} of ${calls.filter(({ start }) => start > from).length}, on ${peers.size} instances`,
      bar: "0 on 3",
      met: outage === 0 && peers.size === 3
    },
    {
      what: "... change after the restart to its first call",
      measured: `${Math.round(fresh.firstCall - restarted)} ms`,
      bar: "seen",
      met: true
    },
    {
      what: "... failed calls of all",
      measured: `${failed(calls)} of ${calls.length}`,
      bar: "0",
      met: failed(calls) === 0
    }
  ] satisfies Array<Figure>
})

const latency = (what: string, millis: ReadonlyArray<number>, bar: number): Figure => ({
  what,
  measured: `p50 ${median(millis).toFixed(1)}, p99 ${percentile(millis, 0.99).toFixed(1)} ms (${millis.length})`,
  bar: `p99 <= ${bar} ms`,
  met: percentile(millis, 0.99) <= bar
})
