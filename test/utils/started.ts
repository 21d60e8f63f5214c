/** A transaction as locks ask for it (see `start.ts`). */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { Etcd, TxnRequest, TxnResult } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"
import { startOf } from "../../src/internal/client/start.ts"

export const started = (etcd: Etcd["Service"], request: TxnRequest): Effect.Effect<TxnResult, EtcdError> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.callback((resume) => {
      const one = startOf(etcd)(request, context, { ended: resume })
      return Effect.sync(() => one.cancel())
    })
  )
