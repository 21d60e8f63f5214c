/**
 * `coord services`.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { InvalidKey } from "../../Errors.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { Registry } from "../../Registry.ts"
import type { ServiceInstance } from "../../ServiceInstance.ts"
import { ServiceLayout } from "../../ServiceLayout.ts"
import { Connection } from "../Connection.ts"
import { live } from "../services.ts"
import { changesBelow, show } from "../View.ts"

interface Input {
  readonly name: Option.Option<string>
  readonly watch: boolean
}

const layouts = {
  "coord": ServiceLayout.coord,
  "go-etcd": ServiceLayout.goEtcd,
  kratos: ServiceLayout.kratos,
  "go-zero": ServiceLayout.goZero
}

/** Where all services are. */
const folder = Effect.gen(function*() {
  const { registryLayout = "coord", registryPrefix } = yield* Effect.flatMap(Connection, ({ options }) => options)
  const layout = typeof registryLayout === "string" ? layouts[registryLayout] : registryLayout
  const prefix = registryPrefix ?? layout.prefix
  return prefix === "" ? "" : `${prefix}/`
})

const instancesOf = Effect.fnUntraced(function*(name: string, watch: boolean) {
  const registry = yield* Registry
  yield* show({
    title: `instances of ${name}`,
    read: registry.discover(name),
    changes: Stream.catch(registry.instances(name), () => Stream.succeed(undefined)),
    idOf: ({ id }: ServiceInstance) => id,
    columns: [
      { title: "ID", of: ({ id }) => id },
      {
        title: "ADDRESS",
        of: ({ address, port }) => address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`
      },
      {
        title: "METADATA",
        of: ({ metadata }) => Object.entries(metadata).map(([key, value]) => `${key}=${value}`).join(" ")
      }
    ],
    toJson: ({ address, id, metadata, name, port }) => ({ service: name, id, address, port, metadata }),
    none: `no instances of ${name}`
  }, watch)
})

interface ServiceCount {
  readonly service: string
  readonly instances: number
}

const allServices = Effect.fnUntraced(function*(watch: boolean) {
  const registry = yield* Registry
  const counted = (service: string): Effect.Effect<ServiceCount, InvalidKey | EtcdError> =>
    Effect.map(registry.discover(service), ({ length }) => ({ service, instances: length }))
  yield* show({
    title: "services",
    read: Effect.flatMap(registry.services, Effect.forEach(counted, { concurrency: 16 })),
    changes: changesBelow(yield* folder),
    idOf: ({ service }: ServiceCount) => service,
    columns: [
      { title: "SERVICE", of: ({ service }) => service },
      { title: "INSTANCES", of: ({ instances }) => String(instances) }
    ],
    toJson: ({ instances, service }) => ({ service, instances }),
    none: "no services"
  }, watch)
})

export const services = ({ name, watch }: Input) =>
  Effect.provide(
    Option.match(name, { onNone: () => allServices(watch), onSome: (name) => instancesOf(name, watch) }),
    live
  )
