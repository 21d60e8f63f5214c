/**
 * go-zero (`core/discov`): `<key>/<lease id in decimal>`, and nothing but the address as value. It reads every value below `<key>/`.
 */
import * as Result from "effect/Result"
import type { ServiceLayout } from "../../ServiceLayout.ts"
import { readText } from "./goJson.ts"
import { readHostPort, writeHostPort } from "./hostPort.ts"

export const goZero: ServiceLayout = {
  name: "go-zero",
  prefix: "",
  nestedNames: true,
  leaseKey: String,
  rule: ({ metadata }) =>
    Object.keys(metadata).length === 0
      ? undefined
      : ["metadata", "must be empty: the layout go-zero has no place for it"],
  encode: writeHostPort,
  decode: (value) =>
    Result.flatMap(readText(value), (text) => {
      const at = readHostPort(text)
      return at === undefined ? Result.fail("it is not host:port") : Result.succeed({ ...at, metadata: {} })
    })
}
