/**
 * Figures of service channels: `npm run bench:grpc`, or with `-- --quick` in under two minutes, or with the names of some parts. It prints a
 * table, and writes `reports/grpc.json`.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { loadavg } from "node:os"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { churn } from "./grpc/churn.ts"
import { discovery } from "./grpc/discovery.ts"
import { faults } from "./grpc/faults.ts"
import { rolling } from "./grpc/rolling.ts"
import { openAndClose, throughput } from "./grpc/throughput.ts"
import { makeWorld } from "./grpc/world.ts"

export interface Figure {
  readonly what: string
  readonly measured: string
  readonly bar: string
  readonly met: boolean
}

/** The names of parts, or none for all. */
const only = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))
const quick = process.argv.includes("--quick")

const program = Effect.gen(function*() {
  const figures: Array<Figure> = []
  const stalls: Record<string, number> = {}
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const parts = { discovery, rolling, faults, throughput, churn, openAndClose }
  for (const [name, part] of Object.entries(parts)) {
    if (only.length > 0 && !only.includes(name)) continue
    delay.reset()
    const found = yield* Effect.scoped(Effect.flatMap(makeWorld, (world) => part(world, quick)))
    // On a machine with other work, figures of time say little: those here can be no better than this.
    const stall = Math.round(delay.max / 1e6)
    console.log(`${name}: this process was kept waiting for up to ${stall} ms, load ${loadavg()[0]?.toFixed(1)}`)
    stalls[name] = stall
    for (const figure of found) {
      console.log(
        `${figure.met ? "  " : "! "}${figure.what.padEnd(52)}${figure.measured.padEnd(44)}  bar: ${figure.bar}`
      )
      figures.push(figure)
    }
  }
  Fs.mkdirSync("reports", { recursive: true })
  Fs.writeFileSync(
    "reports/grpc.json",
    `${JSON.stringify({ quick, node: process.version, stalls, figures }, undefined, 2)}\n`
  )
})

// What a server that is being stopped does is nothing that Node waits for.
setInterval(() => {}, 1000)
await Effect.runPromise(program)
process.exit(0)
