/**
 * What locks promise, checked while a run goes on.
 */
import type * as Exit from "effect/Exit"
import type { Plan } from "../plan.ts"
import { clockBound } from "../plan.ts"
import type { Commit } from "../Server.ts"
import { millis } from "../Timeline.ts"
import { describe, type World } from "../World.ts"
import { hasFault, isCalm, outages, tagOf } from "./drive.ts"

/** Whoever takes a lock, or leads: entries of both are made alike. */
export interface Attempt {
  readonly client: number
  readonly key: string
  readonly how: string
  /** Seconds. */
  readonly ttl: number
}

interface EntryOf {
  readonly key: string
  readonly path: string
  readonly token: bigint
  readonly by: string
}

/** What a handle says of its entry. After a restore two entries can have the same token: its key tells them apart. */
interface Held {
  readonly entryKey: string
  readonly fencingToken: bigint
}

/** Who holds by an entry, and in which history of etcd it entered. */
interface Holder {
  readonly who: string
  readonly number: number
  readonly history: number
}

/** Of an entry: whose lease it is on. */
const ownerOf = (key: string): string => `c${Number(BigInt(`0x${key.slice(key.lastIndexOf("/") + 1)}`) & 0xffn) - 1}`

/** Of the margin of a lease, what clocks of different rates and the rounding of timers leave for lateness. In milliseconds. */
const spare = (ttl: number): number => Math.max(100, ttl * 20) - 2 * (clockBound + 0.0002) * ttl * 1000 - 3

/** A few, in milliseconds. */
const roundTrips = 100

/** Until a beat has shown that an entry is gone: a third of the TTL, and a few round trips. In milliseconds. */
const beat = (ttl: number): number => ttl * 1000 / 3 * (1 + clockBound) + roundTrips

/** Nothing keeps answers from it, and it never stands still. */
const isServed = ({ faults, manners }: Plan<unknown>, { client }: Pick<Attempt, "client">): boolean =>
  manners.stalls === 0 &&
  faults.every((fault) =>
    "client" in fault ? fault.client !== client : ["revoke", "delete", "compact"].includes(fault.fault)
  )

/**
 * It asks before each step whether it still holds, and takes the step at once: then it takes none that is stale, however long its process
 * stood still. A machine that was suspended for a second notices it.
 */
const asksInTime = ({ faults, manners }: Plan<unknown>, { client, how }: Attempt): boolean =>
  ["acquire", "try", "campaign"].includes(how) && manners.stalls === 0 && manners.yields === 0 &&
  faults.every((fault) => fault.fault !== "suspend" || fault.client !== client || fault.for >= 1200)

/** Its process has stood still for longer than the margin allows. */
export const isLate = (
  world: World,
  plan: Plan<unknown>,
  { client, ttl }: Pick<Attempt, "client" | "ttl">
): boolean => {
  const { manners } = plan
  const small = manners.stalls === 0 || manners.longestStall <= 5
  return !small || world.lateness(client) > spare(ttl) ||
    plan.faults.some((fault) => fault.fault === "suspend" && fault.client === client)
}

export class LockJudge {
  private readonly world: World
  private readonly plan: Plan<Attempt>
  /** What is in etcd, by key. */
  private readonly entries = new Map<string, EntryOf>()
  /** Tokens whose entry has been the first of its lock. */
  private readonly firsts = new Set<string>()
  /** The greatest token that has entered, by lock. */
  private readonly entered = new Map<string, bigint>()
  /** By entry: its key and its token. */
  private readonly holding = new Map<string, Holder>()
  /** When an entry went without its owner, and how, by token. */
  private readonly gone = new Map<string, { readonly at: number; readonly how: "expiry" | "operator" }>()
  /** When whoever took it was told, by action. */
  private readonly lossTimes = new Map<number, number>()
  private readonly meddled: boolean
  private readonly restored: boolean
  private readonly calm: boolean
  private readonly root: string
  staleWrites = 0

