/** Clients register a few instances, also the same one, and watch who is there. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Registration, type RegistrationStatus, Registry } from "../../../src/Registry.ts"
import { ServiceInstance } from "../../../src/ServiceInstance.ts"
import { type Plan, planFaults, planManners, planRates } from "../plan.ts"
import type { Scenario } from "../Scenario.ts"
import { millis } from "../Timeline.ts"
import { WatchedKeys, Watcher } from "../WatchJudge.ts"
import { describe, type World } from "../World.ts"
import { drive, hasFault, isCalm, isRestoredOnce, outages, tagOf, untilSynced } from "./drive.ts"

/** Times in milliseconds. */
export interface RegistryAction {
  readonly client: number
  readonly at: number
  readonly how: "register" | "watch" | "instances"
  readonly id: string
  /** Seconds. */
  readonly ttl: number
  /** How long a registration lasts; absent: until the end. */
  readonly for?: number | undefined
  /** When its metadata is updated, after its start. */
  readonly update?: number | undefined
}

const length = 6000

const plan: Scenario<RegistryAction>["plan"] = (random): Plan<RegistryAction> => {
  const clients = random.between(2, 4)
  const ids = random.between(1, 4)
  const ttl = random.pick([2, 3, 5])
  const action = (how: RegistryAction["how"]): RegistryAction => ({
    client: random.below(clients),
    at: random.between(0, length),
    how,
    id: `i${random.below(ids)}`,
    ttl,
    for: random.chance(0.6) ? random.between(0, 5000) : undefined,
    update: random.chance(0.4) ? random.between(0, 4000) : undefined
  })
  const actions = [
    ...Array.from({ length: random.between(2, 6) }, () => action("register")),
    ...Array.from({ length: random.between(1, 3) }, () => action(random.pick(["watch", "watch", "instances"])))
  ]
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
        "suspend",
        "lose",
        "lose",
        "slow",
        "late",
        "cut",
        "flap",
        "crash",
        "expireToken",
        "freeze",
        "restart",
        "compact",
        "revoke",
        "delete",
        "restore"
      ]
    }),
    actions: actions.sort((a, b) => a.at - b.at)
  }
}

const service = "svc"
const prefix = `/services/${service}/`
const decoder = new TextDecoder()

/** Which registration wrote an entry, and whether it was updated since. */
const textOf = (
  instance: { readonly port: number; readonly metadata?: ServiceInstance["metadata"] | undefined }
): string => `${instance.port}${instance.metadata?.["updated"] === undefined ? "" : "u"}`

interface Opened {
  readonly action: RegistryAction
  readonly number: number
  readonly registration: Registration
  readonly since: number
}

/** Who wants to be registered, from the call on: what it writes can be there before it is told, and after it gave up. */
interface Claim {
  readonly action: RegistryAction
  readonly number: number
  until: number
  /** The last that is known of it. */
  status: RegistrationStatus | undefined
}

