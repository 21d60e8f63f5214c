/**
 * What a transaction may read and write, and whether it may travel with others. In one transaction, merged or nested, all compares see
 * the store before it, and all ranges see what was written before them in it: so nobody may read or write what another
 * one writes.
 */
import type { KeyRange, Operation, PutOperation, RangeRequest, TxnRequest } from "../../Etcd.ts"
import { added } from "../added.ts"

export interface Footprint {
  readonly reads: Keys
  readonly writes: Keys
  /** What etcd counts against its limit of operations: the widest level, and the deepest below it. */
  readonly weight: number
  /** About how many bytes it takes. */
  readonly size: number
  /** How many values can be in its answer. */
  readonly values: number
  /** A key of it that etcd refuses to put when the store is full: it looks at the first level alone. */
  readonly put: string | undefined
}

/** Where these intersect is a question of strings: what is not is not among them. */
export interface Keys {
  readonly keys: ReadonlyArray<string> | undefined
  readonly prefixes: ReadonlyArray<string> | undefined
}

/** Of the fields' tags and lengths. */
const overhead = 32

/** Keys without their values, which make no large answer. */
const page = 128

/**
 * Nothing for what goes alone: a range that is no prefix; a key that is no text, as two of those can stand for the same bytes; and
 * whose answer can be of any length, which is a matter for its caller only.
 */
export const footprintOf = (request: TxnRequest): Footprint | undefined => {
  const seen = new Seen(request)
  return seen.alone ? undefined : seen
}

class Touching implements Keys {
  keys: Array<string> | undefined
  prefixes: Array<string> | undefined
}

/** What has been seen of a request by now. */
class Seen implements Footprint {
  readonly reads = new Touching()
  readonly writes = new Touching()
  readonly weight: number
  readonly put: string | undefined
  size = 0
  values = 0
  alone = false

  constructor(request: TxnRequest) {
    this.weight = this.#weigh(request)
    this.put = measuredPut(request)
  }

  #weigh({ compare, failure, success }: TxnRequest): number {
    this.size += overhead
    for (const one of compare ?? []) this.#touch(one, this.reads, one.target === "value" ? one.value : "")
    const below = Math.max(this.#deepest(success), this.#deepest(failure))
    return Math.max(compare?.length ?? 0, success?.length ?? 0, failure?.length ?? 0) + below
  }

  #deepest(operations: ReadonlyArray<Operation> | undefined): number {
    let below = 0
    for (const operation of operations ?? []) below = Math.max(below, this.#visit(operation))
    return below
  }

  #visit(operation: Operation): number {
    switch (operation._tag) {
      case "Put":
        this.#touch(operation, this.writes, operation.value)
        if (operation.previousKv === true) this.values++
        return 0
      case "Delete":
        this.#touch(operation, this.writes, "")
        if (operation.previousKv === true) {
          this.alone ||= !("key" in operation)
          this.values++
        }
        return 0
      case "Range":
        this.#touch(operation, this.reads, "")
        this.alone ||= isEndless(operation)
        if (operation.keysOnly !== true && operation.countOnly !== true) {
          this.values += "key" in operation ? 1 : operation.limit ?? 0
        }
        return 0
      case "Txn":
        return this.#weigh(operation)
    }
  }

  #touch(range: KeyRange, on: Touching, value: string | Uint8Array): void {
    if ("from" in range) {
      this.alone = true
      return
    }
    const isKey = "key" in range
    const text = isKey ? range.key : range.prefix
    const among = isKey ? on.keys : on.prefixes
    this.size += overhead + 2 * byteLength(text) + byteLength(value)
    // A claim compares, puts and reads the same key.
    if (among?.at(-1) === text) return
    this.alone ||= !text.isWellFormed()
    if (isKey) on.keys = added(among, text)
    else on.prefixes = added(among, text)
  }
}

/** Many keys, however many there are. */
export const isEndless = (request: RangeRequest): boolean =>
  !("key" in request) && request.countOnly !== true &&
  !(request.limit !== undefined && request.limit > 0 && request.limit <= page)

/** Of a short text, which is hardly worth counting, what it can have at most. */
const byteLength = (content: string | Uint8Array): number =>
  typeof content !== "string" || content.length > 128 ? Buffer.byteLength(content) : 3 * content.length

const measuredPut = ({ failure = [], success = [] }: TxnRequest): string | undefined => {
  const found = success.find(isPut) ?? failure.find(isPut)
  return found?.key
}

const isPut = (operation: Operation): operation is PutOperation => operation._tag === "Put"

export interface Company {
  /** Whether it can travel with those who are there, none noticing the others; then it is one of them. */
  readonly join: (footprint: Footprint) => boolean
}

export const makeCompany = (): Company => {
  const read = makeTouched()
  const written = makeTouched()
  return {
    join: ({ reads, writes }) => {
      if (written.meets(reads) || written.meets(writes) || read.meets(writes)) return false
      read.add(reads)
      written.add(writes)
      return true
    }
  }
}

/** Looked up by beginnings of the lengths that occur, which are few: a group of many folders is not searched for each who joins it. */
const makeTouched = () => {
  const known = new Set<string>()
  const folders = new Set<string>()
  const lengths = new Set<number>()
  /** What is known, cut to a length that was asked for. */
  const beginnings = new Map<number, Set<string>>()

  const note = (text: string) => {
    for (const [length, cut] of beginnings) cut.add(text.slice(0, length))
  }
  const isInFolder = (text: string): boolean => {
    for (const length of lengths) if (folders.has(text.slice(0, length))) return true
    return false
  }
  const hasBelow = (prefix: string): boolean => {
    let cut = beginnings.get(prefix.length)
    if (cut === undefined) {
      cut = new Set()
      beginnings.set(prefix.length, cut)
      for (const text of known) cut.add(text.slice(0, prefix.length))
      for (const text of folders) cut.add(text.slice(0, prefix.length))
    }
    return cut.has(prefix)
  }
  return {
    add: ({ keys = [], prefixes = [] }: Keys) => {
      for (const key of keys) {
        known.add(key)
        note(key)
      }
      for (const prefix of prefixes) {
        folders.add(prefix)
        lengths.add(prefix.length)
        note(prefix)
      }
    },
    meets: ({ keys, prefixes }: Keys): boolean =>
      keys?.some((key) => known.has(key) || isInFolder(key)) === true ||
      prefixes?.some((prefix) => isInFolder(prefix) || hasBelow(prefix)) === true
  }
}
