/**
 * What can go wrong with a configuration value, etcd apart. No error carries the value or a part of it, since values can be secrets.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * There is no value under the key, or was none at that version.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConfigNotFound extends Schema.TaggedError<ConfigNotFound>()("ConfigNotFound", {
  key: Schema.String,
  /** The version of the past that was asked for. */
  at: Schema.optionalKey(Schema.BigInt)
}) {
  override get message(): string {
    const key = JSON.stringify(this.key)
    return this.at === undefined
      ? `there is no configuration value ${key}`
      : `there was no configuration value ${key} at version ${this.at}`
  }
}

/**
 * The value under the key is not what the schema describes.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConfigDecodeError extends Schema.TaggedError<ConfigDecodeError>()("ConfigDecodeError", {
  key: Schema.String,
  /** The version that does not decode. */
  version: Schema.BigInt,
  /**
   * What is wrong, one line for each problem, with the path inside of the value (`Expected an integer at servers[0].port`). What is said
   * comes from the schema; of the value there are only the property names on the path.
   */
  issue: Schema.String
}) {
  override get message(): string {
    return `the configuration value ${
      JSON.stringify(this.key)
    } (version ${this.version}) does not decode: ${this.issue}`
  }
}

/**
 * The value that was given cannot be written as the schema describes. Nothing was sent.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConfigEncodeError extends Schema.TaggedError<ConfigEncodeError>()("ConfigEncodeError", {
  key: Schema.String,
  /** What is wrong, as in `ConfigDecodeError`. */
  issue: Schema.String
}) {
  override get message(): string {
    return `the new value of ${JSON.stringify(this.key)} does not encode: ${this.issue}`
  }
}

/**
 * Somebody else changed the value first: nothing was written, and nothing will be.
 *
 * @category errors
 * @since 0.1.0
 */
export class VersionConflict extends Schema.TaggedError<VersionConflict>()("VersionConflict", {
  key: Schema.String,
  /** `0n`: the key must not exist. */
  expected: Schema.BigInt,
  /** `0n`: the key does not exist. */
  actual: Schema.BigInt
}) {
  override get message(): string {
    const version = (n: bigint) => n === 0n ? "no value" : `version ${n}`
    return `${JSON.stringify(this.key)} has ${version(this.actual)}, expected ${version(this.expected)}`
  }
}

/**
 * Keys of a transaction had not the versions that it expected: nothing was written, and nothing will be.
 *
 * @category errors
 * @since 0.1.0
 */
export class TransactionConflict extends Schema.TaggedError<TransactionConflict>()("TransactionConflict", {
  /** One for each such key. Where the answer was lost, those that history tells. */
  conflicts: Schema.NonEmptyArray(VersionConflict)
}) {
  override get message(): string {
    return `nothing was written: ${this.conflicts.map((conflict) => conflict.message).join("; ")}`
  }
}
