/** Runners as processes of their own, and what their ledger says about who ran which entity when. */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import type { Settings } from "../fixtures/clusterRunner.ts"
import { freePort } from "./ports.ts"
import { run } from "./processes.ts"

export interface Line {
  readonly what: "begin" | "alive" | "end" | "saved" | "fenced" | "unknown" | "answered"
  readonly entity: string
  /** Of the runner. */
  readonly name: string
  /** Milliseconds of the clock of the machine. */
  readonly at: number
  readonly more: string
}

export const machineNow = () => Number(process.hrtime.bigint() / 1_000_000n)

/** While a runner was running an entity, as far as the ledger knows. */
export interface Run {
  readonly entity: string
  readonly name: string
  readonly from: number
  readonly to: number
}

/** A run of a process that was killed ends with the last sign of life. */
export const runsOf = (lines: ReadonlyArray<Line>): ReadonlyArray<Run> => {
  const runs: Array<Run> = []
  const open = new Map<string, Run>()
  for (const { at, entity, name, what } of lines) {
    if (what === "answered") continue
    const key = `${entity} on ${name}`
    const known = open.get(key)
    if (what === "begin" || known === undefined) {
      if (known !== undefined) runs.push(known)
      open.set(key, { entity, name, from: at, to: at })
      continue
    }
    const next = { ...known, to: at }
    if (what === "end") {
      open.delete(key)
      runs.push(next)
    } else open.set(key, next)
  }
  return [...runs, ...open.values()]
}

/** Runs of one entity that overlap. */
export const overlaps = (runs: ReadonlyArray<Run>): ReadonlyArray<string> =>
  runs.flatMap((one, index) =>
    runs.slice(index + 1)
      .filter((other) => one.entity === other.entity && one.from < other.to && other.from < one.to)
      .map((other) => `${one.entity}: ${JSON.stringify(one)} and ${JSON.stringify(other)}`)
  )

export const makeCluster = Effect.fnUntraced(function*(
  options: Pick<Settings, "ttl" | "entities" | "storage">
) {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-cluster-"))),
    (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
  )
  const ledger = Path.join(folder, "ledger")
  Fs.writeFileSync(ledger, "")
  const script = Path.join(import.meta.dirname, "..", "fixtures", "clusterRunner.ts")
  const lines = Effect.sync((): ReadonlyArray<Line> =>
    Fs.readFileSync(ledger, "utf8").split("\n").slice(0, -1).map((line) => JSON.parse(line))
  )
  return {
    lines,
    start: Effect.fnUntraced(function*(name: string, caller = false) {
      const settings: Settings = { ...options, name, caller, ledger, port: yield* freePort }
      const running = yield* run(process.execPath, ["--no-warnings", script, JSON.stringify(settings)])
      yield* running.line("started")
      return { ...running, name }
    }),
    /** Until the calls since `since` have been answered for each entity, by these runners alone, and by each of them. */
    settled: Effect.fnUntraced(function*(names: ReadonlyArray<string>, since: number) {
      for (const end = machineNow() + 40_000;;) {
        const last = new Map<string, string>()
        let at = 0
        for (const line of yield* lines) {
          if (line.what !== "answered" || line.at < since) continue
          if (last.get(line.entity) !== line.more) at = line.at
          last.set(line.entity, line.more)
        }
        const owners = new Set(last.values())
        if (last.size === options.entities && owners.size === names.length && names.every((name) => owners.has(name))) {
          return { owner: last, at }
        }
        if (machineNow() > end) {
          return yield* Effect.die(new Error(`not by ${names.join(" and ")} alone: ${JSON.stringify([...last])}`))
        }
        yield* Effect.sleep("200 millis")
      }
    })
  }
})
