/** Runs ranges of seeds for `run.ts`. */
import { parentPort } from "node:worker_threads"
// oxlint-disable-next-line import/no-unassigned-import -- it is for what comes after it
import "./withoutAsyncHooks.ts"
import { runSeed } from "./Scenario.ts"
import { scenarioOf } from "./scenarios/index.ts"
import { variants } from "./variants/index.ts"

export interface Job {
  readonly scenario: string
  readonly from: number
  readonly count: number
  readonly variant?: string | undefined
  /** Ends with the first violation. */
  readonly first?: boolean | undefined
  readonly hashes?: boolean | undefined
}

export interface Failure {
  readonly scenario: string
  readonly seed: number
  readonly property: string
  readonly detail: string
}

export interface Report {
  readonly job: Job
  readonly runs: number
  readonly failures: ReadonlyArray<Failure>
  readonly hashes: ReadonlyArray<string>
}

/** Errors are made by the thousand, and nobody reads where. */
Error.stackTraceLimit = 0

export const work = (job: Job): Report => {
  const scenario = scenarioOf(job.scenario)
  const variant = job.variant === undefined ? undefined : variants.find(({ name }) => name === job.variant)
  const failures: Array<Failure> = []
  const hashes: Array<string> = []
  let runs = 0
  for (let seed = job.from; seed < job.from + job.count; seed++) {
    const outcome = runSeed(scenario, seed, { variant: variant?.client })
    runs++
    if (job.hashes === true) hashes.push(outcome.hash)
    const [violation] = outcome.violations
    if (violation === undefined) continue
    failures.push({ scenario: job.scenario, seed, ...violation })
    if (job.first === true) break
  }
  return { job, runs, failures, hashes }
}

// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread is no window
parentPort?.on("message", (job: Job) => parentPort?.postMessage(work(job)))
