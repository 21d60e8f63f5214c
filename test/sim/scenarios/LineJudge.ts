/**
 * What semaphores and read-write locks promise, checked while a run goes on.
 */
import type * as Exit from "effect/Exit"
import { clockBound, type Plan } from "../plan.ts"
import type { Commit } from "../Server.ts"
import { describe, type World } from "../World.ts"
import { hasFault, isCalm, outages, tagOf } from "./drive.ts"
import type { LineAction } from "./lines.ts"

export const permits = 2

const roots = ["/semaphores/", "/rwlocks/"]

interface Entry {
  readonly key: string
  /** The line that it stands in. */
  readonly line: string
  readonly mode: "semaphore" | "read" | "write"
  readonly token: bigint
  readonly by: string
}

const entryOf = (key: string, token: bigint, by: string): Entry => {
  const folder = key.slice(0, key.lastIndexOf("/") + 1)
  const [, mode] = /\/(read|write)\/$/.exec(folder) ?? []
  if (mode !== "read" && mode !== "write") return { key, line: folder, mode: "semaphore", token, by }
  return { key, line: folder.slice(0, -(mode.length + 1)), mode, token, by }
}

/** Of an entry: whose lease it is on. */
const ownerOf = (key: string): string => {
  const name = key.slice(key.lastIndexOf("/") + 1)
  return `c${Number(BigInt(`0x${name.slice(0, name.indexOf("-"))}`) & 0xffn) - 1}`
}

/** Of the margin of a lease, what clocks of different rates and the rounding of timers leave for lateness. In milliseconds. */
const spare = (ttl: number): number => Math.max(100, ttl * 20) - 2 * (clockBound + 0.0002) * ttl * 1000 - 3

export class LineJudge {
  private readonly world: World
  private readonly plan: Plan<LineAction>
  /** What is in etcd, by key. */
  private readonly entries = new Map<string, Entry>()
  /** Of the lines: the entries that have been through, by line and token. */
  private readonly admitted = new Set<string>()
  private readonly holding = new Map<string, number>()
  private readonly lossTimes = new Map<number, number>()
  private readonly restored: boolean
  private readonly meddled: boolean

  constructor(world: World, plan: Plan<LineAction>) {
    this.world = world
    this.plan = plan
    this.restored = hasFault(plan, "restore")
    this.meddled = this.restored || hasFault(plan, "revoke", "delete")
    world.server.onCommit = (commit) => this.commit(commit)
    world.server.onRestore = () => this.restore()
  }

  // ---------------------------------------------------------------------------
  // What etcd sees
  // ---------------------------------------------------------------------------

  private commit({ events, who }: Commit): void {
    for (const event of events) {
      const key = event._tag === "Put" ? event.kv.key : event.key
      if (event._tag === "Put" && key.startsWith("/data/")) this.commitFenced(event.kv.value)
      if (!roots.some((root) => key.startsWith(root))) continue
      const entry = this.entries.get(key)
      if (event._tag === "Delete") {
        this.entries.delete(key)
        if (entry !== undefined) this.deleted(entry, who)
      } else if (entry === undefined) {
        this.entries.set(key, entryOf(key, event.kv.createRevision, who))
      } else {
        this.world.violate("an entry is written once", `${key} by ${who}`)
      }
    }
    this.admit()
  }

  private restore(): void {
    this.entries.clear()
    for (const prefix of roots) {
      const answer = this.world.server.store.range({ prefix, keysOnly: true })
      if (answer._tag === "Failure") continue
      for (const { createRevision, key } of answer.success.kvs) {
        this.entries.set(key, entryOf(key, createRevision, ownerOf(key)))
      }
    }
    this.admit()
  }

  private admit(): void {
    for (const entry of this.entries.values()) {
      let before = 0
      let writers = 0
      for (const other of this.entries.values()) {
        if (other.line !== entry.line || other.token >= entry.token) continue
        before++
        if (other.mode === "write") writers++
      }
      const may = entry.mode === "semaphore" ? before < permits : entry.mode === "read" ? writers === 0 : before === 0
      if (may) this.admitted.add(`${entry.line} ${entry.token}`)
    }
  }

  private deleted(entry: Entry, who: string): void {
    if (who === "expiry" || who === "operator") return
    if (who !== entry.by) {
      this.world.violate("nobody releases another's entry", `${who} deleted ${entry.key} (token ${entry.token})`)
    }
    const number = this.holding.get(`${entry.line} ${entry.token}`)
    if (number !== undefined && !this.restored && !this.lossTimes.has(number)) {
      this.world.violate("nothing is released under its holder", `${who} deleted ${entry.key}, held by ${number}`)
    }
  }

