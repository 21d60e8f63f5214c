/** Every schedule that has found something, with its whole plan, so that it stays what it was when plans are made otherwise. */
import { readFileSync } from "node:fs"
import type { Plan } from "./plan.ts"
import { type Outcome, type RunOptions, runPlan } from "./Scenario.ts"
import { scenarioOf } from "./scenarios/index.ts"

export interface CorpusEntry {
  /** What was wrong. */
  readonly name: string
  readonly scenario: string
  readonly seed: number
  readonly plan: Plan<unknown>
}

export const corpus = (): ReadonlyArray<CorpusEntry> =>
  JSON.parse(readFileSync(new URL("corpus.json", import.meta.url), "utf8"))

export const replayEntry = ({ plan, scenario, seed }: CorpusEntry, options?: RunOptions): Outcome =>
  runPlan(scenarioOf(scenario), seed, plan, options)
