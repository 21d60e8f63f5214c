import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FastCheck from "fast-check"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { readFolder, writeFolder } from "../../src/cli/commands/config/folder.ts"
import { keyRule } from "../../src/internal/validate.ts"
import { folder } from "./configSupport.ts"

const segment = FastCheck.oneof(
  FastCheck.constantFrom(
    "a",
    "b",
    "a%",
    "%",
    "%value",
    "%2E",
    "%41",
    ".git",
    "...",
    ".%",
    "a.",
    "a ",
    " ",
    "~",
    "-",
    "CON"
  ),
  FastCheck.constantFrom("ü", "u\u0308", "日本", "🦊", "a:b", "a\\b", "a*?\"<>|", "__proto__", "constructor", "\u200f"),
  FastCheck.string({ unit: "grapheme", minLength: 1, maxLength: 8 })
)

const keys = FastCheck.uniqueArray(
  FastCheck.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/")).filter((key) =>
    keyRule(key) === undefined && key.split("/").every((part) => Buffer.byteLength(part) < 80)
  ),
  { maxLength: 30 }
)

const values = keys.chain((keys) =>
  FastCheck.tuple(
    ...keys.map((key) => FastCheck.tuple(FastCheck.constant(key), FastCheck.uint8Array({ maxLength: 40 })))
  )
    .map((entries) => new Map(entries))
)

const read = (dir: string) =>
  Effect.map(
    readFolder(dir),
    (files) => new Map([...files.values()].map(({ bytes, key }) => [key, Buffer.from(bytes)]))
  )

const plain = (values: ReadonlyMap<string, Uint8Array>) =>
  new Map([...values].map(([key, bytes]) => [key, Buffer.from(bytes)]))

const tree = (dir: string): ReadonlyArray<string> =>
  Fs.readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory())
    .map((entry) => Path.relative(dir, Path.join(entry.parentPath, entry.name))).sort()

describe("folders of configuration", () => {
  it.effect("any keys and values come back as they were, also over what was there before", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      yield* Effect.promise(() =>
        FastCheck.assert(
          FastCheck.asyncProperty(values, values, (before, now) =>
            Effect.runPromise(Effect.gen(function*() {
              yield* writeFolder(dir, before, { delete: true })
              assert.deepStrictEqual(yield* read(dir), plain(before))
              yield* writeFolder(dir, now, { delete: true })
              assert.deepStrictEqual(yield* read(dir), plain(now))
              const again = yield* writeFolder(dir, now, { delete: false })
              assert.deepStrictEqual(again, { written: [], deleted: [], left: [] })
            }))),
          { numRuns: 150 }
        )
      )
    }))

  it.effect("the names of files are those that the documentation shows", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      const names = ["api", "api/limits", ".env", "a:b", "100%", "end.", "web/.well-known/x"]
      yield* writeFolder(dir, new Map(names.map((key) => [key, Buffer.from(key)])), { delete: false })
      assert.deepStrictEqual(tree(dir), [
        "%2Eenv",
        "100%25",
        "a%3Ab",
        "api/%value",
        "api/limits",
        "end%2E",
        "web/%2Ewell-known/x"
      ])
    }))

  it.effect("nothing is written or read through a link that leads out of the folder", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      const outside = yield* folder
      Fs.writeFileSync(Path.join(outside, "secret"), "secret")
      Fs.symlinkSync(outside, Path.join(dir, "a"))
      const values = new Map([["a/b", Buffer.from("x")]])
      assert.include(
        (yield* Effect.flip(writeFolder(dir, values, { delete: true }))).message,
        "leads out of the folder"
      )
      Fs.rmSync(Path.join(dir, "a"))
      Fs.symlinkSync(Path.join(outside, "secret"), Path.join(dir, "c"))
      assert.include((yield* Effect.flip(readFolder(dir))).message, "leads out of the folder")
      assert.deepStrictEqual(tree(outside), ["secret"])
      assert.strictEqual(Fs.readFileSync(Path.join(outside, "secret"), "utf8"), "secret")
    }))

  it.effect("links that stay in the folder are read, as where Kubernetes mounts a ConfigMap", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      Fs.mkdirSync(Path.join(dir, "..2026_11"))
      Fs.writeFileSync(Path.join(dir, "..2026_11", "limits"), "100")
      Fs.symlinkSync("..2026_11", Path.join(dir, "..data"))
      Fs.symlinkSync(Path.join("..data", "limits"), Path.join(dir, "limits"))
      assert.deepStrictEqual(yield* read(dir), new Map([["limits", Buffer.from("100")]]))
    }))

  it.effect("names that are no keys are refused, and said", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [string, string]> = [
        ["100%", "a % is written as %25"],
        ["%2E%2E/x", "must not have a segment \"..\""],
        ["%value", "must not be empty"],
        ["a\nb", "must not contain control characters"],
        ["a/%value/b", "a % is written as %25"]
      ]
      for (const [name, says] of wrong) {
        const dir = yield* folder
        Fs.mkdirSync(Path.dirname(Path.join(dir, name)), { recursive: true })
        Fs.writeFileSync(Path.join(dir, name), "")
        const { code, message } = yield* Effect.flip(readFolder(dir))
        assert.include(message, says)
        assert.notInclude(message, "\n")
        assert.strictEqual(code, 2)
      }
      const twice = yield* folder
      Fs.writeFileSync(Path.join(twice, "a"), "")
      Fs.writeFileSync(Path.join(twice, "%61"), "")
      assert.include((yield* Effect.flip(readFolder(twice))).message, "is the same key as")
    }))

  it.effect("what is in the way stays there unless it is to be deleted", () =>
    Effect.gen(function*() {
      const dir = yield* folder
      const file = new Map([["a", Buffer.from("file")]])
      const below = new Map([["a/b", Buffer.from("below")]])
      yield* writeFolder(dir, file, { delete: false })
      assert.include((yield* Effect.flip(writeFolder(dir, below, { delete: false }))).message, "in the way")
      assert.deepStrictEqual(tree(dir), ["a"])
      yield* writeFolder(dir, below, { delete: true })
      assert.deepStrictEqual(tree(dir), ["a/b"])
      assert.include((yield* Effect.flip(writeFolder(dir, file, { delete: false }))).message, "in the way")
      assert.deepStrictEqual(tree(dir), ["a/b"])
      const long = new Map([["c", Buffer.from("c")], ["x".repeat(300), Buffer.from("x")]])
      assert.include((yield* Effect.flip(writeFolder(dir, long, { delete: true }))).message, "at most 255 bytes")
      assert.deepStrictEqual(tree(dir), ["a/b"])
    }))
})
