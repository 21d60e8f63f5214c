/**
 * `coord locks`, and `coord leader`: lines of entries, the first of which is through.
 */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Etcd, type KeyValue } from "../../Etcd.ts"
import { Connection } from "../Connection.ts"
import { Exit, ExitCode } from "../Exit.ts"
import { readLabel } from "../label.ts"
import { Output } from "../Output.ts"
import { live } from "../services.ts"
import { changesBelow, show } from "../View.ts"

interface Entry {
  readonly key: string
  readonly lease: bigint
  readonly token: bigint
  /** A label, or what a candidate proclaims. */
  readonly value: string
  /** Absent for an entry without a lease: it stays until somebody deletes it. */
  readonly ttlLeft: Duration.Duration | undefined
}

interface Line {
  readonly name: string
  readonly first: Entry
  readonly waiting: ReadonlyArray<Entry>
}

const text = new TextDecoder()

/** All lines below a prefix whose names are `name`, or below it as a folder. */
const readLines = Effect.fnUntraced(function*(prefix: string, name: string | undefined) {
  const etcd = yield* Etcd
  const { kvs } = yield* etcd.range({
    prefix: name === undefined ? prefix : `${prefix}${name}/`,
    sort: { by: "create", order: "ascend" }
  })
  const leases = [...new Set(kvs.map(({ lease }) => lease))].filter((lease) => lease !== 0n)
  const left = new Map(
    yield* Effect.forEach(leases, (lease) =>
      etcd.leaseTimeToLive(lease).pipe(
        Effect.map(({ remaining }) => remaining),
        // It has ended since, and its keys go with it.
        Effect.catchReason("EtcdError", "LeaseNotFound", () => Effect.succeed(Duration.zero)),
        Effect.map((remaining) => [lease, remaining] as const)
      ), { concurrency: 16 })
  )
  const entryOf = (kv: KeyValue): Entry => ({
    key: kv.key,
    lease: kv.lease,
    token: kv.createRevision,
    value: text.decode(kv.value),
    ttlLeft: left.get(kv.lease)
  })
  const lines = Map.groupBy(kvs, ({ key }) => key.slice(prefix.length, key.lastIndexOf("/")))
  return [...lines].flatMap(([name, [first, ...waiting]]): ReadonlyArray<Line> =>
    first === undefined ? [] : [{ name, first: entryOf(first), waiting: waiting.map(entryOf) }]
  ).sort((a, b) => a.name < b.name ? -1 : 1)
})

const seconds = (duration: Duration.Duration) => `${Math.max(0, Math.round(Duration.toSeconds(duration)))}s`

const leaseText = ({ lease }: Entry) => lease === 0n ? "no lease" : `lease ${lease.toString(16)}`

const whoOf = (entry: Entry): string => readLabel(entry.value).who || leaseText(entry)

const ttlText = ({ ttlLeft }: Entry) => ttlLeft === undefined ? "for ever" : seconds(ttlLeft)

const sinceText = (entry: Entry) => {
  const { since } = readLabel(entry.value)
  return since === undefined ? "-" : `${DateTime.formatIso(since).slice(0, 19).replace("T", " ")}Z`
}

const waitingText = ({ waiting }: Line) =>
  waiting.length === 0
    ? ""
    : `${waiting.length}: ${waiting.slice(0, 3).map(whoOf).join(", ")}${waiting.length > 3 ? ", ..." : ""}`

const entryJson = (entry: Entry) => ({
  key: entry.key,
  lease: entry.lease === 0n ? null : entry.lease.toString(16),
  token: entry.token
})

const lockEntryJson = (entry: Entry) => {
  const { since, who } = readLabel(entry.value)
  return {
    ...entryJson(entry),
    label: who,
    ...since !== undefined && { since: DateTime.formatIso(since) },
    ttlLeftSeconds: secondsJson(entry)
  }
}

const secondsJson = ({ ttlLeft }: Entry) => ttlLeft === undefined ? null : Math.round(Duration.toSeconds(ttlLeft))

export const locks = Effect.fnUntraced(
  function*({ prefix, watch }: { readonly prefix: Option.Option<string>; readonly watch: boolean }) {
    const { lockPrefix = "/locks" } = yield* Effect.flatMap(Connection, ({ options }) => options)
    const folder = `${lockPrefix}/`
    const name = Option.getOrUndefined(Option.map(prefix, (prefix) => prefix.replace(/\/+$/, "")))
    yield* show({
      title: name === undefined ? "locks" : `locks of ${name}`,
      read: readLines(folder, name),
      changes: changesBelow(name === undefined ? folder : `${folder}${name}/`),
      idOf: ({ name }: Line) => name,
      columns: [
        { title: "LOCK", of: ({ name }) => name },
        { title: "HOLDER", of: ({ first }) => whoOf(first) },
        { title: "SINCE", of: ({ first }) => sinceText(first) },
        { title: "TOKEN", of: ({ first }) => String(first.token) },
        { title: "TTL LEFT", of: ({ first }) => ttlText(first) },
        { title: "WAITING", of: waitingText }
      ],
      toJson: ({ first, name, waiting }) => ({
        lock: name,
        holder: lockEntryJson(first),
        waiting: waiting.map(lockEntryJson)
      }),
      ages: "ttlLeftSeconds",
      none: name === undefined ? "nothing is locked" : `${name} is not locked`
    }, watch)
  },
  Effect.provide(live)
)

export const leader = Effect.fnUntraced(
  function*({ name, watch }: { readonly name: string; readonly watch: boolean }) {
    const { electionPrefix = "/elections" } = yield* Effect.flatMap(Connection, ({ options }) => options)
    const folder = `${electionPrefix}/`
    const read = Effect.map(readLines(folder, name), (lines) => lines.filter((line) => line.name === name))
    const view = {
      title: `leader of ${name}`,
      read,
      changes: changesBelow(`${folder}${name}/`),
      idOf: ({ name }: Line) => name,
      columns: [
        { title: "ELECTION", of: ({ name }: Line) => name },
        { title: "LEADER", of: ({ first }: Line) => first.value || leaseText(first) },
        { title: "TOKEN", of: ({ first }: Line) => String(first.token) },
        { title: "TTL LEFT", of: ({ first }: Line) => ttlText(first) },
        {
          title: "WAITING",
          of: ({ waiting }: Line) =>
            waiting.length === 0
              ? ""
              : `${waiting.length}: ${waiting.slice(0, 3).map(({ value }) => value).join(", ")}`
        }
      ],
      toJson: ({ first, name, waiting }: Line) => ({
        election: name,
        leader: { ...entryJson(first), value: first.value, ttlLeftSeconds: secondsJson(first) },
        waiting: waiting.map((entry) => ({
          ...entryJson(entry),
          value: entry.value,
          ttlLeftSeconds: secondsJson(entry)
        }))
      }),
      ages: "ttlLeftSeconds",
      none: `nobody leads ${name}`
    }
    if (watch) return yield* show(view, true)
    const lines = yield* read
    if (lines.length === 0) {
      return yield* new Exit({ code: ExitCode.no, message: `nobody leads ${JSON.stringify(name)}` })
    }
    const output = yield* Output
    yield* output.rows(lines, view.columns, view.toJson, view.none)
  },
  Effect.provide(live)
)
