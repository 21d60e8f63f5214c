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
  type ReadWriteEntry,
  type ReadWriteHandle,
  ReadWriteLock,
  type ReadWriteLockHeld,
  type ReadWriteLockLost,
  Semaphore,
  type SemaphoreEntry,
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
expectTypeOf(semaphore.entries("s")).toEqualTypeOf<
  Effect.Effect<ReadonlyArray<SemaphoreEntry>, InvalidKey | EtcdError>
>()
expectTypeOf(permit.lost).toEqualTypeOf<Effect.Effect<never, PermitLost>>()
expectTypeOf(permit.assertHeld).toEqualTypeOf<Effect.Effect<void, PermitLost>>()
expectTypeOf(permit.release).toEqualTypeOf<Effect.Effect<void, EtcdError>>()
expectTypeOf(permit.fenced({})).toEqualTypeOf<Effect.Effect<TxnResult, PermitLost | EtcdError>>()
expectTypeOf(Semaphore.layer()).toEqualTypeOf<Layer.Layer<Semaphore, InvalidOption, Etcd>>()

expectTypeOf(rw.readLock("s")).toEqualTypeOf<Effect.Effect<ReadWriteHandle, Asked, Scope.Scope>>()
expectTypeOf(rw.tryWriteLock("s")).toEqualTypeOf<
  Effect.Effect<ReadWriteHandle, ReadWriteLockHeld | Asked, Scope.Scope>
>()
expectTypeOf(rw.writeLock("s")).toEqualTypeOf<Effect.Effect<ReadWriteHandle, Asked, Scope.Scope>>()
expectTypeOf(rw.tryReadLock("s")).toEqualTypeOf<
  Effect.Effect<ReadWriteHandle, ReadWriteLockHeld | Asked, Scope.Scope>
>()
expectTypeOf(rw.entries("s")).toEqualTypeOf<
  Effect.Effect<ReadonlyArray<ReadWriteEntry>, InvalidKey | EtcdError>
>()
expectTypeOf(rw.withReadLock("s")(body)).toEqualTypeOf<
  Effect.Effect<number, MyError | ReadWriteLockLost | Asked, Database>
>()
expectTypeOf(rw.withWriteLock("s")(body)).toEqualTypeOf<
  Effect.Effect<number, MyError | ReadWriteLockLost | Asked, Database>
>()
expectTypeOf(handle.lost).toEqualTypeOf<Effect.Effect<never, ReadWriteLockLost>>()
expectTypeOf(handle.assertHeld).toEqualTypeOf<Effect.Effect<void, ReadWriteLockLost>>()
expectTypeOf(handle.guard(body)).toEqualTypeOf<Effect.Effect<number, MyError | ReadWriteLockLost, Database>>()
expectTypeOf(handle.fenced({})).toEqualTypeOf<Effect.Effect<TxnResult, ReadWriteLockLost | EtcdError>>()
expectTypeOf(handle.release).toEqualTypeOf<Effect.Effect<void, EtcdError>>()
expectTypeOf(ReadWriteLock.layer()).toEqualTypeOf<Layer.Layer<ReadWriteLock, InvalidOption, Etcd>>()
