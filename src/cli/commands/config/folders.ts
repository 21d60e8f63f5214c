/**
 * `coord config export`, `import`, and `diff` of a folder.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Path from "node:path"
import { ConfigCenter, RawBytes } from "../../../ConfigCenter.ts"
import { Connection } from "../../Connection.ts"
import { Exit, ExitCode, silently } from "../../Exit.ts"
import { Output, printable } from "../../Output.ts"
import { live } from "../../services.ts"
import { apply, differences, show } from "./changes.ts"
import { readFolder, writeFolder } from "./folder.ts"
import { folderOf, many } from "./text.ts"

interface Place {
  readonly dir: string
  readonly prefix: Option.Option<string>
}

/** The folder of keys, and what stands before a key in it. */
const below = ({ prefix }: Place) => {
  const folder = folderOf(Option.getOrElse(prefix, () => ""))
  return { folder, start: folder === "" ? "" : `${folder}/` }
}

// -----------------------------------------------------------------------------
// export
// -----------------------------------------------------------------------------

export const exportTo = Effect.fnUntraced(function*(input: Place & { readonly delete: boolean }) {
  const output = yield* Output
  const config = yield* ConfigCenter
  const { folder, start } = below(input)
  const entries = yield* config.entries(folder, RawBytes)
  const values = new Map(entries.map(({ key, value }) => [key.slice(start.length), value]))
  const { deleted, left, written } = yield* writeFolder(input.dir, values, input)
  if (output.json) {
    yield* output.object({ keys: values.size, written: written.length, deleted: deleted.length, left: left.length })
  } else {
    yield* output.text(
      `${many(values.size, "key")} in ${printable(input.dir)}: ${
        many(written.length, "file")
      } written, ${deleted.length} deleted\n`
    )
  }
  if (left.length > 0) {
    const first = printable(Path.join(input.dir, left[0] ?? ""))
    yield* output.aside(
      `${many(left.length, "file")} in the folder, as ${first}, no key any more: --delete removes them`
    )
  }
}, Effect.provide(live))

// -----------------------------------------------------------------------------
// import and diff
// -----------------------------------------------------------------------------

const compare = Effect.fnUntraced(
  function*(place: Place, options: { readonly delete: boolean; readonly guarded?: boolean }) {
    const config = yield* ConfigCenter
    const { folder, start } = below(place)
    const files = yield* readFolder(place.dir)
    if (options.guarded === true && files.size === 0) {
      // A folder that is not the one that was meant would delete all there is.
      const message = `${
        printable(place.dir)
      } has no files, and --delete would delete every key: \`coord config rm\` deletes one`
      return yield* new Exit({ code: ExitCode.usage, message })
    }
    const wanted = new Map([...files.values()].map(({ bytes, key }) => [`${start}${key}`, bytes]))
    return differences(yield* config.entries(folder, RawBytes), wanted, options)
  }
)

interface ImportInput extends Place {
  readonly delete: boolean
  readonly dryRun: boolean
}

export const importFrom = Effect.fnUntraced(function*(input: ImportInput) {
  const output = yield* Output
  const found = yield* compare(input, { delete: input.delete, guarded: input.delete && !input.dryRun })
  if (input.dryRun) {
    yield* show(found, { values: false })
    return found.length === 0 ? undefined : yield* silently(ExitCode.no)
  }
  const { configPrefix = "/config", namespace = "" } = yield* Effect.flatMap(Connection, ({ options }) => options)
  const transactions = yield* apply(found, `${namespace}${configPrefix}/`)
  if (output.json) return undefined
  return yield* output.text(
    found.length === 0
      ? "nothing differs\n"
      : `${many(found.length, "change")} written in ${many(transactions, "transaction")}\n`
  )
}, Effect.provide(live))

export const diffFolder = Effect.fnUntraced(function*(input: Place & { readonly values: boolean }) {
  const found = yield* compare(input, { delete: true })
  yield* show(found, input)
  return found.length === 0 ? undefined : yield* silently(ExitCode.no)
}, Effect.provide(live))
