/**
 * Jepsen's experiment on etcd's locks: five processes read, change and write one value under a lock of 2 seconds, and every 5
 * seconds some of them stand still for longer than that. What the lock alone cannot prevent, a fenced write does.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { Operation } from "../../src/Etcd.ts"
import { Lock } from "../../src/Lock.ts"
import type { Fault, Plan } from "./plan.ts"
import { makeRandom } from "./random.ts"
import { drive } from "./scenarios/drive.ts"
import { mannerly } from "./Timeline.ts"
import { World } from "./World.ts"

export interface Lost {
  /** Updates that were acknowledged, and how many of those are not in the end. */
  readonly acknowledged: number
  readonly lost: number
}

const clients = 5
const length = 120_000
const key = "/data/set"
const decoder = new TextDecoder()

const jepsen = (seed: number, fenced: boolean): Lost => {
  const random = makeRandom(seed, 9)
  const faults: Array<Fault> = []
  for (let at = 5000; at < length; at += 5000) {
    for (let client = 0; client < clients; client++) {
      if (random.chance(0.5)) faults.push({ at, fault: "pause", client, for: random.between(2500, 4500) })
    }
  }
  const plan: Plan<{ readonly client: number; readonly at: number }> = {
    clients,
    rates: Array.from({ length: clients + 1 }, () => 1),
    manners: mannerly,
    faults,
    actions: Array.from({ length: clients }, (_, client) => ({ client, at: 0 }))
  }
  const world = new World({ seed, plan })
  const acknowledged: Array<string> = []
  let over = false
  const course = drive<(typeof plan.actions)[number], Lock>(world, plan, {
    layer: Lock.layer(),
    length,
    run: ({ etcd, services }, _, number) =>
      Effect.gen(function*() {
        const lock = Context.get(services, Lock)
        for (let round = 0; !over; round++) {
          const item = `${number}.${round}`
          yield* lock.withLock("set", { ttl: "2 seconds" })((handle) =>
            Effect.gen(function*() {
              const { kvs: [kv] } = yield* etcd.range({ key })
              yield* Effect.flatMap(Random.nextBetween(10, 150), Effect.sleep)
              const items = kv === undefined ? [] : decoder.decode(kv.value).split(" ")
              const txn = { success: [Operation.put(key, [...items, item].join(" "))] }
              yield* fenced ? handle.fenced(txn) : etcd.txn(txn)
              acknowledged.push(item)
            })
          ).pipe(Effect.ignore)
          yield* Effect.flatMap(Random.nextBetween(0, 100), Effect.sleep)
        }
      }),
    ended: () => {}
  })
  over = true
  course.wait(20_000, () => !course.isOpen())
  const answer = world.server.store.range({ key })
  const last = answer._tag === "Success" ? answer.success.kvs[0] : undefined
  const present = new Set(last === undefined ? [] : decoder.decode(last.value).split(" "))
  return { acknowledged: acknowledged.length, lost: acknowledged.filter((item) => !present.has(item)).length }
}

/** Several runs of two minutes. */
export const jepsenRuns = (seed: number, runs: number, fenced: boolean): Lost => {
  let acknowledged = 0
  let lost = 0
  for (let run = 0; run < runs; run++) {
    const one = jepsen(seed + run, fenced)
    acknowledged += one.acknowledged
    lost += one.lost
  }
  return { acknowledged, lost }
}
