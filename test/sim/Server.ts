/**
 * The etcd of a world: the store in memory, run by a process that can stop, restart and go back in time, and a record of
 * every revision with who caused it.
 */
import * as Latch from "effect/Latch"
import * as Result from "effect/Result"
import type {
  RangeRequest,
  RangeResult,
  TxnRequest,
  TxnResult,
  WatchEvent,
  WatchItem,
  WatchRequest
} from "../../src/Etcd.ts"
import { Operation } from "../../src/Etcd.ts"
import { type EtcdErrorReason, PermissionDenied } from "../../src/EtcdError.ts"
import { type Snapshot, Store, type Watcher } from "../../src/internal/memory/Store.ts"
import type { Process, Timeline } from "./Timeline.ts"
import type { Trace } from "./Trace.ts"

/** One revision, when it came and by whom: a process, an operator or the end of a lease. */
export interface Commit {
  readonly at: number
  readonly who: string
  readonly revision: bigint
  readonly events: ReadonlyArray<WatchEvent>
  /** How often an older state had been restored before. */
  readonly history: number
}

interface OpenWatch {
  readonly watcher: Watcher
  readonly send: (items: ReadonlyArray<WatchItem>) => void
  readonly fail: (reason: EtcdErrorReason) => void
}

const denied = new PermissionDenied()

export class Server {
  readonly store: Store
  readonly process: Process
  /** Told of each revision at once. */
  onCommit: (commit: Commit) => void = () => {}
  /** Told when an older state has been restored. */
  onRestore: () => void = () => {}
  /** For which keys no client has a role. */
  forbids: ((key: string) => boolean) | undefined
  /** How often an older state has been restored. */
  histories = 0
  private readonly timeline: Timeline
  private readonly trace: Trace
  private readonly watches = new Set<OpenWatch>()
  private observer: Watcher
  private expiry: (() => void) | undefined
  private expiryAt: bigint | undefined

  constructor(timeline: Timeline, process: Process, trace: Trace) {
    this.timeline = timeline
    this.process = process
    this.trace = trace
    this.store = new Store(process.clock)
    this.observer = this.observe(1n)
  }

  get openWatches(): number {
    return this.watches.size
  }

  /** One step of the server, caused by `who`; it waits while the server stands still. */
  step(who: string, run: () => void): void {
    this.process.post(() => {
      // What has run out by now is not the doing of whoever comes next.
      this.settle("expiry")
      run()
      this.settle(who)
    })
  }

  range(request: RangeRequest): Result.Result<RangeResult, EtcdErrorReason> {
    return this.isForbidden(request) ? Result.fail(denied) : this.store.range(request)
  }

  txn(request: TxnRequest): Result.Result<TxnResult, EtcdErrorReason> {
    return this.isForbidden({ _tag: "Txn", ...request }) ? Result.fail(denied) : this.store.txn(request)
  }

  private isForbidden(request: RangeRequest | Operation): boolean {
    const { forbids } = this
    if (forbids === undefined) return false
    if ("_tag" in request && request._tag === "Txn") {
      const { compare = [], failure = [], success = [] } = request
      return [...compare, ...success, ...failure].some((part) => this.isForbidden(part))
    }
    return "key" in request && forbids(request.key)
  }

  watch(request: WatchRequest, client: Omit<OpenWatch, "watcher">): Result.Result<
    { readonly revision: bigint; readonly close: () => void },
    EtcdErrorReason
  > {
    return Result.map(this.store.watch(request), ({ revision, watcher }) => {
      const open = { watcher, send: client.send, fail: client.fail }
      this.watches.add(open)
      return {
        revision,
        close: () => {
          this.watches.delete(open)
          this.store.unwatch(watcher)
        }
      }
    })
  }

  // ---------------------------------------------------------------------------
  // What operators and accidents do
  // ---------------------------------------------------------------------------

  restart(): void {
    this.store.restart()
    this.observer = this.observe(this.store.revision + 1n)
  }

  restore(snapshot: Snapshot): void {
    this.store.restore(snapshot)
    this.histories++
    this.observer = this.observe(this.store.revision + 1n)
    this.onRestore()
  }

  delete(key: string): void {
    this.store.txn({ success: [Operation.delete(key)] })
  }

  // ---------------------------------------------------------------------------
  // After each step
  // ---------------------------------------------------------------------------

  private observe(startRevision: bigint): Watcher {
    return Result.getOrThrow(this.store.watch({ prefix: "", startRevision })).watcher
  }

  private settle(who: string): void {
    const next = this.store.nextExpiry()
    this.record(who)
    for (const open of this.watches) this.serve(open)
    if (next === this.expiryAt) return
    this.expiry?.()
    this.expiryAt = next
    if (next === undefined) {
      this.expiry = undefined
      return
    }
    const left = Number(next - this.process.clock.monotonicTimeNanosUnsafe()) / 1e6
    this.expiry = this.process.wakeAfter(left, () => {
      this.expiryAt = undefined
      this.settle("expiry")
    })
  }

  private record(who: string): void {
    while (Latch.isOpen(this.observer.ready)) {
      const items = this.store.pull(this.observer)
      if (Result.isFailure(items)) return
      for (const item of items.success) {
        if (item._tag !== "Batch") continue
        const { now: at } = this.timeline
        const events = item.events.map((event) => event._tag === "Put" ? `+${event.kv.key}` : `-${event.key}`)
        this.trace.add(at, "etcd", `r${item.revision}`, `${events.join(" ")} by ${who}`)
        this.onCommit({ at, who, revision: item.revision, events: item.events, history: this.histories })
      }
    }
  }

  private serve(open: OpenWatch): void {
    while (Latch.isOpen(open.watcher.ready)) {
      const items = this.store.pull(open.watcher)
      if (Result.isFailure(items)) {
        this.watches.delete(open)
        this.store.unwatch(open.watcher)
        open.fail(items.failure)
        return
      }
      if (items.success.length > 0) open.send(items.success)
    }
  }
}
