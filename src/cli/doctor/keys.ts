/**
 * The keys of the services: those that nobody will remove, and configuration that is not what it seems to be.
 */
import * as Effect from "effect/Effect"
import { Etcd, type KeyValue } from "../../Etcd.ts"
import { type Finding, ok, problem } from "./Finding.ts"

const shown = 5

/** As `etcdctl` calls them. */
const some = (namespace: string, keys: ReadonlyArray<string>): string => {
  const first = keys.slice(0, shown).map((key) => `${namespace}${key}`).join(", ")
  return keys.length > shown ? `${first} and ${keys.length - shown} more` : first
}

/** Entries of a service that lives on leases. `what` they do for as long as they are there. */
export const entries = Effect.fnUntraced(function*(service: string, prefix: string, what: string, namespace: string) {
  const etcd = yield* Etcd
  const { kvs } = yield* etcd.range({ prefix: `${prefix}/`, keysOnly: true })
  const forEver = kvs.filter(({ lease }) => lease === 0n).map(({ key }) => key)
  const leases = [...new Set(kvs.map(({ lease }) => lease))].filter((lease) => lease !== 0n)
  const lives = (lease: bigint) =>
    etcd.leaseTimeToLive(lease).pipe(
      Effect.map(({ keys }) => keys.length > 0),
      Effect.catchReason("EtcdError", "LeaseNotFound", () => Effect.succeed(false))
    )
  const living = yield* Effect.filter(leases, lives, { concurrency: 16 })
  const ended = new Set(leases).difference(new Set(living))
  // Asked again: who has ended since then takes his keys along.
  const orphans = ended.size === 0
    ? []
    : (yield* etcd.range({ prefix: `${prefix}/`, keysOnly: true })).kvs.filter(({ lease }) => ended.has(lease))
  const findings: ReadonlyArray<Finding> = [
    ...forEver.length === 0 ? [] : [
      problem(
        `${service} without a lease`,
        `${some(namespace, forEver)}: ${what} for ever`,
        "find out who put it there by hand, then `etcdctl del` it"
      )
    ],
    ...orphans.length === 0 ? [] : [
      problem(
        `${service} of ended leases`,
        `${some(namespace, orphans.map(({ key }) => key))}: etcd has not removed it with its lease`,
        "etcd without a leader, or overloaded, removes nothing: look at the members above"
      )
    ]
  ]
  return findings.length > 0
    ? findings
    : [ok(service, kvs.length === 1 ? "1 entry, on a lease" : `${kvs.length} entries, each on a lease`)]
})

const utf8 = new TextDecoder("utf-8", { fatal: true })

const textOf = (value: Uint8Array): string | undefined => {
  try {
    return utf8.decode(value)
  } catch {
    return undefined
  }
}

const isJson = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** Which schema reads a value, nobody knows here; that no schema but a string's reads it can be seen. */
const oddityOf = ({ value }: KeyValue): string | undefined => {
  const text = textOf(value)
  if (text === undefined) return "is not text (UTF-8)"
  return /^\s*[[{]/.test(text) && !isJson(text) ? "begins as JSON and is none" : undefined
}

const page = 500

export const configuration = Effect.fnUntraced(function*(prefix: string, namespace: string) {
  const etcd = yield* Etcd
  const odd: Array<string> = []
  let count = 0
  // "0" comes right after "/".
  for (let from = `${prefix}/`, more = true; more;) {
    const result = yield* etcd.range({ from, to: `${prefix}0`, limit: page })
    count += result.kvs.length
    for (const kv of result.kvs) {
      const oddity = oddityOf(kv)
      if (oddity !== undefined) odd.push(`${kv.key} ${oddity}`)
    }
    more = result.more
    from = `${result.kvs.at(-1)?.key ?? ""}\0`
  }
  return odd.length === 0
    ? [ok("configuration", `${count} values, none of which is broken for whoever reads it`)]
    : [
      problem(
        "configuration",
        some(namespace, odd),
        "`coord config history KEY` shows what it was, `coord config rollback` goes back to it"
      )
    ]
})
