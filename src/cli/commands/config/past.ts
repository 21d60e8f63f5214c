/**
 * `coord config history`, `rollback`, and `diff` of two versions.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { ConfigCenter, type ConfigHistory, RawBytes } from "../../../ConfigCenter.ts"
import { ConfigNotFound } from "../../../ConfigError.ts"
import { Compacted, EtcdError } from "../../../EtcdError.ts"
import { Exit, ExitCode, silently } from "../../Exit.ts"
import { type Column, type Json, Output, printable } from "../../Output.ts"
import { live } from "../../services.ts"
import { showDifference } from "./lines.ts"
import { brief, jsonOf } from "./text.ts"

type Told = ConfigHistory<Uint8Array>
type Value = Extract<Told, { readonly _tag: "Put" }>

const isValue = (told: Told): told is Value => told._tag === "Put"

/** etcd refuses to be asked for what is not yet. */
const unlessFuture = (version: bigint) => (error: EtcdError): EtcdError | Exit =>
  error.reason._tag === "InvalidArgument" && error.reason.detail.includes("future revision")
    ? new Exit({ code: ExitCode.no, message: `there is no version ${version} yet` })
    : error

// -----------------------------------------------------------------------------
// history
// -----------------------------------------------------------------------------

interface HistoryInput {
  readonly key: string
  readonly limit: number
  readonly before: Option.Option<bigint>
  readonly values: boolean
}

const columns: ReadonlyArray<Column<Value>> = [
  { title: "VERSION", of: ({ version }) => String(version) },
  { title: "BYTES", of: ({ value }) => String(value.length) }
]

const valueColumn: Column<Value> = { title: "VALUE", of: ({ value }) => brief(value) }

const toJson = (told: Told, values: boolean): Json => ({
  event: told._tag.toLowerCase(),
  key: told.key,
  version: told.version,
  ...told._tag === "Put" && { bytes: told.value.length },
  ...told._tag === "Put" && values && { value: jsonOf(told.value) }
})

/** Why there is no more. */
const ending = (last: Told | undefined): string => {
  switch (last?._tag) {
    case "Created":
      return `created at version ${last.version}`
    case "Compacted":
      return `etcd has forgotten what was before version ${last.version}`
    default:
      return "there are older ones: --limit shows more"
  }
}

/** Where to look for what a key had that is not there any more. */
const notNow = ({ message }: ConfigNotFound): Exit =>
  new Exit({ code: ExitCode.no, message: `${message} (--before VERSION shows what it had before it was deleted)` })

export const history = Effect.fnUntraced(function*({ before, key, limit, values }: HistoryInput) {
  const output = yield* Output
  const config = yield* ConfigCenter
  const past = config.history(key, RawBytes, { before: Option.getOrUndefined(before) }).pipe(
    Stream.mapError((error) => {
      if (error._tag === "EtcdError") return unlessFuture(Option.getOrElse(before, () => 0n))(error)
      return error._tag === "ConfigNotFound" && Option.isNone(before) ? notNow(error) : error
    }),
    // One more, to know whether there is more.
    Stream.take(limit + 1)
  )
  if (output.json) {
    let told = 0
    return yield* Stream.runForEach(
      past,
      (one) => isValue(one) && told++ >= limit ? Effect.void : output.object(toJson(one, values))
    )
  }
  const all = yield* Stream.runCollect(past)
  yield* output.rows(
    all.filter(isValue).slice(0, limit),
    values ? [...columns, valueColumn] : columns,
    () => null,
    "none"
  )
  return yield* output.aside(ending(all.at(-1)))
}, Effect.provide(live))

// -----------------------------------------------------------------------------
// rollback
// -----------------------------------------------------------------------------

interface RollbackInput {
  readonly key: string
  readonly to: bigint
  readonly ifVersion: Option.Option<bigint>
}

export const rollback = Effect.fnUntraced(function*({ ifVersion, key, to }: RollbackInput) {
  const output = yield* Output
  const config = yield* ConfigCenter
  const version = yield* config.rollback(key, to, { expected: Option.getOrUndefined(ifVersion) }).pipe(
    Effect.catchTag("EtcdError", (error) => Effect.fail(unlessFuture(to)(error)))
  )
  yield* output.json ? output.object({ key, version }) : output.text(`version ${version}\n`)
}, Effect.provide(live))

// -----------------------------------------------------------------------------
// diff
// -----------------------------------------------------------------------------

/** What the key had as of a version. */
const valueAt = Effect.fnUntraced(function*(key: string, version: bigint) {
  const config = yield* ConfigCenter
  const told = yield* Stream.runHead(config.history(key, RawBytes, { before: version + 1n })).pipe(
    Effect.catchTag("EtcdError", (error) => Effect.fail(unlessFuture(version)(error)))
  )
  if (Option.isNone(told)) return yield* new ConfigNotFound({ key, at: version })
  if (told.value._tag === "Put") return told.value
  return yield* new EtcdError({ operation: "range", key, reason: new Compacted({ compactRevision: 0n }) })
})

interface DiffInput {
  readonly key: string
  readonly from: bigint
  readonly to: Option.Option<bigint>
}

export const diffVersions = Effect.fnUntraced(function*({ from, key, to }: DiffInput) {
  const output = yield* Output
  const config = yield* ConfigCenter
  const before = yield* valueAt(key, from)
  const after = yield* Option.match(to, {
    onNone: () => config.getVersioned(key, RawBytes),
    onSome: (version) => valueAt(key, version)
  })
  if (Buffer.compare(before.value, after.value) === 0) return undefined
  if (output.json) {
    yield* output.object({
      change: "change",
      key,
      from: before.version,
      to: after.version,
      previous: jsonOf(before.value),
      value: jsonOf(after.value)
    })
  } else {
    const name = printable(key)
    const lines = showDifference(before.value, after.value, output.color)
    yield* output.text(
      [`--- ${name} (version ${before.version})`, `+++ ${name} (version ${after.version})`, ...lines, ""].join("\n")
    )
  }
  return yield* silently(ExitCode.no)
}, Effect.provide(live))
