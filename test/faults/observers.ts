/** Watchers that write down what they are told, and what they should have been told. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Etcd, EtcdError } from "../../src/index.ts"
import { type Account, account } from "./accounting.ts"
import type { Client } from "./bench.ts"
import { service, Value } from "./load.ts"
import type { Fact } from "./truth.ts"

/** A change: `text` is what its value says, none for a deletion. */
export interface Told {
  readonly revision: bigint
  readonly key: string
  readonly text: string | undefined
}

const idOf = ({ key, revision, text }: Told) => `${revision} ${key} ${text ?? "deleted"}`

export interface Observation {
  /** Of the port: revisions that etcd said were compacted away, while it was cut. */
  readonly gaps: number
  /** Of the services: how often the difference was told instead of what happened. */
  readonly resyncs: number
  readonly account: Account
}

export interface Observer {
  readonly name: string
  /** Of the keys that it is told of. */
  readonly prefix: string
  readonly last: () => bigint
  readonly failure: () => unknown
  readonly check: (facts: ReadonlyArray<Fact>) => Observation
}

// -----------------------------------------------------------------------------
// The port
// -----------------------------------------------------------------------------

/** Every revision from the first on. Where etcd has forgotten some it goes on after them. */
export const observePort = Effect.fnUntraced(function*(name: string, etcd: Etcd["Service"]) {
  const seen: Array<string> = []
  const gaps: Array<{ readonly from: bigint; readonly last: bigint }> = []
  let next = 2n
  let failure: EtcdError | undefined
  const watch = Effect.suspend(() =>
    Stream.runForEach(etcd.watch({ prefix: "/", startRevision: next }), (item) =>
      Effect.sync(() => {
        if (item._tag === "Opened") return
        for (const event of item.events) {
          seen.push(idOf(
            event._tag === "Put"
              ? { revision: event.kv.modRevision, key: event.kv.key, text: new TextDecoder().decode(event.kv.value) }
              : { revision: event.modRevision, key: event.key, text: undefined }
          ))
        }
        next = item.revision + 1n
      }))
  )
  yield* watch.pipe(
    Effect.catchIf(({ reason }) => reason._tag === "Compacted", ({ reason }) =>
      Effect.sync(() => {
        const last = "compactRevision" in reason ? reason.compactRevision : 0n
        if (last < next) throw new Error(`${name} was told that ${next} is compacted, and ${last} is not`)
        gaps.push({ from: next, last })
        next = last + 1n
      })),
    Effect.forever,
    Effect.tapError((error) =>
      Effect.sync(() => {
        failure = error
      })
    ),
    Effect.forkScoped
  )
  const observer: Observer = {
    name,
    prefix: "/",
    last: () => next - 1n,
    failure: () => failure,
    check: (facts) => ({
      gaps: gaps.length,
      resyncs: 0,
      account: account(
        facts.filter(({ revision }) => !gaps.some(({ from, last }) => from <= revision && revision <= last))
          .map(({ key, revision, value }) => idOf({ revision, key, text: value })),
        seen
      )
    })
  }
  return observer
})

// -----------------------------------------------------------------------------
// The services
// -----------------------------------------------------------------------------

type State = ReadonlyMap<string, Told>

const stateAt = (happened: ReadonlyArray<Told>, revision: bigint): State => {
  const state = new Map<string, Told>()
  for (const event of happened) {
    if (event.revision > revision) break
    if (event.text === undefined) state.delete(event.key)
    else state.set(event.key, event)
  }
  return state
}

/** What leads from one state to a later one: the puts in the order of their revisions, then the deletions in any. */
const difference = (from: State, to: State, revision: bigint): ReadonlyArray<string> => {
  const puts = [...to.values()].filter((told) => from.get(told.key)?.revision !== told.revision).sort((a, b) =>
    a.revision === b.revision ? (a.key < b.key ? -1 : 1) : a.revision < b.revision ? -1 : 1
  )
  const gone = [...from.keys()].filter((key) => !to.has(key))
  return [...puts, ...gone.map((key) => ({ revision, key, text: undefined }))].map(idOf)
}

