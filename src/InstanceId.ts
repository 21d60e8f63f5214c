/**
 * A small number for each instance of a service, held by a lease: worker ids of snowflake generators, slots, shards.
 *
 * An id is as good as its lease, exactly as a lock is: see `Lock`. Nobody else gets the number before its lease has ended or
 * it was given back, and its holder knows of the loss before that.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { type InvalidKey, InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { KeyValue, TxnRequest, TxnResult } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { makeHolds } from "./internal/hold/Hold.ts"
import { inScope, untilTaken } from "./internal/hold/inScope.ts"
import { claim, numberOf, smallestFree } from "./internal/instanceId/claim.ts"
import type { Taken } from "./internal/lock/Attempt.ts"
import { EntryLost } from "./internal/lock/entry.ts"
import { makeLocalQueue } from "./internal/lock/LocalQueue.ts"
import { makeSessionPool } from "./internal/session/SessionPool.ts"
import * as Telemetry from "./internal/Telemetry.ts"
import { validateKey, validatePrefix, validateTtl } from "./internal/validate.ts"

// -----------------------------------------------------------------------------
// Models and errors
// -----------------------------------------------------------------------------

/**
 * An id that somebody holds.
 *
 * @category models
 * @since 0.1.0
 */
export class AssignedId extends Schema.Class<AssignedId>("effect-coord/AssignedId")({
  id: Schema.Int,
  /** `0n`: a key without a lease, which keeps the id until somebody deletes it. */
  leaseId: Schema.BigInt,
  fencingToken: Schema.BigInt,
  /** What the holder says of itself; the id where it says nothing. */
  label: Schema.String
}) {}

/**
 * All ids from `min` on and below `max` were taken, at one revision of etcd.
 *
 * @category errors
 * @since 0.1.0
 */
export class IdsExhausted extends Schema.TaggedError<IdsExhausted>()("IdsExhausted", {
  service: Schema.String,
  min: Schema.Int,
  max: Schema.Int
}) {
  override get message(): string {
    return `no id of ${JSON.stringify(this.service)} is free: ${this.min} to ${this.max - 1} are all taken`
  }
}

/**
 * The id is no longer held. `Expired`: the lease was not renewed in time, by the local clock. `Revoked`: etcd no longer knows the lease.
 * `Deleted`: somebody deleted the key. `Closed`: the layer was closed. `Released`: the handle was used after its release.
 *
 * @category errors
 * @since 0.1.0
 */
export class InstanceIdLost extends Schema.TaggedError<InstanceIdLost>()("InstanceIdLost", {
  service: Schema.String,
  id: Schema.Int,
  fencingToken: Schema.BigInt,
  why: Schema.Literals(["Expired", "Revoked", "Deleted", "Closed", "Released"])
}) {
  override get message(): string {
    return `id ${this.id} of ${
      JSON.stringify(this.service)
    } (token ${this.fencingToken}) is no longer held: ${this.why}`
  }
}

/**
 * @category models
 * @since 0.1.0
 */
export interface InstanceIdOptions {
  /** Ids are below it: 1024 for the ten bits of a snowflake's worker. */
  readonly max: number
  /** The smallest id: 0 unless said otherwise. */
  readonly min?: number | undefined
  /**
   * For how long an id outlives its process, 30 seconds by default; whole seconds, rounded up, at least one. It is renewed every third of it.
   */
  readonly ttl?: Duration.Input | undefined
  /** Shown to others by `assigned`. */
  readonly label?: string | undefined
}

/**
 * An id that is held.
 *
 * @category models
 * @since 0.1.0
 */