  /** Entries are below `root`. */
  constructor(world: World, plan: Plan<Attempt>, root = "/locks/") {
    this.world = world
    this.root = root
    this.plan = plan
    this.restored = hasFault(plan, "restore")
    this.meddled = this.restored || hasFault(plan, "revoke", "delete")
    this.calm = isCalm(plan)
    world.server.onCommit = (commit) => this.commit(commit)
    world.server.onRestore = () => this.restore()
  }

  // ---------------------------------------------------------------------------
  // What etcd sees
  // ---------------------------------------------------------------------------

  private commit({ events, who }: Commit): void {
    for (const event of events) {
      const key = event._tag === "Put" ? event.kv.key : event.key
      if (key.startsWith("/data/") && event._tag === "Put") {
        this.commitFenced(key.slice("/data/".length), BigInt(new TextDecoder().decode(event.kv.value)))
      }
      if (!key.startsWith(this.root)) continue
      const path = key.slice(0, key.lastIndexOf("/") + 1)
      const entry = this.entries.get(key)
      if (event._tag === "Delete") {
        this.entries.delete(key)
        if (entry !== undefined) this.deleted(entry, who)
      } else if (entry === undefined) {
        this.entries.set(key, { key, path, token: event.kv.createRevision, by: who })
      } else if (who !== entry.by || this.root === "/locks/") {
        // A leader says something else.
        this.world.violate("an entry is written once", `${key} by ${who}`)
      }
      this.noteFirst(path)
    }
  }

  /** A new history: who is first, and which tokens are greater, begins anew. */
  private restore(): void {
    this.entries.clear()
    this.entered.clear()
    const answer = this.world.server.store.range({ prefix: this.root, keysOnly: true })
    if (answer._tag === "Failure") return
    for (const { createRevision: token, key } of answer.success.kvs) {
      this.entries.set(key, { key, path: key.slice(0, key.lastIndexOf("/") + 1), token, by: ownerOf(key) })
    }
    for (const { path } of this.entries.values()) this.noteFirst(path)
  }

  private noteFirst(path: string): void {
    const first = this.firstOf(path)
    if (first !== undefined) this.firsts.add(`${path} ${first.token}`)
  }

  private firstOf(path: string): EntryOf | undefined {
    let first: EntryOf | undefined
    for (const entry of this.entries.values()) {
      if (entry.path === path && (first === undefined || entry.token < first.token)) first = entry
    }
    return first
  }

  private deleted(entry: EntryOf, who: string): void {
    if (who === "expiry" || who === "operator") {
      this.gone.set(`${entry.path} ${entry.token}`, { at: this.world.now, how: who })
      return
    }
    if (who !== entry.by) {
      this.world.violate("nobody releases another's lock", `${who} deleted ${entry.key} (token ${entry.token})`)
    }
    const holder = this.holding.get(`${entry.key} ${entry.token}`)
    if (
      holder !== undefined && holder.history === this.world.server.histories && !this.lossTimes.has(holder.number)
    ) {
      this.world.violate(
        "a lock is not released under its holder",
        `${who} deleted ${entry.key}, held by ${holder.who}`
      )
    }
  }

  private commitFenced(key: string, token: bigint): void {
    const path = `${this.root}${key}/`
    const first = this.firstOf(path)
    // An older state brings entries back that their owners have given up: nobody else holds by them.
    const isThere = this.restored &&
      [...this.entries.values()].some((entry) => entry.path === path && entry.token === token)
    if (first?.token !== token && !isThere) {
      this.world.violate("only the holder commits fenced writes", `${key}: token ${token}, first is ${first?.token}`)
    }
  }

  // ---------------------------------------------------------------------------
  // What clients do
  // ---------------------------------------------------------------------------

  private who(action: Attempt, number: number): string {
    return `c${action.client}.${number}`
  }

  private id(action: Attempt, token: bigint): string {
    return `${this.root}${action.key}/ ${token}`
  }

  private isMeddledWith(action: Attempt): boolean {
    return this.meddled || isLate(this.world, this.plan, action)
  }

  asks(action: Attempt, number: number): void {
    this.world.record(this.who(action, number), "asks", `${action.key} ${action.how}`)
  }

