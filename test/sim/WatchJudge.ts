/**
 * What watchers promise: every revision once and in order; after a compaction, or when an older state was restored, the
 * difference to what they have told; and in the end the same as in etcd.
 */
import type { Commit } from "./Server.ts"
import type { World } from "./World.ts"

/** What a watcher told: `value` of a put, as text. */
export type Told =
  | { readonly _tag: "Put"; readonly key: string; readonly revision: bigint; readonly value: string }
  | { readonly _tag: "Delete"; readonly key: string; readonly revision: bigint }
  | { readonly _tag: "Synced"; readonly revision: bigint }

interface Present {
  readonly value: string
  readonly revision: bigint
}

type State = ReadonlyMap<string, Present>

/** What etcd did to the keys that are watched. */
export class WatchedKeys {
  readonly events: Array<Exclude<Told, { readonly _tag: "Synced" }>> = []
  readonly keyOf: (key: string) => string | undefined
  private readonly valueOf: (value: Uint8Array) => string

  constructor(keyOf: (key: string) => string | undefined, valueOf: (value: Uint8Array) => string) {
    this.keyOf = keyOf
    this.valueOf = valueOf
  }

  commit({ events, revision }: Commit): void {
    for (const event of events) {
      const key = this.keyOf(event._tag === "Put" ? event.kv.key : event.key)
      if (key === undefined) continue
      this.events.push(
        event._tag === "Put"
          ? { _tag: "Put", key, revision, value: this.valueOf(event.kv.value) }
          : { _tag: "Delete", key, revision }
      )
    }
  }

  stateAt(revision: bigint): Map<string, Present> {
    const state = new Map<string, Present>()
    for (const event of this.events) {
      if (event.revision > revision) break
      if (event._tag === "Put") state.set(event.key, { value: event.value, revision: event.revision })
      else state.delete(event.key)
    }
    return state
  }
}

export class Watcher {
  readonly told: Array<Told> = []
  private readonly name: string
  private readonly world: World

  constructor(world: World, name: string) {
    this.world = world
    this.name = name
  }

  tell(event: Told): void {
    this.told.push(event)
    this.world.record(this.name, "told", show(event))
    if (event._tag !== "Delete") return
    for (let index = this.told.length - 2; index >= 0; index--) {
      const earlier = this.told[index]
      if (earlier === undefined || earlier._tag === "Synced" || earlier.key !== event.key) continue
      if (earlier._tag === "Put") return
      break
    }
    this.world.violate("no delete without a put before it", `${this.name} was told ${show(event)}`)
  }

  /** Every revision of the keys, judged by what etcd did. `mayResync`: something was compacted. */
  judge(keys: WatchedKeys, mayResync: boolean): void {
    const { told } = this
    const synced = told.findIndex(({ _tag }) => _tag === "Synced")
    const first = told[synced]
    if (first === undefined) return this.fails("it is told the present state", "it was told nothing")
    let position = first.revision
    this.isDifference("it is told the present state", told.slice(0, synced), new Map(), keys.stateAt(position))
    // Of one revision, in any order.
    let index = synced + 1
    while (index < told.length) {
      const at = position
      const next = keys.events.find((event) => event.revision > at)
      const due = next === undefined ? [] : keys.events.filter((event) => event.revision === next.revision)
      const given = told.slice(index, index + due.length)
      if (due.length > 0 && given.length === due.length && due.every((event) => given.some((it) => same(it, event)))) {
        index += due.length
        position = next?.revision ?? position
        continue
      }
      const end = told.findIndex((event, at) => at >= index && event._tag === "Synced")
      const sync = told[end]
      const wrong = `${told[index] === undefined ? "" : show(told[index] as Told)} where ${
        due.map(show).join(" ")
      } was due`
      if (sync === undefined || !mayResync) return this.fails("every revision once and in order", wrong)
      this.isDifference(
        "across a compaction the difference",
        told.slice(index, end),
        keys.stateAt(position),
        keys.stateAt(sync.revision)
      )
      index = end + 1
      position = sync.revision
    }
    const missed = keys.events.find((event) => event.revision > position)
    if (missed !== undefined) this.fails("every revision once and in order", `it was never told ${show(missed)}`)
  }

  /**
   * It knows what is in etcd now, after an older state was restored once. That can be noticed for as long as etcd is behind what the watcher
   * has been told.
   */
  judgeRestored(present: ReadonlyMap<string, string>): void {
    const { revision } = this.world.server.store
    if (this.told.some((event) => event.revision > revision)) this.endsWith(present)
  }

  private endsWith(present: ReadonlyMap<string, string>): void {
    const known = new Map<string, string>()
    for (const event of this.told) {
      if (event._tag === "Put") known.set(event.key, event.value)
      else if (event._tag === "Delete") known.delete(event.key)
    }
    const text = (state: ReadonlyMap<string, string>) =>
      [...state].map(([key, value]) => `${key}=${value}`).sort().join(" ")
    if (text(known) !== text(present)) {
      this.fails("watchers end equal to the store", `it knows ${text(known)}, etcd has ${text(present)}`)
    }
  }

  private isDifference(property: string, told: ReadonlyArray<Told>, from: State, to: State): void {
    const due: Array<string> = []
    for (const [key, { revision, value }] of to) {
      if (from.get(key)?.revision !== revision) due.push(`+${key}=${value}@${revision}`)
    }
    for (const key of from.keys()) if (!to.has(key)) due.push(`-${key}`)
    const given = told.map((event) =>
      event._tag === "Put" ? show(event) : event._tag === "Delete" ? `-${event.key}` : show(event)
    )
    if (due.sort().join(" ") !== given.sort().join(" ")) {
      this.fails(property, `told ${given.join(" ")}, due was ${due.join(" ")}`)
    }
  }

  private fails(property: string, detail: string): void {
    this.world.violate(property, `${this.name}: ${detail}`)
  }
}

const same = (a: Told, b: Told): boolean => show(a) === show(b)

const show = (event: Told): string =>
  event._tag === "Put"
    ? `+${event.key}=${event.value}@${event.revision}`
    : event._tag === "Delete"
    ? `-${event.key}@${event.revision}`
    : `synced@${event.revision}`
