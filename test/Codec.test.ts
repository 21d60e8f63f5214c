import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as fc from "fast-check"
import { decode, encode, RawBytes } from "../src/internal/config/codec.ts"

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (value: Uint8Array) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(value)

type Pure<A> = Schema.ConstraintCodec<A, unknown>
const write = <A>(schema: Pure<A>, value: A): string => text(Effect.runSync(encode(schema, value)))
const read = <A>(schema: Pure<A>, value: string | Uint8Array): A =>
  Effect.runSync(decode(schema, typeof value === "string" ? bytes(value) : value))
const readFailure = <A>(schema: Pure<A>, value: string | Uint8Array): string =>
  Effect.runSync(Effect.flip(decode(schema, typeof value === "string" ? bytes(value) : value)))
const writeFailure = <A>(schema: Pure<A>, value: A): string => Effect.runSync(Effect.flip(encode(schema, value)))

// -----------------------------------------------------------------------------
// What the Go module does
// -----------------------------------------------------------------------------

/** `json.Unmarshal` into a Go string, then the bare text. `null` leaves a Go string empty. */
const goReadString = (document: string): string => {
  const json = Option.liftThrowable((source: string): unknown => JSON.parse(source))(document)
  if (Option.isNone(json)) return document
  if (json.value === null) return ""
  return typeof json.value === "string" ? json.value : document
}

