/**
 * The same random sequences of operations on the store in memory and on etcd 3.5 and 3.4: every answer, every error and every event
 * of their watches is the same. `npm run test:differential -- --operations 50000 --seed 1` runs more of them; a sequence that shows a
 * difference is made as small as a minute allows.
 */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fc from "fast-check"
import { type Command, commands } from "./differential/commands.ts"
import { runExpiry } from "./differential/expiry.ts"
import { runSequence, type Transcript } from "./differential/run.ts"
import { type Store, Stores } from "./differential/stores.ts"
import { sameUpToTies } from "./differential/ties.ts"
import type { WatchRecord } from "./differential/watches.ts"

const { DIFFERENTIAL_OPERATIONS = "2400", DIFFERENTIAL_SEED = String(Date.now() % 0x7fffffff) } = process.env
const operations = Number(DIFFERENTIAL_OPERATIONS)

/** Answer by answer, so that a difference is shown with the operation that made it. */
const compare = (version: string, sequence: ReadonlyArray<Command>, memory: Transcript, etcd: Transcript) => {
  sequence.forEach((command, i) =>
    sameUpToTies(memory.answers[i], etcd.answers[i]) || assert.deepStrictEqual(
      memory.answers[i],
      etcd.answers[i],
      `memory and ${version} at ${i}: ${fc.stringify(command)}`
    )
  )
  assert.deepStrictEqual(memory.live, etcd.live, `${version}: a watch open all the time`)
  assert.deepStrictEqual(memory.history, etcd.history, `${version}: the history`)
  assert.deepStrictEqual(memory.left, etcd.left, `${version}: the history that is left`)
  // Before etcd pull request 18274 a compaction forgot the deletions of its own revision.
  const forgets = version === "etcd 3.4"
  if (!forgets) {
    assert.deepStrictEqual(
      memory.fromCompacted,
      etcd.fromCompacted,
      `${version}: the history from the compacted revision`
    )
  }
  const known = (watches: ReadonlyArray<WatchRecord>) => watches.filter((watch) => !(forgets && watch.fromCompacted))
  assert.deepStrictEqual(known(memory.watches), known(etcd.watches), `${version}: the watches opened on the way`)
}

/** What the operations came to: most of them must mean something, and each kind of refusal must have been seen. */
const makeCount = () => {
  const outcomes = new Map<string, number>()
  let done = 0
  let watches = 0
  let events = 0
  return {
    done: () => done,
    add: (sequence: ReadonlyArray<Command>, transcript: Transcript) => {
      done += sequence.length
      watches += transcript.watches.length
      events += transcript.watches.reduce((sum, { seen }) => sum + seen.length - 1, 0)
      for (const answer of transcript.answers) {
        const outcome = Object(answer).failed ?? "answered"
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      }
    },
    show: () =>
      `${done} operations, ${watches} watches that saw ${events} revisions; by outcome: ${
        JSON.stringify(Object.fromEntries(outcomes))
      }`,
    check: () => {
      assert.isAtLeast(done, operations)
      assert.isAbove(outcomes.get("answered") ?? 0, done / 2)
      for (const refusal of ["InvalidArgument", "LeaseNotFound", "Compacted"]) {
        assert.isAbove(outcomes.get(refusal) ?? 0, 0, refusal)
      }
    }
  }
}

/** Each attempt to make a failing sequence smaller runs on three servers. */
const shrinkingMillis = 60_000

layer(Stores.layer, { excludeTestServices: true, timeout: "60 seconds" })("differential", (it) => {
  it.effect(
    `memory answers as etcd does (seed ${DIFFERENTIAL_SEED})`,
    () =>
      Effect.gen(function*() {
        const { etcd34, etcd35, memory } = yield* Stores
        const count = makeCount()
        let sequences = 0
        let failedAt: number | undefined
        const property = fc.asyncProperty(commands, (sequence) => {
          const isOver = failedAt === undefined
            ? count.done() >= operations
            : performance.now() - failedAt > shrinkingMillis
          if (isOver) return Promise.resolve()
          const number = sequences++
          const run = (store: Store) => Effect.provide(runSequence(number, sequence), store)
          return Effect.runPromise(
            Effect.map(
              Effect.all([run(memory), run(etcd35), run(etcd34)], { concurrency: "unbounded" }),
              ([memory, etcd35, etcd34]) => {
                compare("etcd 3.5", sequence, memory, etcd35)
                compare("etcd 3.4", sequence, memory, etcd34)
                count.add(sequence, memory)
              }
            ).pipe(Effect.onError(() => Effect.sync(() => failedAt ??= performance.now())))
          )
        })
        yield* Effect.promise(() =>
          fc.assert(property, { seed: Number(DIFFERENTIAL_SEED), numRuns: Math.ceil(operations / 10) })
        ).pipe(Effect.ensuring(Effect.suspend(() => Effect.log(`seed ${DIFFERENTIAL_SEED}: ${count.show()}`))))
        count.check()
      }),
    120_000 + shrinkingMillis + 60 * operations
  )

  it.effect("leases that run out take their keys along, and not too soon", () =>
    Effect.gen(function*() {
      const stores = yield* Stores
      const [memory, ...others] = yield* Effect.all(
        [stores.memory, stores.etcd35, stores.etcd34].map((store) => Effect.provide(runExpiry("/expiry/"), store)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(memory?.told, {
        granted: [2, 4, 3],
        batches: [
          { revision: 2n, tooSoon: false, events: [{ deleted: "a", was: 0 }, { deleted: "b", was: 0 }] },
          { revision: 3n, tooSoon: false, events: [{ deleted: "c", was: 1 }, { deleted: "moved", was: 1 }] }
        ],
        beat: "LeaseNotFound",
        status: "LeaseNotFound",
        revoke: "LeaseNotFound",
        put: "LeaseNotFound",
        left: [["freed", -1], ["kept", 2]]
      })
      for (const { told } of others) assert.deepStrictEqual(told, memory?.told)
      const millis = [memory, ...others].map((expiry) => expiry?.late.map((nanos) => Number(nanos / 1_000_000n)))
      yield* Effect.log(`keys gone after their lease (ms): memory, etcd 3.5, etcd 3.4: ${JSON.stringify(millis)}`)
    }))
})