export interface InstanceIdHandle {
  readonly service: string
  readonly id: number
  /** The entry in etcd, without the namespace: a transaction that compares its create revision with the token is fenced too. */
  readonly entryKey: string
  /** Greater for every later holder of this id, in every process: etcd's create revision of its key. */
  readonly fencingToken: bigint
  /** The TTL that the server granted: it can be longer than what was asked for. */
  readonly ttl: Effect.Effect<Duration.Duration, InstanceIdLost>
  /** For how long it is held for certain, if no renewal is answered from now on: time to stop what takes a while to stop. */
  readonly remaining: Effect.Effect<Duration.Duration, InstanceIdLost>
  /** Fails when the id is lost; not when it is released. */
  readonly lost: Effect.Effect<never, InstanceIdLost>
  /** Fails unless the id is held, judged by the clock now: right also after the process was stopped for a while. */
  readonly assertHeld: Effect.Effect<void, InstanceIdLost>
  /** Runs the effect while the id is held: interrupts it when the id is lost, and fails when it was lost at its end. */
  readonly guard: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | InstanceIdLost, R>
  /**
   * Commits the transaction only if the id is still held when etcd applies it. A compare of the transaction itself that fails is an answer
   * (`succeeded: false`), not a loss. Writes to keys of ids are refused.
   */
  readonly fenced: (txn: TxnRequest) => Effect.Effect<TxnResult, InstanceIdLost | EtcdError>
  /**
   * Gives the id back, for others to take at once; again, or after a loss, it does nothing. Fails when etcd did not answer within the
   * request timeout: it is then repeated in the background until it is answered or the lease has ended.
   */
  readonly release: Effect.Effect<void, EtcdError>
}

// -----------------------------------------------------------------------------
// Service
// -----------------------------------------------------------------------------

/**
 * Numbers for the instances of a service.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { InstanceId } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const ids = yield* InstanceId
 *   yield* ids.withId("orders", { max: 1024 })(({ id }) => Effect.log(`this is worker ${id}`))
 * })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class InstanceId extends Context.Service<InstanceId, {
  /**
   * Takes the smallest id that is free, and holds it until the scope closes. Does not wait: `IdsExhausted` when there is none. Interrupted or
   * timed out, it leaves nothing behind.
   */
  readonly acquire: (
    service: string,
    options: InstanceIdOptions
  ) => Effect.Effect<InstanceIdHandle, IdsExhausted | InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /**
   * Runs an effect while holding an id. When the id is lost the effect is interrupted and the result is `InstanceIdLost`, also when the effect
   * ended just after the loss. An error of the effect is never masked.
   */
  readonly withId: (
    service: string,
    options: InstanceIdOptions
  ) => <A, E, R>(
    use: Effect.Effect<A, E, R> | ((handle: InstanceIdHandle) => Effect.Effect<A, E, R>)
  ) => Effect.Effect<A, E | InstanceIdLost | IdsExhausted | InvalidKey | InvalidOption | EtcdError, R>
  /** The ids that are held, in their order. */
  readonly assigned: (service: string) => Effect.Effect<ReadonlyArray<AssignedId>, InvalidKey | EtcdError>
}>()("effect-coord/InstanceId") {
  /**
   * Ids over the etcd of the context, with keys `<prefix>/<service>/ids/<id>`; the prefix is `/allocators`.
   *
   * @since 0.1.0
   */
  static readonly layer = (
    options?: { readonly prefix?: string | undefined }
  ): Layer.Layer<InstanceId, InvalidOption, Etcd> => Layer.effect(InstanceId, make(options?.prefix ?? "/allocators"))
}

const defaultTtl = Duration.seconds(30)

/** After how many lost races the pauses grow no more. */
const maxDoublings = 6

const validateRange = Effect.fnUntraced(function*({ max, min = 0 }: InstanceIdOptions) {
  if (!Number.isSafeInteger(min) || min < 0) {
    return yield* new InvalidOption({ option: "min", rule: `must be an integer of at least 0, got ${min}` })
  }
  if (!Number.isSafeInteger(max) || max <= min) {
    return yield* new InvalidOption({ option: "max", rule: `must be an integer greater than ${min}, got ${max}` })
  }
  return { min, max }
})

interface TakenId extends Taken {
  readonly id: number
}

