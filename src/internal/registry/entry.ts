/**
 * Instances as they are in etcd: `<prefix>/<name>/<id>`, and JSON that is byte for byte what Go's `encoding/json` writes for
 * the struct `{ id, name, address, port, metadata omitempty }`.
 */
import * as Effect from "effect/Effect"
import * as Order from "effect/Order"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { KeyValue } from "../../Etcd.ts"
import { InvalidInstance, ServiceInstance } from "../../ServiceInstance.ts"
import { compareBytes } from "../keys.ts"
import { segmentRule } from "../validate.ts"

// -----------------------------------------------------------------------------
// Rules
// -----------------------------------------------------------------------------

const notInAddress = /[\s\p{Cc}]/u

const addressRule = (address: string): string | undefined =>
  address === ""
    ? "must not be empty"
    : notInAddress.test(address)
    ? "must not contain white space or control characters"
    : address.isWellFormed()
    ? undefined
    : "must be well-formed Unicode"

const portRule = (port: number): string | undefined =>
  Number.isInteger(port) && port >= 1 && port <= 65535 ? undefined : "must be a whole number from 1 to 65535"

const textRule = (text: unknown): string | undefined =>
  typeof text !== "string" ? "must be a string" : text.isWellFormed() ? undefined : "must be well-formed Unicode"

/** The first field that breaks a rule, and the rule. */
const brokenRule = (instance: ServiceInstance): readonly [field: string, rule: string] | undefined => {
  const rules: Array<readonly [string, string | undefined]> = [
    ["name", segmentRule(instance.name)],
    ["id", segmentRule(instance.id)],
    ["address", addressRule(instance.address)],
    ["port", portRule(instance.port)]
  ]
  for (const [key, value] of Object.entries(instance.metadata)) {
    rules.push([`metadata.${key}`, textRule(key) ?? textRule(value)])
  }
  for (const [field, rule] of rules) if (rule !== undefined) return [field, rule]
  return undefined
}

export const validateInstance = (instance: ServiceInstance): Effect.Effect<ServiceInstance, InvalidInstance> => {
  const broken = brokenRule(instance)
  return broken === undefined
    ? Effect.succeed(instance)
    : Effect.fail(new InvalidInstance({ id: instance.id, field: broken[0], rule: broken[1] }))
}

// -----------------------------------------------------------------------------
// Writing
// -----------------------------------------------------------------------------

const encoder = new TextEncoder()

// What Go escapes and JSON.stringify does not; otherwise they agree since Go 1.22 (which writes \b and \f in short).
const goEscapes = /[<>&\u2028\u2029]/g

const quote = (text: string): string =>
  JSON.stringify(text).replace(goEscapes, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`)

const byBytes = Order.make<string>((a, b) => {
  const difference = compareBytes(encoder.encode(a), encoder.encode(b))
  return difference < 0 ? -1 : difference > 0 ? 1 : 0
})

export const encodeInstance = (instance: ServiceInstance): Uint8Array => {
  const fields = [
    `"id":${quote(instance.id)}`,
    `"name":${quote(instance.name)}`,
    `"address":${quote(instance.address)}`,
    `"port":${instance.port}`
  ]
  const metadata = Object.entries(instance.metadata).sort(([a], [b]) => byBytes(a, b))
  if (metadata.length > 0) {
    fields.push(`"metadata":{${metadata.map(([key, value]) => `${quote(key)}:${quote(value)}`).join(",")}}`)
  }
  return encoder.encode(`{${fields.join(",")}}`)
}

// -----------------------------------------------------------------------------
// Reading
// -----------------------------------------------------------------------------

const Entry = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  address: Schema.String,
  port: Schema.Number,
  metadata: Schema.optionalKey(Schema.NullOr(Schema.Record(Schema.String, Schema.String)))
})

const decodeEntry = Schema.decodeUnknownResult(Entry)

const decoder = new TextDecoder("utf-8", { fatal: true })

/** Where the instances of a service live. Deeper keys are nobody's. */
export interface Folder {
  readonly name: string
  readonly path: string
}

/** The id that a key stands for, if it is one of an instance. */
export const idOf = (folder: Folder, key: string): string | undefined => {
  const id = key.slice(folder.path.length)
  return id === "" || id.includes("/") ? undefined : id
}

/** What an entry says; `problem` is what is odd about it, or why there is no instance. */
export interface Decoded {
  readonly instance: ServiceInstance | undefined
  readonly problem: string | undefined
}

const unreadable = (problem: string): Decoded => ({ instance: undefined, problem })

/** Each key value is decoded once, however many consumers see it. */
const decoded = new WeakMap<KeyValue, Decoded>()

export const decodeInstance = (folder: Folder, id: string, kv: KeyValue): Decoded => {
  const known = decoded.get(kv)
  if (known !== undefined) return known
  const result = decode(folder, id, kv)
  decoded.set(kv, result)
  return result
}

const decode = (folder: Folder, id: string, kv: KeyValue): Decoded => {
  const json = Result.try((): unknown => JSON.parse(decoder.decode(kv.value)))
  if (Result.isFailure(json)) return unreadable("it is not JSON")
  const entry = decodeEntry(json.success)
  if (Result.isFailure(entry)) return unreadable("it is not an instance")
  const { address, metadata, port } = entry.success
  // The key decides who it is: that is what events, unregistration and replacement go by.
  const instance = new ServiceInstance({ id, name: folder.name, address, port, metadata: metadata ?? {} })
  const broken = brokenRule(instance)
  if (broken !== undefined) return unreadable(`${broken[0]} ${broken[1]}`)
  const isAlias = entry.success.id !== id || entry.success.name !== folder.name
  return { instance, problem: isAlias ? "it calls itself by another name or id" : undefined }
}

/** Ascending by id. */
export const byId = Order.mapInput(Order.String, (instance: ServiceInstance) => instance.id)
