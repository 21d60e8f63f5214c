/** A layer that depends on the configuration, and says what is built and released of it. */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

export class Mailer extends Context.Service<Mailer, { readonly from: string }>()("Mailer") {}

export const from = Effect.map(Mailer, (mailer) => mailer.from)

export const makeMailers = () => {
  const log: Array<string> = []
  const open = new Set<{ readonly from: string }>()
  const held: { building: Effect.Effect<void>; releasing: Effect.Effect<void> } = {
    building: Effect.void,
    releasing: Effect.void
  }
  const layer = Layer.effect(
    Mailer,
    Effect.gen(function*() {
      const from = yield* Config.String("FROM")
      yield* Effect.suspend(() => held.building)
      if (from === "nobody") return yield* Effect.fail("nobody" as const)
      return yield* Effect.acquireRelease(
        Effect.sync(() => {
          log.push(`built ${from}`)
          const mailer = { from }
          open.add(mailer)
          return mailer
        }),
        (mailer) =>
          Effect.andThen(
            Effect.suspend(() => held.releasing),
            Effect.sync(() => {
              log.push(`released ${from}`)
              open.delete(mailer)
            })
          )
      )
    })
  )
  return { log, open, held, layer }
}
