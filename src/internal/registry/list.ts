/**
 * The instances of a service in order, kept up by what changes: in a service of thousands a change costs a look-up and a copy of the
 * list, not decoding and sorting all of it.
 */
import * as Arr from "effect/Array"
import * as Equal from "effect/Equal"
import * as HashMap from "effect/HashMap"
import * as Order from "effect/Order"
import type { KeyValue } from "../../Etcd.ts"
import type { ServiceInstance } from "../../ServiceInstance.ts"
import type { View } from "../view.ts"
import type { Folder, Reader } from "./entry.ts"

export interface List {
  /** Ascending by id. */
  readonly instances: ReadonlyArray<ServiceInstance>
  /** Entries that were found to be odd when it was made. */
  readonly odd: ReadonlyArray<KeyValue>
}

export interface ListView extends View<List> {
  readonly of: (kvs: Iterable<KeyValue>) => List
}

const byId = Order.mapInput(Order.String, (instance: ServiceInstance) => instance.id)

/** Where an id is, or would be. */
const indexOf = (instances: ReadonlyArray<ServiceInstance>, id: string): number => {
  let low = 0
  let high = instances.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((instances[middle]?.id ?? id) < id) low = middle + 1
    else high = middle
  }
  return low
}

export const makeList = (reader: Reader, folder: Folder): ListView => {
  const of = (kvs: Iterable<KeyValue>): List => {
    const instances: Array<ServiceInstance> = []
    const odd: Array<KeyValue> = []
    for (const kv of kvs) {
      const decoded = reader.read(folder, kv)
      if (decoded?.instance !== undefined) instances.push(decoded.instance)
      if (decoded?.problem !== undefined) odd.push(kv)
    }
    return { instances: Arr.sort(instances, byId), odd }
  }

  return {
    of,
    start: ({ kvs }) => of(HashMap.values(kvs)),
    next: (last, changes) => {
      let instances: ReadonlyArray<ServiceInstance> = last.instances
      let own: Array<ServiceInstance> | undefined
      const odd: Array<KeyValue> = []
      for (const change of changes) {
        if (change._tag === "Synced") continue
        const decoded = change._tag === "Put" ? reader.read(folder, change.kv) : undefined
        if (change._tag === "Put" && decoded?.problem !== undefined) odd.push(change.kv)
        const instance = decoded?.instance
        const key = change._tag === "Put" ? change.kv.key : change.key
        const id = key.slice(folder.path.length)
        const index = indexOf(instances, id)
        const known = instances[index]
        const count = known?.id === id ? 1 : 0
        if (count === 0 ? instance === undefined : Equal.equals(known, instance)) continue
        instances = own ??= [...last.instances]
        own.splice(index, count, ...instance === undefined ? [] : [instance])
      }
      return own === undefined && odd.length === 0 ? last : { instances, odd }
    }
  }
}
