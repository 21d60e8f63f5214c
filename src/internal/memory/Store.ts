/**
 * An etcd in this process: key space, leases and watchers, changed in one step by each call. It waits for nothing; time is
 * the clock it is given, and leases that have run out are gone before any call is answered.
 */
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Latch from "effect/Latch"
import * as Result from "effect/Result"
import type {
  Compare,
  KeyValue,
  LeaseStatus,
  OperationResult,
  RangeRequest,
  RangeResult,
  TxnRequest,
  TxnResult,
  WatchEvent,
  WatchItem,
  WatchRequest
} from "../../Etcd.ts"
import { Compacted, type EtcdErrorReason, InvalidArgument, LeaseNotFound, Unavailable } from "../../EtcdError.ts"
import { checkRange, checkTxn } from "./check.ts"
import { contains, fromRaw, Keyspace, own, type RawKey, type RawRange, toRaw, toRawRange } from "./Keyspace.ts"
import { absent, compareTo, first, flatten, ownBytes, type Plan, type Step } from "./transaction.ts"

type Answer<A> = Result.Result<A, EtcdErrorReason>

interface LeaseEntry {
  readonly ttl: bigint
  readonly deadline: bigint
  readonly keys: Set<RawKey>
}

/** What `restore` goes back to. */
export interface Snapshot {
  readonly keyspace: Keyspace
  readonly leases: ReadonlyMap<bigint, LeaseEntry>
}

/** One watch: a place in the history, which is its buffer. */
export interface Watcher {
  readonly range: RawRange
  readonly previousKv: boolean
  readonly without: WatchEvent["_tag"] | undefined
  /** Open while there may be something to pull. */
  readonly ready: Latch.Latch
  /** The first revision that it has not been given. */
  next: bigint
  /** Events from `next` on wait in the history. Otherwise it has seen all that concern it, wherever `next` is. */
  behind: boolean
  /** What it was given before a compaction could take it. */
  given: Array<WatchItem>
  cut: EtcdErrorReason | undefined
}

const second = 1_000_000_000n

/** One and a half election timeouts, in whole seconds: etcd grants no less. */
const minTtl = 2n

/** etcd's `MaxLeaseTTL`. */
const maxTtl = 9_000_000_000n

/** How many revisions a watcher is given at once, and how far it may lag without minding a compaction: etcd's `chanBufLen`. */
const pullSize = 128

/** Only to a watch etcd says what is left. */
const compacted = new Compacted({ compactRevision: 0n })

const futureRevision = new InvalidArgument({ detail: "required revision is a future revision" })

/** Where the public handle of a store keeps it. */
export const StoreId = "~effect-coord/EtcdMemoryStore"

export class Store {
  readonly [StoreId]: Store = this
  /** Opened when the next lease to run out may have changed. */
  readonly leasesChanged: Latch.Latch = Latch.makeUnsafe(false)

  private readonly clock: Clock.Clock
  private readonly retention: number
  private keyspace = new Keyspace()
  private leases = new Map<bigint, LeaseEntry>()
  /** No lease runs out before this. */
  private earliest: bigint | undefined
  private readonly keyWatchers = new Map<RawKey, Set<Watcher>>()
  private readonly rangeWatchers = new Set<Watcher>()

  /** It compacts by itself when it holds more revisions than `retention`, by a quarter. */
  constructor(clock: Clock.Clock, retention = Infinity) {
    this.clock = clock
    this.retention = retention
  }

  get revision(): bigint {
    this.expire()
    return this.keyspace.revision
  }

  // ---------------------------------------------------------------------------
  // Ranges and transactions
  // ---------------------------------------------------------------------------

  range(request: RangeRequest): Answer<RangeResult> {
    this.expire()
    const wrong = checkRange(request) ?? this.checkRevision(request)
    return wrong === undefined ? Result.succeed(this.keyspace.range(request)) : Result.fail(wrong)
  }

