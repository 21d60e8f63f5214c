/**
 * This library's own layout, and that of Go's `coord`: `/services/<name>/<id>`, and JSON that is byte for byte what Go's
 * `encoding/json` writes for the struct `{ id, name, address, port, metadata omitempty }`.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { ServiceLayout } from "../../ServiceLayout.ts"
import { quote, quoteRecord, readJson } from "./goJson.ts"

const Entry = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  address: Schema.String,
  port: Schema.Number,
  metadata: Schema.optionalKey(Schema.NullOr(Schema.Record(Schema.String, Schema.String)))
})

const decodeEntry = Schema.decodeUnknownResult(Entry)

export const coord: ServiceLayout = {
  name: "coord",
  prefix: "/services",
  encode: ({ address, id, metadata, name, port }) => {
    const fields = [`"id":${quote(id)}`, `"name":${quote(name)}`, `"address":${quote(address)}`, `"port":${port}`]
    if (Object.keys(metadata).length > 0) fields.push(`"metadata":${quoteRecord(metadata)}`)
    return `{${fields.join(",")}}`
  },
  decode: (value, { id, name }) =>
    Result.flatMap(readJson(value), (json) => {
      const entry = decodeEntry(json)
      if (Result.isFailure(entry)) return Result.fail("it is not an instance")
      const { address, metadata, port } = entry.success
      // The key decides who it is: that is what events, unregistration and replacement go by.
      const isAlias = entry.success.id !== id || entry.success.name !== name
      return Result.succeed({
        address,
        port,
        metadata: metadata ?? {},
        ...isAlias && { oddity: "it calls itself by another name or id" }
      })
    })
}