  enters(action: Attempt, number: number, { entryKey, fencingToken: token }: Held): void {
    const who = this.who(action, number)
    const id = this.id(action, token)
    this.world.record(who, "enters", `${action.key} token ${token}`)
    const last = this.entered.get(action.key) ?? 0n
    if (!this.firsts.has(id)) {
      this.world.violate("who enters was the first in line", `${who} entered ${action.key} with token ${token}`)
    }
    if ((token === last && !this.restored) || (token < last && !this.isMeddledWith(action))) {
      this.world.violate("tokens grow", `${who} entered ${action.key} with token ${token} after ${last}`)
    }
    if (token > last) this.entered.set(action.key, token)
    this.holding.set(`${entryKey} ${token}`, { who, number, history: this.world.server.histories })
  }

  /** Its entry has gone, and it has had the time, or was asked, to find out. */
  private mustKnow(action: Attempt, token: bigint): boolean {
    const gone = this.gone.get(this.id(action, token))
    if (gone === undefined) return false
    const since = (this.world.now - gone.at) / millis
    return gone.how === "operator"
      ? since > beat(action.ttl) && isServed(this.plan, action)
      : since > roundTrips && !this.meddled && asksInTime(this.plan, action)
  }

  step(action: Attempt, number: number, token: bigint): void {
    const who = this.who(action, number)
    this.world.record(who, "step", `${action.key} token ${token}`)
    const newest = this.entered.get(action.key) ?? 0n
    if (token < newest) {
      this.staleWrites++
      if (!this.isMeddledWith(action)) {
        this.world.violate("one holder at a time", `${who} writes ${action.key} with token ${token} after ${newest}`)
      }
    }
    if (this.mustKnow(action, token)) {
      this.world.violate("who lost it knows it in time", `${who} writes ${action.key} with token ${token}`)
    }
    const known = this.lossTimes.get(number)
    if (known !== undefined && this.world.now > known && this.plan.manners.stalls === 0) {
      this.world.violate("no step after the loss is known", `${who} writes ${action.key} with token ${token}`)
    }
  }

  fenced(action: Attempt, number: number, token: bigint, exit: Exit.Exit<unknown, unknown>): void {
    this.world.record(this.who(action, number), "fenced", `${action.key} token ${token}: ${tagOf(exit)}`)
  }

  lossKnown(action: Attempt, number: number, token: bigint): void {
    this.world.record(`c${action.client}`, "lost", `${action.key} token ${token}`)
    if (!this.lossTimes.has(number)) this.lossTimes.set(number, this.world.now)
  }

  leaves(action: Attempt, number: number, { entryKey, fencingToken: token }: Held): void {
    this.world.record(this.who(action, number), "leaves", `${action.key} token ${token}`)
    this.holding.delete(`${entryKey} ${token}`)
  }

  ended(action: Attempt, number: number, exit: Exit.Exit<unknown, unknown>): void {
    const who = this.who(action, number)
    const how = tagOf(exit)
    this.world.record(who, "ends", how)
    if (exit._tag === "Success" || (action.how === "keep" && how === "interrupted")) return
    const allowed = this.calm ? action.how === "try" ? ["LockHeld"] : [] : ["LockHeld", "LockLost", ...outages]
    if (!allowed.includes(how)) this.world.violate("no unexpected failure", `${who}: ${describe(exit)}`)
  }

  // ---------------------------------------------------------------------------
  // The end
  // ---------------------------------------------------------------------------

  afterAll(open: ReadonlyArray<number>): void {
    for (const number of open) {
      const action = this.plan.actions[number]
      if (action === undefined) continue
      this.world.violate("every waiter enters", `${this.who(action, number)} still waits for ${action.key}`)
    }
  }

  orphans(): void {
    for (const key of this.world.keys()) {
      if (!key.startsWith(this.root) || key.startsWith(`${this.root}keep`)) continue
      const by = this.entries.get(key)?.by
      if (by !== undefined && by.startsWith("c") && this.world.isCrashed(Number(by.slice(1)))) continue
      this.world.violate("no entry is left behind", `${key} by ${by}`)
    }
  }
}