  txn(request: TxnRequest): Answer<TxnResult> {
    this.expire()
    const invalid = checkTxn(request)
    if (invalid !== undefined) return Result.fail(invalid)
    const plan = this.plan(request)
    const steps = flatten(plan)
    const wrong = first(steps, (step) => this.checkLease(step)) ?? first(steps, (step) => this.checkRevision(step))
    if (wrong !== undefined) return Result.fail(wrong)
    const { succeeded, responses } = this.apply(plan)
    this.commit()
    return Result.succeed({ revision: this.keyspace.revision, succeeded, responses })
  }

  /** All compares, those of nested transactions too, see the state before the transaction. */
  private plan(request: TxnRequest): Plan {
    const succeeded = (request.compare ?? []).every((compare) => this.holds(compare))
    const operations = (succeeded ? request.success : request.failure) ?? []
    return {
      _tag: "Plan",
      succeeded,
      steps: operations.map((operation) => operation._tag === "Txn" ? this.plan(operation) : operation)
    }
  }

  private holds(compare: Compare): boolean {
    const found = this.keyspace.scan(toRawRange(compare))
    return found.length === 0 ?
      compare.target !== "value" && compareTo(compare, absent) :
      found.every((kv) => compareTo(compare, kv))
  }

  private checkLease(step: Step): EtcdErrorReason | undefined {
    return step._tag === "Put" && step.lease !== undefined && step.lease !== 0n && !this.leases.has(step.lease)
      ? new LeaseNotFound({ leaseId: step.lease })
      : undefined
  }

  private checkRevision(step: Step | RangeRequest): EtcdErrorReason | undefined {
    const revision = "atRevision" in step ? step.atRevision ?? 0n : 0n
    if (revision <= 0n) return undefined
    if (revision > this.keyspace.revision) return futureRevision
    return revision < this.keyspace.compacted ? compacted : undefined
  }

  private apply(plan: Plan): { readonly succeeded: boolean; readonly responses: ReadonlyArray<OperationResult> } {
    return { succeeded: plan.succeeded, responses: plan.steps.map((step) => this.applyStep(step)) }
  }

  private applyStep(step: Step | Plan): OperationResult {
    switch (step._tag) {
      case "Plan":
        return { _tag: "Txn", ...this.apply(step) }
      case "Range":
        return { _tag: "Range", ...this.keyspace.range(step) }
      case "Put": {
        const raw = toRaw(step.key)
        const { lease = 0n } = step
        const previous = this.keyspace.put(step.key, raw, ownBytes(step.value), lease)
        if (previous !== undefined) this.leases.get(previous.lease)?.keys.delete(raw)
        this.leases.get(lease)?.keys.add(raw)
        return { _tag: "Put", previous: step.previousKv === true && previous !== undefined ? own(previous) : undefined }
      }
      case "Delete": {
        const previous = this.remove(toRawRange(step))
        return { _tag: "Delete", deleted: previous.length, previous: step.previousKv === true ? previous.map(own) : [] }
      }
    }
  }

  private remove(range: RawRange): Array<KeyValue> {
    return this.keyspace.delete(range).map(({ raw, ...kv }) => {
      this.leases.get(kv.lease)?.keys.delete(raw)
      return kv
    })
  }

  private commit(): void {
    const events = this.keyspace.commit()
    const { revision } = this.keyspace
    for (const { raw } of events) {
      for (const watcher of this.keyWatchers.get(raw) ?? []) advance(watcher, revision)
      for (const watcher of this.rangeWatchers) {
        if (contains(watcher.range, raw)) advance(watcher, revision)
      }
    }
    const { compacted } = this.keyspace
    // Not one revision at a time: a compaction visits every key.
    if (Number(revision - compacted) > this.retention * 1.25) {
      this.forget(revision - BigInt(Math.floor(this.retention)))
    }
  }

  // ---------------------------------------------------------------------------
  // Leases
  // ---------------------------------------------------------------------------

