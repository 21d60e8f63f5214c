/**
 * `npm run bench:telemetry`: what spans and metrics cost when nobody listens, in processor time of this process, beside the operations that
 * carry them. Each round measures all of it in turn; medians of the rounds.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { ConfigCenter } from "../src/ConfigCenter.ts"
import { layerEtcd } from "../src/EtcdLive.ts"
import * as Telemetry from "../src/internal/Telemetry.ts"
import { Lock } from "../src/Lock.ts"
import { makeEtcdServer } from "../test/utils/EtcdServer.ts"

const rounds = 9

/** Microseconds of processor time for one of them. */
const cost = <E>(times: number, one: Effect.Effect<unknown, E>) =>
  Effect.gen(function*() {
    const before = process.cpuUsage()
    for (let i = 0; i < times; i++) yield* one
    const { system, user } = process.cpuUsage(before)
    return (user + system) / times
  })

const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0

const nothing = Effect.suspend(() => Effect.void)
const operation = Telemetry.operation("bench.operation")
const traced = Effect.fn("bench.traced")(function*() {
  yield* nothing
}, Telemetry.measured("bench.traced"))
const untraced = Effect.fnUntraced(function*() {
  yield* nothing
})

const program = Effect.gen(function*() {
  const { endpoint } = yield* makeEtcdServer({})
  const context = yield* Layer.build(layerEtcd({ endpoints: endpoint }))
  const config = Context.get(context, ConfigCenter)
  const lock = Context.get(context, Lock)
  yield* config.set("a", Schema.String, "b")
  const parts = {
    "an effect that does nothing": cost(20_000, nothing),
    "the same as an operation (Lock, get, set, register)": cost(20_000, operation({ "coord.key": "a" }, nothing)),
    "a function that does nothing": cost(20_000, Effect.suspend(untraced)),
    "the same with Effect.fn (all other operations)": cost(20_000, Effect.suspend(traced)),
    "ConfigCenter.get": cost(1_000, config.get("a", Schema.String)),
    "ConfigCenter.list": cost(1_000, config.list("")),
    "a lock cycle": cost(500, lock.withLock("a")(Effect.void))
  }
  const measured = new Map<string, Array<number>>()
  for (let round = 0; round <= rounds; round++) {
    for (const [name, part] of Object.entries(parts)) {
      const us = yield* part
      // The first round warms up.
      if (round > 0) measured.set(name, [...measured.get(name) ?? [], us])
    }
  }
  for (const [name, values] of measured) {
    const [least, most] = [Math.min(...values), Math.max(...values)].map((us) => us.toFixed(1))
    console.log(`${name.padEnd(55)} ${median(values).toFixed(1).padStart(7)} us (${least}-${most})`)
  }
  const of = (name: keyof typeof parts) => median(measured.get(name) ?? [])
  const share = (extra: number, whole: number) => `${(100 * extra / whole).toFixed(1)} %`
  const plain = of("the same as an operation (Lock, get, set, register)") - of("an effect that does nothing")
  const named = of("the same with Effect.fn (all other operations)") - of("a function that does nothing")
  console.log(`of a get ${share(plain, of("ConfigCenter.get"))}, of a lock cycle ${share(plain, of("a lock cycle"))}`)
  console.log(`of a list ${share(named, of("ConfigCenter.list"))}`)
})

// A server that is stopped keeps no event loop alive until it has ended.
const alive = setInterval(() => {}, 60_000)
await Effect.runPromise(Effect.scoped(program))
clearInterval(alive)
