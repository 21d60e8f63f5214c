import type { Vitest } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import {
  Etcd,
  type KeyRange,
  type KeyValue,
  Operation,
  type RangeRequest,
  type TxnRequest,
  type WatchEvent,
  type WatchItem,
  type WatchRequest
} from "../../src/Etcd.ts"
import type { EtcdError, EtcdErrorReason } from "../../src/EtcdError.ts"
import type { Operator } from "./Operator.ts"

export type ContractTests = Vitest.MethodsNonLive<Etcd | Operator>

let folders = 0

/** A prefix that no other test uses. */
export const freshPrefix = (): string => `/t${process.pid}-${folders++}/`

const decoder = new TextDecoder()

export const text = (kv: KeyValue | undefined): string | undefined =>
  kv === undefined ? undefined : decoder.decode(kv.value)

export const range = (request: RangeRequest) => Effect.flatMap(Etcd, (etcd) => etcd.range(request))

export const txn = (request: TxnRequest) => Effect.flatMap(Etcd, (etcd) => etcd.txn(request))

/** The revision of the put. */
export const put = (...args: Parameters<typeof Operation.put>) =>
  Effect.map(txn({ success: [Operation.put(...args)] }), (answer) => answer.revision)

export const remove = (...args: Parameters<typeof Operation.delete>) =>
  Effect.map(txn({ success: [Operation.delete(...args)] }), (answer) => answer.revision)

export const keys = (where: KeyRange, options: Omit<RangeRequest, "key" | "prefix" | "from" | "to"> = {}) =>
  Effect.map(range({ ...where, ...options }), (answer) => answer.kvs.map((kv) => kv.key))

export const get = (key: string) =>
  Effect.flatMap(
    range({ key }),
    ({ kvs: [kv] }) => kv === undefined ? Effect.die(new Error(`no key ${key}`)) : Effect.succeed(kv)
  )

/** Why an effect fails. */
export const reason = <A, R>(effect: Effect.Effect<A, EtcdError, R>): Effect.Effect<EtcdErrorReason, never, R> =>
  effect.pipe(Effect.flip, Effect.map((error) => error.reason), Effect.orDie)

export type Batch = Extract<WatchItem, { readonly _tag: "Batch" }>

export const watch = (request: WatchRequest) => Stream.unwrap(Effect.map(Etcd, (etcd) => etcd.watch(request)))

/** The first revisions that a watch delivers. */
export const batches = (request: WatchRequest, count: number) =>
  watch(request).pipe(
    Stream.filter((item): item is Batch => item._tag === "Batch"),
    Stream.take(count),
    Stream.runCollect,
    Effect.timeout("20 seconds")
  )

/** An event in short: `+key=value` or `-key`. */
export const short = (event: WatchEvent): string =>
  event._tag === "Put" ? `+${event.kv.key}=${text(event.kv)}` : `-${event.key}`

/** A batch in short, its revision counted from `base`. */
export const shortBatch = (base: bigint) => (batch: Batch): string =>
  `${batch.revision - base}: ${batch.events.map(short).join(" ")}`
