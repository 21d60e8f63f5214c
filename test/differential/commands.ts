/**
 * Sequences of operations that mean the same on every store: keys are relative to a prefix, revisions to where the sequence
 * started, and leases are numbered.
 */
import * as fc from "fast-check"

export type Revision = { readonly from: "zero" | "start"; readonly offset: number }

export type Where =
  | { readonly key: string | undefined }
  | { readonly prefix: string }
  | { readonly from: string; readonly to: string }

export interface Condition {
  readonly where: Where
  readonly target: "version" | "createRevision" | "modRevision" | "lease" | "value"
  readonly op: "=" | "!=" | "<" | ">"
  readonly revision: Revision
  readonly number: number
  readonly lease: number | undefined
  readonly value: string
}

export interface Read {
  readonly where: Where
  readonly limit: number | undefined
  readonly sort: { readonly by: "key" | "create" | "mod"; readonly order: "ascend" | "descend" } | undefined
  readonly keysOnly: boolean | undefined
  readonly countOnly: boolean | undefined
  readonly at: Revision | undefined
  readonly created: Revision | undefined
}

export interface Txn {
  readonly compare: ReadonlyArray<Condition>
  readonly success: ReadonlyArray<Op>
  readonly failure: ReadonlyArray<Op>
}

export type Op =
  | {
    readonly _tag: "Put"
    readonly key: string | undefined
    readonly value: string
    readonly lease: number | undefined
    readonly previousKv: boolean
  }
  | { readonly _tag: "Delete"; readonly where: Where; readonly previousKv: boolean }
  | { readonly _tag: "Range"; readonly read: Read }
  | { readonly _tag: "Txn"; readonly txn: Txn }

export type Command =
  | { readonly _tag: "Transact"; readonly txn: Txn }
  | { readonly _tag: "Read"; readonly read: Read }
  | { readonly _tag: "Compact"; readonly revision: Revision }
  | { readonly _tag: "Grant"; readonly ttl: number }
  /** Of a chosen id: a lease that was granted before, which may live or not, or a new one. */
  | { readonly _tag: "GrantAs"; readonly lease: number | undefined; readonly ttl: number }
  /** Too short to be left alone. */
  | { readonly _tag: "GrantBriefly"; readonly ttl: number }
  | {
    readonly _tag: "Watch"
    readonly where: Where
    readonly start: Revision | undefined
    readonly previousKv: boolean
  }
  /** About as many operations as etcd allows, `inner` of them in nested transactions. */
  | { readonly _tag: "Wide"; readonly compares: number; readonly operations: number; readonly inner: number }
  | { readonly _tag: "Large"; readonly kibibytes: number }
  | { readonly _tag: "Revoke" | "KeepAlive" | "TimeToLive"; readonly lease: number | undefined }

/** Neighbours in the order of bytes, and in that of UTF-16 where it differs. */
const name = fc.constantFrom("", "a", "a\u0000", "a/", "a/b", "aa", "b", "é", "\uffff", "😀", "\udc80", "\udcff")

/** Rarely the empty key, which etcd refuses. */
const key = fc.oneof({ weight: 60, arbitrary: name }, { weight: 1, arbitrary: fc.constant(undefined) })

const whereWith = (key: fc.Arbitrary<string | undefined>): fc.Arbitrary<Where> =>
  fc.oneof(
    fc.record({ key }),
    fc.record({ prefix: fc.constantFrom("", "a", "a/", "b", "\udc80", "\udcff", "none") }),
    fc.record({ from: name, to: name })
  )

const where = whereWith(key)

const revision: fc.Arbitrary<Revision> = fc.oneof(
  { weight: 20, arbitrary: fc.record({ from: fc.constant("start" as const), offset: fc.nat(1000) }) },
  { weight: 1, arbitrary: fc.record({ from: fc.constant("zero" as const), offset: fc.constantFrom(0, 1) }) }
)

/** The leases of a sequence by number; rarely one that was never granted. */
const lease = fc.oneof({ weight: 30, arbitrary: fc.nat(100) }, { weight: 1, arbitrary: fc.constant(undefined) })

/** In seconds. Longer than any run takes, as the end of a lease of an earlier sequence would be a revision that this one does not expect. */
const shortestTtl = 100_000
const ttl = fc.integer({ min: shortestTtl, max: 2 * shortestTtl })

const value = fc.constantFrom("", "x", "xy", "y", "\u0000")

const condition: fc.Arbitrary<Condition> = fc.record({
  where,
  target: fc.constantFrom("version", "createRevision", "modRevision", "lease", "value"),
  op: fc.constantFrom("=", "!=", "<", ">"),
  revision,
  number: fc.nat(3),
  lease,
  value
})