const play = (world: World, plan: Plan<RegistryAction>): void => {
  const keys = new WatchedKeys(
    (key) => key.startsWith(prefix) ? key.slice(prefix.length) : undefined,
    (value) => textOf(JSON.parse(decoder.decode(value)))
  )
  const watchers: Array<{ readonly watcher: Watcher; readonly client: number }> = []
  const lists: Array<
    { readonly name: string; readonly client: number; latest: ReadonlyMap<string, string> | undefined }
  > = []
  const opened = new Map<number, Opened>()
  const claims = new Map<number, Claim>()
  const note = ({ number, registration }: Opened) => {
    const claim = claims.get(number)
    if (claim !== undefined) claim.status = Effect.runSync(registration.status.get)
  }
  const owners = new Map<string, string>()
  const restored = hasFault(plan, "restore")
  const calm = isCalm(plan)
  const portOf = (number: number) => 1000 + number
  world.server.onCommit = (commit) => {
    keys.commit(commit)
    for (const event of commit.events) {
      const key = event._tag === "Put" ? event.kv.key : event.key
      if (!key.startsWith(prefix)) continue
      if (event._tag === "Put") {
        if (event.kv.lease === 0n) world.violate("entries live on a lease", `${key} by ${commit.who}`)
        owners.set(key, commit.who)
      } else {
        const owner = owners.get(key)
        const isForeign = commit.who.startsWith("c") && owner !== undefined && owner !== commit.who
        if (isForeign && !restored) {
          world.violate("nobody unregisters another's instance", `${commit.who} deleted ${key} of ${owner}`)
        }
      }
    }
  }

  const register = (registry: Registry["Service"], name: string, action: RegistryAction, number: number) =>
    Effect.scopedWith((scope) =>
      Effect.gen(function*() {
        const instance = new ServiceInstance({
          id: action.id,
          name: service,
          address: "10.0.0.1",
          port: portOf(number),
          metadata: {}
        })
        const registration = yield* Scope.provide(registry.register(instance, { ttl: `${action.ttl} seconds` }), scope)
        world.record(name, "registers", action.id)
        const one = { action, number, registration, since: world.now }
        opened.set(number, one)
        const close = () => {
          note(one)
          opened.delete(number)
        }
        yield* Scope.addFinalizer(scope, Effect.sync(close))
        if (action.update !== undefined) {
          const updated = registration.update({ updated: "yes" }).pipe(
            Effect.delay(action.update),
            Effect.exit,
            Effect.tap((exit) =>
              Effect.sync(() => {
                world.record(name, "updates", tagOf(exit))
                const allowed = ["done", "Replaced", "EtcdError Closed", ...calm ? [] : outages]
                if (!allowed.includes(tagOf(exit))) world.violate("no unexpected failure", `${name}: ${describe(exit)}`)
              })
            )
          )
          yield* Effect.forkIn(updated, scope)
        }
        if (action.for === undefined) return yield* Effect.never
        yield* Effect.sleep(action.for)
        world.record(name, "leaves", action.id)
        if (number % 2 === 0) yield* registration.unregister
      })
    )

  let closing = false
  const course = drive<RegistryAction, Registry>(world, plan, {
    layer: Registry.layer(),
    length,
    run: ({ process, services }, action, number) => {
      const registry = Context.get(services, Registry)
      const name = `${process.name}.${number}`
      switch (action.how) {
        case "register":
          claims.set(number, { action, number, until: Infinity, status: undefined })
          return register(registry, name, action, number)
        case "watch": {
          const watcher = new Watcher(world, name)
          watchers.push({ watcher, client: action.client })
          return Stream.runForEach(registry.watch(service), (event) =>
            Effect.sync(() => {
              if (event._tag === "Synced") return watcher.tell(event)
              const { instance: { id }, revision } = event
              watcher.tell(
                event._tag === "Put"
                  ? { _tag: "Put", key: id, revision, value: textOf(event.instance) }
                  : { _tag: "Delete", key: id, revision }
              )
            })).pipe(untilSynced(watcher))
        }
        case "instances": {
          const list: (typeof lists)[number] = { name, client: action.client, latest: undefined }
          lists.push(list)
          return Stream.runForEach(registry.instances(service), (instances) =>
            Effect.sync(() => {
              list.latest = new Map(instances.map((instance) => [instance.id, textOf(instance)]))
              world.record(name, "lists", [...list.latest].join(" "))
            })).pipe(
              Effect.retry({
                times: 200,
                while: (error) => {
                  const isOutage = error._tag === "EtcdError" && outages.includes(`EtcdError ${error.reason._tag}`)
                  return list.latest === undefined && isOutage
                }
              })
            )
        }
      }
    },
    ended: (action, number, exit) => {
      const tag = tagOf(exit)
      world.record(`c${action.client}.${number}`, "ends", tag)
      const claim = claims.get(number)
      if (claim !== undefined) claim.until = world.now
      if (closing && ["EtcdError Closed", "done", "interrupted"].includes(tag)) return
      const allowed = action.how === "register" ? ["done", "AlreadyRegistered", ...calm ? [] : outages] : []
      if (!allowed.includes(tag)) {
        world.violate("no unexpected failure", `c${action.client}.${number} ${action.how}: ${describe(exit)}`)
      }
    }
  })

  const isOver = (number: number) => plan.actions[number]?.how === "register" && plan.actions[number].for !== undefined
  course.wait(30_000, () => !course.isOpen(isOver))
  for (const number of course.open().filter(isOver)) world.violate("every call ends", `action ${number}`)
  const ttl = Math.max(2, ...plan.actions.map((action) => action.ttl))
  course.wait((ttl * 1000 + 5000) * 1.02)
  if (restored && judgeEnd(world, [...opened.values()], "some do not know yet") > 0) {
    course.wait((ttl * 2000 + 3000) * 1.02)
  }
  judgeEnd(world, [...opened.values()], "all know")
  // The leases of those who ended begin anew with every restart: they can outlast the wait for their end.
  if (!restored || (isRestoredOnce(plan) && !hasFault(plan, "restart"))) {
    for (const one of opened.values()) note(one)
    for (const one of opened.values()) {
      const isReplaced = !world.isCrashed(one.action.client) && claims.get(one.number)?.status === "Replaced"
      if (isReplaced && ![...claims.values()].some((other) => mayReplace(other, one))) {
        world.violate("who is replaced has a successor", `c${one.action.client}.${one.number} ${one.action.id}`)
      }
    }
  }
  for (const { client, watcher } of watchers) {
    if (world.isCrashed(client)) continue
    if (!restored) watcher.judge(keys, hasFault(plan, "compact"))
    else if (isRestoredOnce(plan)) watcher.judgeRestored(present(world))
  }
  if (!restored) {
    for (const { client, latest, name } of lists) {
      if (world.isCrashed(client)) continue
      const known = latest === undefined ? "nothing" : show(latest)
      const there = show(present(world))
      if (known !== there) world.violate("watchers end equal to the store", `${name}: ${known}, etcd has ${there}`)
    }
  }
  closing = true
  for (const number of course.open()) {
    if (plan.actions[number]?.how === "register") course.stop(number)
  }
  course.wait(5000, () => !course.isOpen((number) => plan.actions[number]?.how === "register"))
  if (keysOfLive(world).length > 0) world.violate("no entry is left behind", keysOfLive(world).join(" "))
  world.finish(course.clients)
}

