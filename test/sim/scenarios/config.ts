/** Clients read and write a few values in every way that there is, watch them, and follow them live. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { ConfigCenter, type ConfigEvent } from "../../../src/ConfigCenter.ts"
import { makeHistory, recorded } from "../configHistory.ts"
import { checkLinearizable, showVerdict } from "../linearizable.ts"
import { type Plan, planFaults, planManners, planRates } from "../plan.ts"
import type { Scenario } from "../Scenario.ts"
import { WatchedKeys, Watcher } from "../WatchJudge.ts"
import { describe, type World } from "../World.ts"
import { drive, hasFault, isCalm, isRestoredOnce, outages, tagOf, untilSynced } from "./drive.ts"

/** Times in milliseconds. */
export interface ConfigAction {
  readonly client: number
  readonly at: number
  readonly key: string
  readonly how: "get" | "set" | "compareAndSet" | "update" | "delete" | "watch" | "watchPrefix" | "live"
  /** How often, and how long between. For a watcher: how long it takes for an event. */
  readonly times: number
  readonly pace: number
}

const length = 5000
const defaultValue = -1

const plan: Scenario<ConfigAction>["plan"] = (random): Plan<ConfigAction> => {
  const clients = random.between(2, 4)
  const keys = random.between(1, 3)
  const actions = Array.from({ length: random.between(4, 9) }, (): ConfigAction => ({
    client: random.below(clients),
    at: random.between(0, length),
    key: `k${random.below(keys)}`,
    how: random.pick(["get", "set", "set", "compareAndSet", "compareAndSet", "update", "delete"]),
    times: random.between(1, 9),
    pace: random.pick([0, 10, 60, 400])
  }))
  const watchers = Array.from({ length: random.between(1, 4) }, (): ConfigAction => ({
    client: random.below(clients),
    at: random.between(0, length),
    key: `k${random.below(keys)}`,
    how: random.pick(["watch", "watchPrefix", "live"]),
    times: 1,
    pace: random.pick([0, 0, 0, 50])
  }))
  return {
    clients,
    rates: planRates(random, clients + 1),
    manners: planManners(random),
    faults: planFaults(random, {
      clients,
      until: length,
      most: 5,
      kinds: [
        "partition",
        "refuse",
        "pause",
        "lose",
        "lose",
        "slow",
        "late",
        "late",
        "cut",
        "flap",
        "flap",
        "cut",
        "crash",
        "expireToken",
        "freeze",
        "restart",
        "compact",
        "compact",
        "restore"
      ]
    }),
    actions: [...actions, ...watchers].sort((a, b) => a.at - b.at)
  }
}

