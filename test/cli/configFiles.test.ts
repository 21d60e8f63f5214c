import { assert, it, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FastCheck from "fast-check"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import { apply, differences } from "../../src/cli/commands/config/changes.ts"
import { Output } from "../../src/cli/Output.ts"
import { ConfigCenter, RawBytes } from "../../src/ConfigCenter.ts"
import { ConfigChange } from "../../src/ConfigChange.ts"
import { EtcdMemory } from "../../src/EtcdMemory.ts"
import { keyRule } from "../../src/internal/validate.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { connect, coord, folder, patience } from "./configSupport.ts"

const write = (dir: string, files: Record<string, string | Uint8Array>) => {
  for (const [name, content] of Object.entries(files)) {
    Fs.mkdirSync(Path.dirname(Path.join(dir, name)), { recursive: true })
    Fs.writeFileSync(Path.join(dir, name), content)
  }
}

const tree = (dir: string): Record<string, string> =>
  Object.fromEntries(
    Fs.readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).map((entry) => {
      const path = Path.join(entry.parentPath, entry.name)
      return [Path.relative(dir, path), Fs.readFileSync(path).toString("base64")] as const
    }).sort(([a], [b]) => a < b ? -1 : 1)
  )

const silent: Output["Service"] = {
  json: true,
  color: false,
  animate: false,
  object: () => Effect.void,
  text: () => Effect.void,
  bytes: () => Effect.void,
  aside: () => Effect.void,
  rows: () => Effect.void
}

/** Keys as hard as they are allowed to be, each with bytes of any kind. */
const oddValues = FastCheck.uniqueArray(
  FastCheck.tuple(
    FastCheck.array(
      FastCheck.oneof(
        FastCheck.constantFrom(
          "a",
          "b",
          "a%",
          "%value",
          ".git",
          "...",
          "a.",
          " ",
          "ü",
          "u\u0308",
          "🦊",
          "a:b",
          "__proto__"
        ),
        FastCheck.string({ unit: "grapheme", minLength: 1, maxLength: 6 })
      ),
      { minLength: 1, maxLength: 4 }
    ).map((segments) => segments.join("/")).filter((key) => keyRule(key) === undefined),
    FastCheck.uint8Array({ maxLength: 60 })
  ),
  { minLength: 40, maxLength: 60, selector: ([key]) => key }
)

