import type { Scenario } from "../Scenario.ts"
import { batching } from "./batching.ts"
import { config } from "./config.ts"
import { lines } from "./lines.ts"
import { locks } from "./locks.ts"
import { registry } from "./registry.ts"
import { roles } from "./roles.ts"

/** Every scenario has actions of its own, which nobody outside of it looks into. */
export const scenarios: ReadonlyArray<Scenario<unknown>> = [
  locks as Scenario<unknown>,
  config as Scenario<unknown>,
  registry as Scenario<unknown>,
  lines as Scenario<unknown>,
  batching as Scenario<unknown>,
  roles as Scenario<unknown>
]

export const scenarioOf = (name: string): Scenario<unknown> => {
  const found = scenarios.find((scenario) => scenario.name === name)
  if (found === undefined) throw new Error(`no scenario ${name}: ${scenarios.map(({ name }) => name).join(", ")}`)
  return found
}
