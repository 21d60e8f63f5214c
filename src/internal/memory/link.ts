/**
 * What lies between a client and the store, and what can go wrong there.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { WatchItem } from "../../Etcd.ts"
import { type EtcdErrorReason, Timeout, Unavailable } from "../../EtcdError.ts"

export interface Link {
  /** One request and its answer; `server` is the step that the store takes, each time that it is run. */
  readonly call: <A>(operation: string, server: Effect.Effect<A, EtcdErrorReason>) => Effect.Effect<A, EtcdErrorReason>
  readonly watch: (items: Stream.Stream<WatchItem, EtcdErrorReason>) => Stream.Stream<WatchItem, EtcdErrorReason>
}

/** Nothing goes wrong, and nothing takes time. */
export const direct: Link = {
  call: (_, server) => server,
  watch: (items) => items
}

/** How long each way of one request takes, or that it leads nowhere. Absent: no time. */
export interface Fate {
  readonly request?: Duration.Input | "lost" | undefined
  readonly response?: Duration.Input | "lost" | undefined
}

export interface FaultyLink extends Link {
  /** Decides about every request that is sent from now on. */
  readonly setFate: (fate: (operation: string) => Fate) => Effect.Effect<void>
  /** Nothing passes, and nobody is told, until `heal`; a connection that is silent for 10 seconds is given up. */
  readonly partition: Effect.Effect<void>
  readonly heal: Effect.Effect<void>
  /** Breaks the connection with all that waits for an answer on it. */
  readonly cut: Effect.Effect<void>
  /** Refuses new connections: a request fails at once and has certainly not been sent. */
  readonly refuse: Effect.Effect<void>
  readonly accept: Effect.Effect<void>
}

const silence = Duration.seconds(10)

/**
 * A link that does as it is told. What was sent travels on although its sender gives up, is cut off or is interrupted: a write
 * can be applied long after its client has failed.
 */
export const makeLink = Effect.fnUntraced(function*(
  timeout: Duration.Duration
): Effect.fn.Return<FaultyLink, never, Scope.Scope> {
  const scope = yield* Effect.scope
  const passable = Latch.makeUnsafe(true)
  let broken = Deferred.makeUnsafe<never, EtcdErrorReason>()
  let refused = false
  let partitions = 0
  let fateOf: (operation: string) => Fate = () => ({})

  const breakConnection = (detail: string) =>
    Effect.suspend(() => {
      const old = broken
      broken = Deferred.makeUnsafe()
      return Deferred.fail(old, new Unavailable({ detail, sent: true }))
    })

  const way = (taken: Fate["request"]): Effect.Effect<void> => {
    if (taken === "lost") return Effect.never
    const arrived = taken === undefined ? Effect.void : Effect.sleep(taken)
    return Effect.andThen(arrived, Latch.await(passable))
  }

  const call: Link["call"] = <A>(operation: string, server: Effect.Effect<A, EtcdErrorReason>) =>
    Effect.gen(function*() {
      if (refused) return yield* new Unavailable({ detail: "connection refused", sent: false })
      const connection = broken
      const fate = fateOf(operation)
      const answer = yield* Deferred.make<A, EtcdErrorReason>()
      yield* way(fate.request).pipe(
        Effect.andThen(Effect.exit(server)),
        Effect.tap(() => way(fate.response)),
        Effect.flatMap((exit) => Deferred.done(answer, exit)),
        Effect.forkIn(scope, { startImmediately: true })
      )
      return yield* Effect.raceFirst(Deferred.await(answer), Deferred.await(connection)).pipe(
        Effect.timeoutOrElse({
          duration: timeout,
          orElse: () => Effect.fail(new Timeout({ detail: `no answer within ${Duration.format(timeout)}` }))
        })
      )
    })

  const watch: Link["watch"] = (items) =>
    Stream.suspend(() => {
      const connection = broken
      return Stream.transformPull(items, (pull) =>
        Effect.succeed(Effect.raceFirst(
          Effect.tap(pull, () => Latch.await(passable)),
          Deferred.await(connection)
        )))
    })

  const giveUpWhenSilent = Effect.suspend(() => {
    const mine = ++partitions
    return Effect.andThen(
      Effect.sleep(silence),
      Effect.suspend(() =>
        Latch.isOpen(passable) || partitions !== mine ? Effect.void : breakConnection("the connection is silent")
      )
    )
  })

  return {
    call,
    watch,
    setFate: (fate) =>
      Effect.sync(() => {
        fateOf = fate
      }),
    partition: Effect.andThen(Latch.close(passable), Effect.forkIn(giveUpWhenSilent, scope)),
    heal: Latch.open(passable),
    cut: breakConnection("the connection was cut"),
    refuse: Effect.andThen(
      Effect.sync(() => {
        refused = true
      }),
      breakConnection("the connection was cut")
    ),
    accept: Effect.sync(() => {
      refused = false
    })
  }
})
