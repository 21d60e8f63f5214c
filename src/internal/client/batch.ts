/**
 * What is asked for together travels together: a call costs much the same whatever it carries, and so does a commit of etcd. While a
 * call is on its way, those that come after it are gathered, and sent as one when it is answered; who comes alone waits for nobody.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import { Closed, EtcdError } from "../../EtcdError.ts"
import { Link, Linked } from "../Linked.ts"
import { observe, type Observer } from "../observe.ts"
import type { Started } from "./start.ts"

/** How one kind of request travels. */
export interface Kind<Request, Answer> {
  readonly alone: (request: Request) => Effect.Effect<Answer, EtcdError>
  /** The answers, in the order of the requests; none: nothing was done of any, and they are to be sent again. */
  readonly together: (requests: ReadonlyArray<Request>) => Effect.Effect<ReadonlyArray<Answer> | undefined, EtcdError>
  /** Begins a group: asked for one request after the other whether it joins. The first one does, always. */
  readonly gather: () => (request: Request) => boolean
  /** It is certain that nothing was applied, and the reason may lie in one request of many. */
  readonly isOfOne: (error: EtcdError) => boolean
}

/** A call that is not answered by then holds nobody back any longer. */
const patience = Duration.millis(10)

/** So many do not wait for one call: while etcd works on theirs, this process works on the answers to others. */
const crowd = 16

/** As many go at once, and in two calls if they are more. */
const whole = 2 * crowd

export interface Batched<Request, Answer> {
  readonly ask: (request: Request) => Effect.Effect<Answer, EtcdError>
  /** As `Start` (see `start.ts`). */
  readonly start: (request: Request, observer: Observer<Answer, EtcdError>) => Started
}

/** Whoever is answered is let go of, with his request: a list of those who were sent together can live on for long. */
class Pending<Request, Answer> implements Started {
  #request: Request | undefined
  #observer: Observer<Answer, EtcdError> | undefined
  /** Nobody waits for the answer any more. */
  gone = false
  sent: Sent | undefined

  constructor(request: Request, observer: Observer<Answer, EtcdError>) {
    this.#request = request
    this.#observer = observer
  }

  get request(): Request {
    return this.#request as Request
  }

  answer(exit: Exit.Exit<Answer, EtcdError>): void {
    const observer = this.#observer
    this.#request = this.#observer = this.sent = undefined
    observer?.ended(exit)
  }

  cancel(): void {
    if (this.gone) return
    this.gone = true
    this.#observer = undefined
    this.sent?.gone()
  }
}

/** A call for a group, cancelled when nobody wants its answer any more. */
class Sent extends Link<Sent> {
  #fiber: Fiber.Fiber<unknown, unknown> | undefined
  #wanted: number

  constructor(fiber: Fiber.Fiber<unknown, unknown>, wanted: number) {
    super()
    this.#fiber = fiber
    this.#wanted = wanted
  }

  gone(): void {
    if (--this.#wanted === 0) this.#fiber?.interruptUnsafe()
  }

  get cancelled(): Effect.Effect<void> {
    return this.#fiber === undefined ? Effect.void : Fiber.interrupt(this.#fiber)
  }

  protected letGo(): void {
    this.#fiber = undefined
  }
}

class Sending<A> extends Sent implements Observer<A, EtcdError> {
  #done: ((exit: Exit.Exit<A, EtcdError>) => void) | undefined

  constructor(fiber: Fiber.Fiber<A, EtcdError>, wanted: number, done: (exit: Exit.Exit<A, EtcdError>) => void) {
    super(fiber, wanted)
    this.#done = done
  }

  ended(exit: Exit.Exit<A, EtcdError>): void {
    const done = this.#done
    this.letGo()
    this.#done = undefined
    done?.(exit)
  }
}

const isWaiting = ({ gone }: Pick<Pending<never, never>, "gone">): boolean => !gone

/** A call on its way that others wait for. */
class Call extends Link<Call> {}

/** Who is answered together asks again together: while answers are handed out, what is asked for, of whatever kind, waits until all are. */
export class HandingOut {
  #depth = 0
  readonly #after = new Set<() => void>()

  get isOn(): boolean {
    return this.#depth > 0
  }

