// Checked by `npm run typecheck`, never run.
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { expectTypeOf } from "vitest"
import {
  type AssignedId,
  type Etcd,
  type EtcdError,
  type IdsExhausted,
  InstanceId,
  type InstanceIdHandle,
  type InstanceIdLost,
  type InvalidKey,
  type InvalidOption,
  type TxnResult
} from "../../src/index.ts"

class Database extends Context.Service<Database, { readonly url: string }>()("test/Database") {}
class MyError {
  readonly _tag = "MyError"
}

declare const ids: InstanceId["Service"]
declare const handle: InstanceIdHandle
declare const body: Effect.Effect<number, MyError, Database>

expectTypeOf(ids.acquire("s", { max: 2 })).toEqualTypeOf<
  Effect.Effect<InstanceIdHandle, IdsExhausted | InvalidKey | InvalidOption | EtcdError, Scope.Scope>
>()
expectTypeOf(ids.withId("s", { max: 2 })(body)).toEqualTypeOf<
  Effect.Effect<
    number,
    MyError | InstanceIdLost | IdsExhausted | InvalidKey | InvalidOption | EtcdError,
    Database
  >
>()
expectTypeOf(ids.assigned("s")).toEqualTypeOf<Effect.Effect<ReadonlyArray<AssignedId>, InvalidKey | EtcdError>>()

expectTypeOf(handle.id).toEqualTypeOf<number>()
expectTypeOf(handle.lost).toEqualTypeOf<Effect.Effect<never, InstanceIdLost>>()
expectTypeOf(handle.assertHeld).toEqualTypeOf<Effect.Effect<void, InstanceIdLost>>()
expectTypeOf(handle.guard(body)).toEqualTypeOf<Effect.Effect<number, MyError | InstanceIdLost, Database>>()
expectTypeOf(handle.fenced({})).toEqualTypeOf<Effect.Effect<TxnResult, InstanceIdLost | EtcdError>>()
expectTypeOf(handle.release).toEqualTypeOf<Effect.Effect<void, EtcdError>>()

expectTypeOf(InstanceId.layer()).toEqualTypeOf<Layer.Layer<InstanceId, InvalidOption, Etcd>>()

// @ts-expect-error: there is no bound that would fit everybody
expectTypeOf(ids.acquire).toBeCallableWith("s")
