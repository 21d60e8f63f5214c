/** A cluster of real etcd servers for tests: each member can be killed, paused and started by itself. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { findEtcd } from "../../scripts/etcd.ts"
import {
  type EtcdNotFound,
  type EtcdServer,
  type EtcdStartFailed,
  type EtcdVersion,
  httpRequest,
  makeMember,
  retryTakenPort
} from "./EtcdServer.ts"
import { freePort } from "./ports.ts"

export interface Cluster {
  readonly members: ReadonlyArray<EtcdServer>
  readonly endpoints: ReadonlyArray<string>
  /** The member that says of itself that it leads; waits, bounded, while there is none. */
  readonly leader: Effect.Effect<EtcdServer>
}

interface Status {
  readonly header: { readonly member_id: string; readonly raft_term: string }
  readonly leader: string
  readonly raftTerm: string
}

const status = (member: EtcdServer): Effect.Effect<Status | undefined> =>
  Effect.map(
    httpRequest({ method: "POST", port: member.port, path: "/v3/maintenance/status" }, "{}"),
    (text) => text === undefined ? undefined : JSON.parse(text)
  )

/** Members that answer may still name a leader of the past: the greatest term decides. */
const findLeader = Effect.fnUntraced(function*(members: ReadonlyArray<EtcdServer>) {
  for (let attempt = 0; attempt < 200; attempt++) {
    const found = yield* Effect.forEach(members, status, { concurrency: "unbounded" })
    const leaders = members.flatMap((member, index) => {
      const answer = found[index]
      return answer !== undefined && answer.leader === answer.header.member_id
        ? [{ member, term: Number(answer.raftTerm) }]
        : []
    })
    const latest = leaders.sort((a, b) => b.term - a.term)[0]
    if (latest !== undefined) return latest.member
    yield* Effect.promise(() => new Promise((resume) => setTimeout(resume, 50)))
  }
  return yield* Effect.die(new Error("the cluster has no leader"))
})

/** Ready to serve: every member is healthy and knows the leader. */
export const makeCluster = (
  options: { readonly version?: EtcdVersion; readonly size?: number; readonly args?: ReadonlyArray<string> } = {}
): Effect.Effect<Cluster, EtcdNotFound | EtcdStartFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const binary = yield* findEtcd(options.version ?? "3.5")
    const plans = yield* Effect.forEach(
      Array.from({ length: options.size ?? 3 }, (_, index) => `member${index + 1}`),
      (name) => Effect.all({ name: Effect.succeed(name), port: freePort, peerPort: freePort })
    )
    const initialCluster = plans.map(({ name, peerPort }) => `${name}=http://127.0.0.1:${peerPort}`).join(",")
    const made = yield* Effect.forEach(
      plans,
      (plan) => makeMember({ ...plan, binary, initialCluster, args: options.args ?? [] })
    )
    yield* Effect.forEach(made, ({ start }) => start, { concurrency: "unbounded", discard: true })
    const members = made.map(({ server }) => server)
    return { members, endpoints: members.map(({ endpoint }) => endpoint), leader: findLeader(members) }
  }).pipe(retryTakenPort)
