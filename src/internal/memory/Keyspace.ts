/**
 * etcd's multi-version key space: every version of every key since the last compaction, and the events of every revision.
 *
 * A key is held as a string of its bytes, one character for each: such strings compare as etcd compares keys, and an ASCII
 * key is itself.
 */
import type { KeyRange, KeyValue, RangeRequest, RangeResult, WatchEvent } from "../../Etcd.ts"
import { decodeKey, encodeKey, encodeRange } from "../keys.ts"

export type RawKey = string

/** The keys from `from` up to `to` (exclusive; absent: no end), or `from` alone. */
export interface RawRange {
  readonly from: RawKey
  readonly to: RawKey | undefined
  readonly one: boolean
}

const latin1 = (bytes: Uint8Array): RawKey =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1")

const isAscii = (text: string): boolean => /^[\0-\x7f]*$/.test(text)

export const toRaw = (key: string): RawKey => isAscii(key) ? key : latin1(encodeKey(key))

export const fromRaw = (raw: RawKey): string => isAscii(raw) ? raw : decodeKey(Buffer.from(raw, "latin1"))

export const toRawRange = (range: KeyRange): RawRange => {
  if ("key" in range) return { from: toRaw(range.key), to: undefined, one: true }
  const { key, rangeEnd } = encodeRange(range)
  const endless = rangeEnd === undefined || (rangeEnd.length === 1 && rangeEnd[0] === 0)
  return { from: latin1(key), to: endless ? undefined : latin1(rangeEnd), one: false }
}

export const contains = (range: RawRange, key: RawKey): boolean =>
  range.one ? key === range.from : key >= range.from && (range.to === undefined || key < range.to)

interface Version {
  readonly revision: bigint
  /** Absent: the key was deleted. */
  readonly kv: KeyValue | undefined
}

interface Item {
  readonly raw: RawKey
  readonly key: string
  /** Oldest first; the last one is the present. */
  versions: Array<Version>
}

export interface KeyEvent {
  readonly raw: RawKey
  readonly key: string
  readonly kv: KeyValue | undefined
}

const noEvents: ReadonlyArray<KeyEvent> = []
const noValue = new Uint8Array(0)

export class Keyspace {
  /** etcd's first revision is 1, before anything is written. */
  revision = 1n
  /** The oldest revision that can be read. */
  compacted = 0n

  /** Every key that has a version left, in order; deleted ones too, until a compaction. */
  private order: Array<Item> = []
  private readonly items = new Map<RawKey, Item>()
  /** The events of the revisions from `historyStart` on. */
  private history: Array<ReadonlyArray<KeyEvent>> = []
  private historyStart = 2n
  /** What the open revision has written so far. */
  private pending: Array<KeyEvent> = []

  copy(): Keyspace {
    const copy = new Keyspace()
    copy.revision = this.revision
    copy.compacted = this.compacted
    copy.order = this.order.map((item) => ({ ...item, versions: item.versions.slice() }))
    for (const item of copy.order) copy.items.set(item.raw, item)
    copy.history = this.history.slice()
    copy.historyStart = this.historyStart
    return copy
  }

  // ---------------------------------------------------------------------------
  // Reads
  // ---------------------------------------------------------------------------

  /** What a read sees: the writes of the open revision too. */
  private get visible(): bigint {
    return this.pending.length === 0 ? this.revision : this.revision + 1n
  }

  /** Each key of the range as it was at `revision`, in order. */
  scan(range: RawRange, revision = this.visible): Array<KeyValue> {
    const found: Array<KeyValue> = []
    for (const item of this.within(range)) {
      const kv = at(item, revision)
      if (kv !== undefined) found.push(kv)
    }
    return found
  }

  range(request: RangeRequest): RangeResult {
    const { atRevision = 0n, maxCreateRevision = 0n, limit = 0 } = request
    const found = this.scan(toRawRange(request), atRevision > 0n ? atRevision : undefined)
    const count = found.length
    const answer = { revision: this.visible, count }
    if (request.countOnly === true) return { ...answer, kvs: [], more: false }
    const kvs = sorted(
      maxCreateRevision > 0n ? found.filter((kv) => kv.createRevision <= maxCreateRevision) : found,
      request.sort
    )
    const more = limit > 0 && kvs.length > limit
    return {
      ...answer,
      kvs: (more ? kvs.slice(0, limit) : kvs).map((kv) =>
        request.keysOnly === true ? { ...kv, value: noValue } : own(kv)
      ),
      more
    }
  }

