/**
 * What is asked for together travels together: a call costs much the same whatever it carries, and so does a commit of etcd. While a
 * call is on its way, those that come after it are gathered, and sent as one when it is answered; who comes alone waits for nobody.
 */
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import { Closed, EtcdError } from "../../EtcdError.ts"

/** How one kind of request travels. */
export interface Kind<Request, Answer> {
  readonly alone: (request: Request) => Effect.Effect<Answer, EtcdError>
  /** The answers, in the order of the requests. */
  readonly together: (requests: ReadonlyArray<Request>) => Effect.Effect<ReadonlyArray<Answer>, EtcdError>
  /** Begins a group; it is then asked for each request that waits, the oldest first, whether it joins. */
  readonly gather: () => (request: Request) => boolean
  /** It is certain that nothing was applied, and the reason may be one request of many. */
  readonly isOfOne: (error: EtcdError) => boolean
}

/** Who has waited for so long behind calls without an answer is sent beside them. */
const patience = "20 millis"

interface Pending<Request, Answer> {
  readonly request: Request
  readonly answer: Deferred.Deferred<Answer, EtcdError>
  /** Nobody waits for the answer any more. */
  gone: boolean
  onGone: () => void
}

const closed = new EtcdError({ operation: "close", reason: new Closed() })

/**
 * Requests of one kind, sent as they come or in groups. Interrupting one that is in a group does not disturb the others; the last one
 * cancels the call.
 */
export const makeBatched = Effect.fnUntraced(function*<Request, Answer>(
  kind: Kind<Request, Answer>
): Effect.fn.Return<(request: Request) => Effect.Effect<Answer, EtcdError>, never, Scope.Scope> {
  type Group = ReadonlyArray<Pending<Request, Answer>>

  const scope = yield* Effect.scope
  // What is done for many is not under the annotations and spans of one of them.
  const context = (yield* Effect.context<never>()) as Context.Context<never>
  const fork = (effect: Effect.Effect<void>, options?: { readonly uninterruptible: boolean }): Effect.Effect<void> =>
    Effect.asVoid(Effect.forkIn(Effect.updateContext(effect, () => context), scope, options))

  let queue: Array<Pending<Request, Answer>> = []
  let inFlight = 0
  let watched = false

  const take = (): Group => {
    const joins = kind.gather()
    const taken: Array<Pending<Request, Answer>> = []
    const left: Array<Pending<Request, Answer>> = []
    for (const pending of queue) if (!pending.gone) (joins(pending.request) ? taken : left).push(pending)
    queue = left
    return taken
  }

  const answer = (pending: Pending<Request, Answer>, exit: Exit.Exit<Answer, EtcdError>) =>
    Deferred.doneUnsafe(pending.answer, Exit.hasInterrupts(exit) ? Exit.fail(closed) : exit)

  /** Cancelled when nobody waits for its answer any more. */
  const whileWanted = <A>(group: Group, call: Effect.Effect<A, EtcdError>): Effect.Effect<Exit.Exit<A, EtcdError>> => {
    const abandoned = Deferred.makeUnsafe<never>()
    let wanted = group.length
    for (const pending of group) {
      pending.onGone = () => {
        if (--wanted === 0) Deferred.doneUnsafe(abandoned, Exit.interrupt())
      }
    }
    return Effect.exit(Effect.interruptible(Effect.raceFirst(call, Deferred.await(abandoned))))
  }

  const sendAlone = (pending: Pending<Request, Answer>): Effect.Effect<void> =>
    Effect.map(whileWanted([pending], kind.alone(pending.request)), (exit) => answer(pending, exit))

  const send = (group: Group): Effect.Effect<void> => {
    const [first] = group
    if (group.length === 1 && first !== undefined) return sendAlone(first)
    return Effect.flatMap(
      whileWanted(group, kind.together(group.map(({ request }) => request))),
      (exit) => {
        if (Exit.isSuccess(exit)) {
          for (const [index, pending] of group.entries()) answer(pending, Exit.succeed(exit.value[index] as Answer))
          return Effect.void
        }
        const [reason] = exit.cause.reasons
        if (reason?._tag === "Fail" && kind.isOfOne(reason.error)) {
          const wanted = group.filter(({ gone }) => !gone)
          return Effect.forEach(wanted, sendAlone, { concurrency: "unbounded", discard: true })
        }
        for (const pending of group) answer(pending, Exit.failCause(exit.cause))
        return Effect.void
      }
    )
  }

  /** Sends what waits until nothing does. Uninterruptible but for the calls: everybody gets an answer. */
  const drain: Effect.Effect<void> = Effect.suspend(() => {
    const group = take()
    if (group.length === 0) return Effect.void
    inFlight++
    return Effect.flatMap(send(group), () => {
      inFlight--
      return drain
    })
  })
  const startDraining = Effect.suspend(() => queue.length === 0 ? Effect.void : fork(drain, { uninterruptible: true }))

  // The first in line is the one who has waited for the longest.
  const watch: Effect.Effect<void> = Effect.suspend(() => {
    const [first] = queue
    if (first === undefined && inFlight === 0) {
      watched = false
      return Effect.void
    }
    return Effect.flatMap(
      Effect.sleep(patience),
      () => Effect.andThen(first !== undefined && first === queue[0] ? startDraining : Effect.void, watch)
    )
  })
  const startWatching = Effect.suspend(() => {
    if (watched) return Effect.void
    watched = true
    return fork(watch)
  })

  const direct = (request: Request): Effect.Effect<Answer, EtcdError> => {
    let entered = false
    return Effect.onExit(
      Effect.suspend(() => {
        entered = true
        inFlight++
        return kind.alone(request)
      }),
      () => {
        if (entered) inFlight--
        return inFlight === 0 ? startDraining : Effect.void
      }
    )
  }

  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const pending of queue.splice(0)) answer(pending, Exit.fail(closed))
    })
  )

  return (request) =>
    Effect.suspend(() => {
      if (inFlight === 0) return direct(request)
      const pending: Pending<Request, Answer> = {
        request,
        answer: Deferred.makeUnsafe(),
        gone: false,
        onGone: () => {}
      }
      queue.push(pending)
      const waiting = Effect.onInterrupt(Deferred.await(pending.answer), () =>
        Effect.sync(() => {
          pending.gone = true
          pending.onGone()
        }))
      return watched ? waiting : Effect.andThen(startWatching, waiting)
    })
})