  private commitFenced(value: Uint8Array): void {
    const id = new TextDecoder().decode(value)
    if (![...this.entries.values()].some(({ line, token }) => `${line} ${token}` === id)) {
      this.world.violate("only who holds commits fenced writes", id)
    }
  }

  // ---------------------------------------------------------------------------
  // What clients do
  // ---------------------------------------------------------------------------

  private who(action: LineAction, number: number): string {
    return `c${action.client}.${number}`
  }

  id(action: LineAction, token: bigint): string {
    return `${action.mode === "semaphore" ? roots[0] : roots[1]}${action.key}/ ${token}`
  }

  private isExcused(action: LineAction): boolean {
    const { faults, manners } = this.plan
    const small = manners.stalls === 0 || manners.longestStall <= 5
    return this.meddled || !small || this.world.lateness(action.client) > spare(action.ttl) ||
      faults.some((fault) => fault.fault === "suspend" && fault.client === action.client)
  }

  asks(action: LineAction, number: number): void {
    this.world.record(this.who(action, number), "asks", `${action.key} ${action.mode} ${action.how}`)
  }

  enters(action: LineAction, number: number, token: bigint): void {
    const who = this.who(action, number)
    const id = this.id(action, token)
    this.world.record(who, "enters", id)
    if (!this.admitted.has(id)) {
      this.world.violate("who enters was let in by those before", `${who} entered ${id} (${action.mode})`)
    }
    this.holding.set(id, number)
  }

  /** Whose entry is in etcd and was let in is in good company: so a step without one is what can be wrong. */
  step(action: LineAction, number: number, token: bigint): void {
    const who = this.who(action, number)
    const id = this.id(action, token)
    this.world.record(who, "step", id)
    const isThere = [...this.entries.values()].some((entry) => `${entry.line} ${entry.token}` === id)
    if (!isThere && !this.isExcused(action)) {
      this.world.violate("no step without an entry", `${who} goes on with ${id}, which is gone`)
    }
    const known = this.lossTimes.get(number)
    if (known !== undefined && this.world.now > known && this.plan.manners.stalls === 0) {
      this.world.violate("no step after the loss is known", `${who} goes on with ${id}`)
    }
  }

  fenced(action: LineAction, number: number, token: bigint, exit: Exit.Exit<unknown, unknown>): void {
    this.world.record(this.who(action, number), "fenced", `${this.id(action, token)}: ${tagOf(exit)}`)
  }

  lossKnown(action: LineAction, number: number, token: bigint): void {
    this.world.record(this.who(action, number), "lost", this.id(action, token))
    if (!this.lossTimes.has(number)) this.lossTimes.set(number, this.world.now)
  }

  leaves(action: LineAction, number: number, token: bigint): void {
    this.world.record(this.who(action, number), "leaves", this.id(action, token))
    this.holding.delete(this.id(action, token))
  }

  ended(action: LineAction, number: number, exit: Exit.Exit<unknown, unknown>): void {
    const how = tagOf(exit)
    this.world.record(this.who(action, number), "ends", how)
    if (exit._tag === "Success") return
    const refused = ["NoPermit", "ReadWriteLockHeld"]
    const allowed = isCalm(this.plan)
      ? action.how === "try" ? refused : []
      : [...refused, "PermitLost", "ReadWriteLockLost", ...outages]
    if (!allowed.includes(how)) {
      this.world.violate("no unexpected failure", `${this.who(action, number)}: ${describe(exit)}`)
    }
  }

  // ---------------------------------------------------------------------------
  // The end
  // ---------------------------------------------------------------------------

  afterAll(open: ReadonlyArray<number>): void {
    for (const number of open) {
      const action = this.plan.actions[number]
      if (action === undefined) continue
      this.world.violate(
        "everybody gets in",
        `${this.who(action, number)} still waits for ${action.key} (${action.mode})`
      )
    }
  }

  orphans(): void {
    for (const key of this.world.keys()) {
      const by = this.entries.get(key)?.by
      if (by === undefined || (by.startsWith("c") && this.world.isCrashed(Number(by.slice(1))))) continue
      this.world.violate("no entry is left behind", `${key} by ${by}`)
    }
  }
}
