// Checked by `npm run typecheck`, never run.
import * as grpc from "@grpc/grpc-js"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { expectTypeOf } from "vitest"
import {
  type AlreadyRegistered,
  type ChannelTarget,
  type Etcd,
  type EtcdError,
  type InstanceNotFound,
  type InvalidInstance,
  type InvalidKey,
  type InvalidOption,
  type Registration,
  type RegistrationStatus,
  Registry,
  type Replaced,
  type ServiceEvent,
  type ServiceInstance,
  ServiceLayout,
  type ServiceLayoutName
} from "../../src/index.ts"

declare const registry: Registry["Service"]
declare const registration: Registration
declare const instance: ServiceInstance

expectTypeOf(registry.register(instance, { ttl: "5 seconds" })).toEqualTypeOf<
  Effect.Effect<Registration, InvalidInstance | InvalidOption | AlreadyRegistered | EtcdError, Scope.Scope>
>()
expectTypeOf(registry.unregister("s", "i")).toEqualTypeOf<
  Effect.Effect<void, InstanceNotFound | InvalidKey | EtcdError>
>()
expectTypeOf(registry.discover("s")).toEqualTypeOf<
  Effect.Effect<ReadonlyArray<ServiceInstance>, InvalidKey | EtcdError>
>()
expectTypeOf(registry.watch("s", { from: 1n })).toEqualTypeOf<Stream.Stream<ServiceEvent, InvalidKey | EtcdError>>()
expectTypeOf(registry.instances("s")).toEqualTypeOf<
  Stream.Stream<ReadonlyArray<ServiceInstance>, InvalidKey | EtcdError>
>()
expectTypeOf(registry.services).toEqualTypeOf<Effect.Effect<ReadonlyArray<string>, EtcdError>>()

expectTypeOf(registration.status.get).toEqualTypeOf<Effect.Effect<RegistrationStatus>>()
expectTypeOf(registration.status.changes).toEqualTypeOf<Stream.Stream<RegistrationStatus>>()
expectTypeOf(registration.update({})).toEqualTypeOf<Effect.Effect<void, Replaced | InvalidInstance | EtcdError>>()
expectTypeOf(registration.unregister).toEqualTypeOf<Effect.Effect<void, EtcdError>>()

expectTypeOf(Registry.layer()).toEqualTypeOf<Layer.Layer<Registry, InvalidOption, Etcd>>()
expectTypeOf(Registry.layer({ layout: "go-zero", prefix: "rpc" })).toEqualTypeOf<
  Layer.Layer<Registry, InvalidOption, Etcd>
>()
expectTypeOf(ServiceLayout.kratosWith({ scheme: "http" })).toEqualTypeOf<ServiceLayout>()
expectTypeOf<ServiceLayoutName>().toEqualTypeOf<"coord" | "go-etcd" | "kratos" | "go-zero">()
void Registry.layer({ layout: { ...ServiceLayout.goEtcd, prefix: "/targets" } })
// @ts-expect-error -- not the name of one
void Registry.layer({ layout: "consul" })
// @ts-expect-error -- it cannot be read
void Registry.layer({ layout: { name: "x", prefix: "/x", encode: () => "" } })

type ChannelError = InvalidKey | InvalidOption | EtcdError

expectTypeOf(registry.channel("s", { loadBalancing: { zone: "eu-1", spillBelow: 2 }, timeout: "1 second" }))
  .toEqualTypeOf<
    Effect.Effect<grpc.Channel, ChannelError, Scope.Scope>
  >()
declare class Orders extends grpc.Client {
  constructor(address: string, credentials: grpc.ChannelCredentials, options?: Partial<grpc.ClientOptions>)
}
expectTypeOf(registry.client(Orders, "s", { loadBalancing: "weighted", retry: {} })).toEqualTypeOf<
  Effect.Effect<Orders, ChannelError, Scope.Scope>
>()
const Generic = grpc.makeGenericClientConstructor({}, "s")
expectTypeOf(registry.client(Generic, "s")).toEqualTypeOf<
  Effect.Effect<InstanceType<typeof Generic>, ChannelError, Scope.Scope>
>()
expectTypeOf(registry.target("s", { loadBalancing: { hashHeader: "x-user" } })).toEqualTypeOf<
  Effect.Effect<ChannelTarget, ChannelError, Scope.Scope>
>()
// @ts-expect-error -- not the name of one
void registry.channel("s", { loadBalancing: "round-robin" })
// @ts-expect-error -- a channel's
void registry.target("s", { timeout: "1 second" })
// @ts-expect-error -- no client class
void registry.client({}, "s")