  leaseGrant(
    id: bigint,
    ttl: Duration.Duration
  ): Answer<{ readonly ttl: Duration.Duration; readonly exists: boolean }> {
    this.expire()
    const asked = BigInt(Math.ceil(Math.min(Duration.toSeconds(ttl), Number.MAX_SAFE_INTEGER)))
    if (asked > maxTtl) return Result.fail(new InvalidArgument({ detail: "too large lease TTL" }))
    if (this.leases.has(id)) return Result.succeed({ ttl, exists: true })
    const granted = asked < minTtl ? minTtl : asked
    this.startLease(id, granted, new Set())
    return Result.succeed({ ttl: seconds(granted), exists: false })
  }

  leaseKeepAlive(id: bigint): Answer<Duration.Duration> {
    this.expire()
    const lease = this.leases.get(id)
    if (lease === undefined) return Result.fail(new LeaseNotFound({ leaseId: id }))
    this.startLease(id, lease.ttl, lease.keys)
    return Result.succeed(seconds(lease.ttl))
  }

  leaseRevoke(id: bigint): Answer<void> {
    this.expire()
    if (!this.leases.has(id)) return Result.fail(new LeaseNotFound({ leaseId: id }))
    this.endLease(id)
    return Result.succeed(undefined)
  }

  leaseTimeToLive(id: bigint): Answer<LeaseStatus> {
    this.expire()
    const lease = this.leases.get(id)
    if (lease === undefined) return Result.fail(new LeaseNotFound({ leaseId: id }))
    return Result.succeed({
      remaining: seconds((lease.deadline - this.clock.monotonicTimeNanosUnsafe()) / second),
      keys: [...lease.keys].sort().map(fromRaw),
      revision: this.revision
    })
  }

  /** When the next lease may run out, on the monotonic clock. */
  nextExpiry(): bigint | undefined {
    this.expire()
    return this.earliest
  }

  private startLease(id: bigint, ttl: bigint, keys: Set<RawKey>): void {
    const deadline = this.clock.monotonicTimeNanosUnsafe() + ttl * second
    this.leases.set(id, { ttl, deadline, keys })
    if (this.earliest !== undefined && this.earliest <= deadline) return
    this.earliest = deadline
    this.leasesChanged.openUnsafe()
  }

  /** All keys of a lease go in one revision. */
  private endLease(id: bigint): void {
    const lease = this.leases.get(id)
    this.leases.delete(id)
    for (const raw of [...lease?.keys ?? []].sort()) this.remove({ from: raw, to: undefined, one: true })
    this.commit()
  }

  private expire(): void {
    if (this.earliest === undefined) return
    const now = this.clock.monotonicTimeNanosUnsafe()
    if (now < this.earliest) return
    const over = [...this.leases].filter(([, lease]) => lease.deadline <= now)
    over.sort(([, a], [, b]) => Number(a.deadline - b.deadline))
    for (const [id] of over) this.endLease(id)
    this.earliest = undefined
    for (const { deadline } of this.leases.values()) {
      if (this.earliest === undefined || deadline < this.earliest) this.earliest = deadline
    }
  }

  // ---------------------------------------------------------------------------
  // Watches
  // ---------------------------------------------------------------------------

  watch(request: WatchRequest): Answer<{ readonly watcher: Watcher; readonly revision: bigint }> {
    this.expire()
    const wrong = checkRange(request)
    if (wrong !== undefined) return Result.fail(wrong)
    const range = toRawRange(request)
    const { startRevision: start = 0n, previousKv = false, without } = request
    if (start < 0n) return Result.fail(compacted)
    if (range.to !== undefined && range.to <= range.from) {
      return Result.fail(new InvalidArgument({ detail: "watcher range is empty" }))
    }
    const { revision } = this.keyspace
    const behind = start > 0n && start <= revision
    const next = start > revision || behind ? start : revision + 1n
    const watcher: Watcher = {
      range,
      previousKv,
      without,
      ready: Latch.makeUnsafe(behind),
      next,
      behind,
      given: [],
      cut: undefined
    }
    if (range.one) {
      const watchers = this.keyWatchers.get(range.from)
      if (watchers === undefined) this.keyWatchers.set(range.from, new Set([watcher]))
      else watchers.add(watcher)
    } else {
      this.rangeWatchers.add(watcher)
    }
    return Result.succeed({ watcher, revision })
  }

