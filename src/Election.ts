/**
 * Elections across processes: of all candidates one leads, and says something of itself that everybody can follow.
 *
 * A leadership is as good as its lease, exactly as a lock is: see `Lock`. While a process is stopped or cut off its lease can run out and
 * another candidate can lead. The loss is then known here first, and everything that goes through the leadership refuses. What a
 * leader does outside of etcd is protected only by the fencing token.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { InvalidKey, InvalidOption } from "./Errors.ts"
import { Etcd } from "./Etcd.ts"
import type { KeyValue, TxnRequest, TxnResult } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { followFirst } from "./internal/election/follow.ts"
import { makeProclaim } from "./internal/election/proclaim.ts"
import { type HoldLoss, makeHolds } from "./internal/hold/Hold.ts"
import { type AttemptRequest, takeIn } from "./internal/lock/Attempt.ts"
import { makeDeletions } from "./internal/lock/deletions.ts"
import { claimEntry, entries, entryKey, waitInLine } from "./internal/lock/entry.ts"
import { makeLocalQueue } from "./internal/lock/LocalQueue.ts"
import { makeSessionPool } from "./internal/session/SessionPool.ts"
import { isTransient } from "./internal/session/Slots.ts"
import { makeSharedWatch } from "./internal/SharedWatch.ts"
import * as Telemetry from "./internal/Telemetry.ts"
import { validateKey, validatePrefix, validateTtl } from "./internal/validate.ts"

// -----------------------------------------------------------------------------
// Models and errors
// -----------------------------------------------------------------------------

/**
 * Somebody who leads, or would like to.
 *
 * @category models
 * @since 0.1.0
 */
export class Candidate extends Schema.Class<Candidate>("effect-coord/Candidate")({
  /** The key in etcd. */
  entryKey: Schema.String,
  /** `0n`: a key without a lease, which stays until somebody deletes it. */
  leaseId: Schema.BigInt,
  /** The fencing token of its leadership. */
  fencingToken: Schema.BigInt,
  /** What it proclaims. */
  value: Schema.String
}) {}

/**
 * The leadership is over. `Expired`: the lease was not renewed in time, by the local clock. `Revoked`: etcd no longer knows the lease.
 * `Deleted`: somebody deleted the key. `Closed`: the layer was closed. `Resigned`: it was used after `resign`, or after its scope.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeadershipLost extends Schema.TaggedError<LeadershipLost>()("LeadershipLost", {
  name: Schema.String,
  fencingToken: Schema.BigInt,
  why: Schema.Literals(["Expired", "Revoked", "Deleted", "Closed", "Resigned"])
}) {
  override get message(): string {
    return `election ${JSON.stringify(this.name)} (token ${this.fencingToken}) is no longer led: ${this.why}`
  }
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ElectionOptions {
  /**
   * For how long a leadership outlives its process, 15 seconds by default; whole seconds, rounded up, at least one. It is renewed every
   * third of it.
   */
  readonly ttl?: Duration.Input | undefined
}

/**
 * An election that was won.
 *
 * @category models
 * @since 0.1.0
 */
export interface Leadership {
  readonly name: string
  /** The entry in etcd, without the namespace: a transaction that compares its create revision with the token is fenced too. */
  readonly entryKey: string
  /** Greater for every later leader of this election, in every process: etcd's create revision of the entry. */
  readonly fencingToken: bigint
  /** The TTL that the server granted: it can be longer than what was asked for. */
  readonly ttl: Effect.Effect<Duration.Duration, LeadershipLost>
  /** For how long it is held for certain, if no renewal is answered from now on: time to stop what takes a while to stop. */
  readonly remaining: Effect.Effect<Duration.Duration, LeadershipLost>
  /** Fails when the leadership is lost; not when it is resigned. */
  readonly lost: Effect.Effect<never, LeadershipLost>
  /** Fails unless this is still the leader, judged by the clock now: right also after the process was stopped for a while. */
  readonly assertLeading: Effect.Effect<void, LeadershipLost>
  /** Runs the effect while leading: interrupts it when the leadership is lost, and fails when it was lost at its end. */
  readonly guard: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LeadershipLost, R>
  /**
   * Commits the transaction only if this is still the leader when etcd applies it. A compare of the transaction itself that fails is an
   * answer (`succeeded: false`), not a loss. Writes to keys of elections are refused.
   */
  readonly fenced: (txn: TxnRequest) => Effect.Effect<TxnResult, LeadershipLost | EtcdError>
  /**
   * Says something else than at the campaign. One proclamation is made after the other, and one whose answer was lost is repeated until it
   * is answered or the leadership is lost: a late one never undoes a later one. Fails with `EtcdError` when etcd refuses it.
   */
  readonly proclaim: (value: string) => Effect.Effect<void, LeadershipLost | EtcdError>
  /**
   * Gives the leadership up; again, or after a loss, it does nothing. Fails when etcd did not answer within the request timeout: it is then
   * repeated in the background until it is answered or the lease has ended.
   */
  readonly resign: Effect.Effect<void, EtcdError>
}

