/**
 * A watch that survives its connections: it starts again exactly where the last whole revision was handed on.
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { WatchItem, WatchRequest } from "../../Etcd.ts"
import { EtcdError, HistoryLost, Unavailable } from "../../EtcdError.ts"
import * as Telemetry from "../Telemetry.ts"
import type { Transport } from "../Transport.ts"
import type { History } from "./history.ts"

/** Jittered, so that the clients of a restarted server do not come back in step. `Stream.retry` starts it anew once a watch has opened. */
const backoff = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("2 seconds")]).pipe(Schedule.jittered)

const ended = new EtcdError({ operation: "watch", reason: new Unavailable({ detail: "the watch ended", sent: true }) })

const isCut = (error: EtcdError): boolean => error.reason._tag === "Unavailable" || error.reason._tag === "Timeout"

type Items = Arr.NonEmptyReadonlyArray<WatchItem>
type Attempt = Pull.Pull<Items, EtcdError>

const errorOf = ({ reasons: [reason] }: Cause.Cause<EtcdError | Cause.Done>): EtcdError | undefined =>
  reason?._tag !== "Fail" ? undefined : Cause.isDone(reason.error) ? ended : reason.error

/**
 * From `startRevision`, every revision once and in order. It fails only for what a new connection cannot mend: `Compacted`,
 * `HistoryLost`, `PermissionDenied` and the like.
 *
 * A step for each event is a step for all of its consumers: so this is one pull, and no stream of streams.
 *
 * @param untilClosed fails when the client ends: between two connections, nobody else would tell.
 */
export const watchFrom = (
  transport: Transport,
  request: WatchRequest,
  startRevision: bigint,
  untilClosed: Effect.Effect<never, EtcdError>,
  history: History
): Stream.Stream<WatchItem, EtcdError> =>
  Stream.fromChannel(Channel.fromTransform((_upstream, scope) =>
    Effect.gen(function*() {
      let next = startRevision
      // Whoever asks for a start has seen the revision before it.
      let seen = startRevision - 1n
      const known = history.loss
      let interrupted = false
      const { leave, pullOf } = makeConnections(scope)
      let delay: ((error: EtcdError) => Pull.Pull<unknown, never, unknown>) | undefined

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
      yield* Scope.addFinalizer(scope, resume)

      const historyLost = (reason: HistoryLost) => new EtcdError({ operation: "watch", reason })
      const opened = Effect.fnUntraced(function*(revision: bigint) {
        const { latest } = history
        if (history.loss === known && (revision < latest || revision < seen)) {
          // The server may only lag behind. A linearizable read of what may be read anyway says what the store's revision is.
          const { startRevision: _, previousKv: __, without: ___, ...range } = request
          const { revision: actual } = yield* transport.range({ ...range, limit: 1, keysOnly: true })
          if (history.loss === known && actual < latest) history.lost(actual)
          // A start that nobody in this client has seen is no measure for the others.
          else if (actual < seen) return yield* historyLost(new HistoryLost({ expected: seen, actual }))
        }
        // Another watch can have found out.
        if (history.loss !== undefined && history.loss !== known) return yield* historyLost(history.loss)
        if (revision > seen) seen = revision
        history.saw(revision)
        if (interrupted) yield* Effect.andThen(resume, Telemetry.watchReopened)
      })

      const isNew = (item: WatchItem): boolean => {
        if (item._tag === "Opened") return true
        // The revision before the start, if it changed something here; and old servers send events from before that.
        if (item.revision < next) return false
        next = item.revision + 1n
        if (item.revision > seen) seen = item.revision
        history.saw(item.revision)
        return true
      }

      const hand = (items: Items): Attempt => {
        // Whoever comes back to a watch that has opened waits no longer than the first time.
        delay = undefined
        const arrived = items.filter(isNew)
        return Arr.isArrayNonEmpty(arrived) ? Effect.succeed(arrived) : attempt
      }
      const accept = (items: Items): Attempt => {
        const [first] = items
        return first._tag === "Opened" ? Effect.flatMap(opened(first.revision), () => hand(items)) : hand(items)
      }
      const lost = Effect.fnUntraced(function*(error: EtcdError) {
        yield* Effect.annotateLogs(Effect.logDebug(`watch cut: ${error.reason.message}`), { next })
        yield* interrupt
        yield* leave
        const wait = delay ??= yield* Schedule.toStepWithSleep(backoff)
        yield* Effect.raceFirst(Pull.catchDone(wait(error), () => Effect.void), untilClosed)
      })
      // One revision more than is wanted: of a revision that is itself the compacted one, etcd before 3.4.36 and 3.5.18 forgets the
      // deletions without a word. Asked for the one before it, it says `Compacted`.
      const connect = () => transport.watch({ ...request, startRevision: next > 1n ? next - 1n : next })
      const attempt: Attempt = Effect.suspend(() => Effect.flatMap(pullOf(connect), accept))
      const pull: Attempt = Effect.catchCause(attempt, (cause) => {
        const error = errorOf(cause)
        return error !== undefined && isCut(error) ? Effect.flatMap(lost(error), () => pull) : Effect.failCause(cause)
      })
      return pull
    })
  ))

/** One at a time: the next is made when it is pulled from. */
const makeConnections = (scope: Scope.Scope) => {
  let current: { readonly pull: Attempt; readonly own: Scope.Closeable } | undefined
  const open = (items: Stream.Stream<WatchItem, EtcdError>): Attempt =>
    Effect.uninterruptibleMask((restore) => {
      const own = Scope.forkUnsafe(scope)
      return restore(Channel.toPullScoped(Stream.toChannel(items), own)).pipe(
        Effect.onError(() => Scope.close(own, Exit.void)),
        Effect.flatMap((pull) => {
          current = { pull, own }
          return restore(pull)
        })
      )
    })
  return {
    pullOf: (connect: () => Stream.Stream<WatchItem, EtcdError>): Attempt =>
      current === undefined ? open(connect()) : current.pull,
    leave: Effect.suspend(() => {
      const own = current?.own
      current = undefined
      return own === undefined ? Effect.void : Scope.close(own, Exit.void)
    })
  }
}

/** From about now: its position is not exact, so it cannot be resumed. It ends when it is cut. */
export const watchNow = (transport: Transport, request: WatchRequest): Stream.Stream<WatchItem, EtcdError> =>
  Stream.catchIf(transport.watch(request), isCut, () => Stream.empty)
