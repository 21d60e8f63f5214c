/**
 * One instance of a service, and what can go wrong with it.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/**
 * Where one instance of a service can be reached.
 *
 * **Example**
 *
 * ```ts
 * import { ServiceInstance } from "effect-coord"
 *
 * const instance = new ServiceInstance({ id: "orders-1", name: "orders", address: "10.0.0.7", port: 8080 })
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class ServiceInstance extends Schema.Class<ServiceInstance>("effect-coord/ServiceInstance")({
  /** Unique among the instances of the service. */
  id: Schema.String,
  /** The service. */
  name: Schema.String,
  /** A host name or an IP address, without the port. */
  address: Schema.String,
  /** 1 to 65535. */
  port: Schema.Number,
  metadata: Schema.Record(Schema.String, Schema.String).pipe(Schema.withConstructorDefault(Effect.sync(() => ({}))))
}) {}

/**
 * A field of an instance breaks a rule.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidInstance extends Schema.TaggedError<InvalidInstance>()("InvalidInstance", {
  id: Schema.String,
  /** As `port` or `metadata.zone`. */
  field: Schema.String,
  /** What is allowed. */
  rule: Schema.String
}) {
  override get message(): string {
    return `invalid instance ${JSON.stringify(this.id)}: ${this.field} ${this.rule}`
  }
}

/**
 * This process has a registration of that name and id, whose scope is still open.
 *
 * @category errors
 * @since 0.1.0
 */
export class AlreadyRegistered extends Schema.TaggedError<AlreadyRegistered>()("AlreadyRegistered", {
  name: Schema.String,
  id: Schema.String
}) {
  override get message(): string {
    return `instance ${JSON.stringify(this.id)} of ${JSON.stringify(this.name)} is already registered by this process`
  }
}

/**
 * There is no instance of that name and id.
 *
 * @category errors
 * @since 0.1.0
 */
export class InstanceNotFound extends Schema.TaggedError<InstanceNotFound>()("InstanceNotFound", {
  name: Schema.String,
  id: Schema.String
}) {
  override get message(): string {
    return `there is no instance ${JSON.stringify(this.id)} of ${JSON.stringify(this.name)}`
  }
}

/**
 * Somebody else has registered this name and id since: the registration has given way for good.
 *
 * @category errors
 * @since 0.1.0
 */
export class Replaced extends Schema.TaggedError<Replaced>()("Replaced", {
  name: Schema.String,
  id: Schema.String
}) {
  override get message(): string {
    return `instance ${JSON.stringify(this.id)} of ${JSON.stringify(this.name)} has been registered by somebody else`
  }
}
