// Checked by `npm run typecheck`, never run.
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as KeyValueStore from "effect/persistence/KeyValueStore"
import { expectTypeOf } from "vitest"
import type { InvalidOption } from "../../src/Errors.ts"
import type { Etcd } from "../../src/Etcd.ts"
import { layerKeyValueStore, makeKeyValueStore } from "../../src/KeyValueStore.ts"

expectTypeOf(layerKeyValueStore({ prefix: "/kv", timeToLive: "1 hour" })).toEqualTypeOf<
  Layer.Layer<KeyValueStore.KeyValueStore, InvalidOption, Etcd>
>()
expectTypeOf(makeKeyValueStore()).toEqualTypeOf<
  Effect.Effect<KeyValueStore.KeyValueStore, InvalidOption, Etcd>
>()