const some = (arbitrary: fc.Arbitrary<boolean>) => fc.option(arbitrary, { nil: undefined, freq: 1 })

const read: fc.Arbitrary<Read> = fc.record({
  where,
  limit: fc.option(fc.nat(4), { nil: undefined }),
  sort: fc.option(
    fc.record({ by: fc.constantFrom("key", "create", "mod"), order: fc.constantFrom("ascend", "descend") }),
    { nil: undefined }
  ),
  keysOnly: some(fc.boolean()),
  countOnly: fc.constantFrom(undefined, undefined, false, true),
  at: fc.option(revision, { nil: undefined, freq: 2 }),
  created: fc.option(revision, { nil: undefined, freq: 2 })
})

const put: fc.Arbitrary<Op> = fc.record({
  _tag: fc.constant("Put" as const),
  key,
  value,
  lease: fc.option(lease, { nil: undefined }),
  previousKv: fc.boolean()
})

const remove: fc.Arbitrary<Op> = fc.record({
  _tag: fc.constant("Delete" as const),
  where: fc.oneof({ weight: 3, arbitrary: fc.record({ key }) }, { weight: 1, arbitrary: where }),
  previousKv: fc.boolean()
})

const op = (depth: number): fc.Arbitrary<Op> =>
  fc.oneof(
    { weight: 6, arbitrary: put },
    { weight: 1, arbitrary: remove },
    { weight: 2, arbitrary: fc.record({ _tag: fc.constant("Range" as const), read }) },
    ...(depth === 0 ? [] : [{
      weight: 2,
      arbitrary: fc.record({ _tag: fc.constant("Txn" as const), txn: txn(depth - 1) })
    }])
  )

const txn = (depth: number): fc.Arbitrary<Txn> =>
  fc.record({
    compare: fc.array(condition, { maxLength: 2 }),
    success: fc.array(op(depth), { maxLength: 4 }),
    failure: fc.array(op(depth), { maxLength: 3 })
  })

const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 10, arbitrary: fc.record({ _tag: fc.constant("Transact" as const), txn: txn(2) }) },
  // Writes that are hardly ever refused, so that there is something to read.
  {
    weight: 8,
    arbitrary: fc.oneof({ weight: 4, arbitrary: put }, { weight: 1, arbitrary: remove }).map((op): Command => ({
      _tag: "Transact",
      txn: { compare: [], success: [op], failure: [] }
    }))
  },
  { weight: 6, arbitrary: fc.record({ _tag: fc.constant("Read" as const), read }) },
  { weight: 1, arbitrary: fc.record({ _tag: fc.constant("Compact" as const), revision }) },
  {
    weight: 3,
    arbitrary: fc.record({ _tag: fc.constant("Grant" as const), ttl })
  },
  {
    weight: 2,
    arbitrary: fc.record({
      _tag: fc.constant("GrantAs" as const),
      lease,
      ttl: fc.oneof(
        { weight: 9, arbitrary: ttl },
        { weight: 1, arbitrary: fc.constantFrom(9_000_000_000, 9_000_000_001, 1e15) }
      )
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({
      _tag: fc.constant("GrantBriefly" as const),
      ttl: fc.constantFrom(0, 0.5, 1, 1.5, 2, 2.001, 3)
    })
  },
  {
    weight: 4,
    arbitrary: fc.record({
      _tag: fc.constant("Watch" as const),
      // Without a key the port refuses it, where etcd would watch something else.
      where: fc.oneof(
        { weight: 3, arbitrary: whereWith(name) },
        { weight: 1, arbitrary: fc.constant<Where>({ prefix: "" }) }
      ),
      start: fc.option(revision, { nil: undefined, freq: 3 }),
      previousKv: fc.boolean()
    })
  },
  {
    weight: 1,
    arbitrary: fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({
          _tag: fc.constant("Wide" as const),
          compares: fc.constantFrom(0, 1, 127, 128, 129),
          operations: fc.constantFrom(1, 2, 64, 127, 128, 129),
          inner: fc.constantFrom(0, 0, 1, 64, 126, 127, 128)
        })
      },
      {
        weight: 1,
        arbitrary: fc.record({
          _tag: fc.constant("Large" as const),
          kibibytes: fc.constantFrom(1500, 1534, 1538, 1700, 2300)
        })
      }
    )
  },
  {
    weight: 4,
    arbitrary: fc.record({ _tag: fc.constantFrom("Revoke", "KeepAlive", "TimeToLive", "TimeToLive"), lease })
  }
)

export const commands: fc.Arbitrary<ReadonlyArray<Command>> = fc.array(command, { maxLength: 80, size: "max" })
  .map((all) => [{ _tag: "Grant", ttl: shortestTtl }, ...all])
