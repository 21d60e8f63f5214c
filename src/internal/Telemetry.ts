/**
 * Metrics of the services. Names and attributes are part of the public behaviour: dashboards rely on them.
 */
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Predicate from "effect/Predicate"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"

/** As `Metric.timer`, of a number of milliseconds: a duration for each update is most of its price. */
const timer = (
  name: string,
  { attributes, description }: { readonly description: string; readonly attributes?: Record<string, string> }
) =>
  Metric.histogram(name, {
    description,
    attributes: { ...attributes, time_unit: "milliseconds" },
    boundaries: Metric.exponentialBoundaries({ start: 0.5, factor: 2, count: 35 })
  })

const millisSince = (clock: Clock.Clock, start: bigint): number =>
  Number(clock.monotonicTimeNanosUnsafe() - start) / 1e6

// Attributes of their own: `Metric.withAttributes` would merge them into the context at each update, and an operation is hot.
const makeTimer = (operation: string, outcome: string) =>
  timer("coord_operation_duration", {
    description: "Operations by name and outcome: \"ok\", \"interrupted\", \"defect\" or the tag of the error",
    attributes: { operation, outcome }
  })
const sessionsLost = Metric.counter("coord_sessions_lost", { description: "Leases lost, by reason", incremental: true })
const watchReopens = Metric.counter("coord_watch_reopens", {
  description: "Watches opened again after a cut",
  incremental: true
})
const watchesInterrupted = Metric.gauge("coord_watches_interrupted", {
  description: "Watches of this process that are cut and not open again"
})
const recoveries = Metric.gauge("coord_registrations_recovering", {
  description: "Registrations of this process that are not in etcd at the moment"
})
const lockHold = timer("coord_lock_hold_duration", { description: "From acquisition to release or loss" })

const channels = Metric.gauge("coord_channels_open", {
  description: "gRPC channels of this process that follow discovery"
})
const channelUpdates = Metric.counter("coord_channel_updates", {
  description: "Lists of endpoints handed to gRPC channels",
  incremental: true
})

const outcome = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return "ok"
  const reason = exit.cause.reasons.find(Cause.isFailReason)
  if (reason !== undefined) return Predicate.hasProperty(reason.error, "_tag") ? String(reason.error._tag) : "error"
  return Cause.hasInterruptsOnly(exit.cause) ? "interrupted" : "defect"
}

type Timer = ReturnType<typeof makeTimer>

// For each operation those of its outcomes, made when they first happen: the names are few.
const timers = new Map<string, Map<string, Timer>>()

const timersOf = (operation: string): Map<string, Timer> => {
  const known = timers.get(operation)
  if (known !== undefined) return known
  const made = new Map<string, Timer>()
  timers.set(operation, made)
  return made
}

const timed = <A, E, R>(
  fiber: Fiber.Fiber<unknown, unknown>,
  operation: string,
  timers: Map<string, Timer>,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const clock = fiber.getRef(Clock.Clock)
  const start = clock.monotonicTimeNanosUnsafe()
  return Effect.onExitPrimitive(effect, (exit) => {
    const took = millisSince(clock, start)
    const result = outcome(exit)
    let known = timers.get(result)
    if (known === undefined) timers.set(result, known = makeTimer(operation, result))
    known.updateUnsafe(took, fiber.context)
    return undefined
  })
}

/** Counts and times an operation under its name. */
export const measured = (operation: string) => {
  const timers = timersOf(operation)
  return <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.withFiber((fiber) => timed(fiber, operation, timers, effect))
}

/** Whether anybody gets to see spans: Effect's own tracer shows them to nobody, but each of them changes the context, twice. */
const isTraced = ({ cache: { tracer } }: Fiber.Fiber<unknown, unknown>): boolean =>
  tracer !== undefined && tracer !== Tracer.nativeTracer

/** Of the span of the operation that it is called in. */
export const annotated = <A>(
  fiber: Fiber.Fiber<unknown, unknown>,
  attributes: () => Readonly<Record<string, string>>,
  value: A
): Effect.Effect<A> =>
  isTraced(fiber) ? Effect.as(Effect.annotateCurrentSpan(attributes()), value) : Effect.succeed(value)

/** As `Effect.withSpan`, without a trace of the call. */
export const span = <A, E, R>(
  name: string,
  attributes: Readonly<Record<string, unknown>>,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => Effect.withFiber((fiber) => isTraced(fiber) ? inSpan(name, attributes, effect) : effect)

const inSpan = <A, E, R>(
  name: string,
  attributes: Readonly<Record<string, unknown>>,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.useSpan(name, { attributes }, (span) => Effect.provideService(effect, Tracer.ParentSpan, span))

/** As `Stream.withSpan`: who has thousands of streams pays for each of them, and for each pull. */
export const streamSpan =
  (name: string, attributes: Readonly<Record<string, unknown>>) =>
  <A, E, R>(stream: Stream.Stream<A, E, R>): Stream.Stream<A, E, R> =>
    Stream.fromChannel(Channel.fromTransform((_upstream, scope) =>
      Effect.withFiber((fiber) =>
        Channel.toPullScoped(
          isTraced(fiber)
            ? Channel.withSpan(Stream.toChannel(stream), name, { attributes, captureStackTrace: false })
            : Stream.toChannel(stream),
          scope
        )
      )
    ))

/**
 * The span of an operation, and its time. As `Effect.fn` with `measured`, for what is done again and again: without a trace of the
 * call, which takes longer than all else that there is to do for one here.
 */
export const operation = (name: string) => {
  const timers = timersOf(name)
  return <A, E, R>(attributes: Readonly<Record<string, unknown>>, effect: Effect.Effect<A, E, R>) =>
    Effect.withFiber<A, E, R>((fiber) => {
      const inTime = timed(fiber, name, timers, effect)
      return isTraced(fiber) ? inSpan(name, attributes, inTime) : inTime
    })
}

export const sessionLost = (why: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(sessionsLost, { why }), 1)

export const watchReopened: Effect.Effect<void> = Metric.update(watchReopens, 1)

export const watchInterrupted = (change: 1 | -1): Effect.Effect<void> => Metric.modify(watchesInterrupted, change)

export const registrationsRecovering = (change: 1 | -1): Effect.Effect<void> => Metric.modify(recoveries, change)

/** Since a time of the clock. */
export const lockHeldUnsafe = (clock: Clock.Clock, since: bigint, context: Context.Context<never>): void =>
  lockHold.updateUnsafe(millisSince(clock, since), context)

export const channelsOpen = (change: 1 | -1): Effect.Effect<void> => Metric.modify(channels, change)

export const channelUpdated: Effect.Effect<void> = Metric.update(channelUpdates, 1)

/** An alert on what has grown misses the first of what has not been there before: so they are there from the start, as 0. */
export const present: Effect.Effect<void> = Effect.all([
  ...["Expired", "Revoked"].map((why) => Metric.update(Metric.withAttributes(sessionsLost, { why }), 0)),
  Metric.update(watchReopens, 0),
  Metric.modify(watchesInterrupted, 0),
  Metric.modify(recoveries, 0)
], { discard: true })
