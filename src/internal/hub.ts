/**
 * What happens in a range, handed to everybody who wants to know: one log for all of them, in which each has his own place.
 *
 * Everything here is done in one step, so nobody sees half of it. Whoever waits is woken when all of it is done, and may join, leave or
 * close the whole there and then.
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Pull from "effect/Pull"
import type { EtcdError } from "../EtcdError.ts"
import type { Change, Entry, Snapshot } from "./follow.ts"

// What a reader may be behind before it goes on alone.
const maxBehind = 1024
const maxBytesBehind = 8 * 1024 * 1024

export type Changes = ReadonlyArray<Change>

/** A revision in the log. It knows the next one, so whoever has one keeps all that come after. */
interface Node {
  readonly state: Snapshot
  readonly changes: Changes
  /** To all who wait for it and nothing else. */
  readonly alone: Exit.Exit<Arr.NonEmptyReadonlyArray<Changes>>
  /** Entries and bytes up to here. */
  readonly count: number
  readonly bytes: number
  next: Node | undefined
}

/** Called for each entry, amid the work for all others. */
export interface Observer {
  readonly next: (entry: Entry) => void
  readonly fail: (cause: Cause.Cause<EtcdError>) => void
}

export interface Reader {
  /** The state when it joined, and in the end that from which it goes on alone. */
  readonly position: () => Snapshot
  /** The entries that it has not seen, at least one. Done once it has fallen behind. */
  readonly pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Changes>, EtcdError>
}

export class Hub {
  #last: Node
  readonly #readers = new Set<LogReader>()
  readonly #observers = new Set<Observer>()
  readonly #failed = Deferred.makeUnsafe<never, EtcdError>()
  /** Of the failure, if there is one. */
  #cause: Cause.Cause<EtcdError> | undefined

  constructor(state: Snapshot) {
    this.#last = { state, changes: [], alone: Exit.succeed([[]]), count: 0, bytes: 0, next: undefined }
  }

  get state(): Snapshot {
    return this.#last.state
  }

  get cause(): Cause.Cause<EtcdError> | undefined {
    return this.#cause
  }

  /** Never ends well. */
  get failed(): Effect.Effect<never, EtcdError> {
    return Deferred.await(this.#failed)
  }

  publishUnsafe(entry: Entry): void {
    const { bytes, changes, state } = entry
    for (const reader of this.#readers) if (reader.isBehind(this.#last, bytes)) this.#cutOff(reader)
    const node: Node = {
      state,
      changes,
      alone: Exit.succeed([changes]),
      count: this.#last.count + 1,
      bytes: this.#last.bytes + bytes,
      next: undefined
    }
    this.#last.next = node
    this.#last = node
    for (const observer of this.#observers) observer.next(entry)
    this.#wakeUnsafe()
  }

  failUnsafe(cause: Cause.Cause<EtcdError>): void {
    if (this.#cause !== undefined) return
    this.#cause = cause
    Deferred.doneUnsafe(this.#failed, Exit.failCause(cause))
    for (const observer of this.#observers) observer.fail(cause)
    this.#wakeUnsafe()
  }

  #wakeUnsafe(): void {
    // Those who join meanwhile have nothing to be woken for.
    for (const reader of this.#readers) reader.wakeUnsafe()
  }

  #cutOff(reader: LogReader): void {
    this.#readers.delete(reader)
    reader.cutOff()
  }

  /** Begins with what comes after the present state. */
  joinUnsafe(): Reader {
    const reader = new LogReader(this, this.#last)
    this.#readers.add(reader)
    return reader
  }

  leaveUnsafe(reader: Reader): void {
    this.#readers.delete(reader as LogReader)
  }

  observeUnsafe(observer: Observer): void {
    this.#observers.add(observer)
  }

  unobserveUnsafe(observer: Observer): void {
    this.#observers.delete(observer)
  }
}

/** Its place is a node of the log: what lies after it waits there, for all readers at once. */
class LogReader implements Reader {
  /** The last one that its consumer has finished with. */
  #finished: Node
  /** The last one that it has pulled. */
  #pulled: Node
  /** What was left when it fell behind: the log itself would grow without end behind it. */
  #rest: ReadonlyArray<Changes> | undefined
  #waiting: ((exit: Exit.Exit<Arr.NonEmptyReadonlyArray<Changes>, EtcdError | Cause.Done>) => void) | undefined
  readonly #hub: Hub
  readonly pull: Reader["pull"]

  constructor(hub: Hub, start: Node) {
    this.#hub = hub
    this.#finished = start
    this.#pulled = start
    this.pull = Effect.callback((resume) => {
      this.#finished = this.#pulled
      const exit = this.#take()
      if (exit !== undefined) return resume(exit)
      this.#waiting = resume
      return this.#leaving
    })
  }

  readonly #leaving = Effect.sync(() => {
    this.#waiting = undefined
    // What came between the interruption and this has reached nobody, and waits for the next pull.
    if (this.#rest === undefined) this.#pulled = this.#finished
  })

  position(): Snapshot {
    return this.#pulled.state
  }

  wakeUnsafe(): void {
    if (this.#waiting === undefined) return
    const exit = this.#take()
    if (exit === undefined) return
    const resume = this.#waiting
    this.#waiting = undefined
    resume(exit)
  }

  /** It would be, with so many more bytes after the last entry. */
  isBehind(last: Node, bytes: number): boolean {
    const entries = last.count - this.#finished.count
    return entries > 0 && (entries >= maxBehind || last.bytes - this.#finished.bytes + bytes > maxBytesBehind)
  }

  cutOff(): void {
    this.#rest = this.#advance()
    this.#pulled = { ...this.#pulled, next: undefined }
    this.#finished = this.#pulled
  }

  #advance(): ReadonlyArray<Changes> {
    const entries: Array<Changes> = []
    for (let node = this.#pulled.next; node !== undefined; node = node.next) {
      entries.push(node.changes)
      this.#pulled = node
    }
    return entries
  }

  /** What is there, the end after it, or nothing yet. */
  #take() {
    const { next } = this.#pulled
    if (this.#rest === undefined && next !== undefined && next.next === undefined) {
      this.#pulled = next
      return next.alone
    }
    const entries = this.#rest ?? this.#advance()
    const isCutOff = this.#rest !== undefined
    if (isCutOff) this.#rest = []
    const [first, ...others] = entries
    if (first !== undefined) return Exit.succeed<Arr.NonEmptyReadonlyArray<Changes>>([first, ...others])
    if (isCutOff) return Exit.fail(Cause.Done())
    const { cause } = this.#hub
    return cause === undefined ? undefined : Exit.failCause(cause)
  }
}
