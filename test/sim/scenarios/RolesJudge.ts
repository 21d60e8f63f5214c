/**
 * What observers of an election, holders of numbers and transactions of configuration are promised, checked while a run goes on. Of leaders
 * `LockJudge` knows more.
 */
import type * as Exit from "effect/Exit"
import type { Plan } from "../plan.ts"
import type { Commit } from "../Server.ts"
import { describe, type World } from "../World.ts"
import { hasFault, isCalm, isRestoredOnce, outages, tagOf } from "./drive.ts"
import { isLate } from "./LockJudge.ts"
import type { RoleAction } from "./roles.ts"

interface Leader {
  readonly key: string
  readonly token: bigint
  readonly value: string
}

/** Ids are below it. */
export const maxIds = 2

/** All of them are always written together. */
export const txKeys = ["tx/a", "tx/b", "tx/c"]

const elections = "/elections/"
const allocators = "/allocators/svc/ids/"
const config = "/config/"
const decoder = new TextDecoder()

const show = (leader: Leader | undefined): string =>
  leader === undefined ? "nobody" : `${leader.key} token ${leader.token} says ${leader.value}`

class Observer {
  readonly told: Array<Leader | undefined> = []
  readonly action: RoleAction
  readonly name: string
  private readonly world: World

  constructor(world: World, action: RoleAction, name: string) {
    this.world = world
    this.action = action
    this.name = name
  }

  get isEmpty(): boolean {
    return this.told.length === 0
  }

  tell(leader: Leader | undefined): void {
    this.told.push(leader)
    this.world.record(this.name, "observes", show(leader))
  }
}

export class RolesJudge {
  private readonly world: World
  private readonly plan: Plan<RoleAction>
  private readonly calm: boolean
  private readonly restored: boolean
  private readonly meddled: boolean
  /** The candidates, by key, and who was first, one after the other, by election. */
  private readonly candidates = new Map<string, Leader>()
  private readonly firsts = new Map<string, Array<string>>()
  private readonly observers: Array<Observer> = []
  /** Create revisions of the numbers that are there, and of those that ever were. */
  private readonly ids = new Map<string, bigint>()
  private readonly created = new Set<string>()
  private readonly newest = new Map<number, bigint>()
  /** When all numbers were taken for the last time; `Infinity`: they are. */
  private full = -1
  private readonly written = new Map<number, { readonly revision: bigint; readonly history: number }>()
  private readonly refused = new Map<number, string>()

  constructor(world: World, plan: Plan<RoleAction>) {
    this.world = world
    this.plan = plan
    this.calm = isCalm(plan)
    this.restored = hasFault(plan, "restore")
    this.meddled = this.restored || hasFault(plan, "revoke", "delete")
    const { onCommit, onRestore } = world.server
    world.server.onCommit = (commit) => {
      onCommit(commit)
      this.commit(commit)
    }
    world.server.onRestore = () => {
      onRestore()
      this.restore()
    }
  }

  get now(): number {
    return this.world.now
  }

  /** Fails with nothing that the faults do not explain. */
  mustBeAllowed({ how }: RoleAction, name: string, exit: Exit.Exit<unknown, unknown>): void {
    const allowed = [
      "done",
      ...how === "id" ? ["IdsExhausted"] : [],
      ...how === "transact" ? ["TransactionConflict"] : [],
      ...this.calm ? [] : ["LeadershipLost", "InstanceIdLost", ...outages]
    ]
    if (!allowed.includes(tagOf(exit))) {
      this.world.violate("no unexpected failure", `${name} ${how}: ${describe(exit)}`)
    }
  }

  // ---------------------------------------------------------------------------
  // What etcd sees
  // ---------------------------------------------------------------------------

  private commit({ events, revision, who }: Commit): void {
    const values = new Set<string>()
    let writes = 0
    const changed = new Set<string>()
    for (const event of events) {
      const key = event._tag === "Put" ? event.kv.key : event.key
      if (key.startsWith(elections)) {
        if (event._tag === "Delete") this.candidates.delete(key)
        else this.candidates.set(key, { key, token: event.kv.createRevision, value: decoder.decode(event.kv.value) })
        changed.add(key.slice(elections.length).split("/")[0] ?? "")
      } else if (key.startsWith(allocators)) {
        if (event._tag === "Delete") this.ids.delete(key)
        else this.ids.set(key, event.kv.createRevision)
        if (event._tag === "Put") this.created.add(`${key} ${event.kv.createRevision}`)
        this.noteFull()
      } else if (key.startsWith(config)) {
        writes++
        values.add(event._tag === "Put" ? decoder.decode(event.kv.value) : "")
      }
    }
    for (const name of changed) this.noteFirst(name)
    // Operators delete keys one by one.
    if (values.size === 0 || !who.startsWith("c")) return
    if (values.size > 1 || (!values.has("") && writes !== txKeys.length)) {
      this.world.violate("all of a transaction or nothing", `revision ${revision}: ${[...values].join(" ")}`)
    }
    const value = Number([...values][0] || -1)
    if (value < 0) return
    if (this.written.has(value)) this.world.violate("nothing is applied twice", String(value))
    this.written.set(value, { revision, history: this.world.server.histories })
    const teller = this.refused.get(value)
    if (teller !== undefined) this.world.violate("what is refused is not applied", `${value}, ${teller}`)
  }

