/**
 * `npm run sim -- [options]`: plays schedules and looks for one that breaks a promise.
 *
 *     --seeds N        how many fresh schedules (1000)
 *     --base B         the first seed; a random one unless said otherwise
 *     --skip N         without the first N of them: goes on with a run that was stopped, or plays a part of a long one
 *     --scenario S     only this scenario, instead of all in turn
 *     --seed X         this one schedule (of --scenario), with its trace
 *     --drop a,b       with --seed: without these parts of its plan
 *     --variant V      with a client that is broken on purpose
 *     --variants       how many seeds it takes to find each broken client
 *     --jepsen         updates lost under a lock by processes that stand still, without fencing and with it
 *     --determinism    plays each seed in two processes, and compares
 */
import { spawn } from "node:child_process"
import { randomInt } from "node:crypto"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { jepsenRuns, type Lost } from "./jepsen.ts"
import { jobsOf, makeProgress } from "./jobs.ts"
import { minimise, without } from "./minimise.ts"
import { runJobs } from "./pool.ts"
import { planOf, runPlan } from "./Scenario.ts"
import { scenarioOf, scenarios } from "./scenarios/index.ts"
import { variants } from "./variants/index.ts"
import type { Failure } from "./worker.ts"

const { values: options } = parseArgs({
  options: {
    seeds: { type: "string", default: "1000" },
    base: { type: "string" },
    skip: { type: "string", default: "0" },
    scenario: { type: "string" },
    seed: { type: "string" },
    drop: { type: "string", default: "" },
    variant: { type: "string" },
    variants: { type: "boolean", default: false },
    jepsen: { type: "boolean", default: false },
    determinism: { type: "boolean", default: false },
    hashes: { type: "boolean", default: false }
  }
})

const say = (line: string): void => void process.stdout.write(`${line}\n`)

const names = options.scenario === undefined ? scenarios.map(({ name }) => name) : [options.scenario]
const seeds = Number(options.seeds)
const skip = Number(options.skip)
if (skip > 0 && options.base === undefined) throw new Error("--skip is of a run that --base says")
const base = options.base === undefined ? randomInt(2 ** 47) : Number(options.base)
const variantOf = (name: string | undefined) => variants.find((variant) => variant.name === name)

/** One schedule, with everything that happened in it. */
const replay = (scenarioName: string, seed: number, drop: ReadonlyArray<string>): boolean => {
  const scenario = scenarioOf(scenarioName)
  const plan = without(planOf(scenario, seed), new Set(drop))
  const outcome = runPlan(scenario, seed, plan, { keep: true, variant: variantOf(options.variant)?.client })
  say(`plan: ${JSON.stringify(plan)}`)
  say(outcome.trace)
  say(`trace hash ${outcome.hash}`)
  for (const { detail, property } of outcome.violations) say(`VIOLATED: ${property}: ${detail}`)
  return outcome.violations.length === 0
}

const explain = ({ detail, property, scenario, seed }: Failure): void => {
  say(`\nVIOLATED by ${scenario} seed ${seed}: ${property}: ${detail}`)
  const client = variantOf(options.variant)?.client
  const dropped = minimise(scenarioOf(scenario), seed, property, { variant: client })
  replay(scenario, seed, dropped)
  const variant = options.variant === undefined ? "" : ` --variant ${options.variant}`
  say(`\nagain: npm run sim -- --scenario ${scenario} --seed ${seed} --drop ${dropped.join(",")}${variant}`)
  say(`whole: npm run sim -- --scenario ${scenario} --seed ${seed}${variant}`)
}

