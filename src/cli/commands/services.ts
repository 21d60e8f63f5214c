/**
 * `coord services`.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Registry } from "../../Registry.ts"
import { Output } from "../Output.ts"
import { live } from "../services.ts"

interface Input {
  readonly name: Option.Option<string>
  readonly watch: boolean
}

export const services = Effect.fnUntraced(function*({ name }: Input) {
  const output = yield* Output
  const registry = yield* Registry
  if (Option.isNone(name)) {
    const names = yield* registry.services
    return yield* output.rows(
      names,
      [{ title: "SERVICE", of: (name) => name }],
      (service) => ({ service }),
      "no services"
    )
  }
  const instances = yield* registry.discover(name.value)
  yield* output.rows(
    instances,
    [
      { title: "ID", of: ({ id }) => id },
      { title: "ADDRESS", of: ({ address, port }) => `${address}:${port}` },
      {
        title: "METADATA",
        of: ({ metadata }) => Object.entries(metadata).map(([key, value]) => `${key}=${value}`).join(" ")
      }
    ],
    ({ address, id, metadata, name, port }) => ({ id, name, address, port, metadata }),
    "no instances"
  )
}, Effect.provide(live))