/**
 * Each stretch that ends in `Synced` must be what happened after the one before, up to some revision, and from there the
 * difference to the state as of `Synced`, in which nothing is told twice or left out either.
 */
const explain = (happened: ReadonlyArray<Told>, seen: ReadonlyArray<Told | bigint>): Observation => {
  const ids = happened.map(idOf)
  const expected: Array<string> = []
  const told: Array<string> = []
  let position = 0
  let stretch: Array<string> = []
  let syncs = 0
  for (const event of seen) {
    if (typeof event !== "bigint") {
      stretch.push(idOf(event))
      continue
    }
    const end = happened.findIndex(({ revision }) => revision > event)
    const next = end === -1 ? happened.length : end
    const state = stateAt(happened, event)
    let matching = 0
    if (syncs > 0) { while (matching < stretch.length && stretch[matching] === ids[position + matching]) matching++ }
    // The difference can begin like what happened: so the longest first, and then shorter ones.
    let explained: ReadonlyArray<string> | undefined
    for (let count = matching; explained === undefined && count >= Math.max(0, matching - 500); count--) {
      const known = syncs === 0 ? new Map() : stateAt(happened, happened[position + count - 1]?.revision ?? 0n)
      const rest = difference(known, state, event)
      if (rest.length === stretch.length - count && new Set([...rest, ...stretch.slice(count)]).size === rest.length) {
        const puts = rest.filter((id) => !id.endsWith(" deleted"))
        if (puts.every((id, i) => stretch[count + i] === id)) {
          explained = [...ids.slice(position, position + count), ...rest]
        }
      }
    }
    // The names of one synced stretch are not those of another.
    expected.push(...(explained === undefined ? ids.slice(position, next) : stretch).map((id) => `${syncs}: ${id}`))
    told.push(...stretch.map((id) => `${syncs}: ${id}`))
    stretch = []
    position = next
    syncs++
  }
  expected.push(...ids.slice(position).map((id) => `${syncs}: ${id}`))
  told.push(...stretch.map((id) => `${syncs}: ${id}`))
  return { gaps: 0, resyncs: Math.max(0, syncs - 1), account: account(expected, told) }
}

const observeStream = Effect.fnUntraced(function*<E>(
  name: string,
  prefix: string,
  stream: Stream.Stream<Told | bigint, E>,
  text: (value: string) => string
) {
  const seen: Array<Told | bigint> = []
  let failure: unknown
  let last = 0n
  yield* stream.pipe(
    Stream.runForEach((event) =>
      Effect.sync(() => {
        seen.push(event)
        last = typeof event === "bigint" ? event : event.revision
      })
    ),
    Effect.tapCause((cause) =>
      Effect.sync(() => {
        failure = cause
      })
    ),
    Effect.forkScoped
  )
  const observer: Observer = {
    name,
    prefix,
    last: () => last,
    failure: () => failure,
    check: (facts) =>
      explain(
        facts.filter(({ key }) => key.startsWith(prefix)).map(({ key, revision, value }) => ({
          revision,
          key,
          text: value === undefined ? undefined : text(value)
        })),
        seen
      )
  }
  return observer
})

export const observeConfig = (name: string, { config }: Client) =>
  observeStream(
    name,
    "/config/",
    Stream.map(config.watchPrefix("", Value), (event): Told | bigint => {
      if (event._tag === "Synced") return event.version
      const text = event._tag === "Put" ? event.value.id : event._tag === "Invalid" ? "invalid" : undefined
      return { revision: event.version, key: `/config/${event.key}`, text }
    }),
    (value) => JSON.parse(value).id
  )

export const observeRegistry = (name: string, { registry }: Client) =>
  observeStream(
    name,
    `/services/${service}/`,
    Stream.map(registry.watch(service), (event): Told | bigint => {
      if (event._tag === "Synced") return event.revision
      const text = event._tag === "Put" ? event.instance.metadata["n"] : undefined
      return { revision: event.revision, key: `/services/${service}/${event.instance.id}`, text }
    }),
    (value) => JSON.parse(value).metadata.n
  )
