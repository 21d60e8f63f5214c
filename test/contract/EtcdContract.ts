/**
 * What every implementation of the port does, whatever it runs on. The tests share one store: each keeps to a prefix of its own.
 */
import { layer } from "@effect/vitest"
import type * as Layer from "effect/Layer"
import type { Etcd } from "../../src/Etcd.ts"
import { healthContract } from "./health.ts"
import { leaseContract } from "./leases.ts"
import type { Operator } from "./Operator.ts"
import { rangeContract } from "./ranges.ts"
import { txnContract } from "./transactions.ts"
import { watchContract } from "./watches.ts"

/** On the real clock, also where there is a virtual one. */
export const etcdContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    rangeContract(it)
    txnContract(it)
    leaseContract(it)
    watchContract(it)
    healthContract(it)
  })
