/** The judges themselves: what they excuse, and what they never do. */
import { assert, describe, it } from "@effect/vitest"
import type { Hold } from "./load.ts"
import type { Fact } from "./truth.ts"
import { judgeLocks } from "./verdicts.ts"

const fact = (revision: bigint, who: string, at: number, isThere: boolean): Fact => ({
  revision,
  key: `/locks/l/${who}`,
  value: isThere ? "" : undefined,
  createRevision: isThere ? revision : 0n,
  version: isThere ? 1 : 0,
  leased: isThere,
  at
})
const hold = (who: string, token: bigint, start: number, end: number): Hold => ({ lock: "l", who, token, start, end })
const wrong = (
  facts: ReadonlyArray<Fact>,
  holds: ReadonlyArray<Hold>,
  stops: Parameters<typeof judgeLocks>[3] = []
) => judgeLocks(facts, holds, [], stops).wrong.length

describe("two holders at a time", () => {
  const facts = [fact(2n, "a", 0, true), fact(3n, "b", 10, true), fact(4n, "a", 10_050, false)]
  const holds = [hold("a", 2n, 1, 10_166), hold("b", 3n, 10_100, 10_200)]

  it("are wrong", () => {
    assert.strictEqual(wrong(facts, holds), 1)
  })

  it("are not the library's fault when a stopped leader of etcd goes on and revokes the lease", () => {
    assert.strictEqual(wrong(facts, holds, [{ from: 6000, to: 10_000 }]), 0)
  })

  it("are wrong all the same when it was not replaced, or the lease went before or long after", () => {
    for (const stop of [{ from: 9500, to: 10_000 }, { from: 6000, to: 10_060 }, { from: 4000, to: 8000 }]) {
      assert.strictEqual(wrong(facts, holds, [stop]), 1)
    }
  })

  it("are wrong when the entry of the first is still there", () => {
    assert.strictEqual(wrong(facts.slice(0, 2), holds, [{ from: 6000, to: 10_000 }]), 1)
  })

  it("are wrong when the first goes on after the end of any lease", () => {
    assert.strictEqual(wrong(facts, [hold("a", 2n, 1, 13_100), ...holds.slice(1)], [{ from: 6000, to: 10_000 }]), 1)
  })
})
