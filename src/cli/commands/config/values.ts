/**
 * `coord config get`, `set`, `ls` and `rm`.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Fs from "node:fs"
import Process from "node:process"
import { buffer } from "node:stream/consumers"
import { ConfigCenter, RawBytes } from "../../../ConfigCenter.ts"
import { ConfigChange } from "../../../ConfigChange.ts"
import { Exit, ExitCode } from "../../Exit.ts"
import { Output, printable } from "../../Output.ts"
import { live } from "../../services.ts"
import { brief, folderOf, jsonOf, shown, textOf } from "./text.ts"

const usage = (message: string) => new Exit({ code: ExitCode.usage, message })

// -----------------------------------------------------------------------------
// get
// -----------------------------------------------------------------------------

export const get = Effect.fnUntraced(function*(input: { readonly key: string; readonly value: boolean }) {
  const output = yield* Output
  const config = yield* ConfigCenter
  const { key, value, version } = yield* config.getVersioned(input.key, RawBytes)
  if (input.value) return yield* output.bytes(value)
  if (output.json) return yield* output.object({ key, value: jsonOf(value), version })
  const text = shown(value)
  return yield* output.text(text.endsWith("\n") ? text : `${text}\n`)
}, Effect.provide(live))

// -----------------------------------------------------------------------------
// set
// -----------------------------------------------------------------------------

interface SetInput {
  readonly key: string
  readonly value: Option.Option<string>
  readonly file: Option.Option<string>
  readonly ifVersion: Option.Option<bigint>
  readonly checkJson: boolean
}

/** Waits for what has not been written yet: a read of the descriptor would block everything, or fail where it is not to block. */
const standardInput: Effect.Effect<Uint8Array, Exit> = Effect.tryPromise({
  try: () => buffer(Process.stdin),
  catch: () => usage("standard input cannot be read")
})

const contentOf = (path: string): Effect.Effect<Uint8Array, Exit> =>
  path === "-" ? standardInput : Effect.try({
    try: () => Fs.readFileSync(path),
    catch: () => usage(`--file ${printable(path)}: there is no such file to read`)
  })

const given = ({ file, value }: SetInput): Effect.Effect<Uint8Array, Exit> => {
  if (Option.isSome(file) && Option.isSome(value)) return Effect.fail(usage("give either VALUE or --file, not both"))
  if (Option.isSome(file)) return contentOf(file.value)
  if (Option.isNone(value)) {
    return Effect.fail(usage("there is no VALUE: write it, or --file FILE, or - for standard input"))
  }
  return value.value === "-" ? contentOf("-") : Effect.succeed(Buffer.from(value.value))
}

/** Without what is wrong: that would be a part of the value. */
const mustBeJson = (bytes: Uint8Array): Effect.Effect<void, Exit> =>
  Option.exists(textOf(bytes), (text) => Result.isSuccess(Result.try((): unknown => JSON.parse(text))))
    ? Effect.void
    : Effect.fail(usage("the value is not JSON: nothing was written"))

export const set = Effect.fnUntraced(function*(input: SetInput) {
  const output = yield* Output
  const bytes = yield* given(input)
  if (input.checkJson) yield* mustBeJson(bytes)
  const version = yield* Effect.gen(function*() {
    const config = yield* ConfigCenter
    return yield* Option.match(input.ifVersion, {
      onNone: () => config.set(input.key, RawBytes, bytes),
      onSome: (expected) => config.compareAndSet(input.key, RawBytes, bytes, expected)
    })
  }).pipe(Effect.provide(live))
  yield* output.json ? output.object({ key: input.key, version }) : output.text(`version ${version}\n`)
})

// -----------------------------------------------------------------------------
// ls
// -----------------------------------------------------------------------------

interface LsInput {
  readonly prefix: Option.Option<string>
  readonly values: boolean
}

const columns = {
  key: { title: "KEY", of: ({ key }: { readonly key: string }) => key },
  version: { title: "VERSION", of: ({ version }: { readonly version: bigint }) => String(version) },
  value: { title: "VALUE", of: ({ value }: { readonly value: Uint8Array }) => brief(value) }
}

export const ls = Effect.fnUntraced(function*(input: LsInput) {
  const output = yield* Output
  const config = yield* ConfigCenter
  const folder = folderOf(Option.getOrElse(input.prefix, () => ""))
  const none = folder === "" ? "no keys" : `no keys under ${printable(folder)}/`
  if (input.values) {
    return yield* output.rows(
      yield* config.entries(folder, RawBytes),
      [columns.key, columns.version, columns.value],
      ({ key, value, version }) => ({ key, value: jsonOf(value), version }),
      none
    )
  }
  const keys = (yield* config.list(folder)).map((key) => ({ key }))
  return yield* output.rows(keys, [columns.key], (row) => row, none)
}, Effect.provide(live))

// -----------------------------------------------------------------------------
// rm
// -----------------------------------------------------------------------------

interface RmInput {
  readonly key: string
  readonly ifVersion: Option.Option<bigint>
}

const retries = 10

/** Its last version, and that of the deletion. */
const removed = Effect.fnUntraced(function*({ ifVersion, key }: RmInput) {
  const config = yield* ConfigCenter
  const remove = (expected: bigint) =>
    config.transact([ConfigChange.delete(key, { expected })]).pipe(
      Effect.map((version) => ({ previous: expected, version })),
      Effect.mapError((error) => error._tag === "TransactionConflict" ? error.conflicts[0] : error)
    )
  if (Option.isSome(ifVersion)) {
    // `0` would be kept by a key that is not there, and delete nothing.
    return yield* ifVersion.value === 0n
      ? usage("--if-version 0 is a key that does not exist: there is nothing to delete")
      : remove(ifVersion.value)
  }
  // Who has deleted it has to know which version to bring back.
  return yield* Effect.flatMap(config.getVersioned(key, RawBytes), ({ version }) => remove(version)).pipe(
    Effect.retry({ times: retries, while: ({ _tag }) => _tag === "VersionConflict" })
  )
})

export const rm = Effect.fnUntraced(function*(input: RmInput) {
  const output = yield* Output
  const { previous, version } = yield* removed(input)
  yield* output.json
    ? output.object({ key: input.key, previous, version })
    : output.text(`deleted; \`coord config rollback ${printable(input.key)} --to ${previous}\` brings it back\n`)
}, Effect.provide(live))
