/**
 * Semaphores: so many at a time, across processes, first come first served.
 *
 * The layout is `/semaphores/<name>/<lease in hex>-<number>` in the order of the create revisions: an entry holds a permit while fewer
 * entries than there are permits are before it. A permit is as good as its lease, exactly as a lock is: see `Lock`.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { type InvalidKey, InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { KeyValue, TxnRequest, TxnResult } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { isEntryOf } from "./internal/lock/entry.ts"
import { entriesOf, type Line } from "./internal/lock/line.ts"
import { makeLocalQueue } from "./internal/lock/LocalQueue.ts"
import { makePasses } from "./internal/lock/passes.ts"
import * as Telemetry from "./internal/Telemetry.ts"
import { validateKey, validatePrefix, validateTtl } from "./internal/validate.ts"

// -----------------------------------------------------------------------------
// Models and errors
// -----------------------------------------------------------------------------

/**
 * Somebody in the line of a semaphore.
 *
 * @category models
 * @since 0.1.0
 */
export class SemaphoreEntry extends Schema.Class<SemaphoreEntry>("effect-coord/SemaphoreEntry")({
  /** The key in etcd. */
  entryKey: Schema.String,
  /** `0n`: a key without a lease, which keeps its permit until somebody deletes it. */
  leaseId: Schema.BigInt,
  fencingToken: Schema.BigInt,
  /** How many permits there are, as this one sees it; absent where it does not say. */
  permits: Schema.optionalKey(Schema.Int),
  /** What the entry says of itself. */
  label: Schema.String,
  /** Whether it holds a permit; otherwise it waits. */
  holds: Schema.Boolean
}) {}

/**
 * `tryAcquire` found no permit free.
 *
 * @category errors
 * @since 0.1.0
 */
export class NoPermit extends Schema.TaggedError<NoPermit>()("NoPermit", {
  name: Schema.String,
  permits: Schema.Int
}) {
  override get message(): string {
    return `no permit of semaphore ${JSON.stringify(this.name)} is free: there are ${this.permits}`
  }
}

/**
 * The permit is no longer held. `Expired`: the lease was not renewed in time, by the local clock. `Revoked`: etcd no longer knows the lease.
 * `Deleted`: somebody deleted the key. `Closed`: the layer was closed. `Released`: the handle was used after its release.
 *
 * @category errors
 * @since 0.1.0
 */
export class PermitLost extends Schema.TaggedError<PermitLost>()("PermitLost", {
  name: Schema.String,
  fencingToken: Schema.BigInt,
  why: Schema.Literals(["Expired", "Revoked", "Deleted", "Closed", "Released"])
}) {
  override get message(): string {
    return `a permit of semaphore ${
      JSON.stringify(this.name)
    } (token ${this.fencingToken}) is no longer held: ${this.why}`
  }
}

/**
 * @category models
 * @since 0.1.0
 */
export interface SemaphoreOptions {
  /**
   * How many may hold one at a time. All who use a name should say the same: where they do not, nobody enters while more than the smallest
   * of the numbers of those who were there before, or its own, would be in.
   */
  readonly permits: number
  /**
   * For how long a permit outlives its process, 15 seconds by default; whole seconds, rounded up, at least one. It is renewed every third of it.
   */
  readonly ttl?: Duration.Input | undefined
  /** Shown to others by `entries`. */
  readonly label?: string | undefined
}

/**
 * A permit that is held.
 *
 * @category models
 * @since 0.1.0
 */