/** How much later than its call ends a write can be applied. */
const latest = 5000 * millis

/** Somebody else wanted to be there while it was, and was not replaced himself. */
const mayReplace = (
  { action, number, status, until }: Claim,
  one: Pick<Opened, "action" | "number" | "since">
): boolean =>
  number !== one.number && action.id === one.action.id && action.client !== one.action.client &&
  until + latest >= one.since && status !== "Replaced"

/** All of those who crashed are gone by then. */
const keysOfLive = (world: World): ReadonlyArray<string> => world.keys().filter((key) => key.startsWith(prefix))

const present = (world: World): ReadonlyMap<string, string> => {
  const answer = world.server.store.range({ prefix })
  if (answer._tag === "Failure") return new Map()
  return new Map(
    answer.success.kvs.map((kv) => [kv.key.slice(prefix.length), textOf(JSON.parse(decoder.decode(kv.value)))])
  )
}

const show = (list: ReadonlyMap<string, string>): string => [...list].map((entry) => entry.join("=")).sort().join(" ")

/**
 * What is listed is what is alive. Returns how many do not know yet that they are replaced: whoever finds somebody else's entry of a lower
 * revision than its own, after a restore, waits whether that goes with its lease.
 */
const judgeEnd = (
  world: World,
  opened: ReadonlyArray<Opened>,
  patience: "some do not know yet" | "all know"
): number => {
  let unknowing = 0
  const alive = opened.filter(({ action }) => !world.isCrashed(action.client))
  const there = present(world)
  const expected = new Set<string>()
  for (const { action, number, registration } of alive) {
    const name = `c${action.client}.${number}`
    const status = Effect.runSync(registration.status.get)
    if (status === "Replaced") {
      const others = alive.filter((other) => other.number !== number && other.action.id === action.id)
      world.record(name, "replaced", `${action.id}, ${others.length} others`)
      continue
    }
    const isTaken = () =>
      alive.some((other) =>
        other.action.id === action.id && Effect.runSync(other.registration.status.get) === "Registered"
      )
    if (patience === "some do not know yet" && status === "Recovering" && isTaken()) {
      unknowing++
      continue
    }
    if (status !== "Registered") {
      world.violate("a registration never gives up", `${name} is ${status}`)
      continue
    }
    if (expected.has(action.id)) world.violate("one registration of an instance", `${action.id} is registered twice`)
    expected.add(action.id)
    const value = there.get(action.id)
    if (value?.startsWith(String(1000 + number)) !== true) {
      world.violate("the listed set is the live set", `${name} is registered as ${action.id}, etcd has ${value}`)
    }
  }
  for (const [id, value] of there) {
    if (!expected.has(id)) world.violate("the listed set is the live set", `${id} (${value}) is listed, nobody has it`)
  }
  return unknowing
}

export const registry: Scenario<RegistryAction> = { name: "registry", plan, play }
