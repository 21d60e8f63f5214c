/**
 * Whether a cluster serves: what a linearizable read proves, beside what each member says of itself.
 */
import * as Effect from "effect/Effect"
import type { Alarm, Health, MemberHealth } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import type { Transport } from "../Transport.ts"

export const healthOf = (transport: Transport): Effect.Effect<Health, EtcdError> => {
  const read = Effect.timed(
    transport.range({ key: "\0", limit: 1, keysOnly: true }).pipe(
      Effect.map(({ revision }): bigint | undefined => revision),
      // Who may not read this key has been answered all the same.
      Effect.catchReason("EtcdError", "PermissionDenied", () => Effect.undefined)
    )
  )
  return Effect.map(
    Effect.all([read, transport.members], { concurrency: "unbounded" }),
    ([[latency, revision], members]) => ({
      latency,
      revision,
      leader: leaderOf(members),
      alarms: alarmsOf(members),
      members
    })
  )
}

/** A member that is cut off keeps to a leader of the past: the one of the latest term counts. */
const leaderOf = (members: ReadonlyArray<MemberHealth>): bigint | undefined => {
  let latest: { readonly term: bigint; readonly leader: bigint } | undefined
  for (const member of members) {
    if (member._tag === "Unknown" || member.leader === 0n) continue
    if (latest === undefined || member.raftTerm > latest.term) latest = { term: member.raftTerm, leader: member.leader }
  }
  return latest?.leader
}

/** Every member knows the alarms of all, and tells them as Go prints them: `memberID:123 alarm:NOSPACE`. */
const alarmsOf = (members: ReadonlyArray<MemberHealth>): ReadonlyArray<Alarm> => {
  const alarms = new Map<string, Alarm>()
  for (const error of members.flatMap((member) => member._tag === "Known" ? member.errors : [])) {
    const [, id, alarm] = /memberID:(\d+) alarm:(\w+)/.exec(error) ?? []
    if (id !== undefined && alarm !== undefined) alarms.set(`${id} ${alarm}`, { member: BigInt(id), alarm })
  }
  return [...alarms.values()]
}
