/**
 * A folder of files, one for each key. Nothing is read or written outside of it.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Fs from "node:fs"
import * as Path from "node:path"
import Process from "node:process"
import { keyRule } from "../../../internal/validate.ts"
import { Exit, ExitCode } from "../../Exit.ts"
import { printable } from "../../Output.ts"
import { isHidden, keyOf, pathsOf } from "./names.ts"
import { textOf } from "./text.ts"

/** Files by their paths below the folder. */
export type Files = ReadonlyMap<string, { readonly key: string; readonly bytes: Uint8Array }>

const unusable = (path: string, why: string, code: number = ExitCode.usage): Exit =>
  new Exit({ code, message: `${printable(path)}: ${why}` })

const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && "code" in error ? String(error.code) : undefined

const reasons: Partial<Record<string, string>> = {
  ENOENT: "there is no such file or folder",
  ENOTDIR: "is no folder",
  EISDIR: "is a folder",
  EACCES: "permission denied",
  ENOSPC: "no space left"
}

const io = <A>(path: string, act: () => A, exitCode?: number): Effect.Effect<A, Exit> =>
  Effect.try({
    try: act,
    catch: (error) => {
      const code = codeOf(error)
      return unusable(path, reasons[code ?? ""] ?? `failed (${code ?? "unknown"})`, exitCode)
    }
  })

// -----------------------------------------------------------------------------
// Read
// -----------------------------------------------------------------------------

/** What a link leads to: a file in the folder, as where Kubernetes mounts a ConfigMap. */
const followed = Effect.fnUntraced(function*(root: string, path: string) {
  const target = yield* io(path, () => Fs.realpathSync(path))
  if (!target.startsWith(`${root}${Path.sep}`)) return yield* unusable(path, "is a link that leads out of the folder")
  const stat = yield* io(path, () => Fs.statSync(path))
  return stat.isFile() ? stat : yield* unusable(path, "is a link to something that is no file")
})

/** The paths of all files below a folder, without those that are hidden. */
const walk = (root: string, below: string): Effect.Effect<ReadonlyArray<string>, Exit> =>
  Effect.gen(function*() {
    const folder = Path.join(root, below)
    const entries = yield* io(folder, () => Fs.readdirSync(folder, { encoding: "buffer" }))
    const found = yield* Effect.forEach(entries, (entry) =>
      Effect.gen(function*() {
        const name = textOf(entry)
        if (Option.isNone(name)) return yield* unusable(Path.join(folder, entry.toString()), "its name is not UTF-8")
        if (isHidden(name.value)) return []
        const path = below === "" ? name.value : `${below}/${name.value}`
        const full = Path.join(root, path)
        const own = yield* io(full, () => Fs.lstatSync(full))
        if (own.isDirectory()) return yield* walk(root, path)
        const stat = own.isSymbolicLink() ? yield* followed(root, full) : own
        return stat.isFile() ? [path] : yield* unusable(full, "is neither a file nor a folder")
      }))
    return found.flat()
  })

const keyOfFile = (root: string, path: string): Effect.Effect<string, Exit> => {
  const key = Option.getOrUndefined(keyOf(path))
  if (key === undefined) {
    return Effect.fail(unusable(Path.join(root, path), "the name is no key: a % is written as %25"))
  }
  const rule = keyRule(key)
  return rule === undefined ? Effect.succeed(key) : Effect.fail(unusable(Path.join(root, path), `a key ${rule}`))
}

/** All files of a folder, and the keys that they are. Files that are no keys fail it, and are named. */
export const readFolder = Effect.fnUntraced(function*(dir: string) {
  const root = yield* io(dir, () => Fs.realpathSync(dir))
  const files = new Map<string, { readonly key: string; readonly bytes: Uint8Array }>()
  const paths = new Map<string, string>()
  for (const path of yield* walk(root, "")) {
    const key = yield* keyOfFile(root, path)
    const other = paths.get(key)
    if (other !== undefined) {
      return yield* unusable(Path.join(dir, path), `is the same key as ${printable(Path.join(dir, other))}`)
    }
    paths.set(key, path)
    files.set(path, { key, bytes: yield* io(path, () => Fs.readFileSync(Path.join(root, path))) })
  }
  return files as Files
})