export interface Permit {
  readonly name: string
  /** The entry in etcd, without the namespace: a transaction that compares its create revision with the token is fenced too. */
  readonly entryKey: string
  /** Greater for every later entry of this semaphore, in every process: etcd's create revision of the entry. */
  readonly fencingToken: bigint
  /** The TTL that the server granted: it can be longer than what was asked for. */
  readonly ttl: Effect.Effect<Duration.Duration, PermitLost>
  /** For how long it is held for certain, if no renewal is answered from now on: time to stop what takes a while to stop. */
  readonly remaining: Effect.Effect<Duration.Duration, PermitLost>
  /** Fails when the permit is lost; not when it is released. */
  readonly lost: Effect.Effect<never, PermitLost>
  /** Fails unless the permit is held, judged by the clock now: right also after the process was stopped for a while. */
  readonly assertHeld: Effect.Effect<void, PermitLost>
  /** Runs the effect while the permit is held: interrupts it when the permit is lost, and fails when it was lost at its end. */
  readonly guard: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | PermitLost, R>
  /**
   * Commits the transaction only if the permit is still held when etcd applies it. A compare of the transaction itself that fails is an answer
   * (`succeeded: false`), not a loss. Writes to keys of semaphores are refused.
   */
  readonly fenced: (txn: TxnRequest) => Effect.Effect<TxnResult, PermitLost | EtcdError>
  /**
   * Gives the permit back; again, or after a loss, it does nothing. Fails when etcd did not answer within the request timeout: it is then
   * repeated in the background until it is answered or the lease has ended.
   */
  readonly release: Effect.Effect<void, EtcdError>
}

// -----------------------------------------------------------------------------
// Service
// -----------------------------------------------------------------------------

/**
 * Semaphores across processes.
 *
 * They are not re-entrant: who holds all permits and wants another one waits for ever.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Semaphore } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const semaphore = yield* Semaphore
 *   yield* semaphore.withPermit("exports", { permits: 3 })(Effect.log("one of three in the cluster"))
 * })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Semaphore extends Context.Service<Semaphore, {
  /**
   * Waits in line for a permit and holds it until the scope closes. Interrupted or timed out, it leaves nothing behind. Fails with
   * `EtcdError` when etcd cannot be reached (the retry schedule is used up) before it is in line; from then on it waits.
   */
  readonly acquire: (
    name: string,
    options: SemaphoreOptions
  ) => Effect.Effect<Permit, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /**
   * Takes a permit if one is free, and answers at once with `NoPermit` if not. Several who try at the same moment may all be refused one that
   * only some of them could have had.
   */
  readonly tryAcquire: (
    name: string,
    options: SemaphoreOptions
  ) => Effect.Effect<Permit, NoPermit | InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /**
   * Runs an effect while holding a permit. When it is lost the effect is interrupted and the result is `PermitLost`, also when the effect
   * ended just after the loss. An error of the effect is never masked.
   */
  readonly withPermit: (
    name: string,
    options: SemaphoreOptions
  ) => <A, E, R>(
    use: Effect.Effect<A, E, R> | ((permit: Permit) => Effect.Effect<A, E, R>)
  ) => Effect.Effect<A, E | PermitLost | InvalidKey | InvalidOption | EtcdError, R>
  /** Those who hold permits and those who wait, in order. */
  readonly entries: (name: string) => Effect.Effect<ReadonlyArray<SemaphoreEntry>, InvalidKey | EtcdError>
}>()("effect-coord/Semaphore") {
  /**
   * Semaphores over the etcd of the context, with entries below `prefix` (`/semaphores`).
   *
   * @since 0.1.0
   */
  static readonly layer = (
    options?: { readonly prefix?: string | undefined }
  ): Layer.Layer<Semaphore, InvalidOption, Etcd> => Layer.effect(Semaphore, make(options?.prefix ?? "/semaphores"))
}

const defaultTtl = Duration.seconds(15)

/** What is in an entry. Of one that is not of this kind only its place counts. */
const Content = Schema.fromJsonString(Schema.Struct({
  permits: Schema.Int.check(Schema.isGreaterThan(0)),
  label: Schema.optionalKey(Schema.String)
}))
const decodeContent = Schema.decodeUnknownOption(Content)
const encodeContent = (content: typeof Content.Type): string => JSON.stringify(content)