// -----------------------------------------------------------------------------
// Service
// -----------------------------------------------------------------------------

/**
 * Elections with the key layout of Go's `concurrency.Election` and of `etcdctl elect`: all of them exclude and observe each other.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Election } from "effect-coord"
 *
 * const scheduler = Effect.gen(function*() {
 *   const election = yield* Election
 *   yield* election.whileLeader("scheduler", "10.0.0.7:8080")((leadership) =>
 *     Effect.andThen(Effect.log(`leading, token ${leadership.fencingToken}`), Effect.never)
 *   )
 * })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Election extends Context.Service<Election, {
  /**
   * Waits in line, first come first served, and leads until the scope closes. Interrupted or timed out, it leaves nothing behind. Fails
   * with `EtcdError` when etcd cannot be reached (the retry schedule is used up) before it is queued; once queued it waits on.
   */
  readonly campaign: (
    name: string,
    value: string,
    options?: ElectionOptions
  ) => Effect.Effect<Leadership, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /**
   * Runs the effect while leading, and answers its result. When the leadership is lost the effect is interrupted, and campaigns begin again,
   * through outages of any length; what etcd refuses for good, as `PermissionDenied`, is an error. The effect has ended
   * before the next campaign begins. Resign inside to let others go first: the result then counts as usual.
   */
  readonly whileLeader: (
    name: string,
    value: string,
    options?: ElectionOptions
  ) => <A, E, R>(
    use: Effect.Effect<A, E, R> | ((leadership: Leadership) => Effect.Effect<A, E, R>)
  ) => Effect.Effect<A, E | InvalidKey | InvalidOption | EtcdError, R>
  /** Who leads, if anybody does. */
  readonly leader: (name: string) => Effect.Effect<Option.Option<Candidate>, InvalidKey | EtcdError>
  /**
   * Who leads now, then each change: a new leader, a proclamation, nobody. Each once and in order, over reconnects; where etcd has
   * compacted what was missed, it goes on with the present state.
   */
  readonly observe: (name: string) => Stream.Stream<Option.Option<Candidate>, InvalidKey | EtcdError>
  /** The leader, then those who wait, in order. */
  readonly candidates: (name: string) => Effect.Effect<ReadonlyArray<Candidate>, InvalidKey | EtcdError>
}>()("effect-coord/Election") {
  /**
   * Elections over the etcd of the context, with entries below `prefix` (`/elections`).
   *
   * @since 0.1.0
   */
  static readonly layer = (
    options?: { readonly prefix?: string | undefined }
  ): Layer.Layer<Election, InvalidOption, Etcd> => Layer.effect(Election, make(options?.prefix ?? "/elections"))
}

const defaultTtl = Duration.seconds(15)

const candidateOf = (kv: KeyValue): Candidate =>
  new Candidate({
    entryKey: kv.key,
    leaseId: kv.lease,
    fencingToken: kv.createRevision,
    value: new TextDecoder().decode(kv.value)
  })

/** Between two campaigns in an outage. The retry schedule of each has been used up before. */
const betweenCampaigns = Schedule.spaced("1 second").pipe(Schedule.jittered)

