/**
 * `differential.ts [--operations N] [--seed S]`: the store in memory against etcd 3.5 and 3.4, operation by operation, 50,000 of them unless said
 * otherwise. A seed repeats a run.
 */
import { spawnSync } from "node:child_process"
import { parseArgs } from "node:util"

const { values } = parseArgs({
  options: { operations: { type: "string", default: "50000" }, seed: { type: "string" } }
})

for (const [name, value] of Object.entries(values)) {
  if (!/^[0-9]+$/.test(value)) throw new Error(`--${name} must be a whole number, not ${JSON.stringify(value)}`)
}

const { status } = spawnSync("vitest", ["run", "test/Differential.test.ts"], {
  stdio: "inherit",
  env: {
    ...process.env,
    DIFFERENTIAL_OPERATIONS: values.operations,
    ...values.seed === undefined ? {} : { DIFFERENTIAL_SEED: values.seed }
  }
})
process.exitCode = status ?? 1
