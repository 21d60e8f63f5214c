/**
 * The same random sequences of operations on the store in memory and on etcd 3.5 and 3.4: every answer, every error and every event
 * of their watches is the same. `DIFFERENTIAL_SEED` repeats a run, `DIFFERENTIAL_RUNS` says how many sequences (of about 60 operations),
 * `DIFFERENTIAL_SHRINK=1` makes a failing one as small as it can.
 */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fc from "fast-check"
import type { Etcd } from "../src/Etcd.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import type { Operator } from "./contract/Operator.ts"
import { type Command, commands } from "./differential/commands.ts"
import { runSequence, type Transcript } from "./differential/run.ts"

type Store = Context.Context<Etcd | Operator>

class Stores
  extends Context.Service<Stores, { readonly memory: Store; readonly etcd35: Store; readonly etcd34: Store }>()(
    "test/Stores"
  )
{
  static readonly layer = Layer.effect(
    Stores,
    Effect.all({
      memory: Layer.build(layerMemory()),
      etcd35: Layer.build(layerServer("3.5")),
      etcd34: Layer.build(layerServer("3.4"))
    }, { concurrency: "unbounded" })
  )
}

/** Answer by answer, so that a difference is shown with the operation that made it. */
const compare = (version: string, sequence: ReadonlyArray<Command>, memory: Transcript, etcd: Transcript) => {
  sequence.forEach((command, i) =>
    assert.deepStrictEqual(
      memory.answers[i],
      etcd.answers[i],
      `memory and ${version} at ${i}: ${fc.stringify(command)}`
    )
  )
  assert.deepStrictEqual(memory.live, etcd.live, `${version}: a watch open all the time`)
  assert.deepStrictEqual(memory.history, etcd.history, `${version}: the history`)
  assert.deepStrictEqual(memory.left, etcd.left, `${version}: the history that is left`)
  // Before etcd pull request 18274 a compaction forgot the deletions of its own revision.
  if (version !== "etcd 3.4") {
    assert.deepStrictEqual(
      memory.fromCompacted,
      etcd.fromCompacted,
      `${version}: the history from the compacted revision`
    )
  }
}

const { DIFFERENTIAL_RUNS = "40", DIFFERENTIAL_SEED = String(Date.now() % 0x7fffffff), DIFFERENTIAL_SHRINK } =
  process.env

layer(Stores.layer, { excludeTestServices: true, timeout: "60 seconds" })("differential", (it) => {
  it.effect(
    `memory answers as etcd does (seed ${DIFFERENTIAL_SEED})`,
    () =>
      Effect.gen(function*() {
        const { etcd34, etcd35, memory } = yield* Stores
        const outcomes = new Map<string, number>()
        let sequences = 0
        const property = fc.asyncProperty(commands, (sequence) => {
          const prefix = `/s${sequences++}/`
          const run = (store: Store) => Effect.provide(runSequence(prefix, sequence), store)
          return Effect.runPromise(
            Effect.map(
              Effect.all([run(memory), run(etcd35), run(etcd34)], { concurrency: "unbounded" }),
              ([memory, etcd35, etcd34]) => {
                compare("etcd 3.5", sequence, memory, etcd35)
                compare("etcd 3.4", sequence, memory, etcd34)
                for (const answer of memory.answers) {
                  const outcome = Object(answer).failed ?? "answered"
                  outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
                }
              }
            )
          )
        })
        yield* Effect.promise(() =>
          fc.assert(property, {
            seed: Number(DIFFERENTIAL_SEED),
            numRuns: Number(DIFFERENTIAL_RUNS),
            // Each attempt to make it smaller runs on three servers.
            endOnFailure: DIFFERENTIAL_SHRINK === undefined
          })
        )
        yield* Effect.log(`operations by outcome: ${JSON.stringify(Object.fromEntries(outcomes))}`)
        // Most of them must mean something, and each kind of refusal must have been seen.
        assert.isAbove(outcomes.get("answered") ?? 0, Number(DIFFERENTIAL_RUNS) * 30)
        for (const refusal of ["InvalidArgument", "LeaseNotFound", "Compacted"]) {
          assert.isAbove(outcomes.get(refusal) ?? 0, 0, refusal)
        }
      }),
    60_000 + 1_000 * Number(DIFFERENTIAL_RUNS)
  )
})
