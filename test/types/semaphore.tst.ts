// Checked by `npm run typecheck`, never run.
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { expectTypeOf } from "vitest"
import {
  type Etcd,
  type EtcdError,
  type InvalidKey,
  type InvalidOption,
  type NoPermit,
  type Permit,
  type PermitLost,
  type ReadWriteHandle,
  ReadWriteLock,
  type ReadWriteLockHeld,
  type ReadWriteLockLost,
  Semaphore,
  type TxnResult
} from "../../src/index.ts"

class Database extends Context.Service<Database, { readonly url: string }>()("test/Database") {}
class MyError {
  readonly _tag = "MyError"
}

declare const semaphore: Semaphore["Service"]
declare const rw: ReadWriteLock["Service"]
declare const permit: Permit
declare const handle: ReadWriteHandle
declare const body: Effect.Effect<number, MyError, Database>

type Asked = InvalidKey | InvalidOption | EtcdError

expectTypeOf(semaphore.acquire("s", { permits: 2 })).toEqualTypeOf<Effect.Effect<Permit, Asked, Scope.Scope>>()
expectTypeOf(semaphore.tryAcquire("s", { permits: 2 })).toEqualTypeOf<
  Effect.Effect<Permit, NoPermit | Asked, Scope.Scope>
>()
expectTypeOf(semaphore.withPermit("s", { permits: 2 })(body)).toEqualTypeOf<
  Effect.Effect<number, MyError | PermitLost | Asked, Database>
>()
expectTypeOf(permit.guard(body)).toEqualTypeOf<Effect.Effect<number, MyError | PermitLost, Database>>()
expectTypeOf(permit.fenced({})).toEqualTypeOf<Effect.Effect<TxnResult, PermitLost | EtcdError>>()
expectTypeOf(Semaphore.layer()).toEqualTypeOf<Layer.Layer<Semaphore, InvalidOption, Etcd>>()

expectTypeOf(rw.readLock("s")).toEqualTypeOf<Effect.Effect<ReadWriteHandle, Asked, Scope.Scope>>()
expectTypeOf(rw.tryWriteLock("s")).toEqualTypeOf<
  Effect.Effect<ReadWriteHandle, ReadWriteLockHeld | Asked, Scope.Scope>
>()
expectTypeOf(rw.withWriteLock("s")(body)).toEqualTypeOf<
  Effect.Effect<number, MyError | ReadWriteLockLost | Asked, Database>
>()
expectTypeOf(handle.lost).toEqualTypeOf<Effect.Effect<never, ReadWriteLockLost>>()
expectTypeOf(ReadWriteLock.layer()).toEqualTypeOf<Layer.Layer<ReadWriteLock, InvalidOption, Etcd>>()
