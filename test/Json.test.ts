import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fc from "fast-check"
import { parse, stringify } from "../src/internal/config/json.ts"
import { parseJson } from "../src/internal/json.ts"
import { goEtcd } from "../src/internal/registry/goEtcd.ts"
import { readJson } from "../src/internal/registry/goJson.ts"

const bytes = (text: string) => new TextEncoder().encode(text)
const read = (text: string): unknown => Effect.runSync(parse(text))
const failure = (text: string): string => Effect.runSync(Effect.flip(parse(text)))

let places = 0
/** A first name after which V8 has only seen `name` so far: that is the name that it expects there. */
const expecting = (name: string): string => {
  const place = `place ${places++}`
  JSON.parse(`{"${place}":0,${JSON.stringify(name)}:1}`, (_, value: unknown) => value)
  return place
}

/** Without `JSON.parse`, and with `__proto__` as a name like others. */
const own = (entries: Iterable<readonly [string, unknown]>) => Object.fromEntries(entries)

describe("names that are written with an escape", () => {
  it("a record key that is a line break is not read as a backslash", () => {
    for (const key of ["\n", "\"", "\t", "\u0000", "\\"]) {
      const place = expecting("\\")
      assert.deepStrictEqual(read(`{"${place}":0,${JSON.stringify(key)}:1}`), own([[place, 0], [key, 1]]))
    }
  })

  it("metadata of an instance keeps its names", () => {
    const place = expecting("\\")
    assert.deepStrictEqual(
      readJson(bytes(`{"${place}":0,"\\n":1}`)),
      Result.succeed(own([[place, 0], ["\n", 1]]))
    )
    const endpoint = `{"Addr":"a:1","Metadata":{"${place}":"","\\n":1.50,"b":{"${place}":"","\\n":"#0"}}}`
    assert.deepStrictEqual(
      Result.map(goEtcd.decode(bytes(endpoint), { name: "a", id: "1" }), (_) => _.metadata),
      Result.succeed({ [place]: "", "\n": "1.50", b: `{"${place}":"","\\n":"#0"}` })
    )
  })

  it("the last of equal names counts, however they are written, in the place of the first", () => {
    const record = read("{\"a\":1,\"b\":2,\"\\u0061\":3,\"\\u005f_proto__\":4,\"#0\":5}")
    assert.deepStrictEqual(record, own([["a", 3], ["b", 2], ["__proto__", 4], ["#0", 5]]))
    assert.deepStrictEqual(Object.keys(record as object), ["a", "b", "__proto__", "#0"])
    assert.deepStrictEqual(Object.keys(read("{\"b\\n\":1,\"2\":1,\"\\u0031\":1}") as object), ["1", "2", "b\n"])
  })

  it("an integer that a double does not hold is named by its path", () => {
    assert.match(failure("{\"a\\n\":[{\"b\":9007199254740993}]}"), / at \["a\\n"\]\[0\]\.b$/)
    assert.deepStrictEqual(read("{\"a\\n\":9007199254740993,\"a\\n\":1}"), { "a\n": 1 })
    assert.deepStrictEqual(read("{\"a\\n\":9007199254740992}"), { "a\n": 9007199254740992 })
  })

  it("what is no JSON stays so", () => {
    for (
      const text of [
        "{\"\\x\":1}",
        "{\"\\n\u0001\":1}",
        "{\"\\n\":1",
        "{\"\\n\":}",
        "{\"\\n\" \"a\":1}",
        "[\"\\n\":1]",
        "\"\\n\":1",
        "{\"\\n\":1,\"a",
        "{\"\\n\":1,\"a\\",
        "{\"\\n\":1,\\\"a\":1}",
        "{\"\\ud8\":1}",
        "{\"\\n\"\u00a0:1}"
      ]
    ) {
      assert.strictEqual(failure(text), "Expected JSON", text)
    }
  })

  it("a text of megabytes is read, or refused, in linear time", () => {
    const long = "\\n".repeat(1_000_000)
    assert.deepStrictEqual(Object.keys(read(`{"${long}":"${long}"}`) as object), ["\n".repeat(1_000_000)])
    assert.strictEqual(failure(`{"\\n":"${"\\\"".repeat(1_000_000)}`), "Expected JSON")
    assert.strictEqual(failure(`{"\\n":1,${"\" ".repeat(1_000_000)}`), "Expected JSON")
    assert.strictEqual(failure(`"\\n"${" ".repeat(1_000_000)}`.repeat(2)), "Expected JSON")
  })

  // Few characters, so that names of one length that differ in their escapes are often seen.
  const name = fc.oneof(
    fc.string({ unit: fc.constantFrom("\\", "\n", "\"", "a", ":", "#", "0", "\ud800"), maxLength: 3 }),
    fc.constantFrom("__proto__", "1", "10")
  )
  /** A value, and its text with its names escaped here and there. */
  const { value } = fc.letrec<{ value: readonly [unknown, string] }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 3, withCrossShrink: true },
      fc.oneof(name, fc.integer(), fc.constant(null)).map((leaf) => [leaf, JSON.stringify(leaf)] as const),
      fc.array(tie("value"), { maxLength: 3 }).map((items) =>
        [items.map(([item]) => item), `[${items.map(([, text]) => text).join(" , ")}]`] as const
      ),
      fc.array(fc.tuple(name, fc.boolean(), fc.constantFrom("", " ", "\n"), tie("value")), { maxLength: 4 }).map((
        entries
      ) =>
        [
          own(entries.map(([key, , , [item]]) => [key, item])),
          `{${entries.map(([key, escaped, space, [, text]]) => `${literal(key, escaped)}${space}:${text}`).join(",")}}`
        ] as const
      )
    )
  }))
  const literal = (key: string, escaped: boolean): string =>
    escaped
      ? `"${
        Array.from({ length: key.length }, (_, i) => `\\u${key.charCodeAt(i).toString(16).padStart(4, "0")}`).join("")
      }"`
      : JSON.stringify(key)

  it("whatever the names are, what is read is what was written", () => {
    fc.assert(
      fc.property(value, ([expected, text]) => {
        assert.deepStrictEqual(read(text), expected)
        assert.deepStrictEqual(parseJson(text, (_, part) => part), expected)
        // deepStrictEqual does not look at the order.
        assert.strictEqual(JSON.stringify(read(text)), JSON.stringify(expected))
      }),
      { numRuns: 3000 }
    )
  })

  it("dictionaries are read as they were written", () => {
    fc.assert(
      fc.property(fc.dictionary(name, fc.string()), (record) => {
        assert.deepStrictEqual(read(Effect.runSync(stringify(record))), own(Object.entries(record)))
      }),
      { numRuns: 1000 }
    )
  })
})