vi.setConfig({ testTimeout: patience })

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })(
  "coord config export and import",
  (it) => {
    it.effect("a round trip over odd keys and values is byte for byte", () =>
      Effect.gen(function*() {
        const config = yield* connect
        const samples = FastCheck.sample(oddValues, { numRuns: 4, seed: 20_261_126 })
        for (const [index, entries] of samples.entries()) {
          const [from, to] = [`odd/${index}`, `copy/${index}`]
          const [first, second] = [yield* folder, yield* folder]
          yield* config.transact(entries.map(([key, value]) => ConfigChange.set(`${from}/${key}`, RawBytes, value)))
          const exported = yield* coord(["export", first, "--prefix", from])
          assert.strictEqual(exported.code, 0, exported.stderr)
          assert.deepStrictEqual(exported.objects, [{
            keys: entries.length,
            written: entries.length,
            deleted: 0,
            left: 0
          }])
          const imported = yield* coord(["import", first, "--prefix", to])
          assert.strictEqual(imported.code, 0, imported.stderr)
          const copied = yield* config.entries(to, RawBytes)
          assert.deepStrictEqual(
            new Map(copied.map(({ key, value }) => [key.slice(to.length + 1), Buffer.from(value)])),
            new Map(entries.map(([key, value]) => [key, Buffer.from(value)]))
          )
          assert.strictEqual(new Set(copied.map(({ version }) => version)).size, 1)
          yield* coord(["export", second, "--prefix", to])
          assert.deepStrictEqual(tree(second), tree(first))
          assert.strictEqual((yield* coord(["diff", second, "--prefix", from])).code, 0)
        }
      }))

    it.effect("a dry run shows what an import would write, and writes nothing; the import writes only that", () =>
      Effect.gen(function*() {
        const config = yield* connect
        const dir = yield* folder
        yield* config.transact([
          ConfigChange.set("imp/same", RawBytes, Buffer.from("same")),
          ConfigChange.set("imp/other", RawBytes, Buffer.from("s3cret-old")),
          ConfigChange.set("imp/gone", RawBytes, Buffer.from("gone"))
        ])
        const before = yield* config.entries("imp", RawBytes)
        write(dir, { same: "same", other: "s3cret-new", "deep/new": "new", ".gitignore": "hidden" })
        const lines = (text: string) => text.split("\n").slice(0, -1)

        const dry = yield* coord(["import", dir, "--prefix", "imp", "--dry-run", "--no-json"])
        assert.deepStrictEqual([dry.code, lines(dry.text), dry.stderr], [1, ["+ imp/deep/new", "~ imp/other"], ""])
        const drier = yield* coord(["import", dir, "--prefix", "imp", "--dry-run", "--delete", "--no-json"])
        assert.deepStrictEqual([drier.code, lines(drier.text)], [1, ["+ imp/deep/new", "- imp/gone", "~ imp/other"]])
        assert.deepStrictEqual(yield* config.entries("imp", RawBytes), before)
        const diff = yield* coord(["diff", dir, "--prefix", "imp"])
        assert.strictEqual(diff.code, 1)
        assert.deepStrictEqual(diff.objects.map(({ change, key }) => [change, key]), [
          ["add", "imp/deep/new"],
          ["delete", "imp/gone"],
          ["change", "imp/other"]
        ])
        assert.notInclude(diff.text, "s3cret")
        const full = yield* coord(["diff", dir, "--prefix", "imp", "--values", "--no-json"])
        assert.include(full.text, "~ imp/other\n    - s3cret-old\n    + s3cret-new\n")

        const done = yield* coord(["import", dir, "--prefix", "imp", "--delete", "--no-json"])
        assert.strictEqual(done.code, 0, done.stderr)
        assert.deepStrictEqual(lines(done.text), [...lines(drier.text), "3 changes written in 1 transaction"])
        const after = yield* config.entries("imp", RawBytes)
        assert.deepStrictEqual(after.map(({ key }) => key), ["imp/deep/new", "imp/other", "imp/same"])
        assert.strictEqual(after[2]?.version, before[2]?.version)
        assert.strictEqual(after[0]?.version, after[1]?.version)
        const again = yield* coord(["import", dir, "--prefix", "imp", "--delete", "--dry-run"])
        assert.deepStrictEqual([again.code, again.text], [0, ""])
      }))

    it.effect("an export over an older one writes what differs, and leaves other files unless told otherwise", () =>
      Effect.gen(function*() {
        const config = yield* connect
        const dir = Path.join(yield* folder, "new", "folder")
        yield* config.transact([
          ConfigChange.set("exp/one", RawBytes, Buffer.from("1")),
          ConfigChange.set("exp/two", RawBytes, Buffer.from("2"))
        ])
        yield* coord(["export", dir, "--prefix", "exp/"])
        write(dir, { ".git/config": "kept", notes: "left" })
        yield* config.set("exp/one", RawBytes, Buffer.from("1b"))
        yield* config.delete("exp/two")
        const exported = yield* coord(["export", dir, "--prefix", "exp"])
        assert.deepStrictEqual(exported.objects, [{ keys: 1, written: 1, deleted: 0, left: 2 }])
        assert.match(exported.stderr, /^coord: 2 files in the folder, as [^\n]*: --delete removes them\n$/)
        const people = yield* coord(["export", dir, "--prefix", "exp", "--delete", "--no-json"])
        assert.strictEqual(people.text, `1 key in ${dir}: 0 files written, 2 deleted\n`)
        assert.deepStrictEqual(Object.keys(tree(dir)), [".git/config", "one"])
      }))

    it.effect("more than etcd takes at once goes in several transactions, and that is said", () =>
      Effect.gen(function*() {
        const config = yield* connect
        const dir = yield* folder
        write(dir, Object.fromEntries(Array.from({ length: 300 }, (_, n) => [`many/${n}`, String(n)])))
        // Nearly as much as fits into one, and one more.
        write(dir, Object.fromEntries(Array.from({ length: 101 }, (_, n) => [`large/${n}`, "x".repeat(15_400)])))
        const people = yield* coord(["import", dir, "--prefix", "big", "--no-json"])
        assert.strictEqual(people.code, 0, people.stderr)
        assert.match(
          people.stderr,
          /^coord: 401 changes are more than one transaction takes \(128 changes, 1\.5 MiB\): they are written in 4, [^\n]*\n$/
        )
        assert.include(people.text, "\n401 changes written in 4 transactions\n")
        assert.strictEqual((yield* config.list("big")).length, 401)
        write(dir, { "large/0": "x".repeat(1_700_000) })
        const tooLarge = yield* coord(["import", dir, "--prefix", "big"])
        assert.strictEqual(tooLarge.code, 125)
        assert.match(tooLarge.stderr, /^coord: [^\n]*big\/large\/0[^\n]*too large[^\n]*\n$/)
      }))

    it.effect("mistakes are one line and exit code 2, and nothing is written", () =>
      Effect.gen(function*() {
        const dir = yield* folder
        write(dir, { good: "1", "bad%": "2" })
        const empty = yield* folder
        const mistakes = [
          [["import", empty, "--delete"], "has no files, and --delete would delete every key"],
          [["import", dir], "a % is written as %25"],
          [["import", Path.join(dir, "none")], "there is no such file or folder"],
          [["import", Path.join(dir, "good")], "is no folder"],
          [["diff", Path.join(dir, "none")], "there is no such file or folder"],
          [["diff", "key", "--to", "5"], "--from"],
          [["export", dir, "--prefix", "/absolute"], "must not start with"],
          [["export"], "dir"]
        ] as const
        yield* Effect.forEach(mistakes, ([args, says]) =>
          Effect.map(coord(args), ({ code, stderr, text }) => {
            assert.include(stderr, says)
            assert.match(stderr, /^coord: [^\n]*\n$/)
            assert.deepStrictEqual([code, text], [2, ""], args.join(" "))
          }), { concurrency: 2 })
        assert.strictEqual((yield* coord(["get", "good"])).code, 1)
        const nowhere = yield* coord(["export", Path.join(dir, "good", "below")])
        assert.strictEqual(nowhere.code, 125)
      }))
  }
)

