/**
 * The connection of one client to the server: every message takes its time or is lost, and what was sent travels on although its
 * sender gives up.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { WatchItem, WatchRequest } from "../../src/Etcd.ts"
import { EtcdError, type EtcdErrorReason, Timeout, Unavailable } from "../../src/EtcdError.ts"
import { memberOf } from "../../src/internal/memory/transport.ts"
import type { Transport } from "../../src/internal/Transport.ts"
import type { Random } from "./random.ts"
import type { Server } from "./Server.ts"
import { millis, type Process, type Timeline } from "./Timeline.ts"
import type { Trace } from "./Trace.ts"

/** Of a link at a moment; times in milliseconds. */
export interface Weather {
  /** How likely a request, or an answer, is lost. */
  readonly requestLoss: number
  readonly responseLoss: number
  /** How long a message takes at least and at most. */
  readonly fastest: number
  readonly slowest: number
  /** By how much longer an answer takes, at most. */
  readonly slowAnswers: number
  /** How likely a request is applied only after its sender has given up. */
  readonly late: number
}

export const fair: Weather = { requestLoss: 0, responseLoss: 0, fastest: 0.2, slowest: 3, slowAnswers: 0, late: 0 }

const silence = 4000

type Way = "request" | "response" | "stream"

interface Waiting {
  readonly isWatch: boolean
  readonly fail: (reason: EtcdErrorReason) => void
}

export class Link {
  weather: Weather = fair
  readonly timeout: Duration.Duration
  /** Requests and watches whose end somebody here waits for. */
  readonly waiting = new Set<Waiting>()
  private readonly timeline: Timeline
  private readonly process: Process
  private readonly server: Server
  private readonly random: Random
  private readonly trace: Trace
  private partitions = 0
  private partitionedSince = 0
  private refusals = 0
  private held: Array<() => void> = []
  private requests = 0
  /** The token must be renewed first, which takes another round trip. */
  private stale = false

  constructor(options: {
    readonly timeline: Timeline
    readonly process: Process
    readonly server: Server
    readonly random: Random
    readonly trace: Trace
    readonly timeout: Duration.Duration
  }) {
    this.timeline = options.timeline
    this.process = options.process
    this.server = options.server
    this.random = options.random
    this.trace = options.trace
    this.timeout = options.timeout
  }

  // ---------------------------------------------------------------------------
  // Faults
  // ---------------------------------------------------------------------------

  /** Nothing passes, and nobody is told; a connection that is silent for long is given up. */
  partition(): void {
    if (this.partitions++ > 0) return
    const { now } = this.timeline
    this.partitionedSince = now
    this.timeline.after(silence * millis, () => {
      if (this.partitions > 0 && this.partitionedSince === now) this.cut("the connection is silent")
    })
  }

  heal(): void {
    this.partitions--
    if (this.partitions > 0) return
    const { held } = this
    this.held = []
    for (const deliver of held) this.timeline.after(this.delay(), deliver)
  }

  cut(detail = "the connection was cut"): void {
    if (this.waiting.size === 0) return
    const reason = new Unavailable({ detail, sent: true })
    for (const waiting of this.waiting) waiting.fail(reason)
  }

  refuse(): void {
    this.refusals++
    this.cut()
  }

  accept(): void {
    this.refusals--
  }

  /** As etcd does it: whoever uses it is refused, which proves that nothing was done; watches are ended. */
  expireToken(): void {
    this.stale = true
    const reason = new Unavailable({ detail: "the token has expired", sent: true })
    for (const waiting of this.waiting) {
      if (waiting.isWatch) waiting.fail(reason)
    }
  }

  // ---------------------------------------------------------------------------
  // Messages
  // ---------------------------------------------------------------------------

  private delay(): number {
    const { fastest, slowest } = this.weather
    return Math.floor((fastest + (slowest - fastest) * this.random.next() ** 2) * millis)
  }

  private send(way: Way, deliver: () => void): void {
    const { weather } = this
    // What is lost on a stream is sent again below it, or breaks the connection.
    const isLost = way !== "stream" &&
      this.random.chance(way === "request" ? weather.requestLoss : weather.responseLoss)
    let delay = this.delay()
    let isOver = () => false
    if (way === "request" && this.random.chance(weather.late)) {
      delay += Math.floor(Duration.toMillis(this.timeout) * (1 + this.random.next()) * millis)
      // A member of the cluster holds it up: one that is restored from a snapshot has other members.
      const { histories } = this.server
      isOver = () => this.server.histories !== histories
    }
    if (way === "response") delay += Math.floor(weather.slowAnswers * (0.3 + 0.7 * this.random.next()) * millis)
    if (this.stale) {
      this.stale = false
      delay += this.delay() + this.delay()
    }
    if (isLost) return
    this.timeline.after(delay, () => {
      if (isOver()) return
      if (this.partitions > 0) this.held.push(deliver)
      else deliver()
    })
  }

