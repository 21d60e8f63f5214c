/**
 * Go's etcd client (`client/v3/naming/endpoints`): `<target>/<anything>`, and the struct `{ Op, Addr, Metadata any }` as JSON.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { ServiceLayout } from "../../ServiceLayout.ts"
import { isRawJSON, parseJson, rawJSON } from "../json.ts"
import { quote, quoteRecord, readText } from "./goJson.ts"
import { readHostPort, writeHostPort } from "./hostPort.ts"

// Op says Add in every entry: endpoints are deleted by their key. Go's reader ignores it too.
const Entry = Schema.Struct({ Addr: Schema.String, Metadata: Schema.optionalKey(Schema.Unknown) })

const decodeEntry = Schema.decodeUnknownResult(Entry)

/** Numbers stay the text that they are: a double does not hold each. */
const parse = (text: string) =>
  Result.try({
    try: () =>
      parseJson(text, (_, value, { source }) =>
        typeof value === "number" && source !== undefined ? rawJSON(source) : value),
    catch: () =>
      "it is not JSON"
  })

const asText = (value: unknown): string => typeof value === "string" ? value : JSON.stringify(value)

const isRecord = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !isRawJSON(value)

/** What is no string becomes its JSON text, and what is no object stands under one name. */
const readMetadata = (metadata: unknown): Record<string, string> =>
  metadata === undefined || metadata === null
    ? {}
    : isRecord(metadata)
    ? Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, asText(value)]))
    : { metadata: asText(metadata) }

export const goEtcd: ServiceLayout = {
  name: "go-etcd",
  prefix: "",
  nestedNames: true,
  nestedIds: true,
  encode: (instance) => {
    const metadata = Object.keys(instance.metadata).length === 0 ? "null" : quoteRecord(instance.metadata)
    return `{"Op":0,"Addr":${quote(writeHostPort(instance))},"Metadata":${metadata}}`
  },
  decode: (value) =>
    readText(value).pipe(
      Result.flatMap(parse),
      Result.flatMap((json) => {
        const entry = decodeEntry(json)
        if (Result.isFailure(entry)) return Result.fail("it is not an endpoint")
        const { Addr, Metadata } = entry.success
        const at = readHostPort(Addr)
        return at === undefined
          ? Result.fail("its Addr is not host:port")
          : Result.succeed({ ...at, metadata: readMetadata(Metadata) })
      })
    )
}