const play = (world: World, plan: Plan<ConfigAction>): void => {
  const history = makeHistory()
  const watchers: Array<{ readonly watcher: Watcher; readonly keys: WatchedKeys; readonly client: number }> = []
  const lives: Array<{ readonly client: number; readonly key: string; readonly get: Effect.Effect<number> }> = []
  const decoder = new TextDecoder()
  const written = new Map<string, Set<number>>()
  const restored = hasFault(plan, "restore")
  const calm = isCalm(plan)
  const prefix = "/config/"
  const watched = (covers: (key: string) => boolean): WatchedKeys => {
    const keys = new WatchedKeys((path) => {
      const key = path.slice(prefix.length)
      return path.startsWith(prefix) && covers(key) ? key : undefined
    }, (value) => decoder.decode(value))
    return keys
  }
  const all = watched(() => true)
  const single = new Map(["k0", "k1"].map((name) => [name, watched((key) => key === `app/${name}`)]))
  world.server.onCommit = (commit) => {
    all.commit(commit)
    for (const keys of single.values()) keys.commit(commit)
    for (const event of commit.events) {
      if (event._tag !== "Put") continue
      const key = event.kv.key.slice(prefix.length)
      const values = written.get(key) ?? new Set()
      written.set(key, values.add(Number(decoder.decode(event.kv.value))))
    }
  }

  const follow = (
    name: string,
    client: number,
    keys: WatchedKeys,
    stream: Stream.Stream<ConfigEvent<number>, unknown>,
    pace: number
  ) => {
    const watcher = new Watcher(world, name)
    watchers.push({ watcher, keys, client })
    return Stream.runForEach(stream, (event) =>
      Effect.suspend(() => {
        if (event._tag === "Put") {
          watcher.tell({ _tag: "Put", key: event.key, revision: event.version, value: String(event.value) })
        } else if (event._tag === "Delete") {
          watcher.tell({ _tag: "Delete", key: event.key, revision: event.version })
        } else if (event._tag === "Synced") {
          watcher.tell({ _tag: "Synced", revision: event.version })
        } else {
          world.violate("values decode", `${name}: ${event.key}`)
        }
        return pace > 0 ? Effect.sleep(pace) : Effect.void
      })).pipe(untilSynced(watcher))
  }

  const shown = (name: string, key: string, value: number): void => {
    world.record(name, "shows", `${key} ${value}`)
    if (value !== defaultValue && written.get(key)?.has(value) !== true) {
      world.violate("live shows only what was written", `${name}: ${key} ${value}`)
    }
  }

  let closing = false
  const course = drive<ConfigAction, ConfigCenter>(world, plan, {
    layer: ConfigCenter.layer(),
    length,
    run: ({ process, services }, action, number) => {
      const config = Context.get(services, ConfigCenter)
      const name = `${process.name}.${number}`
      const key = `app/${action.key}`
      const client = recorded(history, name, config, Schema.Int)
      const value = (round: number) => number * 100 + round
      const repeat = (once: (round: number) => Effect.Effect<unknown, { readonly _tag: string }>) =>
        Effect.gen(function*() {
          for (let round = 0; round < action.times; round++) {
            const exit = yield* Effect.exit(once(round))
            world.record(name, action.how, `${key} ${tagOf(exit)}`)
            const allowed = ["done", "ConfigNotFound", "VersionConflict", ...calm ? [] : outages]
            if (!allowed.includes(tagOf(exit))) {
              world.violate("no unexpected failure", `${name} ${action.how}: ${describe(exit)}`)
            }
            if (action.pace > 0) yield* Effect.sleep(action.pace)
          }
        })
      switch (action.how) {
        case "get":
          return repeat((round) => round % 2 === 0 ? client.get(key) : client.getVersioned(key))
        case "set":
          return repeat((round) => client.set(key, value(round)))
        case "compareAndSet":
          return repeat((round) =>
            client.getVersioned(key).pipe(
              Effect.map(({ version }) => version),
              Effect.catchTag("ConfigNotFound", () => Effect.succeed(0n)),
              Effect.flatMap((version) => client.compareAndSet(key, value(round), version))
            )
          )
        case "update":
          // A write of this value, for whoever reads: what was there before it says its version.
          return repeat((round) =>
            Effect.suspend(() => {
              const returned = history.invoke(name, key, { _tag: "set", value: value(round) })
              return Effect.onExit(config.update(key, Schema.Int, () => value(round)), (exit) =>
                Effect.sync(() => {
                  const refused = ["ConfigNotFound", "VersionConflict", "EtcdError Unavailable", "EtcdError Timeout"]
                  if (exit._tag === "Success") returned({ _tag: "Written", version: exit.value.version })
                  else if (refused.includes(tagOf(exit))) returned({ _tag: "Refused" })
                }))
            })
          )
        case "delete":
          return repeat(() => client.delete(key))
        case "watch":
          return follow(name, action.client, single.get(action.key) ?? all, config.watch(key, Schema.Int), action.pace)
        case "watchPrefix":
          return follow(name, action.client, all, config.watchPrefix("app", Schema.Int), action.pace)
        case "live":
          return Effect.scopedWith((scope) =>
            Effect.gen(function*() {
              const live = yield* config.live(key, Schema.Int, { onDelete: { default: defaultValue } }).pipe(
                Scope.provide(scope),
                Effect.retry({
                  times: 20,
                  while: (error) => outages.includes(`EtcdError ${"reason" in error ? error.reason._tag : ""}`)
                })
              )
              lives.push({ client: action.client, key, get: live.get })
              yield* Stream.runForEach(live.changes, (value) => Effect.sync(() => shown(name, key, value)))
            })
          )
      }
    },
    ended: (action, number, exit) => {
      if (exit._tag === "Success" && action.how !== "watch" && action.how !== "watchPrefix") return
      // Streams end with their layer.
      if (closing && ["EtcdError Closed", "done", "interrupted"].includes(tagOf(exit))) return
      if (action.how === "live" && outages.includes(tagOf(exit))) return
      world.violate("no unexpected failure", `c${action.client}.${number} ${action.how}: ${describe(exit)}`)
    }
  })
  const isBusy = (number: number) => !["watch", "watchPrefix", "live"].includes(plan.actions[number]?.how ?? "")
  course.wait(40_000, () => !course.isOpen(isBusy))
  for (const number of course.open().filter(isBusy)) {
    world.violate("every call ends", `c${plan.actions[number]?.client}.${number}`)
  }
  // For watches to come back.
  course.wait(10_000)
  const alive = ({ client }: { readonly client: number }) => !world.isCrashed(client)
  if (!restored) {
    for (const { keys, watcher } of watchers.filter(alive)) watcher.judge(keys, hasFault(plan, "compact"))
    const verdict = checkLinearizable(history.operations)
    if (verdict._tag !== "Linearizable") world.violate("compare-and-set is linearizable", showVerdict(verdict))
    for (const { client, get, key } of lives) {
      if (world.isCrashed(client)) continue
      const present = single.get(key.slice("app/".length))?.stateAt(world.server.store.revision).get(key)?.value
      const value = Effect.runSync(get)
      if (String(value) !== (present ?? String(defaultValue))) {
        world.violate("live ends equal to the store", `c${client}: ${key} is ${present}, live shows ${value}`)
      }
    }
  }
  if (isRestoredOnce(plan)) {
    const answer = world.server.store.range({ prefix })
    const present = (keys: WatchedKeys) =>
      new Map(
        (answer._tag === "Failure" ? [] : answer.success.kvs).flatMap((kv) => {
          const key = keys.keyOf(kv.key)
          return key === undefined ? [] : [[key, decoder.decode(kv.value)] as const]
        })
      )
    for (const { keys, watcher } of watchers.filter(alive)) watcher.judgeRestored(present(keys))
  }
  closing = true
  // A live value ends with the scope that it was opened in.
  for (const number of course.open()) if (plan.actions[number]?.how === "live") course.stop(number)
  course.wait(100)
  world.finish(course.clients)
}

export const config: Scenario<ConfigAction> = { name: "config", plan, play }
