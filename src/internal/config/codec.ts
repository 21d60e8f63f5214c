/**
 * How configuration values are written and read: without loss, and so that Go services understand each other with ours.
 *
 * The Go module writes strings bare and everything else as JSON; it reads JSON first and takes the bare text where that
 * fails. So a schema is written and read in one of three ways, decided by its encoded form alone, never by the value:
 *
 * - **text**, where the JSON form of the schema can only be a string (`String`, `Literals` of strings, `BigInt`, `Date`,
 *   `NumberFromString`, `Redacted(String)`): the bare text. Text that a reader would take for something else (`null`, a JSON
 *   string literal) or that has no UTF-8 form (lone surrogates) is written as a JSON string literal. Read: a JSON string
 *   literal as its value, anything else as it is.
 * - **JSON**, for every other schema: the schema's JSON codec (`Schema.toCodecJson`), strings quoted.
 * - **raw**, for schemas that end in `RawBytes`: the bytes as they are.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaAST from "effect/SchemaAST"
import * as SchemaParser from "effect/SchemaParser"
import { formatIssue } from "./issue.ts"
import * as Json from "./json.ts"

/** Both fail with what is wrong, never with the value. */
export interface Codec<A, RD, RE> {
  readonly encode: (value: A) => Effect.Effect<Uint8Array, string, RE>
  readonly decode: (bytes: Uint8Array) => Effect.Effect<A, string, RD>
}

/** Turns the encoded form of a schema into bytes and back. */
interface Format {
  readonly write: (encoded: unknown) => Effect.Effect<Uint8Array, string>
  readonly read: (bytes: Uint8Array) => Effect.Effect<unknown, string>
}

// -----------------------------------------------------------------------------
// Which format
// -----------------------------------------------------------------------------

const rawKey = "effect-coord/raw"

export const RawBytes: Schema.Uint8Array = Schema.Uint8Array.annotate({ [rawKey]: true })

const isRaw = (ast: SchemaAST.AST): boolean => ast.annotations?.[rawKey] === true

/** Of an encoded AST: every value of it is a string. */
const isOnlyStrings = (ast: SchemaAST.AST, seen: ReadonlySet<SchemaAST.AST> = new Set()): boolean => {
  switch (ast._tag) {
    case "String":
    case "TemplateLiteral":
      return true
    case "Literal":
      return typeof ast.literal === "string"
    case "Enum":
      return ast.enums.every(([, value]) => typeof value === "string")
    case "Union":
      return ast.types.length > 0 && ast.types.every((type) => isOnlyStrings(type, seen))
    case "Suspend":
      // A schema that refers to itself adds no values of its own.
      return seen.has(ast) || isOnlyStrings(ast.thunk(), new Set([...seen, ast]))
    default:
      return false
  }
}

// -----------------------------------------------------------------------------
// Formats
// -----------------------------------------------------------------------------

const utf8 = new TextEncoder()
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const decodeUtf8 = (bytes: Uint8Array): Effect.Effect<string, string> =>
  Effect.fromResult(Result.try({ try: () => strictUtf8.decode(bytes), catch: () => "Expected UTF-8" }))

const text: Format = {
  write: (encoded) => {
    if (typeof encoded !== "string") return Effect.fail("Expected string")
    const quoted = Json.isNull(encoded) || !encoded.isWellFormed() || Option.isSome(Json.stringLiteral(encoded))
    return Effect.succeed(utf8.encode(quoted ? JSON.stringify(encoded) : encoded))
  },
  read: (bytes) => Effect.mapEager(decodeUtf8(bytes), (bare) => Option.getOrElse(Json.stringLiteral(bare), () => bare))
}

const isJson = Schema.is(Schema.Json)

const json: Format = {
  write: (encoded) =>
    // `Schema.Any` and own declarations can come to this with anything, which JSON.stringify would drop without a word.
    isJson(encoded)
      ? Effect.mapEager(Json.stringify(encoded), (document) => utf8.encode(document))
      : Effect.fail("Expected a value that has a JSON form"),
  read: (bytes) => Effect.flatMapEager(decodeUtf8(bytes), Json.parse)
}

const raw: Format = {
  write: (encoded) => encoded instanceof Uint8Array ? Effect.succeed(encoded) : Effect.fail("Expected Uint8Array"),
  read: Effect.succeed
}

// -----------------------------------------------------------------------------
// Codecs
// -----------------------------------------------------------------------------

const parseOptions: SchemaAST.ParseOptions = { errors: "all", reportInput: false }

// Most schemas need no service and wait for nothing: then there is a result at once, and the runtime takes no steps for it.
const make = <S extends Schema.Constraint>(
  schema: S,
  format: Format
): Codec<S["Type"], S["DecodingServices"], S["EncodingServices"]> => {
  const encode = SchemaParser.encodeEffect(schema)
  const decode = SchemaParser.decodeUnknownEffect(schema)
  return {
    encode: (value) =>
      Effect.flatMapEager(Effect.mapErrorEager(encode(value, parseOptions), formatIssue), format.write),
    decode: (bytes) =>
      Effect.flatMapEager(
        format.read(bytes),
        (encoded) => Effect.mapErrorEager(decode(encoded, parseOptions), formatIssue)
      )
  }
}

const derive = <S extends Schema.Constraint>(
  schema: S
): Codec<S["Type"], S["DecodingServices"], S["EncodingServices"]> => {
  if (isRaw(SchemaAST.toEncoded(schema.ast))) return make(schema, raw)
  const codec = Schema.toCodecJson(schema)
  return make(codec, isOnlyStrings(SchemaAST.toEncoded(codec.ast)) ? text : json)
}

const derived = new WeakMap<Schema.Constraint, Codec<unknown, unknown, unknown>>()

const codecOf = <S extends Schema.Constraint>(
  schema: S
): Codec<S["Type"], S["DecodingServices"], S["EncodingServices"]> => {
  const known = derived.get(schema)
  if (known !== undefined) return known as Codec<S["Type"], S["DecodingServices"], S["EncodingServices"]>
  const codec = derive(schema)
  derived.set(schema, codec as Codec<unknown, unknown, unknown>)
  return codec
}

// A transformation that throws (or a value nested so deeply that the stack ends) must not end a watch. What was thrown
// is likely to quote the value: only its name is told.
const describeDefect = (defect: unknown): string =>
  `Expected a value that the schema can handle: it threw ${
    defect instanceof Error ? defect.constructor.name : typeof defect
  }`

const catchThrown = Effect.catchDefect((defect: unknown) => Effect.fail(describeDefect(defect)))

export const encode = <S extends Schema.Constraint>(
  schema: S,
  value: S["Type"]
): Effect.Effect<Uint8Array, string, S["EncodingServices"]> =>
  catchThrown(Effect.suspend(() => codecOf(schema).encode(value)))

export const decode = <S extends Schema.Constraint>(
  schema: S,
  bytes: Uint8Array
): Effect.Effect<S["Type"], string, S["DecodingServices"]> =>
  catchThrown(Effect.suspend(() => codecOf(schema).decode(bytes)))