  /** Messages of one stream: they arrive in the order in which they were sent, until it is over. */
  private stream(isOver: () => boolean): (deliver: () => void) => void {
    const arrived = new Map<number, () => void>()
    // Whatever the order in which its process runs tasks.
    const inbox: Array<() => void> = []
    let sent = 0
    let next = 0
    return (deliver) => {
      const number = sent++
      this.send("stream", () => {
        arrived.set(number, deliver)
        for (let first = arrived.get(next); first !== undefined && !isOver(); first = arrived.get(next)) {
          arrived.delete(next++)
          inbox.push(first)
          this.process.post(() => inbox.shift()?.())
        }
      })
    }
  }

  private call<A>(
    operation: string,
    answer: () => Result.Result<A, EtcdErrorReason>
  ): Effect.Effect<A, EtcdErrorReason> {
    return Effect.callback<A, EtcdErrorReason>((resume) => {
      if (this.refusals > 0) {
        return resume(Effect.fail(new Unavailable({ detail: "connection refused", sent: false })))
      }
      const number = ++this.requests
      const name = `${operation} #${number}`
      this.trace.add(this.timeline.now, this.process.name, "send", name)
      const end = () => {
        cancelTimeout()
        return this.waiting.delete(waiting)
      }
      const settle = (result: Result.Result<A, EtcdErrorReason>) => {
        if (!end()) return
        this.trace.add(
          this.timeline.now,
          this.process.name,
          "receive",
          `${name}${Result.isFailure(result) ? ` ${result.failure._tag}` : ""}`
        )
        resume(Effect.fromResult(result))
      }
      const waiting: Waiting = {
        isWatch: false,
        fail: (reason) => this.process.post(() => settle(Result.fail(reason)))
      }
      const cancelTimeout = this.process.wakeAfter(
        Duration.toMillis(this.timeout),
        () => settle(Result.fail(new Timeout({ detail: `no answer within ${Duration.format(this.timeout)}` })))
      )
      this.waiting.add(waiting)
      this.send("request", () =>
        this.server.step(this.process.name, () => {
          const result = answer()
          this.trace.add(
            this.timeline.now,
            "etcd",
            "apply",
            `${this.process.name} ${name}${Result.isFailure(result) ? ` ${result.failure._tag}` : ""}`
          )
          this.send("response", () => this.process.post(() => settle(result)))
        }))
      return Effect.sync(() => {
        end()
      })
    })
  }

  private watch(request: WatchRequest): Stream.Stream<WatchItem, EtcdErrorReason> {
    return Stream.unwrap(Effect.gen({ self: this }, function*() {
      const queue = yield* Queue.unbounded<WatchItem, EtcdErrorReason>()
      let closeServer = () => {}
      let over = false
      // The server hears of it at once: what it sends into a broken connection reaches nobody.
      const breakOff = () => {
        const first = !over
        over = true
        this.waiting.delete(waiting)
        closeServer()
        return first
      }
      const fail = (reason: EtcdErrorReason) => {
        if (breakOff()) this.process.post(() => void Queue.failCauseUnsafe(queue, Cause.fail(reason)))
      }
      const waiting: Waiting = { isWatch: true, fail }
      const inOrder = this.stream(() => over)
      yield* Effect.acquireRelease(
        Effect.sync(() => this.waiting.add(waiting)),
        () => Effect.sync(breakOff)
      )
      yield* this.call("watch", () =>
        Result.map(
          this.server.watch(request, {
            send: (items) => inOrder(() => void Queue.offerAllUnsafe(queue, items)),
            fail: (reason) => inOrder(() => fail(reason))
          }),
          ({ close, revision }) => {
            closeServer = close
            if (over) close()
            inOrder(() => void Queue.offerUnsafe(queue, { _tag: "Opened", revision }))
          }
        ))
      return Stream.fromQueue(queue)
    }))
  }

  /** What the client library is given. */
  get transport(): Transport {
    const { store } = this.server
    const call = <A>(operation: string, answer: () => Result.Result<A, EtcdErrorReason>) =>
      Effect.mapError(this.call(operation, answer), (reason) => new EtcdError({ operation, reason }))
    return {
      range: (request) => call("range", () => this.server.range(request)),
      txn: (request) => call("txn", () => this.server.txn(request)),
      leaseGrant: (id, ttl) => call("leaseGrant", () => store.leaseGrant(id, ttl)),
      leaseKeepAlive: (id) => call("leaseKeepAlive", () => store.leaseKeepAlive(id)),
      leaseRevoke: (id) => call("leaseRevoke", () => store.leaseRevoke(id)),
      leaseTimeToLive: (id) => call("leaseTimeToLive", () => store.leaseTimeToLive(id)),
      watch: (request) =>
        Stream.mapError(this.watch(request), (reason) => new EtcdError({ operation: "watch", reason })),
      members: Effect.map(
        Effect.timed(Effect.result(call("health", () => this.server.range({ key: "\0", limit: 1 })))),
        ([latency, answer]) => [memberOf(latency, answer)]
      )
    }
  }
}
