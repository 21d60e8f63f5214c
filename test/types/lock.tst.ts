// Checked by `npm run typecheck`, never run.
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { expectTypeOf } from "vitest"
import {
  type Etcd,
  type EtcdError,
  type InvalidKey,
  type InvalidOption,
  Lock,
  type LockEntry,
  type LockHandle,
  type LockHeld,
  type LockLost,
  makeSession,
  type Session,
  type SessionLost,
  type TxnResult
} from "../../src/index.ts"

class Database extends Context.Service<Database, { readonly url: string }>()("test/Database") {}
class MyError {
  readonly _tag = "MyError"
}

declare const lock: Lock["Service"]
declare const handle: LockHandle
declare const body: Effect.Effect<number, MyError, Database>

expectTypeOf(lock.acquire("k")).toEqualTypeOf<
  Effect.Effect<LockHandle, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
>()

// It fails with `LockHeld`.
expectTypeOf(lock.tryAcquire("k")).toEqualTypeOf<
  Effect.Effect<LockHandle, LockHeld | InvalidKey | InvalidOption | EtcdError, Scope.Scope>
>()

// It adds `LockLost` to the errors of its body, and asks for nothing but what the body asks for.
expectTypeOf(lock.withLock("k")(body)).toEqualTypeOf<
  Effect.Effect<number, MyError | LockLost | InvalidKey | InvalidOption | EtcdError, Database>
>()
expectTypeOf(lock.withLock("k", { ttl: "5 seconds" })((handle) => handle.guard(body))).toEqualTypeOf<
  Effect.Effect<number, MyError | LockLost | InvalidKey | InvalidOption | EtcdError, Database>
>()
expectTypeOf(lock.waiters("k")).toEqualTypeOf<Effect.Effect<ReadonlyArray<LockEntry>, InvalidKey | EtcdError>>()

expectTypeOf(handle.fencingToken).toEqualTypeOf<bigint>()
expectTypeOf(handle.ttl).toEqualTypeOf<Effect.Effect<Duration.Duration, LockLost | EtcdError>>()
expectTypeOf(handle.unlock).toEqualTypeOf<Effect.Effect<void, EtcdError>>()
expectTypeOf(handle.lost).toEqualTypeOf<Effect.Effect<never, LockLost>>()
expectTypeOf(handle.assertHeld).toEqualTypeOf<Effect.Effect<void, LockLost>>()
expectTypeOf(handle.guard(body)).toEqualTypeOf<Effect.Effect<number, MyError | LockLost, Database>>()
expectTypeOf(handle.fenced({})).toEqualTypeOf<Effect.Effect<TxnResult, LockLost | EtcdError>>()

expectTypeOf(Lock.layer()).toEqualTypeOf<Layer.Layer<Lock, InvalidOption, Etcd>>()

expectTypeOf(makeSession("5 seconds")).toEqualTypeOf<
  Effect.Effect<Session, InvalidOption | EtcdError, Etcd | Scope.Scope>
>()
declare const session: Session
expectTypeOf(session.lost).toEqualTypeOf<Effect.Effect<never, SessionLost>>()

// @ts-expect-error: a TTL is a duration
expectTypeOf(lock.acquire).toBeCallableWith("k", { ttl: "soon" })