/** `json.Marshal` escapes these so that JSON can stand in HTML. */
const goJson = (value: unknown): string =>
  JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`
  )

// -----------------------------------------------------------------------------
// Arbitraries
// -----------------------------------------------------------------------------

const piece = fc.constantFrom(
  "null",
  "\"",
  "\\",
  " ",
  "\t",
  "\n",
  "\r",
  "\uFEFF",
  "\u0000",
  "\u2028",
  "\u00a0",
  "\uD800",
  "\uDC00",
  "\uD83D\uDE00",
  "true",
  "5",
  "{\"a\":1}",
  "[]",
  "\\u0041",
  "<&>",
  "__proto__"
)

/** Any UTF-16, well-formed or not, with much of what JSON and UTF-8 are particular about. */
const anyString = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({ unit: "grapheme" }),
  fc.array(fc.oneof(piece, fc.string({ unit: "binary", maxLength: 3 })), { maxLength: 6 }).map((parts) =>
    parts.join("")
  ),
  // JSON string literals, once and twice, with white space around.
  fc.tuple(fc.constantFrom("", " ", "\n", "\r\t"), fc.string({ unit: "binary" })).map(([space, s]) =>
    `${space}${JSON.stringify(s)}${space}`
  ),
  fc.string().map((s) => JSON.stringify(JSON.stringify(s)))
)

const wellFormed = anyString.map((s) => s.toWellFormed())
const anyNumber = fc.oneof(
  fc.double(),
  fc.integer(),
  fc.constantFrom(
    -0,
    0,
    2 ** 53,
    2 ** 53 + 2,
    -(2 ** 63),
    9223372036854774784,
    1e20,
    1e21,
    1e22,
    1e23,
    1.5e300,
    5e-324
  ),
  fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }).map(Number)
)
const finite = anyNumber.filter(Number.isFinite)

const Nested = Schema.Struct({
  name: Schema.String,
  port: Schema.optionalKey(Schema.Int),
  ratio: Schema.Number,
  id: Schema.BigInt,
  at: Schema.Date,
  every: Schema.Duration,
  note: Schema.NullOr(Schema.String),
  label: Schema.Option(Schema.String),
  tags: Schema.Array(Schema.Union([Schema.String, Schema.Finite])),
  limits: Schema.Record(Schema.String, Schema.Struct({ max: Schema.Finite }))
})
const nested = (number: fc.Arbitrary<number>): fc.Arbitrary<typeof Nested.Type> =>
  fc.record({
    name: anyString,
    port: fc.integer(),
    ratio: number,
    id: fc.bigInt(),
    at: fc.date({ noInvalidDate: true }),
    every: fc.integer({ min: 0 }).map(Duration.millis),
    note: fc.option(anyString, { nil: null }),
    label: fc.option(anyString, { nil: undefined }).map(Option.fromUndefinedOr),
    tags: fc.array(fc.oneof(anyString, number.filter(Number.isFinite))),
    limits: fc.dictionary(
      fc.oneof(fc.string(), fc.constant("__proto__")),
      fc.record({ max: number.filter(Number.isFinite) })
    )
  }, { requiredKeys: ["name", "ratio", "id", "at", "every", "note", "label", "tags", "limits"] })

const lossless = <A>(name: string, schema: Pure<A>, arbitrary: fc.Arbitrary<A>) =>
  it(`${name}: what is read is what was written`, () => {
    fc.assert(
      fc.property(arbitrary, (value) => {
        assert.deepStrictEqual(read(schema, write(schema, value)), value)
      }),
      { numRuns: 500 }
    )
  })

describe("lossless", () => {
  lossless("String", Schema.String, anyString)
  // Not `Schema.Number`: its infinities are strings in JSON, which a union with strings cannot tell apart.
  lossless("String | Finite", Schema.Union([Schema.String, Schema.Finite]), fc.oneof(anyString, finite))
  lossless(
    "String | Finite | null | Boolean",
    Schema.NullOr(Schema.Union([Schema.String, Schema.Finite, Schema.Boolean])),
    fc.oneof(anyString, finite, fc.constant(null), fc.boolean())
  )
  lossless("NullOr(String)", Schema.NullOr(Schema.String), fc.option(anyString, { nil: null }))
  lossless(
    "Literals",
    Schema.Literals(["null", "\"null\"", "on", " null "]),
    fc.constantFrom("null" as const, "\"null\"" as const, "on" as const, " null " as const)
  )
  lossless(
    "Literals and null",
    Schema.NullOr(Schema.Literals(["null", "on"])),
    fc.constantFrom("null" as const, "on" as const, null)
  )
  lossless("Number", Schema.Number, anyNumber)
  lossless("BigInt", Schema.BigInt, fc.bigInt())
  lossless("Date", Schema.Date, fc.date({ noInvalidDate: true }))
  lossless(
    "Option(String)",
    Schema.Option(Schema.String),
    fc.option(anyString, { nil: undefined }).map(Option.fromUndefinedOr)
  )
  lossless(
    "Record",
    Schema.Record(Schema.String, Schema.String),
    fc.dictionary(fc.oneof(anyString, fc.constant("__proto__")), anyString)
  )
  lossless("Uint8Array", Schema.Uint8Array, fc.uint8Array())
  lossless("fromJsonString(String)", Schema.fromJsonString(Schema.String), anyString)
  lossless("a nested struct", Nested, nested(anyNumber))

  it("Duration: what is read is what was written", () => {
    fc.assert(fc.property(fc.oneof(fc.integer().map(Duration.millis), fc.bigInt().map(Duration.nanos)), (duration) => {
      assert.isTrue(Duration.equals(read(Schema.Duration, write(Schema.Duration, duration)), duration))
    }))
  })

  it("raw bytes are stored as they are, whatever they are", () => {
    fc.assert(fc.property(fc.uint8Array(), (value) => {
      assert.deepStrictEqual(Effect.runSync(encode(RawBytes, value)), value)
      assert.deepStrictEqual(read(RawBytes, value), value)
    }))
  })
})

describe("Go", () => {
  it("reads our strings as the same strings", () => {
    fc.assert(
      fc.property(wellFormed, (value) => assert.strictEqual(goReadString(write(Schema.String, value)), value)),
      { numRuns: 1000 }
    )
  })

  it("reads our JSON as the same JSON", () => {
    // Go writes a float of 2^53 and more with other digits than it has, which we refuse rather than guess.
    const small = anyNumber.filter((n) => Math.abs(n) < 2 ** 53 && !Object.is(n, -0))
    fc.assert(fc.property(nested(small), (value) => {
      assert.deepStrictEqual(read(Nested, goJson(JSON.parse(write(Nested, value)))), read(Nested, write(Nested, value)))
    }))
  })

  it("writes strings, bare or quoted, that we read as the same strings", () => {
    fc.assert(
      fc.property(wellFormed, (value) => {
        assert.strictEqual(read(Schema.String, goJson(value)), value)
        // A bare text that is itself a string literal has lost its quotes for every reader, Go's included.
        if (Option.isNone(Option.liftThrowable((s: string) => JSON.parse(s))(value)) || value.trim() === "") {
          assert.strictEqual(read(Schema.String, value), value)
        }
      }),
      { numRuns: 1000 }
    )
  })

  it("integers of 64 bits keep every digit", () => {
    assert.strictEqual(read(Schema.BigInt, "9223372036854775807"), 9223372036854775807n)
    assert.strictEqual(read(Schema.BigInt, "\"9223372036854775807\""), 9223372036854775807n)
    assert.strictEqual(write(Schema.BigInt, 9223372036854775807n), "9223372036854775807")
    assert.strictEqual(write(Schema.Number, 9223372036854774784), "9223372036854774784")
  })
})

describe("text", () => {
  const Port = Schema.NumberFromString
  const Recursive: Schema.Codec<string> = Schema.suspend(() => Schema.Union([Schema.String, Recursive]))
  const Color = { Red: "red", Blue: "blue" } as const
  const cases: ReadonlyArray<readonly [string, Pure<unknown>, unknown, string]> = [
    ["String", Schema.String, "hello world", "hello world"],
    ["String", Schema.String, "", ""],
    ["String", Schema.String, "{\"a\":1}", "{\"a\":1}"],
    ["String", Schema.String, "true", "true"],
    ["String", Schema.String, "null", "\"null\""],
    ["String", Schema.String, " null\n", "\" null\\n\""],
    ["String", Schema.String, "nullable", "nullable"],
    ["String", Schema.String, "\"quoted\"", "\"\\\"quoted\\\"\""],
    ["String", Schema.String, "\"not closed", "\"not closed"],
    ["String", Schema.String, "\uFEFFwith BOM", "\uFEFFwith BOM"],
    ["String", Schema.String, "\uD800", "\"\\ud800\""],
    ["a checked string", Schema.String.check(Schema.isMinLength(2)), "ab", "ab"],
    ["NonEmptyString", Schema.NonEmptyString, "ab", "ab"],
    ["a literal", Schema.Literal("on"), "on", "on"],
    ["a union of literals", Schema.Literals(["on", "off"]), "off", "off"],
    ["an enum of strings", Schema.Enum(Color), Color.Red, "red"],
    ["a template literal", Schema.TemplateLiteral(["v", Schema.Number]), "v1", "v1"],
    ["NumberFromString", Port, 8080, "8080"],
    ["a suspended string", Schema.suspend(() => Schema.String), "x", "x"],
    ["a recursive union of strings", Recursive, "x", "x"],
    ["BigInt", Schema.BigInt, 12n, "12"],
    ["Date", Schema.Date, new Date(0), "1970-01-01T00:00:00.000Z"],
    ["URL", Schema.URL, new URL("http://a.example/"), "http://a.example/"],
    ["Redacted", Schema.Redacted(Schema.String), Redacted.make("hunter2"), "hunter2"],
    ["RedactedFromValue", Schema.RedactedFromValue(Schema.String), Redacted.make("hunter2"), "hunter2"],
    ["Uint8Array", Schema.Uint8Array, new Uint8Array([1, 2, 3]), "AQID"],
    ["fromJsonString", Schema.fromJsonString(Schema.Struct({ a: Schema.Int })), { a: 1 }, "{\"a\":1}"]
  ]
  for (const [name, schema, value, expected] of cases) {
    it(`${name}: ${JSON.stringify(expected)}`, () => {
      assert.strictEqual(write(schema, value), expected)
    })
  }

  it("keeps white space, other JSON and a BOM as they are", () => {
    for (const value of [" 5\n", "[1,2]", "\uFEFF\"x\"", "null", "", "tru"]) {
      assert.strictEqual(read(Schema.String, value), value)
    }
    assert.strictEqual(read(Schema.String, " \"a\\u0041\"\r\n"), "aA")
  })

  it("refuses bytes that are not UTF-8", () => {
    assert.strictEqual(readFailure(Schema.String, new Uint8Array([0x61, 0xff])), "Expected UTF-8")
    // An encoded surrogate, which is not UTF-8 either.
    assert.strictEqual(readFailure(Schema.String, new Uint8Array([0xed, 0xa0, 0x80])), "Expected UTF-8")
  })

  it("takes a megabyte of spaces in its stride", () => {
    const value = `${" ".repeat(500_000)}x${" ".repeat(500_000)}`
    assert.strictEqual(read(Schema.String, write(Schema.String, value)), value)
  })
})

describe("JSON", () => {
  const Level = { Low: 1, High: "high" } as const
  const cases: ReadonlyArray<readonly [string, Pure<unknown>, unknown, string]> = [
    ["String | Number", Schema.Union([Schema.String, Schema.Number]), "5", "\"5\""],
    ["String | Number", Schema.Union([Schema.String, Schema.Number]), 5, "5"],
    ["NullOr(String)", Schema.NullOr(Schema.String), "null", "\"null\""],
    ["NullOr(String)", Schema.NullOr(Schema.String), null, "null"],
    ["UndefinedOr(String)", Schema.UndefinedOr(Schema.String), undefined, "null"],
    ["a literal of a number", Schema.Literals(["on", 1]), "on", "\"on\""],
    ["an enum with a number", Schema.Enum(Level), Level.High, "\"high\""],
    ["Unknown", Schema.Unknown, "x", "\"x\""],
    ["Number", Schema.Number, NaN, "\"NaN\""],
    ["a suspended number", Schema.suspend(() => Schema.Finite), 1, "1"],
    ["Struct", Schema.Struct({ a: Schema.String, b: Schema.optionalKey(Schema.Int) }), { a: "x" }, "{\"a\":\"x\"}"],
    [
      "a transformed string",
      Schema.Finite.pipe(Schema.decodeTo(
        Schema.String,
        SchemaTransformation.transform({
          decode: String,
          encode: Number
        })
      )),
      "5",
      "5"
    ]
  ]
  for (const [name, schema, value, expected] of cases) {
    it(`${name}: ${expected}`, () => {
      assert.strictEqual(write(schema, value), expected)
      assert.deepStrictEqual(read(schema, expected), value)
    })
  }

  it("strings that are not quoted are refused", () => {
    assert.strictEqual(readFailure(Schema.Union([Schema.String, Schema.Number]), "hello"), "Expected JSON")
    assert.strictEqual(readFailure(Schema.Finite, ""), "Expected JSON")
    assert.strictEqual(readFailure(Schema.Finite, "\uFEFF1"), "Expected JSON")
  })

  it("an integer that a double does not hold is refused, with its place", () => {
    const Config = Schema.Struct({ servers: Schema.Array(Schema.Struct({ id: Schema.Number })) })
    const failure = readFailure(Config, "{\"servers\":[{\"id\":1},{\"id\":9007199254740993}]}")
    assert.match(failure, /^Expected a number that a double holds .* at servers\[1\]\.id$/)
    assert.match(readFailure(Schema.Number, "9007199254740993"), /^Expected a number that a double holds/)
    assert.match(readFailure(Schema.Number, "1e400"), /^Expected a number that a double holds/)
    assert.match(readFailure(Schema.Unknown, `[${"9".repeat(400)}]`), / at \[0\]$/)
    assert.strictEqual(read(Schema.Number, "9007199254740992"), 9007199254740992)
    assert.strictEqual(read(Schema.Number, "100000000000000000000"), 1e20)
    assert.strictEqual(read(Schema.Number, "0.1000000000000000055511151231257827"), 0.1)
    assert.strictEqual(read(Schema.Unknown, "\"9007199254740993\""), "9007199254740993")
  })

  it("__proto__ is a name like any other, and the last of two equal names counts, as in Go", () => {
    const value = read(Schema.Record(Schema.String, Schema.Unknown), "{\"__proto__\":{\"admin\":true},\"a\":1,\"a\":2}")
    assert.deepStrictEqual(Object.keys(value), ["__proto__", "a"])
    assert.strictEqual(value["a"], 2)
    assert.isUndefined((value as { admin?: unknown }).admin)
  })

  it("what has no JSON form is an error, and is not dropped", () => {
    for (const value of [undefined, { a: undefined }, 1n, () => 1, Symbol("x"), [NaN], new Map()]) {
      assert.strictEqual(writeFailure(Schema.Any, value), "Expected a value that has a JSON form")
    }
    const cycle: Record<string, unknown> = {}
    cycle["self"] = cycle
    assert.strictEqual(writeFailure(Schema.Any, cycle), "Expected a value that has a JSON form")
  })

  it("a value nested too deeply is an error, not a crash", () => {
    type Tree = ReadonlyArray<Tree>
    const Tree: Schema.Codec<Tree> = Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
    const deep = "[".repeat(100_000) + "]".repeat(100_000)
    assert.isTrue(Exit.isFailure(Effect.runSyncExit(decode(Tree, bytes(deep)))))
    assert.isString(readFailure(Tree, deep))
    assert.isString(writeFailure(Schema.Unknown, JSON.parse(deep)))
    const withNumber = "[".repeat(100_000) + "1234567890123456" + "]".repeat(100_000)
    assert.isString(readFailure(Schema.Unknown, withNumber))
  })
})

describe("raw", () => {
  it("can be the end of a transformation", () => {
    const Sum = RawBytes.pipe(Schema.decodeTo(
      Schema.Int,
      SchemaTransformation.transform<number, Uint8Array>({
        decode: (value) => value.reduce((a, b) => a + b, 0),
        encode: (sum) => new Uint8Array([sum])
      })
    ))
    assert.strictEqual(read(Sum, new Uint8Array([1, 2, 255])), 258)
    assert.deepStrictEqual(Effect.runSync(encode(Sum, 7)), new Uint8Array([7]))
  })

  it("keeps its meaning with checks and annotations, and is base64 inside of JSON", () => {
    const Small = RawBytes.check(Schema.makeFilter((value: Uint8Array) => value.length <= 2)).annotate({
      title: "small"
    })
    assert.deepStrictEqual(read(Small, new Uint8Array([0xff])), new Uint8Array([0xff]))
    assert.isString(readFailure(Small, new Uint8Array(3)))
    assert.strictEqual(write(Schema.Struct({ a: RawBytes }), { a: new Uint8Array([1]) }), "{\"a\":\"AQ==\"}")
  })
})

describe("what is wrong", () => {
  const secret = "s3cr3t-hunter2"

  const Leaky = Schema.String.check(
    Schema.makeFilter((value: string) => `${value} is not allowed`),
    Schema.makeFilter((value: string) => new SchemaIssue.InvalidValue({ message: value, expected: value }))
  )
  const LeakyTransformation = Schema.String.pipe(Schema.decodeTo(
    Schema.Finite,
    SchemaTransformation.transformEffect({
      decode: (value: string) =>
        Effect.fail(new SchemaIssue.InvalidValue({ message: `cannot use ${value}` }, value, { reportInput: true })),
      encode: (value: number) =>
        Effect.fail(new SchemaIssue.Forbidden({ message: `cannot use ${value}` }, value, { reportInput: true }))
    })
  ))
  const Throwing = Schema.String.pipe(Schema.decodeTo(
    Schema.Finite,
    SchemaTransformation.transform({
      decode: (value: string): number => JSON.parse(value),
      encode: (value: number): string => {
        throw new Error(String(value))
      }
    })
  ))
  const documents: ReadonlyArray<readonly [string, Pure<unknown>, string, RegExp]> = [
    ["a wrong type", Schema.Struct({ port: Schema.Int }), `{"port":"${secret}"}`, /at port$/],
    ["not JSON", Schema.Struct({ port: Schema.Int }), secret, /^Expected JSON$/],
    [
      "a check",
      Schema.Struct({ a: Schema.Array(Schema.String.check(Schema.isMaxLength(3))) }),
      `{"a":["x","${secret}"]}`,
      /length.* at a\[1\]$/
    ],
    ["a check that talks", Schema.Struct({ a: Leaky }), `{"a":"${secret}"}`, / at a$/],
    ["a transformation that talks", Schema.Struct({ a: LeakyTransformation }), `{"a":"${secret}"}`, / at a$/],
    ["a transformation that throws", Schema.Struct({ a: Throwing }), `{"a":"${secret}"}`, /it threw SyntaxError/],
    [
      "a literal",
      Schema.Struct({ mode: Schema.Literals(["on", "off"]) }),
      `{"mode":"${secret}"}`,
      /"on" \| "off" at mode$/
    ],
    ["a date", Schema.Date, secret, /./],
    ["a bigint", Schema.BigInt, secret, /bigint/],
    ["a URL", Schema.URL, secret, /./],
    ["a union", Schema.Union([Schema.Finite, Schema.Boolean]), `"${secret}"`, /./],
    [
      "an exclusive union",
      Schema.Union([Schema.String, Schema.NonEmptyString], { mode: "oneOf" }),
      secret,
      /exactly one/
    ],
    ["an option", Schema.Option(Schema.Finite), `{"_tag":"Some","value":"${secret}"}`, /at value$/],
    ["a redacted number", Schema.Redacted(Schema.Finite), `"${secret}"`, /./],
    ["inner JSON", Schema.fromJsonString(Schema.Finite), secret, /./],
    ["a class", class A extends Schema.Class<A>("A")({ b: Schema.Finite }) {}, `{"b":"${secret}"}`, /at b$/],
    [
      "a missing key",
      Schema.Struct({ "two words": Schema.Finite }),
      `{"other":"${secret}"}`,
      /^Missing key at \["two words"\]$/
    ],
    ["a large number", Schema.Unknown, `{"a":["${secret}",${"9".repeat(30)}]}`, /at a\[1\]$/]
  ]
  for (const [name, schema, document, expected] of documents) {
    it(`${name}: says where, and not the value`, () => {
      const failure = readFailure(schema, document)
      assert.match(failure, expected)
      assert.notInclude(failure, secret)
      assert.notInclude(failure, "hunter2")
    })
  }

  it("says all that is wrong, one line each", () => {
    const Config = Schema.Struct({ host: Schema.String, port: Schema.Int, tags: Schema.Array(Schema.Boolean) })
    assert.strictEqual(
      readFailure(Config, "{\"port\":1.5,\"tags\":[true,0]}"),
      "Missing key at host\nExpected an integer at port\nExpected boolean at tags[1]"
    )
  })

  it("when writing as well", () => {
    assert.notInclude(writeFailure(Schema.Struct({ a: Throwing }), { a: 424242 }), "424242")
    assert.notInclude(writeFailure(Schema.Struct({ a: LeakyTransformation }), { a: 424242 }), "424242")
    assert.match(writeFailure(Schema.Struct({ a: Leaky }), { a: secret }), / at a$/)
    assert.notInclude(writeFailure(Schema.Struct({ a: Leaky }), { a: secret }), secret)
    const NoEncode = Schema.Redacted(Schema.String, { disallowJsonEncode: true })
    assert.notInclude(writeFailure(NoEncode, Redacted.make(secret)), secret)
  })
})
