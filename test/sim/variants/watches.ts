import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { EtcdError, Unavailable } from "../../../src/EtcdError.ts"
import type { Variant } from "../World.ts"

const ended = new EtcdError({ operation: "watch", reason: new Unavailable({ detail: "it ended", sent: true }) })

/** A new connection goes on after the revision that the last one began with, whatever of that had been handed on. */
export const resumesAtTheHeader: Variant = {
  port: (etcd, transport) => ({
    ...etcd,
    watch: (request) => {
      if (request.startRevision === undefined) return etcd.watch(request)
      let next = request.startRevision
      return Stream.suspend(() => transport.watch({ ...request, startRevision: next })).pipe(
        Stream.tap((item) =>
          Effect.sync(() => {
            next = item.revision + 1n
          })
        ),
        Stream.concat(Stream.fail(ended)),
        Stream.retry(
          Schedule.spaced("50 millis").pipe(
            Schedule.setInputType<EtcdError>(),
            Schedule.while(({ input }) => input.reason._tag === "Unavailable" || input.reason._tag === "Timeout")
          )
        )
      )
    }
  })
}

/** What happens between the listing and the watch is in neither. */
export const listAndWatchWithAGap: Variant = {
  port: (etcd) => ({ ...etcd, watch: (request) => etcd.watch({ ...request, startRevision: undefined }) })
}

/** A watch whose connection breaks says nothing more, and does not end either. */
export const fallsSilent: Variant = {
  port: (etcd, transport) => ({
    ...etcd,
    watch: (request) => Stream.catch(transport.watch(request), () => Stream.never)
  })
}
