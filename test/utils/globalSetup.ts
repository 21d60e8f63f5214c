import * as Effect from "effect/Effect"
import { type EtcdVersion, findEtcd } from "../../scripts/etcd.ts"

/** Fetches what is missing before any test's time runs. Tests that need an etcd which cannot be had fail by themselves. */
export const setup = (): Promise<void> =>
  Effect.forEach(["3.5", "3.4"] satisfies ReadonlyArray<EtcdVersion>, findEtcd, { discard: true }).pipe(
    Effect.catch((error) => Effect.logWarning(error.message)),
    Effect.runPromise
  )
