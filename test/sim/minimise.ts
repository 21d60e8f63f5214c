/**
 * Makes a failure small: leaves out faults, actions and disorder for as long as the same property is violated.
 */
import type { Plan } from "./plan.ts"
import { planOf, type RunOptions, runPlan, type Scenario } from "./Scenario.ts"
import { mannerly } from "./Timeline.ts"

/** What can be left out: `f3` (the fourth fault), `a0` (the first action), `shuffled`, `yields`, `stalls`, `rates`. */
export type Part = string

const parts = (plan: Plan<unknown>): ReadonlyArray<Part> => [
  "shuffled",
  "yields",
  "stalls",
  "rates",
  ...plan.faults.map((_, index) => `f${index}`),
  ...plan.actions.map((_, index) => `a${index}`)
]

export const without = <Action>(plan: Plan<Action>, dropped: ReadonlySet<Part>): Plan<Action> => ({
  ...plan,
  rates: dropped.has("rates") ? plan.rates.map(() => 1) : plan.rates,
  manners: {
    shuffled: dropped.has("shuffled") ? mannerly.shuffled : plan.manners.shuffled,
    yields: dropped.has("yields") ? mannerly.yields : plan.manners.yields,
    stalls: dropped.has("stalls") ? mannerly.stalls : plan.manners.stalls,
    longestStall: plan.manners.longestStall
  },
  faults: plan.faults.filter((_, index) => !dropped.has(`f${index}`)),
  actions: plan.actions.filter((_, index) => !dropped.has(`a${index}`))
})

/** What can be left out of the plan of a seed, so that it still violates the property. */
export const minimise = <Action>(
  scenario: Scenario<Action>,
  seed: number,
  property: string,
  options: RunOptions = {}
): ReadonlyArray<Part> => {
  const plan = planOf(scenario, seed)
  const dropped = new Set<Part>()
  const fails = (): boolean =>
    runPlan(scenario, seed, without(plan, dropped), options).violations.some((found) => found.property === property)
  // Halves first, then quarters, then one by one, until nothing more can go.
  let rest = [...parts(plan)]
  for (let size = Math.ceil(rest.length / 2); size >= 1;) {
    let gone = false
    for (let from = 0; from < rest.length;) {
      const chunk = rest.slice(from, from + size)
      for (const part of chunk) dropped.add(part)
      if (fails()) {
        rest = [...rest.slice(0, from), ...rest.slice(from + size)]
        gone = true
      } else {
        for (const part of chunk) dropped.delete(part)
        from += size
      }
    }
    if (size === 1 && !gone) break
    size = size === 1 ? 1 : Math.ceil(size / 2)
  }
  return [...dropped]
}