// -----------------------------------------------------------------------------
// Write
// -----------------------------------------------------------------------------

export interface Written {
  readonly written: ReadonlyArray<string>
  readonly deleted: ReadonlyArray<string>
  /** Files that are no key of those that were to be written, and were left there. */
  readonly left: ReadonlyArray<string>
}

/** Whole or not at all, and never through a link. */
const replace = (root: string, path: string, bytes: Uint8Array): Effect.Effect<void, Exit> => {
  const full = Path.join(root, path)
  const half = Path.join(root, `.coord-${Process.pid}`)
  return io(full, () => {
    Fs.mkdirSync(Path.dirname(full), { recursive: true })
    Fs.writeFileSync(half, bytes)
    Fs.renameSync(half, full)
  }, ExitCode.failed).pipe(Effect.ensuring(Effect.sync(() => Fs.rmSync(half, { force: true }))))
}

/** The file, and the folders that are empty without it. */
const remove = (root: string, path: string): Effect.Effect<void, Exit> =>
  Effect.andThen(
    io(Path.join(root, path), () => Fs.rmSync(Path.join(root, path)), ExitCode.failed),
    Effect.ignore(io(root, () => {
      for (let folder = Path.dirname(path); folder !== "."; folder = Path.dirname(folder)) {
        Fs.rmdirSync(Path.join(root, folder))
      }
    }))
  )

/** Of the name of a file, nearly everywhere. */
const longest = 255

const isFile = (root: string, path: string): boolean =>
  Fs.statSync(Path.join(root, path), { throwIfNoEntry: false })?.isFile() === true

/** What is there already and in the way: a file where a folder has to be, or the other way round. */
const inTheWay = (root: string, path: string): string | undefined => {
  if (Fs.statSync(Path.join(root, path), { throwIfNoEntry: false })?.isDirectory() === true) return path
  for (let folder = Path.dirname(path); folder !== "."; folder = Path.dirname(folder)) {
    if (isFile(root, folder)) return folder
  }
  return undefined
}

/** Makes the folder hold these values. Only what differs is written; what is there besides is deleted only where that is asked for. */
export const writeFolder = Effect.fnUntraced(
  function*(dir: string, values: ReadonlyMap<string, Uint8Array>, options: { readonly delete: boolean }) {
    yield* io(dir, () => Fs.mkdirSync(dir, { recursive: true }), ExitCode.failed)
    const root = yield* io(dir, () => Fs.realpathSync(dir))
    const present = yield* readFolder(dir)
    const wanted = pathsOf([...values.keys()])
    const paths = new Set(wanted.values())
    const long = [...paths].find((path) => path.split("/").some((name) => Buffer.byteLength(name) > longest))
    if (long !== undefined) {
      return yield* unusable(Path.join(dir, long), `a name of a file has at most ${longest} bytes`, ExitCode.failed)
    }
    const stale = [...present.keys()].filter((path) => !paths.has(path))
    if (options.delete) yield* Effect.forEach(stale, (path) => remove(root, path), { discard: true })
    const differing = [...wanted].flatMap(([key, path]) => {
      const bytes = values.get(key) ?? new Uint8Array()
      const old = present.get(path)
      return old !== undefined && Buffer.compare(old.bytes, bytes) === 0 ? [] : [{ path, bytes }]
    })
    for (const { path } of differing) {
      const obstacle = inTheWay(root, path)
      if (obstacle !== undefined) {
        return yield* unusable(
          Path.join(dir, obstacle),
          "is in the way of a key: --delete removes files that are no keys any more"
        )
      }
    }
    yield* Effect.forEach(differing, ({ bytes, path }) => replace(root, path, bytes), { discard: true })
    const names = new Set(yield* walk(root, ""))
    const lost = [...paths].find((path) => !names.has(path))
    if (lost !== undefined) {
      return yield* unusable(
        Path.join(dir, lost),
        "is the same file as that of another key: this file system knows no case"
      )
    }
    return {
      written: differing.map(({ path }) => path),
      deleted: options.delete ? stale : [],
      left: options.delete ? [] : stale
    } satisfies Written
  }
)
