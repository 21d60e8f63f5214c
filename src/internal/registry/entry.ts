/**
 * Entries of a service: which keys are its instances, and what they say, in whatever layout.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { KeyValue } from "../../Etcd.ts"
import { InvalidInstance, ServiceInstance } from "../../ServiceInstance.ts"
import type { ServiceLayout } from "../../ServiceLayout.ts"
import { keyRule, segmentRule } from "../validate.ts"

// -----------------------------------------------------------------------------
// Rules
// -----------------------------------------------------------------------------

export const nameRule = (layout: ServiceLayout, name: string): string | undefined =>
  layout.nestedNames === true ? keyRule(name) : segmentRule(name)

export const idRule = (layout: ServiceLayout, id: string): string | undefined =>
  layout.nestedIds === true ? keyRule(id) : segmentRule(id)

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

type Broken = readonly [field: string, rule: string]

/** The first field that breaks a rule, and the rule. */
const brokenRule = (
  layout: ServiceLayout,
  { address, id, metadata, name, port }: ServiceInstance
): Broken | undefined =>
  broken("name", nameRule(layout, name)) ??
    broken("id", idRule(layout, id)) ??
    broken("address", addressRule(address)) ??
    broken("port", portRule(port)) ??
    brokenText(metadata)

const broken = (field: string, rule: string | undefined): Broken | undefined =>
  rule === undefined ? undefined : [field, rule]

const brokenText = (metadata: Readonly<Record<string, string>>): Broken | undefined => {
  for (const [key, value] of Object.entries(metadata)) {
    const rule = textRule(key) ?? textRule(value)
    if (rule !== undefined) return [`metadata.${key}`, rule]
  }
  return undefined
}

export const validateInstance = (
  layout: ServiceLayout,
  instance: ServiceInstance
): Effect.Effect<ServiceInstance, InvalidInstance> => {
  const found = brokenRule(layout, instance) ?? layout.rule?.(instance)
  return found === undefined
    ? Effect.succeed(instance)
    : Effect.fail(new InvalidInstance({ id: instance.id, field: found[0], rule: found[1] }))
}

// -----------------------------------------------------------------------------
// Writing
// -----------------------------------------------------------------------------

const encoder = new TextEncoder()

export const encodeInstance = (layout: ServiceLayout, instance: ServiceInstance): Uint8Array => {
  const value = layout.encode(instance)
  return typeof value === "string" ? encoder.encode(value) : value
}

// -----------------------------------------------------------------------------
// Reading
// -----------------------------------------------------------------------------

/** Where the instances of a service live. */
export interface Folder {
  readonly name: string
  readonly path: string
}

/** The id that a key stands for, if it is one of an instance. Where ids have one segment, deeper keys are nobody's. */
export const idOf = (layout: ServiceLayout, folder: Folder, key: string): string | undefined => {
  const id = key.slice(folder.path.length)
  return id === "" || (layout.nestedIds !== true && id.includes("/")) ? undefined : id
}

/** What an entry says; `problem` is what is odd about it, or why there is no instance. */
export interface Decoded {
  readonly instance: ServiceInstance | undefined
  readonly problem: string | undefined
}

const unreadable = (problem: string): Decoded => ({ instance: undefined, problem })

export const decodeInstance = (layout: ServiceLayout, folder: Folder, id: string, kv: KeyValue): Decoded => {
  const { name } = folder
  // What a user's layout throws must not end a list.
  const entry = Result.try({
    try: () => layout.decode(kv.value, { name, id }),
    catch: () => `the layout ${layout.name} cannot read it`
  }).pipe(Result.flatMap((decoded) => decoded))
  if (Result.isFailure(entry)) return unreadable(entry.failure)
  const { address, metadata, oddity, port } = entry.success
  const instance = new ServiceInstance({ id, name, address, port, metadata })
  const found = brokenRule(layout, instance)
  return found === undefined ? { instance, problem: oddity } : unreadable(`${found[0]} ${found[1]}`)
}

/** How many odd entries are remembered, so that each is told once and not at every look. */
const maxRemembered = 1000

export interface Reader {
  /** Nothing where the key is not one of an instance. Each key value is decoded once, however many consumers see it. */
  readonly read: (folder: Folder, kv: KeyValue) => Decoded | undefined
  /** Warns of an odd entry, once. */
  readonly tell: (folder: Folder, kv: KeyValue) => Effect.Effect<void>
  /** The instance of an entry. A bad one never fails a list: it is left out, with a warning that names the key. */
  readonly instance: (folder: Folder, kv: KeyValue) => Effect.Effect<ServiceInstance | undefined>
}

export const makeReader = (layout: ServiceLayout): Reader => {
  const decoded = new WeakMap<KeyValue, Decoded>()
  const told = new Map<string, bigint>()
  const read: Reader["read"] = (folder, kv) => {
    const known = decoded.get(kv)
    if (known !== undefined) return known
    const id = idOf(layout, folder, kv.key)
    if (id === undefined) return undefined
    const made = decodeInstance(layout, folder, id, kv)
    decoded.set(kv, made)
    return made
  }
  const tell: Reader["tell"] = (folder, kv) =>
    Effect.suspend(() => {
      const { instance, problem } = read(folder, kv) ?? unknown
      if (problem === undefined || told.get(kv.key) === kv.modRevision) return Effect.void
      if (told.size >= maxRemembered) told.clear()
      told.set(kv.key, kv.modRevision)
      return Effect.logWarning(`${instance === undefined ? "entry skipped" : "odd entry"}: ${problem}`).pipe(
        Effect.annotateLogs({ key: kv.key })
      )
    })
  return {
    read,
    tell,
    instance: (folder, kv) => {
      const { instance, problem } = read(folder, kv) ?? unknown
      return problem === undefined ? Effect.succeed(instance) : Effect.as(tell(folder, kv), instance)
    }
  }
}

const unknown: Decoded = { instance: undefined, problem: undefined }
