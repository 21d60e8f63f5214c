// Checked by `npm run typecheck`, never run.
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { expectTypeOf } from "vitest"
import {
  type Candidate,
  Election,
  type Etcd,
  type EtcdError,
  type InvalidKey,
  type InvalidOption,
  type Leadership,
  type LeadershipLost,
  type TxnResult
} from "../../src/index.ts"

class Database extends Context.Service<Database, { readonly url: string }>()("test/Database") {}
class MyError {
  readonly _tag = "MyError"
}

declare const election: Election["Service"]
declare const leadership: Leadership
declare const body: Effect.Effect<number, MyError, Database>

expectTypeOf(election.campaign("e", "v")).toEqualTypeOf<
  Effect.Effect<Leadership, InvalidKey | InvalidOption | EtcdError, Scope.Scope>
>()
// Its own loss is no error: it campaigns again.
expectTypeOf(election.whileLeader("e", "v")(body)).toEqualTypeOf<
  Effect.Effect<number, MyError | InvalidKey | InvalidOption | EtcdError, Database>
>()
expectTypeOf(election.whileLeader("e", "v", { ttl: "5 seconds" })((leadership) => leadership.guard(body)))
  .toEqualTypeOf<
    Effect.Effect<number, MyError | LeadershipLost | InvalidKey | InvalidOption | EtcdError, Database>
  >()
expectTypeOf(election.leader("e")).toEqualTypeOf<Effect.Effect<Option.Option<Candidate>, InvalidKey | EtcdError>>()
expectTypeOf(election.observe("e")).toEqualTypeOf<Stream.Stream<Option.Option<Candidate>, InvalidKey | EtcdError>>()
expectTypeOf(election.candidates("e")).toEqualTypeOf<
  Effect.Effect<ReadonlyArray<Candidate>, InvalidKey | EtcdError>
>()

expectTypeOf(leadership.proclaim("v")).toEqualTypeOf<Effect.Effect<void, LeadershipLost | EtcdError>>()
expectTypeOf(leadership.resign).toEqualTypeOf<Effect.Effect<void, EtcdError>>()
expectTypeOf(leadership.lost).toEqualTypeOf<Effect.Effect<never, LeadershipLost>>()
expectTypeOf(leadership.assertLeading).toEqualTypeOf<Effect.Effect<void, LeadershipLost>>()
expectTypeOf(leadership.guard(body)).toEqualTypeOf<Effect.Effect<number, MyError | LeadershipLost, Database>>()
expectTypeOf(leadership.fenced({})).toEqualTypeOf<Effect.Effect<TxnResult, LeadershipLost | EtcdError>>()

expectTypeOf(Election.layer()).toEqualTypeOf<Layer.Layer<Election, InvalidOption, Etcd>>()

// @ts-expect-error: a candidate says something
expectTypeOf(election.campaign).toBeCallableWith("e")
