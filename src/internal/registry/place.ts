/**
 * Where services live and how they are written there: two options, checked together.
 */
import * as Effect from "effect/Effect"
import { InvalidOption } from "../../Errors.ts"
import type { ServiceLayout, ServiceLayoutName } from "../../ServiceLayout.ts"
import { keyRule, validatePrefix } from "../validate.ts"
import { coord } from "./coord.ts"
import { goEtcd } from "./goEtcd.ts"
import { goZero } from "./goZero.ts"
import { kratos } from "./kratos.ts"

const layouts = new Map([coord, goEtcd, kratos, goZero].map((layout) => [layout.name, layout]))

export interface PlaceOptions {
  readonly prefix?: string | undefined
  readonly layout?: ServiceLayout | ServiceLayoutName | undefined
}

export const validatePlace = Effect.fnUntraced(function*(options: PlaceOptions) {
  const { layout: chosen = coord } = options
  const layout = typeof chosen === "string" ? layouts.get(chosen) : chosen
  if (layout === undefined) {
    const names = [...layouts.keys()].join(", ")
    return yield* new InvalidOption({ option: "registryLayout", rule: `must be one of ${names}, or a ServiceLayout` })
  }
  const prefix = options.prefix ?? layout.prefix
  if (layout === coord) yield* validatePrefix(prefix, "registryPrefix")
  // The keys of others need not start with "/". Without any prefix, a folder could be that of the locks if they did.
  else if (prefix !== "" || layout.prefix !== "") {
    const rule = keyRule(prefix.startsWith("/") ? prefix.slice(1) : prefix)
    if (rule !== undefined) return yield* new InvalidOption({ option: "registryPrefix", rule })
  }
  return { prefix, layout }
})

/** What all keys of services begin with. */
export const rootOf = (prefix: string): string => prefix === "" ? "" : `${prefix}/`
