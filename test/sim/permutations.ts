/**
 * Whether a short history of one key is linearisable, by trying every order of it, with and without each write of unknown fate, which can have
 * any version that somebody saw. Slow and simple: what `checkLinearizable` is compared with.
 */
import type { Operation } from "./linearizable.ts"

interface Register {
  readonly value: unknown
  /** `0n`: there is no value. `undefined`: one that nobody ever saw. */
  readonly version: bigint | undefined
  /** The greatest version that was ever written. */
  readonly last: bigint
}

export const isLinearizable = (history: ReadonlyArray<Operation>): boolean => {
  const told = new Set(history.flatMap(({ outcome }) => outcome._tag === "Written" ? [outcome.version] : []))
  const others = [
    ...new Set(history.flatMap(({ call, outcome }) => [
      ...outcome._tag === "Found" && outcome.version !== undefined ? [outcome.version] : [],
      ...outcome._tag === "Conflict" ? [outcome.actual] : [],
      ...call._tag === "compareAndSet" ? [call.expected] : []
    ]))
  ].filter((version) => version > 0n && !told.has(version))

  const possible = (left: ReadonlyArray<Operation>, register: Register): boolean =>
    left.every(({ outcome }) => outcome._tag === "Refused" || outcome._tag === "Ambiguous") ||
    left.some((operation) => {
      const isFirst = left.every((other) =>
        other.outcome._tag === "Ambiguous" || other.outcome._tag === "Refused" || other.returned >= operation.invoked
      )
      return isFirst &&
        outcomes(register, operation, others).some((next) =>
          possible(left.filter((other) => other !== operation), next)
        )
    })

  return possible(history, { value: undefined, version: 0n, last: 0n })
}

/** All that the register can be after an operation. */
const outcomes = (
  register: Register,
  { call, outcome }: Operation,
  others: ReadonlyArray<bigint>
): ReadonlyArray<Register> => {
  const { last, value, version } = register
  const isPresent = version !== 0n
  const write = (value: unknown): ReadonlyArray<Register> => {
    if (outcome._tag === "Written") {
      return outcome.version > last
        ? [{ value, version: outcome.version, last: outcome.version }]
        : []
    }
    if (outcome._tag !== "Ambiguous") return []
    return [
      { value, version: undefined, last },
      ...others.filter((other) => other > last).map((other) => ({ value, version: other, last: other }))
    ]
  }
  switch (outcome._tag) {
    case "Refused":
      return []
    case "Absent":
      return isPresent ? [] : [register]
    case "Conflict":
      return version === outcome.actual && !(call._tag === "compareAndSet" && call.expected === version)
        ? [register]
        : []
    default:
      break
  }
  switch (call._tag) {
    case "get":
      return outcome._tag === "Found" && isPresent && value === outcome.value &&
          (outcome.version === undefined || outcome.version === version)
        ? [register]
        : []
    case "set":
      return write(call.value)
    case "compareAndSet":
      return version === call.expected ? write(call.value) : []
    case "update":
      return isPresent && value === call.from ? write(call.value) : []
    case "delete":
      return isPresent ? [{ value: undefined, version: 0n, last }] : []
  }
}