  unwatch(watcher: Watcher): void {
    this.rangeWatchers.delete(watcher)
    const watchers = this.keyWatchers.get(watcher.range.from)
    if (watchers?.delete(watcher) === true && watchers.size === 0) this.keyWatchers.delete(watcher.range.from)
  }

  /** The next whole revisions of a watch; none when it has seen everything, and its `ready` is closed then. */
  pull(watcher: Watcher): Answer<ReadonlyArray<WatchItem>> {
    if (watcher.cut !== undefined) return Result.fail(watcher.cut)
    if (watcher.given.length === 0) {
      const { compacted: compactRevision } = this.keyspace
      if (watcher.behind && watcher.next < compactRevision) return Result.fail(new Compacted({ compactRevision }))
      this.give(watcher)
    }
    const batches = watcher.given
    watcher.given = []
    if (!watcher.behind) watcher.ready.closeUnsafe()
    return Result.succeed(batches)
  }

  private give(watcher: Watcher): void {
    const { keyspace, keyspace: { revision: last } } = this
    while (watcher.behind && watcher.given.length < pullSize) {
      const revision = watcher.next
      const events = keyspace.events(revision).filter((event) => contains(watcher.range, event.raw))
        .map((event) => keyspace.watchEvent(event, revision, watcher.previousKv))
        .filter((event) => event._tag !== watcher.without)
      if (events.length > 0) watcher.given.push({ _tag: "Batch", revision, events })
      watcher.next = revision + 1n
      watcher.behind = watcher.next <= last
    }
  }

  private watchers(): ReadonlyArray<Watcher> {
    return [...this.rangeWatchers, ...[...this.keyWatchers.values()].flatMap((watchers) => [...watchers])]
  }

  // ---------------------------------------------------------------------------
  // What operators and accidents do
  // ---------------------------------------------------------------------------

  compact(revision: bigint): Answer<void> {
    this.expire()
    if (revision > this.keyspace.revision) return Result.fail(futureRevision)
    if (revision <= this.keyspace.compacted) return Result.fail(compacted)
    this.forget(revision)
    return Result.succeed(undefined)
  }

  private forget(revision: bigint): void {
    for (const watcher of this.watchers()) {
      if (watcher.next >= this.keyspace.compacted) this.give(watcher)
    }
    this.keyspace.compact(revision)
  }

  /** As a new leader or a restarted server does it: every watch is cut, every lease begins anew. */
  restart(): void {
    this.expire()
    for (const [id, { keys, ttl }] of this.leases) this.startLease(id, ttl, keys)
    const cut = new Unavailable({ detail: "the server was restarted", sent: true })
    for (const watcher of this.watchers()) {
      watcher.cut = cut
      watcher.ready.openUnsafe()
      this.unwatch(watcher)
    }
  }

  snapshot(): Snapshot {
    this.expire()
    return { keyspace: this.keyspace.copy(), leases: copyLeases(this.leases) }
  }

  /** Goes back to an older state, as an operator does with a backup, and starts from there. */
  restore(snapshot: Snapshot): void {
    this.keyspace = snapshot.keyspace.copy()
    this.leases = copyLeases(snapshot.leases)
    this.earliest = undefined
    // Not `restart` alone: it would first end the leases that have run out since the snapshot was taken.
    for (const [id, { keys, ttl }] of this.leases) this.startLease(id, ttl, keys)
    this.restart()
  }
}

// -----------------------------------------------------------------------------
// Leases and watches
// -----------------------------------------------------------------------------

const seconds = (count: bigint): Duration.Duration => Duration.seconds(Number(count))

const copyLeases = (leases: ReadonlyMap<bigint, LeaseEntry>): Map<bigint, LeaseEntry> =>
  new Map([...leases].map(([id, lease]) => [id, { ...lease, keys: new Set(lease.keys) }]))

const advance = (watcher: Watcher, revision: bigint): void => {
  if (watcher.behind || revision < watcher.next) return
  watcher.next = revision
  watcher.behind = true
  watcher.ready.openUnsafe()
}