const make = Effect.fnUntraced(function*(
  prefixOption: string
): Effect.fn.Return<InstanceId["Service"], InvalidOption, Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const prefix = yield* validatePrefix(prefixOption, "allocatorPrefix")
  const pool = yield* makeSessionPool(etcd, `${prefix}/`)
  const queue = makeLocalQueue()
  const makeHold = makeHolds(etcd, { service: "InstanceId", prefix, what: "ids" })
  const pathOf = (service: string) => Effect.map(validateKey(service), (key) => `${prefix}/${key}/ids/`)

  /** Tries what is free, until nobody else was faster. */
  const takeFree = Effect.fnUntraced(function*(
    service: string,
    path: string,
    range: { readonly min: number; readonly max: number },
    options: { readonly ttl: Duration.Duration; readonly label: string | undefined }
  ): Effect.fn.Return<TakenId | EntryLost, IdsExhausted | EtcdError, Scope.Scope> {
    const scope = yield* Effect.scope
    let taken: ReadonlyArray<KeyValue> = (yield* etcd.range({ prefix: path, keysOnly: true })).kvs
    for (let tries = 0;; tries++) {
      const id = smallestFree(path, taken, range)
      if (id === undefined) return yield* new IdsExhausted({ service, ...range })
      // All who start together would race for each number otherwise.
      if (tries > 0) {
        yield* Effect.flatMap(Random.next, (next) => Effect.sleep(next * 2 ** Math.min(tries, maxDoublings)))
      }
      const key = `${path}${id}`
      const attempt = yield* Scope.fork(scope)
      const slot = yield* Scope.provide(pool.slot({ ttl: options.ttl, name: key, key: () => key }), attempt)
      const claimed = yield* Scope.provide(claim(etcd, path, slot, options.label ?? String(id)), attempt)
      if (claimed === EntryLost) return EntryLost
      if (typeof claimed === "bigint") return { slot, token: claimed, id }
      yield* Scope.close(attempt, Exit.void)
      taken = claimed
    }
  })

  const acquire: InstanceId["Service"]["acquire"] = Effect.fn("InstanceId.acquire")(function*(service, options) {
    yield* Effect.annotateCurrentSpan({ "coord.key": service })
    const path = yield* pathOf(service)
    const range = yield* validateRange(options)
    const ttl = options.ttl === undefined ? defaultTtl : yield* validateTtl(options.ttl)
    // The fibers of this process do not race each other.
    const queued = Effect.scopedWith((turn) =>
      Scope.provide(queue.turn(path), turn).pipe(
        Effect.andThen(untilTaken(takeFree(service, path, range, { ttl, label: options.label })))
      )
    )
    return yield* inScope(
      Effect.annotateLogs(queued, { service }),
      ({ id, slot, token }, scope) =>
        Effect.gen(function*() {
          const lossOf = (why: InstanceIdLost["why"]) => new InstanceIdLost({ service, id, fencingToken: token, why })
          const hold = makeHold({ key: `${service}/${id}`, slot, token, scope, lossOf })
          yield* Scope.addFinalizer(scope, Effect.sync(() => hold.retire()))
          yield* Effect.annotateCurrentSpan({
            "coord.id": id,
            "coord.token": String(token),
            "coord.lease": slot.session.leaseId.toString(16)
          })
          return { service, id, fencingToken: token, ...hold.held }
        })
    )
  }, Telemetry.measured("InstanceId.acquire"))

  const withId: InstanceId["Service"]["withId"] = (service, options) => (use) =>
    // The scope is for the id alone: one that `use` asks for is its caller's.
    Effect.scopedWith((scope) =>
      Effect.flatMap(
        Scope.provide(acquire(service, options), scope),
        (handle) => handle.guard(Effect.isEffect(use) ? use : Effect.suspend(() => use(handle)))
      )
    ).pipe(Effect.withSpan("InstanceId.withId", { attributes: { "coord.key": service } }))

  const assigned: InstanceId["Service"]["assigned"] = Effect.fn("InstanceId.assigned")(function*(service) {
    yield* Effect.annotateCurrentSpan({ "coord.key": service })
    const path = yield* pathOf(service)
    const { kvs } = yield* etcd.range({ prefix: path })
    return kvs.flatMap((kv) => {
      const id = numberOf(path, kv.key)
      const label = new TextDecoder().decode(kv.value)
      return id === undefined
        ? []
        : [new AssignedId({ id, leaseId: kv.lease, fencingToken: kv.createRevision, label })]
    }).sort((a, b) => a.id - b.id)
  }, Telemetry.measured("InstanceId.assigned"))

  return { acquire, withId, assigned }
})
