/**
 * Values that follow etcd by themselves.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { LiveConfig, LiveStatus, OnDelete } from "../../ConfigCenter.ts"
import { type ConfigDecodeError, ConfigNotFound } from "../../ConfigError.ts"
import type { KeyValue } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { pause } from "../follow.ts"
import { compareBytes } from "../keys.ts"
import type { SharedWatch } from "../SharedWatch.ts"
import type { Values } from "./values.ts"

interface State<A> {
  /** None: the key does not exist, and `onDelete` makes that a failure. */
  readonly value: Option.Option<A>
  /** What the value was decoded from. */
  readonly source: KeyValue | undefined
  /** Which value it is, so that a change of the status alone is none of the value. */
  readonly serial: number
  readonly status: LiveStatus
}

type Failure = ConfigNotFound | ConfigDecodeError | EtcdError

export const makeLive = <S extends Schema.Constraint>(
  hub: SharedWatch,
  values: Values,
  key: string,
  schema: S,
  onDelete: OnDelete<S["Type"]>
): Effect.Effect<LiveConfig<S["Type"], ConfigNotFound>, Failure, S["DecodingServices"] | Scope.Scope> =>
  closedOnFailure(Effect.gen(function*() {
    const observe = observer(values, key, schema, onDelete)
    // Sliding: who is slow sees the latest. `undefined` ends it.
    const published = yield* Effect.acquireRelease(
      PubSub.sliding<State<S["Type"]> | undefined>({ capacity: 1, replay: 1 }),
      (published) => PubSub.end(published, undefined)
    )
    const first = Deferred.makeUnsafe<State<S["Type"]>, Failure>()
    let state: State<S["Type"]> | undefined
    const valueOf = ({ value }: State<S["Type"]>): Effect.Effect<S["Type"], ConfigNotFound> =>
      Option.isSome(value) ? Effect.succeed(value.value) : Effect.fail(new ConfigNotFound({ key }))
    // Made when it changes: it is read far more often. Nobody reads before the first one.
    let latest: Effect.Effect<S["Type"], ConfigNotFound> = Effect.fail(new ConfigNotFound({ key }))

    const become = (next: State<S["Type"]>) =>
      Effect.suspend(() => {
        state = next
        latest = valueOf(next)
        return Effect.andThen(PubSub.publish(published, next), Deferred.succeed(first, next))
      })

    let failures = 0
    const path = values.path(key)
    // Each change, not just the latest: a good value may be followed by a bad one at once, and is the last good one then.
    const follow = Effect.suspend(() => {
      let isFirst = true
      return hub.changes({ key: path }).pipe(
        Stream.flattenIterable,
        Stream.runForEach((change) => {
          failures = 0
          const observed = change._tag === "Put"
            ? observe.put(state, change.kv)
            : change._tag === "Delete"
            ? observe.missing(state, change.modRevision)
            : isFirst
            ? observe.missing(state, change.revision)
            : undefined
          isFirst = false
          return observed === undefined ? Effect.void : Effect.flatMap(observed, become)
        })
      )
    })
    const following = yield* follow.pipe(
      Effect.catchTag("EtcdError", (error) => {
        // Without a first value there is nothing to keep.
        if (state === undefined) return Effect.fail(error)
        return Effect.andThen(
          become({ ...state, status: { _tag: "Stale", error } }),
          Effect.logWarning("configuration watch failed: the last good value is kept", error)
        )
      }),
      Effect.andThen(Effect.suspend(() => pause(++failures))),
      Effect.forever,
      Effect.annotateLogs({ key }),
      Effect.forkScoped
    )
    // In a scope that has closed meanwhile it ends before it begins.
    following.addObserver((exit) => Deferred.doneUnsafe(first, exit))

    const current = yield* Deferred.await(first)
    const states = Stream.takeWhile(Stream.fromPubSub(published), (state) => state !== undefined)

    return {
      key,
      get: Effect.suspend(() => latest),
      changes: states.pipe(Stream.changesWith((a, b) => a.serial === b.serial), Stream.mapEffect(valueOf)),
      status: Effect.sync(() => (state ?? current).status),
      statusChanges: states.pipe(Stream.map((state) => state.status), Stream.changes)
    }
  }))

/** What a live value becomes when its key is put, or is not there. Fails only while there is no value yet. */
const observer = <S extends Schema.Constraint>(
  values: Values,
  key: string,
  schema: S,
  onDelete: OnDelete<S["Type"]>
) => {
  type Next = State<S["Type"]>

  const put = (
    state: Next | undefined,
    kv: KeyValue
  ): Effect.Effect<Next, ConfigNotFound | ConfigDecodeError, S["DecodingServices"]> =>
    Effect.matchEffect(values.decode(schema, key, kv), {
      onSuccess: ({ value, version }) => {
        const status: LiveStatus = { _tag: "Ok", version }
        // Read again after the watch was opened anew: the same value, not a new one.
        return Effect.succeed<Next>(
          state !== undefined && isSame(state.source, kv)
            ? { ...state, status }
            : { value: Option.some(value), source: kv, serial: (state?.serial ?? 0) + 1, status }
        )
      },
      onFailure: (error) => {
        if (state === undefined) return Effect.fail(error)
        const next: Next = { ...state, status: { _tag: "Invalid", version: error.version, error } }
        return Effect.as(
          Effect.logWarning("the configuration value is invalid: the last good one is kept", error),
          next
        )
      }
    })

  const missing = (
    state: Next | undefined,
    version: bigint
  ): Effect.Effect<Next, ConfigNotFound | ConfigDecodeError, S["DecodingServices"]> => {
    if (state === undefined && typeof onDelete === "string") return Effect.fail(new ConfigNotFound({ key }))
    const status: LiveStatus = { _tag: "Deleted", version }
    if (state !== undefined && (onDelete === "keep" || state.source === undefined)) {
      return Effect.succeed({ ...state, status })
    }
    return Effect.succeed({
      value: typeof onDelete === "object" ? Option.some(onDelete.default) : Option.none(),
      source: undefined,
      serial: (state?.serial ?? 0) + 1,
      status
    })
  }

  return { put, missing }
}

const isSame = (a: KeyValue | undefined, b: KeyValue): boolean =>
  a !== undefined && a.modRevision === b.modRevision && compareBytes(a.value, b.value) === 0

/** What is opened in the scope is closed at once when the effect does not succeed: the scope may live on for long. */
const closedOnFailure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      return yield* restore(Scope.provide(effect, scope)).pipe(
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
    })
  )
