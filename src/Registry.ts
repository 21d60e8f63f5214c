/**
 * Service discovery: register an instance under a lease, find and follow the others.
 *
 * An instance lives under `/services/<name>/<id>` as JSON, as Go services write and read it, or where and how another
 * `ServiceLayout` says. It is there as long as its process
 * keeps its lease alive: a process that ends without a word is gone after the TTL.
 *
 * @since 0.1.0
 */
import type * as grpc from "@grpc/grpc-js"
import * as Arr from "effect/Array"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Order from "effect/Order"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { InvalidKey, type InvalidOption } from "./Errors.ts"
import { Compare, Etcd, Operation } from "./Etcd.ts"
import type { EtcdError } from "./EtcdError.ts"
import { makeChannels } from "./internal/grpc/channel.ts"
import {
  encodeInstance,
  type Folder,
  idRule,
  makeReader,
  nameRule,
  validateInstance
} from "./internal/registry/entry.ts"
import { type List, makeList } from "./internal/registry/list.ts"
import { makeOwnKeys } from "./internal/registry/ownKeys.ts"
import { type PlaceOptions, rootOf, validatePlace } from "./internal/registry/place.ts"
import { OwnRegistration, type Ports, type RegistrationStatus } from "./internal/registry/registration.ts"
import { makeSessionPool } from "./internal/session/SessionPool.ts"
import { type Change, makeSharedWatch, mapChanges } from "./internal/SharedWatch.ts"
import { measured, operation } from "./internal/Telemetry.ts"
import { validateTtl } from "./internal/validate.ts"
import type { ChannelOptions, ChannelTarget, ClientConstructor, TargetOptions } from "./ServiceChannel.ts"
import {
  AlreadyRegistered,
  InstanceNotFound,
  type InvalidInstance,
  type Replaced,
  ServiceInstance
} from "./ServiceInstance.ts"
import type { ServiceLayout, ServiceLayoutName } from "./ServiceLayout.ts"

export type { RegistrationStatus }

// -----------------------------------------------------------------------------
// Models
// -----------------------------------------------------------------------------

/**
 * @category options
 * @since 0.1.0
 */
export interface RegisterOptions {
  /** For how long the entry outlives its process, 30 seconds by default; whole seconds, rounded up, at least one. */
  readonly ttl?: Duration.Input | undefined
}

/**
 * An instance that is registered for the length of a scope.
 *
 * @category models
 * @since 0.1.0
 */
export interface Registration {
  /** The key in etcd. In a layout whose keys are made of leases it is another one after the lease was lost. */
  readonly key: string
  /** Whether the instance is in etcd: for health checks. */
  readonly status: {
    readonly get: Effect.Effect<RegistrationStatus>
    /** The present status, then each new one. It ends with the registration. */
    readonly changes: Stream.Stream<RegistrationStatus>
  }
  /**
   * Writes new metadata. While the registration recovers it waits for that, within the request timeout. `Ambiguous`: it may be
   * written, and will be when etcd answers again, unless there is another update by then.
   */
  readonly update: (
    metadata: Readonly<Record<string, string>>
  ) => Effect.Effect<void, Replaced | InvalidInstance | EtcdError>
  /**
   * Takes the instance out, before the scope does. Fails when etcd did not answer within the request timeout; the entry is then
   * deleted later, at the latest with its lease.
   */
  readonly unregister: Effect.Effect<void, EtcdError>
}

/**
 * What happened to an instance. `Synced`: all events up to this revision have been seen; after the present state at the start,
 * and after each time that etcd could not tell what happened in between and the difference was told instead. An entry that does not
 * decode (any more) is no instance: it is not put, and what it was before is deleted.
 *
 * @category models
 * @since 0.1.0
 */
export type ServiceEvent =
  | {
    readonly _tag: "Put"
    readonly instance: ServiceInstance
    readonly revision: bigint
    /** What this process knew of it before. */
    readonly previous?: ServiceInstance | undefined
  }
  /** `instance` as it was last. */
  | { readonly _tag: "Delete"; readonly instance: ServiceInstance; readonly revision: bigint }
  | { readonly _tag: "Synced"; readonly revision: bigint }

/**
 * @category options
 * @since 0.1.0
 */
