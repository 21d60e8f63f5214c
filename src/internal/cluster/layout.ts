/**
 * Where a cluster of runners lives in etcd. All of it is on the leases of the runners.
 */
import type { RunnerAddress } from "effect/cluster/RunnerAddress"
import type { ShardId } from "effect/cluster/ShardId"

export const addressText = ({ host, port }: RunnerAddress): string => `${host}:${port}`

export const runnersOf = (prefix: string): string => `${prefix}/runners/`

export const runnerKey = (prefix: string, address: RunnerAddress): string => runnersOf(prefix) + addressText(address)

export const machinesOf = (prefix: string): string => `${prefix}/machines/`

export const shardsOf = (prefix: string): string => `${prefix}/shards/`

/** A group may contain slashes: what is behind the last one is the number. */
export const shardKey = (prefix: string, { group, id }: Pick<ShardId, "group" | "id">): string =>
  `${shardsOf(prefix)}${group}/${id}`
