import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { vi } from "vitest"
import { differingLines } from "../../src/cli/commands/config/lines.ts"
import { RawBytes } from "../../src/ConfigCenter.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"
import { connect, coord, patience } from "./configSupport.ts"

/** Writes them, one after the other, and answers their versions. */
const written = Effect.fnUntraced(function*(key: string, ...values: ReadonlyArray<string | Uint8Array>) {
  const config = yield* connect
  return yield* Effect.forEach(
    values,
    (value) => Effect.map(config.set(key, RawBytes, Buffer.from(value)), String)
  )
})

vi.setConfig({ testTimeout: patience })

layer(TestEtcd.layer(), { timeout: "60 seconds", excludeTestServices: true })("the past of a key", (it) => {
  it.effect("history lists what it had, values only where asked for, and why there is no more", () =>
    Effect.gen(function*() {
      const [one, two, three] = yield* written("h/key", "1", "s3cret", "333")
      assert.deepStrictEqual((yield* coord(["history", "h/key"])).objects, [
        { event: "put", key: "h/key", version: three, bytes: 3 },
        { event: "put", key: "h/key", version: two, bytes: 6 },
        { event: "put", key: "h/key", version: one, bytes: 1 },
        { event: "created", key: "h/key", version: one }
      ])
      const limited = yield* coord(["history", "h/key", "--values", "--limit", "1", "--before", String(three)])
      assert.deepStrictEqual(limited.objects, [
        { event: "put", key: "h/key", version: two, bytes: 6, value: "s3cret" }
      ])
      const people = yield* coord(["history", "h/key", "--no-json", "--limit", "2"])
      assert.match(people.text, /^VERSION +BYTES\n\d+ +3\n\d+ +6\n$/)
      assert.strictEqual(people.stderr, "coord: there are older ones: --limit shows more\n")
      const all = yield* coord(["history", "h/key", "--no-json", "--limit", "3", "--values"])
      assert.include(all.text, "s3cret")
      assert.strictEqual(all.stderr, `coord: created at version ${one}\n`)
      const { etcdctl } = yield* TestEtcd
      yield* etcdctl("compact", String(three))
      const compacted = (yield* coord(["history", "h/key"])).objects
      assert.deepStrictEqual(compacted.map(({ event }) => event), ["put", "compacted"])
      const lost = yield* coord(["rollback", "h/key", "--to", String(one)])
      assert.strictEqual(lost.code, 125)
      assert.match(lost.stderr, /^coord: [^\n]*compacted[^\n]*\n$/)
    }))

  it.effect("what was deleted is brought back by what rm has said, byte for byte", () =>
    Effect.gen(function*() {
      const bytes = Buffer.from([0, 255, 13, 10])
      const [version] = yield* written("d/key", bytes)
      const [deleted] = (yield* coord(["rm", "d/key"])).objects
      assert.deepStrictEqual(deleted, { key: "d/key", previous: version, version: deleted?.["version"] })
      const gone = yield* coord(["history", "d/key"])
      assert.strictEqual(gone.code, 1)
      assert.include(gone.stderr, "--before VERSION")
      const before = yield* coord(["history", "d/key", "--before", String(deleted?.["version"])])
      assert.deepStrictEqual(before.objects.map(({ event }) => event), ["put", "created"])
      assert.strictEqual((yield* coord(["rollback", "d/key", "--to", String(version), "--if-version", "5"])).code, 3)
      assert.strictEqual((yield* coord(["rollback", "d/key", "--to", String(version), "--if-version", "0"])).code, 0)
      assert.deepStrictEqual((yield* coord(["get", "--value", "d/key"])).stdout, bytes)
      const people = yield* coord(["rm", "d/key", "--no-json"])
      assert.match(people.text, /^deleted; `coord config rollback d\/key --to \d+` brings it back\n$/)
    }))

  it.effect("diff shows what differs between versions, and ends with 1 when something does", () =>
    Effect.gen(function*() {
      const [one, two, three, four] = yield* written("x/key", "a\nb\nc", "a\nB\nc", "a\nb\nc", Buffer.from([255]))
      const diff = yield* coord(["diff", "x/key", "--from", String(one), "--to", String(two), "--no-json"])
      assert.strictEqual(diff.code, 1)
      assert.strictEqual(
        diff.text,
        `--- x/key (version ${one})\n+++ x/key (version ${two})\n  a\n- b\n+ B\n  c\n`
      )
      const same = yield* coord(["diff", "x/key", "--from", String(one), "--to", String(three)])
      assert.deepStrictEqual([same.code, same.text], [0, ""])
      const now = yield* coord(["diff", "x/key", "--from", String(two)])
      assert.deepStrictEqual(now.objects, [
        { change: "change", key: "x/key", from: two, to: four, previous: "a\nB\nc", value: { base64: "/w==" } }
      ])
      const binary = yield* coord(["diff", "x/key", "--from", String(two), "--no-json"])
      assert.include(binary.text, "\n- B\n- c\n+ (1 byte, no text)\n")
    }))

  it.effect("versions that are not, and mistakes", () =>
    Effect.gen(function*() {
      yield* written("m/key", "1")
      const mistakes: ReadonlyArray<readonly [ReadonlyArray<string>, number, string]> = [
        [["rollback", "m/key", "--to", "99999999"], 1, "there is no version 99999999 yet"],
        [["diff", "m/key", "--from", "99999999"], 1, "there is no version 99999999 yet"],
        [["history", "m/key", "--before", "99999999"], 1, "there is no version 99999999 yet"],
        [["rollback", "m/key"], 2, "--to"],
        [["rollback", "m/key", "--to", "-1"], 2, "a number"],
        [["history", "m/key", "--limit", "0"], 2, "greater than 0"],
        [["history", "none/key"], 1, "there is no configuration value"]
      ]
      yield* Effect.forEach(mistakes, ([args, code, says]) =>
        Effect.map(coord(args), (ended) => {
          assert.include(ended.stderr, says)
          assert.match(ended.stderr, /^coord: [^\n]*\n$/)
          assert.deepStrictEqual([ended.code, ended.text], [code, ""], args.join(" "))
        }), { concurrency: 2 })
    }))

  it("shows the lines around what differs, and all of a change in the midst", () => {
    const text = (lines: ReadonlyArray<string>) => lines.join("\n")
    const before = text(["1", "2", "3", "4", "5", "x", "6", "y", "7", "8", "9", "10"])
    const after = text(["1", "2", "3", "4", "5", "6", "Y", "7", "8", "9", "10"])
    assert.deepStrictEqual(
      differingLines(before, after).map(({ sign, text }) => `${sign}${text}`),
      [" 3", " 4", " 5", "-x", " 6", "-y", "+Y", " 7", " 8", " 9"]
    )
    assert.deepStrictEqual(differingLines("same", "same").filter(({ sign }) => sign !== " "), [])
  })
})