export interface ServiceWatchOptions {
  /**
   * Begins with what came after this revision, without the present state and its `Synced`. Fails with `Compacted` when etcd's history no
   * longer goes back so far.
   */
  readonly from?: bigint | undefined
}

// -----------------------------------------------------------------------------
// Service
// -----------------------------------------------------------------------------

/**
 * The instances of services.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Registry, ServiceInstance } from "effect-coord"
 *
 * const program = Effect.gen(function*() {
 *   const registry = yield* Registry
 *   yield* registry.register(new ServiceInstance({ id: "orders-1", name: "orders", address: "10.0.0.7", port: 8080 }))
 *   const instances = yield* registry.discover("orders")
 *   yield* Effect.log(instances.map((instance) => `${instance.address}:${instance.port}`))
 * }).pipe(Effect.scoped)
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Registry extends Context.Service<Registry, {
  /**
   * Registers an instance until the scope closes. The last registrant of a name and id wins: whoever had it gives way. From then on the
   * registration puts its entry there again, for ever, whenever it is gone (the lease expired, somebody deleted it, an older state of
   * etcd was restored), but never over an entry of somebody else.
   */
  readonly register: (
    instance: ServiceInstance,
    options?: RegisterOptions
  ) => Effect.Effect<
    Registration,
    InvalidInstance | InvalidOption | AlreadyRegistered | EtcdError,
    Scope.Scope
  >
  /** Deletes an entry, by the id under which it is discovered, whoever made it. That of a process which is alive comes back. */
  readonly unregister: (name: string, id: string) => Effect.Effect<void, InstanceNotFound | InvalidKey | EtcdError>
  /** The instances of a service now, ascending by id, read from etcd. Entries that do not decode are left out, with a warning. */
  readonly discover: (name: string) => Effect.Effect<ReadonlyArray<ServiceInstance>, InvalidKey | EtcdError>
  /** The present instances as `Put`, `Synced`, then every change, once and in order, over reconnects and restarts. */
  readonly watch: (
    name: string,
    options?: ServiceWatchOptions
  ) => Stream.Stream<ServiceEvent, InvalidKey | EtcdError>
  /** The instances, ascending by id, then each new list. A slow consumer sees the latest, not each. An outage of etcd empties no list. */
  readonly instances: (name: string) => Stream.Stream<ReadonlyArray<ServiceInstance>, InvalidKey | EtcdError>
  /**
   * The names of all services that have an entry, ascending. Where a layout has no prefix, nothing tells services from other folders: all
   * are listed whose keys do not start with `/`.
   */
  readonly services: Effect.Effect<ReadonlyArray<string>, EtcdError>
  /**
   * A gRPC channel to the instances of a service, as they come and go, until the scope closes. It is there when the instances are known for
   * the first time, be there any or none, and fails when etcd cannot tell. Its `close` does nothing, so that clients can share it.
   */
  readonly channel: (
    name: string,
    options?: ChannelOptions
  ) => Effect.Effect<grpc.Channel, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /** A gRPC client on a channel of its own. */
  readonly client: <Client>(
    constructor: ClientConstructor<Client>,
    name: string,
    options?: ChannelOptions
  ) => Effect.Effect<Client, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
  /** What a framework needs to make such a channel itself. Credentials and timeouts are then its business. */
  readonly target: (
    name: string,
    options?: TargetOptions
  ) => Effect.Effect<ChannelTarget, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
}>()("effect-coord/Registry") {
  /**
   * @param options `layout`: how entries are written and read, `coord` unless said otherwise; `prefix`: where they live, as the layout says
   * (`/services`) unless said otherwise.
   */
  static readonly layer = (
    options: {
      readonly prefix?: string | undefined
      readonly layout?: ServiceLayout | ServiceLayoutName | undefined
    } = {}
  ): Layer.Layer<Registry, InvalidOption, Etcd> => Layer.effect(Registry, make(options))
}

// -----------------------------------------------------------------------------
// Implementation
// -----------------------------------------------------------------------------

type Service = Registry["Service"]

const registering = operation("Registry.register")

const defaultTtl = Duration.seconds(30)