const search = async (): Promise<boolean> => {
  say(`${seeds} schedules of ${names.join(", ")} from base seed ${base}`)
  const started = performance.now()
  let runs = 0
  let told = 0
  const failures: Array<Failure> = []
  const progress = makeProgress(skip)
  await runJobs(progress.left(jobsOf(names, base, seeds, { variant: options.variant })), (report) => {
    runs += report.runs
    // At once: a long run may be stopped before its end.
    for (const { detail, property, scenario, seed } of report.failures) {
      say(`FAILED ${scenario} seed ${seed}: ${property}: ${detail}`)
    }
    failures.push(...report.failures)
    const played = progress.done(report.job)
    if (Math.floor(runs / 10_000) > told) {
      told = Math.floor(runs / 10_000)
      say(`${runs} played, ${failures.length} failed; the rest: --seeds ${seeds} --base ${base} --skip ${played}`)
    }
    return failures.length < 50
  })
  const seconds = (performance.now() - started) / 1000
  const byProperty = Map.groupBy(failures, ({ property, scenario }) => `${scenario}: ${property}`)
  for (const [property, found] of byProperty) {
    say(`${property}: ${found.map(({ seed }) => seed).slice(0, 10).join(", ")}`)
  }
  for (const [first] of byProperty.values()) if (first !== undefined) explain(first)
  say(
    `${runs} schedules in ${seconds.toFixed(1)} s (${(runs / seconds).toFixed(0)} a second), ${failures.length} failed`
  )
  return failures.length === 0
}

const findVariants = async (): Promise<boolean> => {
  let all = true
  for (const { name, scenario } of variants) {
    let first: Failure | undefined
    await runJobs(jobsOf([scenario], base, seeds, { variant: name, first: true }), (report) => {
      const [failure] = report.failures
      if (failure !== undefined && (first === undefined || failure.seed < first.seed)) first = failure
      return first === undefined
    })
    all &&= first !== undefined
    say(
      `${name.padEnd(26)} ${
        first === undefined ? `NOT FOUND in ${seeds}` : `seed ${first.seed - base + 1}`.padEnd(12)
      }` +
        ` ${first?.property ?? ""}`
    )
  }
  return all
}

const hashes = async (): Promise<string> => {
  const found: Array<readonly [string, string]> = []
  await runJobs(jobsOf(names, base, seeds, { hashes: true }), ({ hashes, job }) => {
    hashes.forEach((hash, index) => found.push([`${job.scenario} ${job.from + index}`, hash]))
    return true
  })
  return found.sort(([a], [b]) => a < b ? -1 : 1).map(([seed, hash]) => `${seed} ${hash}\n`).join("")
}

const determinism = async (): Promise<boolean> => {
  const inProcess = (): Promise<string> =>
    new Promise((resolve, reject) => {
      const args = [fileURLToPath(import.meta.url), "--hashes", "--base", String(base), "--seeds", String(seeds)]
      const child = spawn(process.execPath, [...args, ...names.length === 1 ? ["--scenario", names[0] ?? ""] : []], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      let text = ""
      child.stdout.on("data", (chunk) => {
        text += String(chunk)
      })
      child.on("error", reject)
      child.on("close", () => resolve(text))
    })
  const [first, second] = [await inProcess(), await inProcess()]
  const lines = first.split("\n")
  const other = second.split("\n")
  const different = lines.filter((line, index) => line !== other[index])
  for (const line of different.slice(0, 10)) say(`differs: ${line}`)
  say(`${lines.length - 1} seeds in two processes: ${different.length} differ`)
  return different.length === 0 && lines.length > 1
}

const experiment = (): boolean => {
  const show = (name: string, { acknowledged, lost }: Lost): void =>
    say(`${name}: ${lost} of ${acknowledged} acknowledged updates lost (${(100 * lost / acknowledged).toFixed(1)} %)`)
  const without = jepsenRuns(base, 10, false)
  const fenced = jepsenRuns(base, 10, true)
  show("a lock of 2 s, without fencing", without)
  show("a lock of 2 s, with fenced", fenced)
  return fenced.lost === 0 && fenced.acknowledged > 0
}

const main = async (): Promise<boolean> => {
  if (options.seed !== undefined) {
    return replay(options.scenario ?? "locks", Number(options.seed), options.drop.split(",").filter(Boolean))
  }
  if (options.hashes) {
    process.stdout.write(await hashes())
    return true
  }
  if (options.jepsen) return experiment()
  if (options.determinism) return determinism()
  if (options.variants) return findVariants()
  return search()
}

Error.stackTraceLimit = 0
process.exitCode = await main() ? 0 : 1
