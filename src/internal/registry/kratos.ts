/**
 * go-kratos (`contrib/registry/etcd`): `/microservices/<name>/<id>`, and the struct `{ id, name, version, metadata, endpoints }` as
 * JSON. Endpoints are URLs, as `grpc://10.0.0.7:9000`; TLS is `grpcs://`, or `?isSecure=true` in old versions.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { ServiceLayout } from "../../ServiceLayout.ts"
import { quote, quoteRecord, readJson } from "./goJson.ts"
import { type HostPort, readHostPort, writeHostPort } from "./hostPort.ts"

const Entry = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  version: Schema.optionalKey(Schema.NullOr(Schema.String)),
  metadata: Schema.optionalKey(Schema.NullOr(Schema.Record(Schema.String, Schema.String))),
  endpoints: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.String)))
})

const decodeEntry = Schema.decodeUnknownResult(Entry)

// -----------------------------------------------------------------------------
// Endpoints
// -----------------------------------------------------------------------------

interface Endpoint extends HostPort {
  readonly scheme: string
}

const syntax = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)(?:[/?#]|$)/i

const readEndpoint = (text: string): Endpoint | undefined => {
  const [, scheme = "", authority = ""] = syntax.exec(text) ?? []
  const at = readHostPort(authority)
  return at === undefined ? undefined : { ...at, scheme: scheme.toLowerCase() }
}

/** The endpoint that counts: the first of the first of these schemes, with TLS or without; `undefined` is any. */
const choose = (endpoints: ReadonlyArray<string>, schemes: ReadonlyArray<string | undefined>): HostPort | undefined => {
  const readable = endpoints.flatMap((text) => readEndpoint(text) ?? [])
  for (const wanted of schemes) {
    const found = readable.find(({ scheme }) => wanted === undefined || scheme === wanted || scheme === `${wanted}s`)
    if (found !== undefined) return { address: found.address, port: found.port }
  }
  return undefined
}

const split = (text: string): ReadonlyArray<string> => text.split(/\s+/).filter((part) => part !== "")

// -----------------------------------------------------------------------------
// The layout
// -----------------------------------------------------------------------------

/**
 * Two keys of metadata stand for what an instance of ours has no field for: `version`, and `endpoints`, separated by spaces, unless there is
 * but the one that address and port say.
 */
const make = (scheme: string, schemes: ReadonlyArray<string | undefined>): ServiceLayout => {
  const plain = (at: HostPort): string => `${scheme}://${writeHostPort(at)}`

  return {
    name: "kratos",
    prefix: "/microservices",
    nestedNames: true,
    rule: (instance) => {
      const endpoints = instance.metadata["endpoints"]
      if (endpoints === undefined) return undefined
      const chosen = choose(split(endpoints), schemes)
      return chosen !== undefined && writeHostPort(chosen) === writeHostPort(instance)
        ? undefined
        : ["metadata.endpoints", `must be URLs of which readers choose address and port, as ${plain(instance)}`]
    },
    encode: (instance) => {
      const { endpoints, version = "", ...metadata } = instance.metadata
      const urls = endpoints === undefined ? [plain(instance)] : split(endpoints)
      return `{"id":${quote(instance.id)},"name":${quote(instance.name)},"version":${quote(version)},` +
        `"metadata":${quoteRecord(metadata)},"endpoints":[${urls.map(quote).join(",")}]}`
    },
    decode: (value, { id, name }) =>
      Result.flatMap(readJson(value), (json) => {
        const entry = decodeEntry(json)
        if (Result.isFailure(entry)) return Result.fail("it is not an instance")
        // kratos goes by the name in the value: it would not see it either.
        if (entry.success.name !== name) return Result.fail("it calls itself by another name")
        const endpoints = entry.success.endpoints ?? []
        const at = choose(endpoints, schemes)
        if (at === undefined) return Result.fail(`it has no ${schemes.length === 1 ? `${scheme} ` : ""}endpoint`)
        const own = entry.success.metadata ?? {}
        const written = endpoints.filter((text) => !/\s/.test(text))
        const isPlain = endpoints.length === 1 && endpoints[0] === plain(at)
        const added = {
          ...(entry.success.version ?? "") !== "" && { version: entry.success.version ?? "" },
          ...!isPlain && { endpoints: written.join(" ") }
        }
        const hidden = Object.entries(added).find(([key, text]) => Object.hasOwn(own, key) && own[key] !== text)?.[0]
        const oddity = hidden !== undefined
          ? `its metadata has a key ${hidden}, which its ${hidden} hides`
          : written.length < endpoints.length
          ? "an endpoint with white space is left out"
          : entry.success.id !== id
          ? "it calls itself by another id"
          : undefined
        return Result.succeed({
          ...at,
          // No spread: a key may be called __proto__.
          metadata: Object.fromEntries([...Object.entries(own), ...Object.entries(added)]),
          ...oddity !== undefined && { oddity }
        })
      })
  }
}

export const kratos: ServiceLayout = make("grpc", ["grpc", "http", undefined])

export const kratosWith = (options: { readonly scheme: string }): ServiceLayout =>
  make(options.scheme, [options.scheme])