const make = Effect.fnUntraced(function*(
  prefixOption: string
): Effect.fn.Return<Election["Service"], InvalidOption, Etcd | Scope.Scope> {
  const etcd = yield* Etcd
  const prefix = yield* validatePrefix(prefixOption, "electionPrefix")
  // Before the sessions, so it ends after them: whoever waits has lost his place by then.
  const deletions = yield* makeDeletions(etcd)
  const pool = yield* makeSessionPool(etcd, `${prefix}/`)
  const shared = yield* makeSharedWatch(etcd)
  const queue = makeLocalQueue()
  const makeHold = makeHolds(etcd, { service: "Election", prefix, what: "elections" })
  const pathOf = (name: string) => Effect.map(validateKey(name), (key) => `${prefix}/${key}/`)

  const campaign: Election["Service"]["campaign"] = Effect.fn("Election.campaign")(function*(name, value, options) {
    yield* Effect.annotateCurrentSpan({ "coord.key": name })
    const path = yield* pathOf(name)
    const ttl = options?.ttl === undefined ? defaultTtl : yield* validateTtl(options.ttl)
    const parent = yield* Effect.scope
    const slotRequest = { ttl, name: path, key: entryKey }
    return yield* Effect.uninterruptibleMask((restore) => {
      const scope = Scope.forkUnsafe(parent)
      const request: AttemptRequest<never> = {
        pool,
        slot: slotRequest,
        place: queue.enter(path),
        label: value,
        annotations: { election: name },
        claim: (slot, path, label) => claimEntry(etcd, path, slot, label),
        enter: (slot, path, label, claimed) => waitInLine(etcd, deletions, path, slot, label, claimed)
      }
      return takeIn(scope, restore, request, ({ slot, token }, attempt) =>
        Effect.gen(function*() {
          const lossOf = (why: HoldLoss) =>
            new LeadershipLost({ name, fencingToken: token, why: why === "Released" ? "Resigned" : why })
          const hold = makeHold({ key: name, slot, token, scope, lossOf })
          attempt.onEnd(() => hold.retire())
          yield* Effect.annotateCurrentSpan({
            "coord.token": String(token),
            "coord.lease": slot.session.leaseId.toString(16)
          })
          const { assertHeld: assertLeading, entryKey, fenced, guard, lost, release: resign, remaining, ttl } =
            hold.held
          const proclaim = makeProclaim(etcd, { name, slot, token, lost, assertLeading })
          return {
            name,
            entryKey,
            fencingToken: token,
            ttl,
            remaining,
            lost,
            assertLeading,
            guard,
            fenced,
            proclaim,
            resign
          }
        }))
    })
  }, Telemetry.measured("Election.campaign"))

  const candidates: Election["Service"]["candidates"] = Effect.fn("Election.candidates")(function*(name) {
    yield* Effect.annotateCurrentSpan({ "coord.key": name })
    const found = yield* entries(etcd, yield* pathOf(name))
    return found.entries.map(candidateOf)
  }, Telemetry.measured("Election.candidates"))

  const leader: Election["Service"]["leader"] = Effect.fn("Election.leader")(function*(name) {
    yield* Effect.annotateCurrentSpan({ "coord.key": name })
    const [first] = (yield* entries(etcd, yield* pathOf(name))).entries
    return Option.map(Option.fromUndefinedOr(first), candidateOf)
  }, Telemetry.measured("Election.leader"))

  const observe: Election["Service"]["observe"] = (name) =>
    Stream.unwrap(Effect.map(pathOf(name), (path) => followFirst(shared, path))).pipe(
      Stream.map((first) => Option.map(Option.fromUndefinedOr(first), candidateOf)),
      Stream.withSpan("Election.observe", { attributes: { "coord.key": name } })
    )

  const whileLeader: Election["Service"]["whileLeader"] = (name, value, options) => (use) => {
    const patiently = campaign(name, value, options).pipe(
      Effect.tapError((error) => Effect.logWarning("no campaign", error)),
      Effect.retry({ schedule: betweenCampaigns, while: (error) => error._tag === "EtcdError" && isTransient(error) })
    )
    // A scope for each leadership: one that `use` asks for is its caller's.
    const term = Effect.scopedWith((scope) =>
      Effect.flatMap(Scope.provide(patiently, scope), (leadership) => {
        const isLoss = (error: unknown): error is LeadershipLost =>
          error instanceof LeadershipLost && error.name === name && error.fencingToken === leadership.fencingToken
        return leadership.guard(Effect.isEffect(use) ? use : Effect.suspend(() => use(leadership))).pipe(
          Effect.map(Option.some),
          // So that a lease that is lost again and again, by somebody's hand, makes no busy loop.
          Effect.catchIf(isLoss, () =>
            Effect.as(Effect.flatMap(Random.nextBetween(20, 100), Effect.sleep), Option.none()))
        )
      })
    )
    return Effect.gen(function*() {
      while (true) {
        const ended = yield* term
        if (Option.isSome(ended)) return ended.value
      }
    }).pipe(
      Effect.annotateLogs({ election: name }),
      Effect.withSpan("Election.whileLeader", { attributes: { "coord.key": name } })
    )
  }

  return { campaign, whileLeader, leader, observe, candidates }
})
