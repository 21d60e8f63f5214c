/** Clients that see less than there is of who is before them. */
import * as Effect from "effect/Effect"
import type { KeyValue, OperationResult } from "../../../src/Etcd.ts"
import type { Variant } from "../World.ts"

const seeing = (sees: (kvs: ReadonlyArray<KeyValue>) => ReadonlyArray<KeyValue>): Variant => ({
  port: (etcd) => ({
    ...etcd,
    txn: (request) =>
      Effect.map(etcd.txn(request), (result) => ({
        ...result,
        responses: result.responses.map((response): OperationResult =>
          response._tag === "Range" ? { ...response, kvs: sees(response.kvs) } : response
        )
      }))
  })
})

/** One too many: who is not counted is in all the same. */
export const countsOneTooFew: Variant = seeing((kvs) => kvs.slice(1))

/** A writer that minds only writers. */
export const overlooksReaders: Variant = seeing((kvs) => kvs.filter(({ key }) => !key.includes("/read/")))
