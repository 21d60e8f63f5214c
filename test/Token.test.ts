/** The token of a user: nobody who needs one waits for ever, whoever else goes away. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import type { Connection, Token } from "../src/internal/etcd3/connection.ts"
import { shutDown, type Status } from "../src/internal/etcd3/status.ts"
import { makeAuthenticated } from "../src/internal/etcd3/token.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"

const credentials = { username: "root", password: Redacted.make("secret") }

const make = (answer: Effect.Effect<unknown, Status>) =>
  makeAuthenticated({ unary: () => answer } as unknown as Connection, credentials)

describe("a token", () => {
  it.live("that is asked for when all ends is refused at once", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const authenticated = yield* Scope.provide(make(Effect.never), scope)
      const before = yield* Effect.forkChild(authenticated(Effect.succeed), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      for (const call of [Fiber.join(before), authenticated(Effect.succeed)]) {
        assert.deepInclude(yield* call.pipe(Effect.flip, Effect.timeout("2 seconds")), shutDown)
      }
      const late = yield* Scope.provide(make(Effect.never), scope)
      assert.deepInclude(yield* late(Effect.succeed).pipe(Effect.flip, Effect.timeout("2 seconds")), shutDown)
    }))

  it.live("is there for others when the first one who asks for it is interrupted at any step", () =>
    interruptAtEveryStep({
      setup: make(Effect.delay(Effect.succeed({ token: "known" }), "1 millis")),
      run: (authenticated) => authenticated(Effect.succeed),
      tick: "1 millis",
      check: (authenticated, _, step) =>
        Effect.gen(function*() {
          const other = yield* Effect.forkChild(authenticated((token): Effect.Effect<Token> => Effect.succeed(token)))
          yield* TestClock.adjust("10 millis")
          assert.deepStrictEqual(other.pollUnsafe(), Exit.succeed("known"), `step ${step}`)
        })
    }).pipe(Effect.provide(TestClock.layer())))
})