const contentOf = (kv: KeyValue) => {
  const content = decodeContent(new TextDecoder().decode(kv.value))
  return content._tag === "Some" ? content.value : undefined
}

const permitsOf = (kv: KeyValue): number => contentOf(kv)?.permits ?? Number.POSITIVE_INFINITY

const lineOf = (path: string, permits: number): Line => ({
  path,
  counts: (key) => isEntryOf(path, key),
  admits: (ahead) => ahead.length < Math.min(permits, ...ahead.map(permitsOf))
})

const make = Effect.fnUntraced(function*(
  prefixOption: string
): Effect.fn.Return<Semaphore["Service"], InvalidOption, Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const prefix = yield* validatePrefix(prefixOption, "semaphorePrefix")
  const queue = makeLocalQueue()
  const pass = yield* makePasses(etcd, { service: "Semaphore", prefix, what: "semaphores" })
  const pathOf = (name: string) => Effect.map(validateKey(name), (key) => `${prefix}/${key}/`)

  const take = Effect.fnUntraced(function*<E = never>(
    name: string,
    { label = "", permits, ttl }: SemaphoreOptions,
    refuse?: (permits: number) => E
  ) {
    yield* Effect.annotateCurrentSpan({ "coord.key": name })
    const path = yield* pathOf(name)
    if (!Number.isSafeInteger(permits) || permits < 1) {
      return yield* new InvalidOption({ option: "permits", rule: `must be an integer of at least 1, got ${permits}` })
    }
    const held = yield* pass({
      key: name,
      ttl: ttl === undefined ? defaultTtl : yield* validateTtl(ttl),
      line: lineOf(path, permits),
      folder: path,
      value: encodeContent({ permits, ...label !== "" && { label } }),
      // Of the fibers of this process one waits in etcd.
      turn: refuse === undefined ? queue.turn(path) : undefined,
      refuse: refuse && (() => refuse(permits)),
      lossOf: (fencingToken, why) => new PermitLost({ name, fencingToken, why })
    })
    return { name, ...held } satisfies Permit
  })

  const acquire: Semaphore["Service"]["acquire"] = Effect.fn("Semaphore.acquire")(function*(name, options) {
    return yield* take(name, options)
  }, Telemetry.measured("Semaphore.acquire"))

  const tryAcquire: Semaphore["Service"]["tryAcquire"] = Effect.fn("Semaphore.tryAcquire")(function*(name, options) {
    return yield* take(name, options, (permits) => new NoPermit({ name, permits }))
  }, Telemetry.measured("Semaphore.tryAcquire"))

  const withPermit: Semaphore["Service"]["withPermit"] = (name, options) => (use) =>
    // The scope is for the permit alone: one that `use` asks for is its caller's.
    Effect.scopedWith((scope) =>
      Effect.flatMap(
        Scope.provide(acquire(name, options), scope),
        (permit) => permit.guard(Effect.isEffect(use) ? use : Effect.suspend(() => use(permit)))
      )
    ).pipe(Effect.withSpan("Semaphore.withPermit", { attributes: { "coord.key": name } }))

  const entries: Semaphore["Service"]["entries"] = Effect.fn("Semaphore.entries")(function*(name) {
    yield* Effect.annotateCurrentSpan({ "coord.key": name })
    const all = yield* entriesOf(etcd, lineOf(yield* pathOf(name), 1))
    return all.map((kv, index) => {
      const content = contentOf(kv)
      return new SemaphoreEntry({
        entryKey: kv.key,
        leaseId: kv.lease,
        fencingToken: kv.createRevision,
        ...content !== undefined && { permits: content.permits },
        label: content?.label ?? "",
        holds: lineOf("", permitsOf(kv)).admits(all.slice(0, index))
      })
    })
  }, Telemetry.measured("Semaphore.entries"))

  return { acquire, tryAcquire, withPermit, entries }
})
