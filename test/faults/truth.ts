/**
 * What happened in a cluster, as etcd's own client tells it. It counts as the truth because no revision is missing in it.
 */
import * as Effect from "effect/Effect"
import * as ChildProcess from "node:child_process"
import * as Readline from "node:readline"
import type { Cluster } from "../utils/Cluster.ts"
import { now } from "./clients.ts"

export interface Fact {
  readonly revision: bigint
  readonly key: string
  /** None for a deletion. */
  readonly value: string | undefined
  readonly createRevision: bigint
  readonly version: number
  readonly leased: boolean
  /** When it was told. */
  readonly at: number
}

interface Raw {
  readonly type?: number
  readonly kv: {
    readonly key: string
    readonly value?: string
    readonly create_revision?: number
    readonly mod_revision: number
    readonly version?: number
    readonly lease?: number
  }
}

const text = (base64: string) => Buffer.from(base64, "base64").toString()

/** From the first revision on, for the length of the scope. */
export const recordTruth = Effect.fnUntraced(function*(cluster: Cluster) {
  const facts: Array<Fact> = []
  let ended: string | undefined
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      const child = ChildProcess.spawn(cluster.members[0]?.etcdctlPath ?? "etcdctl", [
        "watch",
        "--rev=1",
        "--prefix",
        "",
        "--write-out=json",
        "--keepalive-time=1s",
        "--keepalive-timeout=1s"
      ], {
        env: { PATH: process.env["PATH"], ETCDCTL_API: "3", ETCDCTL_ENDPOINTS: cluster.endpoints.join(",") },
        stdio: ["ignore", "pipe", "pipe"]
      })
      let errors = ""
      child.stderr.on("data", (chunk) => {
        errors += chunk
      })
      child.once("close", (code) => {
        ended = `etcdctl has ended with ${code}: ${errors}`
      })
      Readline.createInterface({ input: child.stdout }).on("line", (line) => {
        const events: ReadonlyArray<Raw> = JSON.parse(line).Events ?? []
        const at = now()
        for (const { kv, type } of events) {
          facts.push({
            revision: BigInt(kv.mod_revision),
            key: text(kv.key),
            value: type === 1 ? undefined : text(kv.value ?? ""),
            createRevision: BigInt(kv.create_revision ?? 0),
            version: kv.version ?? 0,
            leased: (kv.lease ?? 0) !== 0,
            at
          })
        }
      })
      return child
    }),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  return {
    facts,
    revision: () => facts.at(-1)?.revision ?? 0n,
    /** Why it is not to be trusted; nothing if it is: each revision is there, and none goes back. */
    doubts: (): string | undefined => {
      if (ended !== undefined) return ended
      let last = facts[0]?.revision ?? 0n
      if (last !== 2n) return `it begins with revision ${last}`
      for (const { key, revision } of facts) {
        if (revision < last || revision > last + 1n) return `revision ${revision} (${key}) after ${last}`
        last = revision
      }
      return undefined
    }
  }
})

export type Truth = Effect.Success<ReturnType<typeof recordTruth>>
