/** A process of a world in memory with one more service, behind the link of its client. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Etcd } from "../../src/Etcd.ts"
import type { makeWorld } from "./world.ts"

export const clientOf = Effect.fnUntraced(function*<S, E>(
  world: Effect.Success<typeof makeWorld>,
  layer: Layer.Layer<S, E, Etcd>
) {
  const client = yield* world.client
  const { etcd, link } = client
  const context = yield* Layer.build(Layer.provide(layer, Layer.succeed(Etcd, etcd)))
  // Nobody moves the clock at the end of a test, when all of it gives back what it has.
  yield* Effect.addFinalizer(() => Effect.all([link.setFate(() => ({})), link.accept, link.heal]))
  return { ...client, context }
})