  private restore(): void {
    const { store } = this.world.server
    const all = store.range({ prefix: "/" })
    this.candidates.clear()
    this.ids.clear()
    this.newest.clear()
    if (all._tag === "Failure") return
    for (const { createRevision: token, key, value } of all.success.kvs) {
      if (key.startsWith(elections)) this.candidates.set(key, { key, token, value: decoder.decode(value) })
      if (key.startsWith(allocators)) this.ids.set(key, token)
    }
    for (const name of this.firsts.keys()) this.noteFirst(name)
    this.noteFull()
  }

  private noteFull(): void {
    if (this.ids.size >= maxIds) this.full = Infinity
    else if (this.full === Infinity) this.full = this.world.now
  }

  private firstOf(name: string): Leader | undefined {
    let first: Leader | undefined
    for (const candidate of this.candidates.values()) {
      if (!candidate.key.startsWith(`${elections}${name}/`)) continue
      if (first === undefined || candidate.token < first.token) first = candidate
    }
    return first
  }

  private noteFirst(name: string): void {
    const firsts = this.firsts.get(name) ?? ["nobody"]
    this.firsts.set(name, firsts)
    const first = show(this.firstOf(name))
    if (firsts.at(-1) !== first) firsts.push(first)
  }

  // ---------------------------------------------------------------------------
  // What clients do
  // ---------------------------------------------------------------------------

  observer(action: RoleAction, name: string): Observer {
    const observer = new Observer(this.world, action, name)
    this.observers.push(observer)
    return observer
  }

  exhausted(name: string, asked: number): void {
    this.world.record(name, "exhausted", "")
    if (this.full < asked && !this.restored) this.world.violate("a number is found while one is free", name)
  }

  takes(action: RoleAction, name: string, id: number, token: bigint): void {
    this.world.record(name, "takes", `${id} token ${token}`)
    if (!this.created.has(`${allocators}${id} ${token}`)) {
      this.world.violate("a number is held by its key", `${name}: ${id} token ${token}`)
    }
    const newest = this.newest.get(id) ?? 0n
    if (token <= newest && !this.isMeddledWith(action)) {
      this.world.violate("tokens grow", `${name} took ${id} with token ${token} after ${newest}`)
    }
    if (token > newest) this.newest.set(id, token)
  }

  uses(action: RoleAction, name: string, id: number, token: bigint): void {
    this.world.record(name, "uses", `${id} token ${token}`)
    const newest = this.newest.get(id) ?? 0n
    if (token < newest && !this.isMeddledWith(action)) {
      this.world.violate("one holder of a number", `${name} uses ${id} with token ${token} after ${newest}`)
    }
  }

  private isMeddledWith(action: RoleAction): boolean {
    return this.meddled || isLate(this.world, this.plan, action)
  }

  sees(
    name: string,
    found: ReadonlyArray<{ readonly key: string; readonly value: number; readonly version: bigint }>
  ): void {
    const values = new Set(found.map(({ value, version }) => `${value}@${version}`))
    const partial = found.length > 0 && (values.size > 1 || found.length !== txKeys.length)
    // An operator deletes one of them.
    if (partial && !hasFault(this.plan, "delete")) {
      this.world.violate("all of a transaction or nothing", `${name} sees ${[...values].join(" ")}`)
    }
  }

  transacted(name: string, value: number, exit: Exit.Exit<bigint, unknown>): void {
    const tag = tagOf(exit)
    this.world.record(name, "transacts", `${value} ${tag}`)
    if (exit._tag === "Success") {
      const revision = this.written.get(value)?.revision
      if (value % 5 !== 4 && revision !== exit.value) {
        this.world.violate("a transaction answers its revision", `${name}: ${exit.value}, it was ${revision}`)
      }
    } else if (["TransactionConflict", "EtcdError Unavailable"].includes(tag)) {
      this.refused.set(value, `${name} was told ${tag}`)
      // What a restore has undone is refused with every right.
      if (this.written.get(value)?.history === this.world.server.histories) {
        this.world.violate("what is refused is not applied", `${value}, ${name}`)
      }
    }
  }

  // ---------------------------------------------------------------------------
  // The end
  // ---------------------------------------------------------------------------

  end(): void {
    for (const [key] of this.ids) this.world.violate("all numbers are free in the end", key)
    for (const observer of this.observers) {
      if (!this.world.isCrashed(observer.action.client)) this.judge(observer)
    }
  }

  private judge({ action, name, told }: Observer): void {
    const { revision } = this.world.server.store
    // What is told of an older history can be noticed for as long as etcd is behind it.
    const noticed = told.some((leader) => leader !== undefined && leader.token > revision)
    if (this.restored && !(isRestoredOnce(this.plan) && noticed)) return
    const given = told.map(show)
    const first = show(this.firstOf(action.key))
    if (given.at(-1) !== first) {
      return this.world.violate("observers end with the leader", `${name}: ${given.at(-1)}, it is ${first}`)
    }
    if (this.restored || hasFault(this.plan, "compact")) return
    const firsts = this.firsts.get(action.key) ?? ["nobody"]
    const due = firsts.slice(Math.max(0, firsts.length - given.length))
    if (due.join() !== given.join()) {
      this.world.violate("every leader once and in order", `${name}: ${given.join()}, due was ${due.join()}`)
    }
  }
}
