/**
 * Errors of bad input, shared by the services. They are found before anything is sent.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * A key, or a prefix, breaks a rule.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidKey extends Schema.TaggedError<InvalidKey>()("InvalidKey", {
  key: Schema.String,
  /** What is allowed. */
  rule: Schema.String
}) {
  override get message(): string {
    return `invalid key ${JSON.stringify(this.key)}: ${this.rule}`
  }
}

/**
 * An option has a value that is not allowed. The value is not part of the error: it may be a secret.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidOption extends Schema.TaggedError<InvalidOption>()("InvalidOption", {
  /** The name of the option, as `ttl` or `tls.ca`. */
  option: Schema.String,
  /** What is allowed, and what was found where that is no secret. */
  rule: Schema.String
}) {
  override get message(): string {
    return `invalid option ${this.option}: ${this.rule}`
  }
}
