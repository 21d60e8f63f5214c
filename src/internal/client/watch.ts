/**
 * A watch that survives its connections: it starts again exactly where the last whole revision was handed on.
 */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { WatchItem, WatchRequest } from "../../Etcd.ts"
import { EtcdError, HistoryLost, Unavailable } from "../../EtcdError.ts"
import * as Telemetry from "../Telemetry.ts"
import type { Transport } from "../Transport.ts"

/** Jittered, so that the clients of a restarted server do not come back in step. `Stream.retry` starts it anew once a watch has opened. */
const backoff = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("2 seconds")]).pipe(Schedule.jittered)

const ended = new EtcdError({ operation: "watch", reason: new Unavailable({ detail: "the watch ended", sent: true }) })

const isCut = (error: EtcdError): boolean => error.reason._tag === "Unavailable" || error.reason._tag === "Timeout"

/**
 * From `startRevision`, every revision once and in order. It fails only for what a new connection cannot mend: `Compacted`,
 * `HistoryLost`, `PermissionDenied` and the like.
 */
export const watchFrom = (
  transport: Transport,
  request: WatchRequest,
  startRevision: bigint
): Stream.Stream<WatchItem, EtcdError> =>
  Stream.suspend(() => {
    let next = startRevision
    // Whoever asks for a start has seen the revision before it.
    let seen = startRevision - 1n
    let interrupted = false

    const interrupt = Effect.suspend(() => {
      if (interrupted) return Effect.void
      interrupted = true
      return Telemetry.watchInterrupted(1)
    }).pipe(Effect.uninterruptible)
    const resume = Effect.suspend(() => {
      if (!interrupted) return Effect.void
      interrupted = false
      return Telemetry.watchInterrupted(-1)
    }).pipe(Effect.uninterruptible)

    const opened = Effect.fnUntraced(function*(revision: bigint) {
      if (revision < seen) {
        // The server may only lag behind. A linearizable read of what may be read anyway says what the store's revision is.
        const { startRevision: _, previousKv: __, ...range } = request
        const actual = yield* transport.range({ ...range, limit: 1, keysOnly: true })
        if (actual.revision < seen) {
          return yield* new EtcdError({
            operation: "watch",
            reason: new HistoryLost({ expected: seen, actual: actual.revision })
          })
        }
      } else {
        seen = revision
      }
    })

    // Pulls are not read ahead: what leaves here is what the consumer asked for.
    const observe = Effect.fnUntraced(function*(items: ReadonlyArray<WatchItem>) {
      const out: Array<WatchItem> = []
      for (const item of items) {
        if (item._tag === "Opened") {
          yield* opened(item.revision)
          if (interrupted) yield* Effect.andThen(resume, Telemetry.watchReopened)
        } else {
          // The revision before the start, if it changed something here; and old servers send events from before that.
          if (item.revision < next) continue
          next = item.revision + 1n
          if (item.revision > seen) seen = item.revision
        }
        out.push(item)
      }
      return out
    })

    // One revision more than is wanted: of a revision that is itself the compacted one, etcd before 3.4.36 and 3.5.18 forgets the
    // deletions without a word. Asked for the one before it, it says `Compacted`.
    return Stream.suspend(() => transport.watch({ ...request, startRevision: next > 1n ? next - 1n : next })).pipe(
      Stream.chunks,
      Stream.mapEffect(observe),
      Stream.filter(Arr.isArrayNonEmpty),
      Stream.flattenArray,
      Stream.concat(Stream.fail(ended)),
      Stream.tapError((error) =>
        isCut(error)
          ? Effect.logDebug(`watch cut: ${error.reason.message}`).pipe(
            Effect.annotateLogs({ next }),
            Effect.andThen(interrupt)
          )
          : Effect.void
      ),
      Stream.retry(backoff.pipe(Schedule.setInputType<EtcdError>(), Schedule.while(({ input }) => isCut(input)))),
      Stream.ensuring(resume)
    )
  })

/** From about now: its position is not exact, so it cannot be resumed. It ends when it is cut. */
export const watchNow = (transport: Transport, request: WatchRequest): Stream.Stream<WatchItem, EtcdError> =>
  Stream.catchIf(transport.watch(request), isCut, () => Stream.empty)
