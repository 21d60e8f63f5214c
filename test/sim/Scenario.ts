/** What is played in a world, and how a run of it is judged. */
import type { Plan } from "./plan.ts"
import { makeRandom, type Random } from "./random.ts"
import { Livelock } from "./Timeline.ts"
import { type Variant, type Violation, World } from "./World.ts"

export interface Scenario<Action> {
  readonly name: string
  readonly plan: (random: Random) => Plan<Action>
  /** Plays it to the end, and reports what does not hold. */
  readonly play: (world: World, plan: Plan<Action>) => void
}

export interface Outcome {
  readonly violations: ReadonlyArray<Violation>
  readonly hash: string
  readonly tasks: number
  readonly trace: string
}

export interface RunOptions {
  readonly variant?: Variant | undefined
  readonly keep?: boolean | undefined
}

/** Two scenarios do not share what a seed decides. */
export const planOf = <Action>(scenario: Scenario<Action>, seed: number): Plan<Action> => {
  let stream = 0
  for (const letter of scenario.name) stream = stream * 31 + letter.charCodeAt(0) | 0
  return scenario.plan(makeRandom(seed, stream))
}

export const runPlan = <Action>(
  scenario: Scenario<Action>,
  seed: number,
  plan: Plan<Action>,
  options: RunOptions = {}
): Outcome => {
  const world = new World({ seed, plan, ...options })
  try {
    scenario.play(world, plan)
  } catch (error) {
    world.violate(
      error instanceof Livelock ? "no livelock" : "no unexpected failure",
      error instanceof Livelock ? error.message : String(error instanceof Error ? error.stack : error)
    )
  }
  return {
    violations: world.violations,
    hash: world.trace.hash,
    tasks: world.timeline.tasks,
    trace: options.keep === true ? world.trace.toString() : ""
  }
}

export const runSeed = <Action>(scenario: Scenario<Action>, seed: number, options?: RunOptions): Outcome =>
  runPlan(scenario, seed, planOf(scenario, seed), options)
