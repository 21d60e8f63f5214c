/**
 * The members of the cluster: do they answer, follow one leader, keep up, and have room.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { Etcd, type Health, type MemberHealth } from "../../Etcd.ts"
import { type Finding, note, ok, problem } from "./Finding.ts"

type Known = Extract<MemberHealth, { readonly _tag: "Known" }>

/** Of a read through the leader; a session of the shortest TTL still has time for many. */
const slow = Duration.millis(500)

/** How far behind the most advanced one, in entries of the log, somebody who keeps up can be. */
const lag = 1_000n

const megabytes = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(1)} MiB`

const millis = (duration: Duration.Duration) => `${Duration.toMillis(duration).toFixed(1)} ms`

const unknown = ({ endpoint, error }: Extract<MemberHealth, { readonly _tag: "Unknown" }>): Finding =>
  error.reason._tag === "PermissionDenied"
    ? note(
      `member ${endpoint}`,
      "answers, but tells only root of itself",
      "ask as root to see versions, sizes and alarms"
    )
    : problem(
      `member ${endpoint}`,
      error.reason.message,
      "start it, or take it out of the endpoints if it is gone for good"
    )

const known = (member: Known, newest: bigint): Finding => {
  const name = `member ${member.endpoint}`
  const role = member.leader === member.id
    ? "leads"
    : member.isLearner
    ? "is a learner"
    : `follows ${member.leader.toString(16)}`
  const said = `etcd ${member.version}, ${role}, ${megabytes(member.dbSize)} (${
    megabytes(member.dbSizeInUse)
  } in use), ${millis(member.latency)}`
  if (member.leader === 0n) {
    return problem(name, `${said}; it knows of no leader`, "look at its log and its connections to its peers")
  }
  if (member.errors.length > 0) return problem(name, `${said}; it says: ${member.errors.join("; ")}`, "look at its log")
  if (newest - member.raftIndex > lag) {
    return problem(
      name,
      `${said}; it is ${newest - member.raftIndex} entries behind`,
      "its disk or its network is too slow"
    )
  }
  return ok(name, said)
}

const versions = (members: ReadonlyArray<Known>): ReadonlyArray<Finding> => {
  const found = [...new Set(members.map(({ version }) => version))]
  if (found.length > 1) return [note("versions", `several: ${found.join(", ")}`, "finish the upgrade")]
  const [major = 0, minor = 0] = (found[0] ?? "").split(".").map(Number)
  return found.length > 0 && (major < 3 || major === 3 && minor < 4)
    ? [problem("versions", `etcd ${found[0]}`, "upgrade: effect-coord is made for 3.4 and later")]
    : []
}

const alarmAdvice: Record<string, string> = {
  NOSPACE: "compact, defragment each member, then `etcdctl alarm disarm`; writes are refused until then",
  CORRUPT: "replace the member named: its data differ from those of the others"
}

const cluster = ({ latency, leader }: Health): ReadonlyArray<Finding> => [
  Duration.isGreaterThan(latency, slow)
    ? problem(
      "latency",
      `a read through the leader took ${millis(latency)}`,
      "look at the load and the disks of the members: leases are lost where this takes a third of a TTL"
    )
    : ok("latency", `a read through the leader took ${millis(latency)}`),
  ...leader === undefined ? [] : [ok("leader", leader.toString(16))]
]

export const members = Effect.gen(function*() {
  const health = yield* (yield* Etcd).health
  const said = health.members.filter((member) => member._tag === "Known")
  const newest = said.reduce((most, { raftIndex }) => raftIndex > most ? raftIndex : most, 0n)
  return [
    ...cluster(health),
    ...health.members.map((member) => member._tag === "Known" ? known(member, newest) : unknown(member)),
    ...versions(said),
    ...health.alarms.map(({ alarm, member }) =>
      problem(
        "alarm",
        `${alarm} of member ${member.toString(16)}`,
        alarmAdvice[alarm] ?? "see etcd's documentation of alarms"
      )
    ),
    ...health.alarms.length === 0 && said.length > 0 ? [ok("alarms", "none")] : []
  ]
})
