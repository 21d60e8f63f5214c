/**
 * Makes the port `Etcd` out of single attempts: retries, ambiguity, grants that are sent again, resumed watches, the namespace.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Etcd, KeyRange, Lease, Operation, TxnRequest, TxnResult, WatchItem } from "../../Etcd.ts"
import { Closed, EtcdError, InvalidArgument } from "../../EtcdError.ts"
import type { Observer } from "../observe.ts"
import * as Telemetry from "../Telemetry.ts"
import type { Transport } from "../Transport.ts"
import { type Batching, makeBatching } from "./batching.ts"
import { healthOf } from "./health.ts"
import { makeHedge } from "./hedge.ts"
import { History } from "./history.ts"
import { makeNamespaced, type Namespaced } from "./namespace.ts"
import {
  isReadOnly,
  isUnanswered,
  isUnavailable,
  retryIdempotent,
  type RetrySettings,
  retryWhile,
  retryWrite
} from "./retry.ts"
import { knowStart, type Started, startFiber } from "./start.ts"
import { watchFrom, watchNow } from "./watch.ts"

export interface ClientSettings extends RetrySettings {
  /** Put before every key; `""`: nothing. */
  readonly namespace: string
  /** What travels together when it is asked for together: everything unless said otherwise. */
  readonly batching?: Batching | undefined
}

export const makeEtcd = Effect.fnUntraced(function*(
  inner: Transport,
  settings: ClientSettings,
  newLeaseId: () => bigint = randomLeaseId
): Effect.fn.Return<Etcd["Service"], never, Scope.Scope> {
  const closed = yield* Deferred.make<never, EtcdError>()
  yield* Effect.addFinalizer(() => Deferred.fail(closed, new EtcdError({ operation: "close", reason: new Closed({}) })))
  const untilClosed = Deferred.await(closed)

  const history = new History()
  const saw = <A extends { readonly revision: bigint }>(answer: A): A => {
    history.saw(answer.revision)
    return answer
  }
  const seen: Transport = {
    ...inner,
    range: (request) => Effect.map(inner.range(request), saw),
    txn: (request) => Effect.map(inner.txn(request), saw)
  }
  const ask = yield* makeHedge(settings)
  const batching = yield* makeBatching(seen, ask, settings.batching ?? "all")
  const namespaced = makeNamespaced(settings.namespace)
  const transport = namespaced.transport(guard(batching, closed))
  const read = retryIdempotent(settings)
  const write = retryWrite(settings)
  const granting = retryWhile(settings, (error) => isUnavailable(error) || isUnanswered(error), 1).retried
  const clock = yield* Clock.Clock

  const leaseGrant = Effect.fnUntraced(function*(ttl: Duration.Duration) {
    let id = newLeaseId()
    // An earlier attempt with this id may have been applied.
    let unanswered = false
    const attempt: Effect.Effect<Lease, EtcdError> = Effect.gen(function*() {
      const sent = yield* Clock.monotonicTimeNanos
      const answer = yield* Effect.tapError(transport.leaseGrant(id, ttl), (error) =>
        Effect.sync(() => {
          unanswered ||= isUnanswered(error)
        }))
      if (!answer.exists) return lease(id, answer.ttl, sent)
      if (unanswered) {
        // Ours, but of which age? A beat starts its time anew. When it has expired by now, nothing is lost.
        const beat = yield* Clock.monotonicTimeNanos
        const kept = yield* transport.leaseKeepAlive(id).pipe(
          Effect.catchReason("EtcdError", "LeaseNotFound", () => Effect.undefined)
        )
        if (kept !== undefined) return lease(id, kept, beat)
      }
      id = newLeaseId()
      unanswered = false
      return yield* attempt
    })
    // With the same id the grant cannot happen twice, and a lease that nobody hears of expires: so a lost answer is no ambiguity.
    return yield* granting(attempt)
  })

  const leaseRevoke = (id: bigint): Effect.Effect<void, EtcdError> =>
    Effect.suspend(() => {
      let unanswered = false
      return transport.leaseRevoke(id).pipe(
        Effect.tapError((error) =>
          Effect.sync(() => {
            unanswered ||= isUnanswered(error)
          })
        ),
        read,
        // By the attempt whose answer was lost.
        Effect.catchReason(
          "EtcdError",
          "LeaseNotFound",
          (_, error) => unanswered ? Effect.void : Effect.fail(error)
        )
      )
    })

  const failedTxn = (request: TxnRequest) => (error: EtcdError) => rename(error, "txn", txnKey(request))

  const service: Etcd["Service"] = {
    range: (request) => read(transport.range(request), (error) => rename(error, "range", rangeKey(request))),
    txn: (request) => {
      const retried = isReadOnly(request) ? read : write.retried
      return retried(transport.txn(request), failedTxn(request))
    },
    leaseGrant: (ttl) => leaseGrant(ttl).pipe(named("leaseGrant")),
    leaseKeepAlive: (id) => transport.leaseKeepAlive(id).pipe(read, named("leaseKeepAlive")),
    leaseRevoke: (id) => leaseRevoke(id).pipe(named("leaseRevoke")),
    leaseTimeToLive: (id) => transport.leaseTimeToLive(id).pipe(ask, read, named("leaseTimeToLive")),
    watch: (request) => {
      // etcd would watch something else.
      if ("key" in request && request.key === "") return Stream.fail(withoutKey)
      const items = request.startRevision === undefined
        ? watchNow(transport, request)
        : watchFrom(transport, request, request.startRevision, untilClosed, history)
      return Stream.mapError(items, (error) => rename(error, "watch", rangeKey(request)))
    },
    health: health({}, healthOf(transport).pipe(read, Effect.mapError((error) => rename(error, "health", undefined)))),
    settings: { retry: settings.retry, timeout: settings.timeout }
  }

  const goOn: GoOn = (request, began, first) =>
    write.after(clock, began, first, transport.txn(request), failedTxn(request))
  knowStart(service, (request, context, observer) => {
    const began = clock.monotonicTimeNanosUnsafe()
    const attempt = new FirstAttempt(request, context, began, observer, namespaced, goOn)
    const first = Deferred.isDoneUnsafe(closed) ? undefined : batching.start(namespaced.request(request), attempt)
    return first === undefined ? startFiber(service.txn(request), context, observer) : attempt.begun(first)
  })
  return service
})

