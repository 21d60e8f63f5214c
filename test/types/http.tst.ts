// Checked by `npm run typecheck`, never run.
import type * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { expectTypeOf } from "vitest"
import { layerServiceHttpClient, makeServiceHttpClient, type NoInstances } from "../../src/Http.ts"
import type { InvalidOption, Registry } from "../../src/index.ts"

declare const client: HttpClient.HttpClient
declare const error: NoInstances

expectTypeOf(makeServiceHttpClient(client, { others: "fail", avoidFor: "1 second", filter: ({ port }) => port > 80 }))
  .toEqualTypeOf<Effect.Effect<HttpClient.HttpClient, InvalidOption, Registry | Scope.Scope>>()
expectTypeOf(layerServiceHttpClient({ service: (url) => url.hostname })).toEqualTypeOf<
  Layer.Layer<HttpClient.HttpClient, InvalidOption, HttpClient.HttpClient | Registry>
>()
expectTypeOf(error.seen).toEqualTypeOf<number>()
// @ts-expect-error -- neither of the two
layerServiceHttpClient({ others: "ignore" })
