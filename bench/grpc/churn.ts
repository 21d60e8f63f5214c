/** A thousand instances, of which ten change every second: what calls feel, and what an update costs. */
import * as Effect from "effect/Effect"
import type { Figure } from "../grpc.ts"
import { failed, median, openLoop, percentile } from "./load.ts"
import type { World } from "./world.ts"

const size = 1000
const perSecond = 10

/** All of 127/8 is this machine: a thousand addresses need no thousand servers. */
const addressOf = (index: number): string => `127.1.${index >> 8}.${index & 255}`

export const churn = Effect.fnUntraced(function*(world: World, quick: boolean) {
  const service = yield* world.newService
  const backends = yield* Effect.forEach(["a", "b", "c"], (id) => world.backendProcess(id, "0.0.0.0"))
  const portOf = (index: number) => backends[index % backends.length]?.port ?? 0
  const put = (index: number) => service.put(`${index}`, portOf(index), addressOf(index))
  yield* Effect.forEach(Array.from({ length: size }, (_, index) => index), put, { concurrency: 20 })
  const client = yield* service.client()
  const calls = yield* openLoop(client, 500)
  // Until all are connected.
  yield* Effect.sleep("8 seconds")

  let first = 0
  const seconds = 5
  const phase = Effect.fnUntraced(function*(changing: boolean) {
    const from = performance.now()
    const cpu = process.cpuUsage()
    let changes = 0
    for (let index = 0; index < seconds * perSecond; index++) {
      yield* Effect.sleep(Math.max(0, from + index * 1000 / perSecond - performance.now()))
      if (!changing) continue
      // One goes, one comes.
      yield* service.delete(`${first}`)
      yield* put(first + size)
      first++
      changes += 2
    }
    const used = process.cpuUsage(cpu)
    const latencies = calls.filter(({ start }) => start >= from).map(({ end, start }) => end - start)
    return { cpu: (used.user + used.system) / 1000, changes, p99: percentile(latencies, 0.99), p50: median(latencies) }
  })
  const quiet: Array<Effect.Success<ReturnType<typeof phase>>> = []
  const changing: Array<Effect.Success<ReturnType<typeof phase>>> = []
  const ratios: Array<number> = []
  for (let index = 0; index < (quick ? 3 : 9); index++) {
    // Neighbours: whatever else the machine does is likely to be done in both.
    const pair = [yield* phase(false), yield* phase(true)] as const
    quiet.push(pair[0])
    changing.push(pair[1])
    ratios.push(pair[1].p99 / pair[0].p99)
  }
  const p99 = [median(quiet.map(({ p99 }) => p99)), median(changing.map(({ p99 }) => p99))] as const
  // Ten times a second one goes and one comes, which are two lists.
  const updates = changing.reduce((sum, { changes }) => sum + changes, 0)
  const work = (changing.reduce((sum, { cpu }) => sum + cpu, 0) - quiet.reduce((sum, { cpu }) => sum + cpu, 0)) /
    updates
  return [
    {
      what: "1,000 instances, 10 replaced a second: p99 of calls",
      measured: `${p99[1].toFixed(1)} against ${p99[0].toFixed(1)} ms, ${median(ratios).toFixed(2)} in the median pair`,
      bar: "<= 2 x",
      met: median(ratios) <= 2
    },
    {
      what: "... processor time for each update, all included",
      measured: `${work.toFixed(2)} ms (${updates} updates)`,
      bar: "<= 5 ms",
      met: work <= 5
    },
    { what: "... failed calls", measured: `${failed(calls)} of ${calls.length}`, bar: "0", met: failed(calls) === 0 }
  ] satisfies Array<Figure>
})