const make = Effect.fnUntraced(function*(options: PlaceOptions) {
  const { layout, prefix } = yield* validatePlace(options)
  const root = rootOf(prefix)
  const etcd = yield* Etcd
  const shared = yield* makeSharedWatch(etcd)
  const registered = new Set<string>()
  const reader = makeReader(layout)
  const lists = shared.views<List>()
  const encode = (wanted: ServiceInstance) => encodeInstance(layout, wanted)

  const folderOf = (name: string): Folder => ({ name, path: `${root}${name}/` })

  const validFolder = (name: string): Effect.Effect<Folder, InvalidKey> =>
    Effect.map(checked(name, nameRule(layout, name)), folderOf)

  const ports: Ports = {
    etcd,
    pool: yield* makeSessionPool(etcd, root),
    ownKeys: yield* makeOwnKeys(shared),
    run: yield* FiberSet.makeRuntime()
  }

  const update = Effect.fn("Registry.update")(
    function*(registration: OwnRegistration, metadata: Readonly<Record<string, string>>) {
      const { id, name } = registration.instance
      yield* Effect.annotateCurrentSpan({ "coord.service": name, "coord.instance": id })
      yield* validateInstance(layout, { ...registration.instance, metadata })
      yield* registration.update(metadata)
    },
    measured("Registry.update")
  )

  const handle = (registration: OwnRegistration, scope: Scope.Closeable): Registration => ({
    get key() {
      return registration.keyUnsafe()
    },
    status: registration.status,
    update: (metadata) => update(registration, metadata),
    get unregister() {
      return registration.stop.pipe(
        Effect.andThen(Effect.exit(registration.release)),
        Effect.flatMap((exit) => Effect.andThen(Scope.close(scope, Exit.void), exit)),
        Effect.uninterruptible
      )
    }
  })

  const started = Effect.fnUntraced(
    function*(input: ServiceInstance, options: RegisterOptions | undefined) {
      const valid = yield* validateInstance(layout, input)
      const instance = valid instanceof ServiceInstance ? valid : new ServiceInstance(valid)
      const { id, name } = instance
      const ttl = options?.ttl === undefined ? defaultTtl : yield* validateTtl(options.ttl)
      const { path } = folderOf(name)
      const key = path + id
      const keyOn = layout.leaseKey === undefined ? key : (lease: bigint) => path + layout.leaseKey?.(lease)
      const outer = yield* Effect.scope
      return yield* Effect.uninterruptibleMask(
        (restore): Effect.Effect<Registration, AlreadyRegistered | EtcdError> => {
          if (registered.has(key)) return Effect.fail(new AlreadyRegistered({ name, id }))
          const registration = new OwnRegistration(ports, { path, ttl, keyOn, encode }, instance)
          // A scope of its own, so that a failed or interrupted attempt leaves nothing in one that lives on.
          const scope = Scope.forkUnsafe(outer)
          registered.add(key)
          return Scope.addFinalizer(scope, Effect.suspend(() => ended(key, registration))).pipe(
            Effect.andThen(restore(registration.start)),
            Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))),
            Effect.map(() => {
              registration.keepUnsafe()
              return handle(registration, scope)
            })
          )
        }
      )
    }
  )

  const ended = (key: string, registration: OwnRegistration) =>
    registration.stop.pipe(
      Effect.andThen(Effect.catch(registration.release, (error) => Effect.logWarning("not unregistered yet", error))),
      Effect.ensuring(Effect.sync(() => {
        registration.status.endUnsafe()
        registered.delete(key)
      })),
      Effect.annotateLogs({ key: registration.label })
    )

  const register: Service["register"] = (input, options) =>
    registering({ "coord.service": input.name, "coord.instance": input.id }, started(input, options))

  const unregister: Service["unregister"] = Effect.fn("Registry.unregister")(function*(name, id) {
    yield* Effect.annotateCurrentSpan({ "coord.service": name, "coord.instance": id })
    const key = `${(yield* validFolder(name)).path}${yield* checked(id, idRule(layout, id))}`
    const { succeeded } = yield* etcd.txn({
      compare: [Compare.createRevision(key, ">", 0n)],
      success: [Operation.delete(key)]
    })
    if (!succeeded) return yield* new InstanceNotFound({ name, id })
  }, measured("Registry.unregister"))

  const told = (folder: Folder) => ({ instances, odd }: List) =>
    odd.length === 0
      ? Effect.succeed(instances)
      : Effect.as(Effect.forEach(odd, (kv) => reader.tell(folder, kv), { discard: true }), instances)

  const discover: Service["discover"] = Effect.fn("Registry.discover")(function*(name) {
    yield* Effect.annotateCurrentSpan({ "coord.service": name })
    const folder = yield* validFolder(name)
    const { kvs } = yield* etcd.range({ prefix: folder.path })
    return yield* told(folder)(makeList(reader, folder).of(kvs))
  }, measured("Registry.discover"))

  const eventOf = Effect.fnUntraced(
    function*(folder: Folder, change: Change): Effect.fn.Return<ServiceEvent | undefined> {
      if (change._tag === "Synced") return change
      const previous = change.previous === undefined ? undefined : yield* reader.instance(folder, change.previous)
      const instance = change._tag === "Put" ? yield* reader.instance(folder, change.kv) : undefined
      const revision = change._tag === "Put" ? change.kv.modRevision : change.modRevision
      if (instance !== undefined) {
        return { _tag: "Put", instance, revision, ...previous !== undefined && { previous } }
      }
      return previous === undefined ? undefined : { _tag: "Delete", instance: previous, revision }
    }
  )

  const eventsOf = (folder: Folder, changes: ReadonlyArray<Change>) =>
    Effect.map(
      Effect.forEach(changes, (change) => eventOf(folder, change)),
      Arr.filter((event) => event !== undefined)
    )

  const watch: Service["watch"] = (name, options) =>
    Stream.unwrap(
      Effect.map(validFolder(name), (folder) =>
        mapChanges(shared.changes({ prefix: folder.path }, options), (changes) => eventsOf(folder, changes)))
    ).pipe(Stream.withSpan("Registry.watch", { attributes: { "coord.service": name } }))

  const instances: Service["instances"] = (name) =>
    Stream.unwrap(
      Effect.map(validFolder(name), (folder) =>
        lists({ prefix: folder.path }, () => makeList(reader, folder)).pipe(
          Stream.mapEffect(told(folder)),
          // A new lease or a deeper key is no new list.
          Stream.changesWith(isSameList)
        ))
    ).pipe(Stream.withSpan("Registry.instances", { attributes: { "coord.service": name } }))

  // Its id is the last segment of a key, also where ids may have more.
  const serviceOf = (key: string): ReadonlyArray<string> => {
    const end = key.lastIndexOf("/")
    const name = key.slice(root.length, Math.max(root.length, end))
    return end + 1 < key.length && nameRule(layout, name) === undefined ? [name] : []
  }

  const services: Service["services"] = etcd.range({ prefix: root, keysOnly: true }).pipe(
    Effect.map(({ kvs }) => Arr.sort(new Set(kvs.flatMap((kv) => serviceOf(kv.key))), Order.String)),
    Effect.withSpan("Registry.services"),
    measured("Registry.services")
  )

  const channels = yield* makeChannels((name) => instances(name))

  const channel: Service["channel"] = Effect.fn("Registry.channel")(function*(name, options) {
    yield* Effect.annotateCurrentSpan({ "coord.service": name })
    return yield* channels.channel(name, options)
  }, measured("Registry.channel"))

  const client: Service["client"] = Effect.fn("Registry.client")(function*(constructor, name, options) {
    yield* Effect.annotateCurrentSpan({ "coord.service": name })
    return yield* channels.client(constructor, name, options)
  }, measured("Registry.client"))

  const target: Service["target"] = Effect.fn("Registry.target")(function*(name, options) {
    yield* Effect.annotateCurrentSpan({ "coord.service": name })
    return yield* channels.target(name, options)
  }, measured("Registry.target"))

  return Registry.of({ register, unregister, discover, watch, instances, services, channel, client, target })
})

const checked = (key: string, rule: string | undefined): Effect.Effect<string, InvalidKey> =>
  rule === undefined ? Effect.succeed(key) : Effect.fail(new InvalidKey({ key, rule }))

const isSameList = (a: ReadonlyArray<ServiceInstance>, b: ReadonlyArray<ServiceInstance>): boolean =>
  a === b ||
  (a.length === b.length && a.every((instance, index) => instance === b[index] || Equal.equals(instance, b[index])))
