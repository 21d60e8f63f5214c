/**
 * What would have to be written so that etcd has what a folder has, and the transactions that write it.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { ConfigCenter, RawBytes, type Versioned } from "../../../ConfigCenter.ts"
import { ConfigChange } from "../../../ConfigChange.ts"
import type { TransactionConflict } from "../../../ConfigError.ts"
import { describe, Exit, ExitCode } from "../../Exit.ts"
import { type Json, Output, printable } from "../../Output.ts"
import { showDifference } from "./lines.ts"
import { jsonOf, paint } from "./text.ts"

export interface Difference {
  readonly key: string
  /** What etcd has. */
  readonly before: Versioned<Uint8Array> | undefined
  /** What the folder has; one of both differs. */
  readonly after: Uint8Array | undefined
}

/** Ascending by key. Keys that the folder has not are a difference only where they are to be deleted. */
export const differences = (
  present: ReadonlyArray<Versioned<Uint8Array>>,
  wanted: ReadonlyMap<string, Uint8Array>,
  options: { readonly delete: boolean }
): ReadonlyArray<Difference> => {
  const before = new Map(present.map((versioned) => [versioned.key, versioned]))
  const keys = [...new Set([...before.keys(), ...wanted.keys()])].sort()
  return keys.flatMap((key) => {
    const difference = { key, before: before.get(key), after: wanted.get(key) }
    if (difference.after === undefined) return options.delete ? [difference] : []
    return difference.before !== undefined && Buffer.compare(difference.before.value, difference.after) === 0
      ? []
      : [difference]
  })
}

// -----------------------------------------------------------------------------
// Show
// -----------------------------------------------------------------------------

const kinds = {
  add: { sign: "+", color: "green" },
  change: { sign: "~", color: "yellow" },
  delete: { sign: "-", color: "red" }
} as const

const kindOf = ({ after, before }: Difference): keyof typeof kinds =>
  before === undefined ? "add" : after === undefined ? "delete" : "change"

/** `version`: that of what is there now. */
const toJson = (difference: Difference, version: bigint | undefined, values: boolean): Json => ({
  change: kindOf(difference),
  key: difference.key,
  ...version !== undefined && { version },
  ...values && difference.before !== undefined && { previous: jsonOf(difference.before.value) },
  ...values && difference.after !== undefined && { value: jsonOf(difference.after) }
})

interface ShowOptions {
  readonly values: boolean
  /** At which they were written, if they were. */
  readonly version?: bigint
}

/** A line for each, and below it what differs where values are asked for. */
export const show = Effect.fnUntraced(function*(found: ReadonlyArray<Difference>, { values, version }: ShowOptions) {
  const output = yield* Output
  for (const difference of found) {
    if (output.json) {
      yield* output.object(toJson(difference, version ?? difference.before?.version, values))
      continue
    }
    const { color, sign } = kinds[kindOf(difference)]
    const below = values ? showDifference(difference.before?.value, difference.after, output.color) : []
    const line = paint(output.color, color, `${sign} ${printable(difference.key)}`)
    yield* output.text([line, ...below.map((text) => `    ${text}`), ""].join("\n"))
  }
})

// -----------------------------------------------------------------------------
// Apply
// -----------------------------------------------------------------------------

/** etcd's own, unless its operator has said otherwise (`--max-txn-ops`, `--max-request-bytes`). */
const limits = { changes: 128, bytes: 1.5 * 1024 * 1024 - 8 * 1024 }

/** As few as etcd takes. */
const batchesOf = (found: ReadonlyArray<Difference>, root: string): ReadonlyArray<ReadonlyArray<Difference>> => {
  const batches: Array<Array<Difference>> = []
  let bytes = Number.POSITIVE_INFINITY
  for (const difference of found) {
    // The key is in the comparison, in what is done if that holds, and in what is asked if not.
    const size = (difference.after?.length ?? 0) + 3 * (Buffer.byteLength(root + difference.key) + 32)
    const last = batches.at(-1)
    if (last === undefined || last.length >= limits.changes || bytes + size > limits.bytes) {
      batches.push([difference])
      bytes = size
    } else {
      last.push(difference)
      bytes += size
    }
  }
  return batches
}

const changeOf = ({ after, before, key }: Difference): ConfigChange => {
  const options = { expected: before?.version ?? 0n }
  return after === undefined ? ConfigChange.delete(key, options) : ConfigChange.set(key, RawBytes, after, options)
}

const shownConflicts = 3

const conflictOf = ({ conflicts }: TransactionConflict): Exit => {
  const told = conflicts.slice(0, shownConflicts).map(({ message }) => message)
  const more = conflicts.length > told.length ? [`and ${conflicts.length - told.length} more`] : []
  return new Exit({
    code: ExitCode.conflict,
    message: `somebody else came first: ${[...told, ...more].join("; ")} (--dry-run shows what differs now)`
  })
}

/** Says how much had been written when it failed. */
const failedAfter = (written: number, all: number, { code, message }: Exit): Exit => {
  if (written > 0) {
    return new Exit({ code, message: `${written} of ${all} changes have been written; then: ${message}` })
  }
  return new Exit({ code, message: code === ExitCode.conflict ? `nothing was written: ${message}` : message })
}

/**
 * Writes them, each key only if it still has the version that the difference was found with: in one transaction, or in as few as etcd's
 * limits allow. Answers how many that were. `root`: what stands before each key in etcd.
 */
export const apply = Effect.fnUntraced(function*(found: ReadonlyArray<Difference>, root: string) {
  const config = yield* ConfigCenter
  const output = yield* Output
  const batches = batchesOf(found, root)
  if (batches.length > 1) {
    yield* output.aside(
      `${found.length} changes are more than one transaction takes (128 changes, 1.5 MiB): they are written in ${batches.length}, one after the other`
    )
  }
  let written = 0
  for (const batch of batches) {
    const version = yield* config.transact(batch.map(changeOf)).pipe(
      Effect.mapError((error) =>
        failedAfter(
          written,
          found.length,
          error._tag === "TransactionConflict" ? conflictOf(error) : describe(Cause.fail(error))
        )
      )
    )
    written += batch.length
    yield* show(batch, { values: false, version })
  }
  return batches.length
})