/** What follows an attempt that began then, and has failed. */
type GoOn = (request: TxnRequest, began: bigint, first: EtcdError) => Effect.Effect<TxnResult, EtcdError>

/** Of a transaction that is started; a fiber does the rest where it fails. */
class FirstAttempt implements Observer<TxnResult, EtcdError>, Started {
  readonly #request: TxnRequest
  readonly #context: Context.Context<never>
  readonly #began: bigint
  readonly #observer: Observer<TxnResult, EtcdError>
  readonly #namespaced: Namespaced
  readonly #goOn: GoOn
  #underWay: Started | undefined
  #isCancelled = false

  constructor(
    request: TxnRequest,
    context: Context.Context<never>,
    began: bigint,
    observer: Observer<TxnResult, EtcdError>,
    namespaced: Namespaced,
    goOn: GoOn
  ) {
    this.#request = request
    this.#context = context
    this.#began = began
    this.#observer = observer
    this.#namespaced = namespaced
    this.#goOn = goOn
  }

  /** It may have failed by then. */
  begun(first: Started): this {
    this.#underWay ??= first
    return this
  }

  ended(exit: Exit.Exit<TxnResult, EtcdError>): void {
    if (Exit.isSuccess(exit)) return this.#observer.ended(this.#namespaced.exit(exit))
    const error = Option.getOrUndefined(Exit.findErrorOption(exit))
    if (error === undefined) return this.#observer.ended(exit)
    const rest = startFiber(this.#goOn(this.#request, this.#began, error), this.#context, {
      ended: (exit) => {
        if (!this.#isCancelled) this.#observer.ended(exit)
      }
    })
    this.#underWay = rest
    // By what it has set off at once.
    if (this.#isCancelled) rest.cancel()
  }

  cancel(): void {
    this.#isCancelled = true
    this.#underWay?.cancel()
  }
}

/** Of the port what an application asks for itself; the rest are steps of operations with spans of their own. */
const health = Telemetry.operation("Etcd.health")

const withoutKey = new EtcdError({
  operation: "watch",
  key: "",
  reason: new InvalidArgument({ detail: "key is not provided" })
})

/** Nothing is started after the end, whatever the transport would do. What is in flight then, the transport ends. */
const guard = (transport: Transport, closed: Deferred.Deferred<never, EtcdError>): Transport => {
  const open =
    <A extends ReadonlyArray<unknown>, B>(call: (...args: A) => Effect.Effect<B, EtcdError>) => (...args: A) =>
      Effect.suspend(() => Deferred.isDoneUnsafe(closed) ? Deferred.await(closed) : call(...args))
  return {
    range: open(transport.range),
    txn: open(transport.txn),
    leaseGrant: open(transport.leaseGrant),
    leaseKeepAlive: open(transport.leaseKeepAlive),
    leaseRevoke: open(transport.leaseRevoke),
    leaseTimeToLive: open(transport.leaseTimeToLive),
    members: transport.members,
    watch: (request): Stream.Stream<WatchItem, EtcdError> =>
      Stream.suspend(() => {
        if (Deferred.isDoneUnsafe(closed)) return Stream.fromEffectDrain(Deferred.await(closed))
        const items = transport.watch(request)
        return transport.endsWatches === true ?
          items :
          Stream.transformPull(items, (pull) => Effect.succeed(Effect.raceFirst(pull, Deferred.await(closed))))
      })
  }
}

/**
 * Positive and 63 bits wide; `0` would ask the server to choose. Not from Effect's `Random`: a seed that two processes
 * share would make them share leases.
 */
const randomLeaseId = (): bigint => {
  const [bits = 0n] = crypto.getRandomValues(new BigUint64Array(1))
  return BigInt.asUintN(63, bits) || 1n
}

const lease = (id: bigint, ttl: Duration.Duration, sent: bigint): Lease => ({
  id,
  ttl,
  deadline: sent + Duration.toNanosUnsafe(ttl)
})

/** The caller's words: its operation, and its key without the namespace. */
const named = (operation: string, key?: string) => <A, R>(effect: Effect.Effect<A, EtcdError, R>) =>
  Effect.mapError(effect, (error) => rename(error, operation, key))

const rename = (error: EtcdError, operation: string, key: string | undefined): EtcdError =>
  new EtcdError({ operation, ...(key === undefined ? {} : { key }), reason: error.reason })

const rangeKey = (range: KeyRange): string => "key" in range ? range.key : "prefix" in range ? range.prefix : range.from

const txnKey = (request: TxnRequest): string | undefined => {
  const [compare] = request.compare ?? []
  if (compare !== undefined) return rangeKey(compare)
  for (const operation of [...(request.success ?? []), ...(request.failure ?? [])]) {
    const key = operationKey(operation)
    if (key !== undefined) return key
  }
  return undefined
}

const operationKey = (operation: Operation): string | undefined =>
  operation._tag === "Put" ? operation.key : operation._tag === "Txn" ? txnKey(operation) : rangeKey(operation)
