/**
 * One endpoint: its channel, which is dialled again when it leads nowhere, the calls and streams on it, and when it was last heard.
 */
import { connectivityState, Metadata, status as Code } from "@grpc/grpc-js"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { Linked } from "../Linked.ts"
import { type Dialled, type Endpoint, formatEndpoint, makeDialer, type TlsSettings } from "./channel.ts"
import { type Condition, makeCondition } from "./condition.ts"
import { isAnswer, shutDown, type Status } from "./status.ts"
import type { Duplex } from "./stream.ts"
import { type Answer, makeStubs, type Send, type Start } from "./stubs.ts"
import type { Call } from "./unary.ts"

export interface Member {
  readonly endpoint: string
  readonly isReady: () => boolean
  /** It cannot be reached, and grpc-js knows why. */
  readonly hasFailed: () => boolean
  /** It was asked for a sign of life, and is late with it: only who has nobody else sends it anything. */
  readonly isDoubtful: () => boolean
  /** One call, cancelled on the wire when it is interrupted. */
  readonly unary: <Response extends Answer>(
    metadata: Metadata,
    deadline: number,
    send: Send<Response>
  ) => Effect.Effect<Response, Status>
  /** A stream, cancelled on the wire with its scope. */
  readonly open: <Request, Response>(
    metadata: Metadata,
    start: Start<Request, Response>
  ) => Effect.Effect<Duplex<Request, Response>, Status, Scope.Scope>
  /** A call or a stream is open. */
  readonly owes: () => boolean
  readonly untilOwes: Effect.Effect<void>
  /** For how long, in nanoseconds, nothing has been heard since the first request after the last word. */
  readonly silence: () => bigint
  /** Asked for a sign of life, whether it answers: `false` when the connection ends. As long as it does not, this waits. */
  readonly ask: (question: Question) => Effect.Effect<boolean>
  /** Until it is heard again. */
  readonly doubt: () => void
  readonly redial: () => void
  /** It does not answer: ends its calls and streams, which may have arrived, and dials again. */
  readonly leave: () => void
  /** Waits until the cluster has a new term; answers the end of those calls that are older, if they go on. */
  readonly untilElection: Effect.Effect<() => void>
  readonly close: () => void
}

/** Whether the process runs, whatever the state of its cluster; or whether it is in touch with the leader, too. */
export type Question = "alive" | "in touch"

/** Where a token is wanted these are refused, which is an answer too. */
const questions = {
  alive: { key: "\0", limit: 1, keysOnly: true, serializable: true },
  "in touch": { key: "\0", limit: 1, keysOnly: true }
}

const withoutMessage: Status = { code: Code.INTERNAL, details: "an answer without a message" }

/** A call, or a stream. */
type Ongoing = Pick<Call, "end">

const cancel = (call: Ongoing): void => call.end(Code.CANCELLED, "Cancelled on client")

/** `states` is told of every change of the member's state. */
export const makeMember = Effect.fnUntraced(function*(
  at: Endpoint,
  tls: TlsSettings | undefined,
  states: Condition
): Effect.fn.Return<Member, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const endpoint = formatEndpoint(at)
  const dial = makeDialer(at, tls)
  const requests = makeCondition()
  const elections = makeCondition()
  const calls = new Linked<Call>()
  const streams = new Set<Ongoing>()
  let unheardSince: bigint | undefined
  let doubtful = false
  let term: string | undefined
  let elected = false
  let closed = false

  // grpc-js cannot forget who watches a state, so this is the only one who does.
  const follow = (dialled: Dialled) => {
    if (closed || dialled !== current) return
    const { channel } = dialled
    if (channel.getConnectivityState(false) === connectivityState.IDLE) channel.getConnectivityState(true)
    channel.watchConnectivityState(channel.getConnectivityState(false), Infinity, () => follow(dialled))
    states.changed()
  }
  const stateIs = (state: connectivityState) => !closed && current.channel.getConnectivityState(false) === state
  const redial = () => {
    if (closed) return
    const old = current
    current = dial()
    old.close()
    follow(current)
  }
  const close = () => {
    closed = true
    for (const call of [...calls.all(), ...streams]) cancel(call)
    current.close()
    states.changed()
  }

  let current = yield* Effect.acquireRelease(Effect.sync(dial), () => Effect.sync(close))
  const stubs = makeStubs(() => current.channel)
  follow(current)

  const owes = () => calls.size + streams.size > 0
  const sent = () => {
    unheardSince ??= clock.monotonicTimeNanosUnsafe()
    requests.changed()
  }
  const heard = (answer?: Answer) => {
    unheardSince = owes() ? clock.monotonicTimeNanosUnsafe() : undefined
    doubtful = false
    const latest = answer?.header?.raft_term
    if (latest === undefined || latest === term) return
    elected = term !== undefined
    term = latest
    elections.changed()
  }
  const end = (ended: Iterable<Ongoing>, why: string) => {
    for (const call of ended) call.end(Code.UNAVAILABLE, why)
  }

  return {
    endpoint,
    isReady: () => stateIs(connectivityState.READY),
    hasFailed: () => stateIs(connectivityState.TRANSIENT_FAILURE),
    isDoubtful: () => doubtful,

    unary: (metadata, deadline, send) =>
      Effect.callback((resume) => {
        if (closed) return resume(Effect.fail(shutDown))
        const call = send(stubs, metadata, deadline, (failure, response) => {
          calls.delete(call)
          if (failure === undefined || isAnswer(failure)) heard(response)
          resume(response === undefined ? Effect.fail(failure ?? withoutMessage) : Effect.succeed(response))
        })
        calls.add(call)
        sent()
        return Effect.sync(() => {
          calls.delete(call)
          cancel(call)
        })
      }),

    open: (metadata, start) =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          if (closed) return Effect.fail(shutDown)
          const stream = start(stubs, metadata, { heard, ended: () => streams.delete(stream) })
          streams.add(stream)
          sent()
          return Effect.succeed(stream)
        }),
        (stream) => Effect.sync(stream.cancel)
      ),

    owes,
    untilOwes: requests.until(owes),
    silence: () => unheardSince === undefined ? 0n : clock.monotonicTimeNanosUnsafe() - unheardSince,

    ask: (question) =>
      Effect.callback((resume) => {
        if (closed) return resume(Effect.succeed(false))
        const call = stubs.KV.range(questions[question], new Metadata(), Infinity, (failure, response) => {
          const answered = failure === undefined || isAnswer(failure)
          if (answered) heard(response)
          resume(Effect.succeed(answered))
        })
        return Effect.sync(() => cancel(call))
      }),

    doubt: () => {
      doubtful = true
      states.changed()
    },
    redial,
    leave: () => {
      doubtful = true
      end([...calls.all(), ...streams], `${endpoint} does not answer`)
      redial()
    },
    untilElection: Effect.map(elections.until(() => elected), () => {
      elected = false
      const older = calls.all()
      return () => end(older.filter((call) => calls.has(call)), "the leader of the cluster has changed")
    }),
    close
  }
})
