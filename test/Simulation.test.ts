/** A short run of the simulation: `npm run sim` plays as many schedules as one likes. */
import { assert, describe, it } from "@effect/vitest"
import { randomInt } from "node:crypto"
import { corpus, replayEntry } from "./sim/corpus.ts"
import { jepsenRuns } from "./sim/jepsen.ts"
import { jobsOf, makeProgress } from "./sim/jobs.ts"
import { runSeed } from "./sim/Scenario.ts"
import { scenarioOf, scenarios } from "./sim/scenarios/index.ts"
import { variants } from "./sim/variants/index.ts"

const seeds = 100

describe("simulation", () => {
  for (const scenario of scenarios) {
    it(`${scenario.name}: fresh schedules break no promise`, { timeout: 120_000 }, () => {
      const base = randomInt(2 ** 47)
      for (let seed = base; seed < base + seeds; seed++) {
        const { violations } = runSeed(scenario, seed)
        assert.deepStrictEqual(violations, [], `npm run sim -- --scenario ${scenario.name} --seed ${seed}`)
      }
    })
  }

  for (const entry of corpus()) {
    it(`never again: ${entry.name}`, () => {
      assert.deepStrictEqual(replayEntry(entry).violations, [])
    })
  }

  it("the same seed gives the same trace", () => {
    for (const scenario of scenarios) {
      for (let seed = 1; seed <= 10; seed++) {
        const once = runSeed(scenario, seed, { keep: true })
        const again = runSeed(scenario, seed, { keep: true })
        assert.strictEqual(again.trace, once.trace)
        assert.strictEqual(again.hash, once.hash)
        assert.isAbove(once.trace.length, 0)
      }
    }
  })

  it("a long run that was stopped goes on where it was, and leaves no seed out", () => {
    const jobs = () => jobsOf(["locks", "config", "registry"], 1000, 2000)
    const all = [...jobs()]
    const progress = makeProgress(0)
    const begun = progress.left(jobs())
    const [a, b, c, d] = [begun.next(), begun.next(), begun.next(), begun.next()].map(({ value }) => value)
    assert.strictEqual(progress.done(b), 0)
    assert.strictEqual(progress.done(a), 200)
    const skip = progress.done(d)
    assert.strictEqual(skip, 200)
    assert.deepStrictEqual([...makeProgress(skip).left(jobs())], [c, d, ...all.slice(4)])
    // Within a job: all of it.
    assert.deepStrictEqual([...makeProgress(skip + 50).left(jobs())], all.slice(2))
    assert.strictEqual(new Set(all.map(({ from, scenario }) => `${scenario} ${from}`)).size, all.length)
    assert.isAtLeast(all.reduce((sum, { count }) => sum + count, 0), 2000)
  })

  it("processes that stand still lose updates under a lock alone, and none with fenced", () => {
    // Not each of them does.
    assert.isAbove(jepsenRuns(1, 8, false).lost, 0)
    const fenced = jepsenRuns(1, 8, true)
    assert.strictEqual(fenced.lost, 0)
    assert.isAbove(fenced.acknowledged, 800)
  }, 120_000)

  for (const { breaks, client, name, scenario, seed } of variants) {
    it(`a client that is wrong is found: ${name}`, () => {
      const wrong = runSeed(scenarioOf(scenario), seed, { variant: client })
      assert.strictEqual(wrong.violations[0]?.property, breaks)
      assert.deepStrictEqual(runSeed(scenarioOf(scenario), seed).violations, [])
    })
  }
})
