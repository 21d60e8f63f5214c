/** Mixed load with faults for as long as wanted: what is used in the end is what was used in the beginning. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import { makeBench, makeFaults } from "./bench.ts"
import { connect, quiet } from "./clients.ts"
import { type Log, service, startLoad, Value } from "./load.ts"
import { chance } from "./random.ts"
import { attach, record } from "./report.ts"

V8.setFlagsFromString("--expose-gc")
const collectGarbage: () => void = Vm.runInNewContext("gc")

const seconds = Number(process.env["SOAK_SECONDS"] ?? 120)
/** Between two looks, in which faults go on. */
const between = Math.max(2, seconds / 60)

interface Look {
  readonly second: number
  readonly heap: number
  readonly external: number
  readonly handles: number
  readonly operations: number
}

const median = (values: ReadonlyArray<number>): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN
const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MB`

const soak = Effect.gen(function*() {
  const random = chance("soak on 3.5")
  const unhandled: Array<unknown> = []
  const warnings: Array<unknown> = []
  const onRejection = (error: unknown) => void unhandled.push(error)
  const onWarning = (warning: Error) => void (warning.name === "MaxListenersExceededWarning" && warnings.push(warning))
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("unhandledRejection", onRejection).on("warning", onWarning)),
    () => Effect.sync(() => process.off("unhandledRejection", onRejection).off("warning", onWarning))
  )
  const bench = yield* makeBench("3.5", 2)
  const direct = yield* connect({ endpoints: bench.cluster.endpoints })
  yield* direct.config.set("counter", Value, { id: "start", n: 0 })

  // Counted, and not kept: the test must not be what grows.
  let operations = 0
  let events = 0
  const once = () => void operations++
  const log: Log = { write: once, hold: once, fenced: once, update: once, failed: () => {} }
  const consume = <A, E>(stream: Stream.Stream<A, E>) =>
    Effect.forkScoped(Stream.runForEach(stream, () =>
      Effect.sync(() => {
        events++
      })))
  for (const { client: { config, registry } } of bench.clients) {
    yield* consume(config.watchPrefix("", Value))
    yield* consume(registry.watch(service))
    yield* consume(registry.instances(service))
    yield* consume((yield* config.live("counter", Value)).changes)
    // Consumers come and go as well.
    yield* Effect.forkScoped(
      Effect.forever(Stream.runDrain(Stream.take(config.watchPrefix("shared", Value), random.int(1, 200))))
    )
  }
  const loads = yield* Effect.forEach(bench.clients, (behind) => startLoad(behind, random, log, 20))
  const { revision } = yield* direct.etcd.range({ key: "/" })
  let compactable = revision
  const faults = yield* makeFaults(bench, random, {
    compactable: () => compactable,
    longest: 5000,
    victim: () => undefined
  })

  const looks: Array<Look> = []
  const start = performance.now()
  while (performance.now() - start < seconds * 1000) {
    yield* Effect.sleep(between * 1000)
    compactable = yield* Effect.map(direct.etcd.range({ key: "/" }), ({ revision }) => revision).pipe(
      Effect.orElseSucceed(() => compactable)
    )
    collectGarbage()
    const { arrayBuffers, external, heapUsed } = process.memoryUsage()
    looks.push({
      second: Math.round((performance.now() - start) / 1000),
      heap: heapUsed,
      external: external + arrayBuffers,
      handles: process.getActiveResourcesInfo().length,
      operations
    })
  }
  yield* Effect.timeout(faults.stop, "60 seconds")
  yield* Effect.forEach(loads, ({ stop }) => Effect.timeout(stop, "60 seconds"), { concurrency: "unbounded" })
  yield* Effect.forEach(loads, ({ unregister }) => unregister, { concurrency: "unbounded" })

  attach(
    "soak.md",
    ["| second | heap | outside of it | handles | operations |", "| - | - | - | - | - |"].concat(
      looks.map((look) =>
        `| ${look.second} | ${megabytes(look.heap)} | ${
          megabytes(look.external)
        } | ${look.handles} | ${look.operations} |`
      )
    ).join("\n") + "\n"
  )
  // The first sixth warms up. Of the rest the beginning is compared to the end, each by its median: faults come and go.
  const warm = looks.slice(Math.ceil(looks.length / 6))
  const third = Math.ceil(warm.length / 3)
  const change = (of: (look: Look) => number) => {
    const [before, after] = [median(warm.slice(0, third).map(of)), median(warm.slice(-third).map(of))]
    return { before, after, growth: after - before }
  }
  const heap = change(({ heap }) => heap)
  const external = change(({ external }) => external)
  const handles = change(({ handles }) => handles)
  const ok = heap.growth < 8 * 2 ** 20 && external.growth < 16 * 2 ** 20 && handles.growth < 30
  record({
    what:
      `soak: ${seconds} s of mixed load with faults, ${operations} operations, ${events} events (seed ${random.seed}: ${faults.counts()})`,
    bar: "flat memory and handles, no unhandled rejection",
    measured:
      `heap ${megabytes(heap.before)} to ${megabytes(heap.after)}, outside of it ${megabytes(external.before)} to ` +
      `${
        megabytes(external.after)
      }, handles ${handles.before} to ${handles.after}, ${unhandled.length} unhandled rejections`,
    ok: ok && unhandled.length === 0 && warnings.length === 0,
    version: "3.5"
  })
  assert.isBelow(heap.growth, 8 * 2 ** 20, JSON.stringify(looks))
  assert.isBelow(external.growth, 16 * 2 ** 20, JSON.stringify(looks))
  assert.isBelow(handles.growth, 30, JSON.stringify(looks))
  assert.deepStrictEqual(unhandled, [])
  assert.deepStrictEqual(warnings, [])
  assert.isAbove(operations, seconds * 20)
  assert.isAbove(events, seconds * 20)
})

describe("soak", () => {
  it.live(
    `${seconds} s of mixed load with faults leave memory and handles as they were`,
    () => quiet(soak),
    (seconds + 240) * 1000
  )
})
