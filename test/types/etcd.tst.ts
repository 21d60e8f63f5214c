// Checked by `npm run typecheck`, never run.
import type * as Effect from "effect/Effect"
import { expectTypeOf } from "vitest"
import type { Etcd, Health, RangeResult } from "../../src/Etcd.ts"
import type { EtcdError } from "../../src/EtcdError.ts"

type Range = ReturnType<Etcd["Service"]["range"]>

expectTypeOf<Effect.Success<Range>>().toEqualTypeOf<RangeResult>()
expectTypeOf<Effect.Error<Range>>().toEqualTypeOf<EtcdError>()
expectTypeOf<Effect.Services<Range>>().toEqualTypeOf<never>()

expectTypeOf<Etcd["Service"]["health"]>().toEqualTypeOf<Effect.Effect<Health, EtcdError>>()
