/** Clients that are wrong on purpose: each must be found. */
import type { Variant } from "../World.ts"

export interface BrokenVariant {
  readonly name: string
  /** Where it is looked for. */
  readonly scenario: string
  readonly client: Variant
}

export const variants: ReadonlyArray<BrokenVariant> = []