  during(handOut: () => void): void {
    this.#depth++
    try {
      handOut()
    } finally {
      if (--this.#depth === 0) this.#end()
    }
  }

  /** Once, when it is over. */
  after(run: () => void): void {
    this.#after.add(run)
  }

  #end(): void {
    const after = [...this.#after]
    this.#after.clear()
    for (const run of after) run()
  }
}

const closed = new EtcdError({ operation: "close", reason: new Closed() })

/**
 * Requests of one kind, sent as they come or in groups. Interrupting one that is in a group does not disturb the others; the last one
 * cancels the call.
 *
 * All of its state changes between two steps of any fiber: nothing can be interrupted half-way.
 */
export const makeBatched = Effect.fnUntraced(function*<Request, Answer>(
  kind: Kind<Request, Answer>,
  handingOut: HandingOut
): Effect.fn.Return<Batched<Request, Answer>, never, Scope.Scope> {
  type Group = ReadonlyArray<Pending<Request, Answer>>

  // What is done for many is not under the annotations and spans of one of them.
  const run = yield* FiberSet.makeRuntime()
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  const onTheirWay = new Linked<Sent>()
  // Whenever somebody is in the queue, a call is on its way, or answers are handed out.
  const calls = new Linked<Call>()
  let queue: Array<Pending<Request, Answer>> = []
  let watching = false
  let flushing = false
  let open = true

  const ended = (call: Call): void => {
    if (calls.delete(call)) flushIfDue()
  }

  const flushIfDue = (): void => {
    if (calls.size === 0 || (calls.size === 1 && queue.length >= crowd)) flush()
    // Also for who came while no call was on its way and answers were handed out.
    if (calls.size === 0 || queue.length === 0 || watching) return
    watching = true
    run(watch)
  }

  const send = <A>(group: Group, call: Effect.Effect<A, EtcdError>, done: (exit: Exit.Exit<A, EtcdError>) => void) => {
    // Whoever was answered at once, as in memory, can have closed the scope.
    if (!open) return done(Exit.fail(closed))
    const fiber = fork(call)
    const sent: Sending<A> = new Sending(fiber, group.length, (exit) => {
      onTheirWay.delete(sent)
      done(exit)
    })
    for (const pending of group) pending.sent = sent
    onTheirWay.add(sent)
    observe(fiber, sent)
    // It was not on its way yet when somebody who saw its beginning closed the scope, or gave up what is in it.
    if (!open) fiber.interruptUnsafe()
    for (const pending of group) if (!isWaiting(pending)) sent.gone()
  }

  // The call is interrupted by the last one who waits for it, or by the end of the scope.
  const answer = (pending: Pending<Request, Answer>, exit: Exit.Exit<Answer, EtcdError>): void =>
    pending.answer(Exit.hasInterrupts(exit) ? Exit.fail(closed) : exit)

  const sendAlone = (pending: Pending<Request, Answer>, done: () => void): void =>
    send([pending], Effect.suspend(() => kind.alone(pending.request)), (exit) => {
      answer(pending, exit)
      done()
    })

  const sendTogether = (group: Group, done: () => void): void =>
    send(
      group,
      Effect.suspend(() => kind.together(group.map(({ request }) => request))),
      (exit) =>
        handingOut.during(() => {
          if (Exit.isFailure(exit) && isOfOne(exit)) {
            // Those who come now do not wait for all of them.
            for (const pending of group) if (isWaiting(pending)) sendAlone(pending, () => {})
          } else if (Exit.isSuccess(exit)) {
            const answers = exit.value
            // Whoever has left may have written something else since, and been answered.
            if (answers === undefined) return sendGroup(group.filter(isWaiting), done)
            for (let i = 0; i < group.length; i++) group[i]?.answer(Exit.succeed(answers[i] as Answer))
          } else {
            const failure = Exit.failCause(exit.cause)
            for (const pending of group) answer(pending, failure)
          }
          done()
        })
    )

  const sendGroup = (group: Group, done: () => void): void => {
    const [first] = group
    if (first === undefined) done()
    else if (group.length === 1) sendAlone(first, done)
    else sendTogether(group, done)
  }

  const isOfOne = ({ cause: { reasons: [reason] } }: Exit.Failure<unknown, EtcdError>): boolean =>
    reason?._tag === "Fail" && kind.isOfOne(reason.error)

  const flush = (): void => {
    if (flushing) return
    if (handingOut.isOn) return handingOut.after(flushIfDue)
    flushing = true
    const waiting = queue.filter(isWaiting)
    queue = []
    // One alone is a group whatever it is.
    for (const gathered of waiting.length === 1 ? [waiting] : inGroups(waiting)) {
      // Whoever was answered at once, as in memory, can have ended some of the others.
      const group = gathered.filter(isWaiting)
      if (group.length === 0) continue
      const call = new Call()
      calls.add(call)
      sendGroup(group, () => ended(call))
    }
    flushing = false
    // Answered at once, as in memory: who asks again and again must not keep the process from all else.
    if (calls.size === 0 && queue.length > 0) run(later)
  }
  const later = Effect.andThen(Effect.yieldNow, Effect.sync(flush))

  /** In the order in which they came: whoever does not join the last group begins one. */
  const inGroups = (waiting: Group): ReadonlyArray<Group> => {
    const groups: Array<Array<Pending<Request, Answer>>> = []
    const most = Math.max(whole, Math.ceil(waiting.length / 2))
    let group: Array<Pending<Request, Answer>> = []
    let joins: (request: Request) => boolean = () => false
    for (const pending of waiting) {
      if (group.length < most && joins(pending.request)) {
        group.push(pending)
      } else {
        joins = kind.gather()
        joins(pending.request)
        group = [pending]
        groups.push(group)
      }
    }
    return groups
  }

  // Until there is nothing more to watch: to begin anew with each group takes more than a look every now and then.
  const watch = Effect.gen(function*() {
    while (queue.length > 0 || calls.size > 0) {
      const seen = calls.all()
      yield* Effect.sleep(patience)
      for (const call of seen) ended(call)
    }
    watching = false
  })

  const direct = (request: Request): Effect.Effect<Answer, EtcdError> => {
    const call = new Call()
    return Effect.onExitPrimitive(
      Effect.suspend(() => {
        calls.add(call)
        return kind.alone(request)
      }),
      () => {
        ended(call)
        return undefined
      }
    )
  }

  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      open = false
      for (const pending of queue.splice(0)) answer(pending, Exit.fail(closed))
      return Effect.forEach(onTheirWay.all(), (sent) => sent.cancelled, { concurrency: "unbounded", discard: true })
    })
  )

  const enqueue = (request: Request, observer: Observer<Answer, EtcdError>) => {
    const pending = new Pending(request, observer)
    queue.push(pending)
    flushIfDue()
    return pending
  }

  return {
    ask: (request) =>
      Effect.callback((resume) => {
        if (!open || calls.size === 0 && !handingOut.isOn) return resume(direct(request))
        const pending = enqueue(request, { ended: resume })
        return Effect.sync(() => pending.cancel())
      }),
    start: (request, observer) => {
      if (open) return enqueue(request, observer)
      observer.ended(Exit.fail(closed))
      return over
    }
  }
})

const over: Started = { cancel: () => {} }