it.effect("what somebody else changes meanwhile is not overwritten: 3, and how far it got", () =>
  Effect.gen(function*() {
    const config = yield* ConfigCenter
    const numbers = Array.from({ length: 200 }, (_, n) => String(n).padStart(3, "0"))
    const wanted = new Map(numbers.map((n) => [`key/${n}`, Buffer.from(n)]))
    const found = differences([], wanted, { delete: false })
    yield* config.set("key/150", RawBytes, Buffer.from("theirs"))
    const late = yield* Effect.flip(apply(found, "/config/"))
    assert.strictEqual(late.code, 3)
    assert.match(
      late.message,
      /^128 of 200 changes have been written; then: somebody else came first: "key\/150" has version \d+, expected no value/
    )
    assert.strictEqual((yield* config.list("key")).length, 129)
    const small = differences([], new Map([...wanted].slice(100, 110)), { delete: false })
    const early = yield* Effect.flip(apply(small, "/config/"))
    assert.match(early.message, /^nothing was written: somebody else came first: (?:"key\/10\d"[^;]*; ){3}and 7 more/)
    assert.strictEqual(new TextDecoder().decode(yield* config.get("key/150", RawBytes)), "theirs")
  }).pipe(
    Effect.provide(EtcdMemory.layer),
    Effect.provideService(Output, silent)
  ))