  private within(range: RawRange): ReadonlyArray<Item> {
    if (range.one) {
      const item = this.items.get(range.from)
      return item === undefined ? [] : [item]
    }
    return this.order.slice(this.position(range.from), range.to === undefined ? undefined : this.position(range.to))
  }

  /** Where `raw` is in the order, or would be. */
  private position(raw: RawKey): number {
    let low = 0
    let high = this.order.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const item = this.order[middle]
      if (item !== undefined && item.raw < raw) low = middle + 1
      else high = middle
    }
    return low
  }

  // ---------------------------------------------------------------------------
  // Writes: into the open revision, which `commit` closes
  // ---------------------------------------------------------------------------

  put(key: string, raw: RawKey, value: Uint8Array, lease: bigint): KeyValue | undefined {
    const revision = this.revision + 1n
    let item = this.items.get(raw)
    if (item === undefined) {
      item = { raw, key, versions: [] }
      this.items.set(raw, item)
      this.order.splice(this.position(raw), 0, item)
    }
    const previous = item.versions.at(-1)?.kv
    const kv: KeyValue = {
      key,
      value,
      createRevision: previous?.createRevision ?? revision,
      modRevision: revision,
      version: (previous?.version ?? 0n) + 1n,
      lease
    }
    item.versions.push({ revision, kv })
    this.pending.push({ raw, key, kv })
    return previous
  }

  /** The keys that were there. */
  delete(range: RawRange): Array<KeyValue & { readonly raw: RawKey }> {
    const deleted: Array<KeyValue & { readonly raw: RawKey }> = []
    for (const item of this.within(range)) {
      const kv = item.versions.at(-1)?.kv
      if (kv === undefined) continue
      item.versions.push({ revision: this.revision + 1n, kv: undefined })
      this.pending.push({ raw: item.raw, key: item.key, kv: undefined })
      deleted.push({ ...kv, raw: item.raw })
    }
    return deleted
  }

  /** Answers the events of the new revision; none when nothing was written. */
  commit(): ReadonlyArray<KeyEvent> {
    if (this.pending.length === 0) return noEvents
    const events = this.pending
    this.pending = []
    this.revision += 1n
    this.history.push(events)
    return events
  }

  // ---------------------------------------------------------------------------
  // History
  // ---------------------------------------------------------------------------

  /** The events of one revision that has not been compacted. */
  events(revision: bigint): ReadonlyArray<KeyEvent> {
    return this.history[Number(revision - this.historyStart)] ?? noEvents
  }

  watchEvent(event: KeyEvent, revision: bigint, previousKv: boolean): WatchEvent {
    const previous = previousKv ? this.before(event.raw, revision) : undefined
    return event.kv === undefined
      ? { _tag: "Delete", key: event.key, modRevision: revision, previous }
      : { _tag: "Put", kv: own(event.kv), previous }
  }

  private before(raw: RawKey, revision: bigint): KeyValue | undefined {
    const item = this.items.get(raw)
    const kv = item === undefined ? undefined : at(item, revision - 1n)
    return kv === undefined ? undefined : own(kv)
  }

  /** Forgets what only reads before `revision` would see; its caller has checked that it is neither compacted nor in the future. */
  compact(revision: bigint): void {
    this.compacted = revision
    const drop = Number(revision - this.historyStart)
    if (drop > 0) {
      this.history = this.history.slice(drop)
      this.historyStart = revision
    }
    for (const item of this.order) {
      const kept = item.versions.findLastIndex((version) => version.revision <= revision)
      if (kept < 0) continue
      const from = item.versions[kept]?.kv === undefined ? kept + 1 : kept
      if (from > 0) item.versions = item.versions.slice(from)
      if (item.versions.length === 0) this.items.delete(item.raw)
    }
    this.order = this.order.filter((item) => item.versions.length > 0)
  }
}

const at = ({ versions }: Item, revision: bigint): KeyValue | undefined => {
  const last = versions.at(-1)
  return last !== undefined && last.revision <= revision
    ? last.kv
    : versions.findLast((version) => version.revision <= revision)?.kv
}

/** A copy whose value its reader may change. */
export const own = (kv: KeyValue): KeyValue => ({ ...kv, value: kv.value.slice() })

/** Keys that are equal under the order stay in the order of their bytes. */
const sorted = (kvs: Array<KeyValue>, sort: RangeRequest["sort"]): Array<KeyValue> => {
  if (sort === undefined) return kvs
  const direction = sort.order === "ascend" ? 1 : -1
  if (sort.by === "key") return direction === 1 ? kvs : kvs.reverse()
  const revision = sort.by === "create" ? "createRevision" : "modRevision"
  return kvs.sort((a, b) => direction * Number(a[revision] - b[revision]))
}
