/**
 * Writes down what clients of `ConfigCenter` asked and were told, for `checkLinearizable`.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import type { ConfigCenter } from "../../src/ConfigCenter.ts"
import type { Call, Operation, Outcome, Value } from "./linearizable.ts"

export interface History {
  readonly operations: ReadonlyArray<Operation>
  /** Puts a call down; what it answers is to be told the outcome. Until then the call is of unknown fate, as one that never returns. */
  readonly invoke: (client: string | number, key: string, call: Call) => (outcome: Outcome) => void
}

/** Places in the history are counted, not timed: in virtual time much happens at once, and still one after the other. */
export const makeHistory = (): History => {
  const operations: Array<Operation> = []
  let place = 0
  return {
    operations,
    invoke: (client, key, call) => {
      const at = operations.length
      const operation = { client, key, call, invoked: place++ }
      operations.push({ ...operation, outcome: { _tag: "Ambiguous" }, returned: Infinity })
      return (outcome) => {
        operations[at] = { ...operation, outcome, returned: place++ }
      }
    }
  }
}

/** The operations of one client, recorded. `schema` is of primitive values. */
export const recorded = <S extends Schema.Codec<Value, unknown>>(
  history: History,
  client: string | number,
  config: ConfigCenter["Service"],
  schema: S
) => {
  const record = <A, E>(
    key: string,
    call: Call,
    effect: Effect.Effect<A, E>,
    told: (answer: A) => Outcome
  ): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      const returned = history.invoke(client, key, call)
      return Effect.onExit(effect, (exit) =>
        Effect.sync(() => returned(Exit.isSuccess(exit) ? told(exit.value) : outcomeOf(exit))))
    })
  const written = (version: bigint): Outcome => ({ _tag: "Written", version })
  return {
    get: (key: string) => record(key, { _tag: "get" }, config.get(key, schema), (value) => ({ _tag: "Found", value })),
    getVersioned: (key: string) =>
      record(
        key,
        { _tag: "get" },
        config.getVersioned(key, schema),
        ({ value, version }) => ({ _tag: "Found", value, version })
      ),
    set: (key: string, value: S["Type"]) =>
      record(key, { _tag: "set", value }, config.set(key, schema, value), written),
    compareAndSet: (key: string, value: S["Type"], expected: bigint) =>
      record(
        key,
        { _tag: "compareAndSet", expected, value },
        config.compareAndSet(key, schema, value, expected),
        written
      ),
    delete: (key: string) => record(key, { _tag: "delete" }, config.delete(key), () => ({ _tag: "Deleted" }))
  }
}

/** What the failure of a call says about the value. Only failures that are certain count as such; an interrupted call is of unknown fate. */
export const outcomeOf = (exit: Exit.Failure<unknown, unknown>): Outcome => {
  const error: unknown = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  const { _tag: tag, actual, reason } = Object(error)
  switch (tag) {
    case "ConfigNotFound":
      return { _tag: "Absent" }
    case "VersionConflict":
      return { _tag: "Conflict", actual }
    case "EtcdError":
      // `Closed` can end a request that was on its way.
      return { _tag: ["Ambiguous", "Closed", "Unexpected"].includes(reason._tag) ? "Ambiguous" : "Refused" }
    case "InvalidKey":
    case "ConfigEncodeError":
    case "ConfigDecodeError":
      return { _tag: "Refused" }
    default:
      return { _tag: "Ambiguous" }
  }
}
