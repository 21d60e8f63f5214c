/** Channels that are not made to the end: grpc-js keeps account of what it has open. */
import { assert, it } from "@effect/vitest"
import { getChannelzHandlers } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { Echo } from "./grpc/echo.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { makeRegistryWorld } from "./utils/registryWorld.ts"

type TopChannels = (
  call: { readonly request: { readonly start_channel_id: string; readonly max_results: string } },
  callback: (error: unknown, reply: { readonly channel: ReadonlyArray<unknown> }) => void
) => void

/** How many channels of this process are not closed, but for what channelz leaves out after a hundred. */
const openChannels = (): number => {
  let count = 0
  const topChannels = getChannelzHandlers().GetTopChannels as unknown as TopChannels
  topChannels({ request: { start_channel_id: "0", max_results: "0" } }, (_, reply) => {
    count = reply.channel.length
  })
  return count
}

const oneProcess = Effect.gen(function*() {
  const world = yield* makeRegistryWorld
  return yield* world.process
})

it.effect("interrupted at whatever step, no channel of grpc-js is left", () =>
  Effect.gen(function*() {
    const seen = { channel: 0, target: 0 }
    const count = yield* interruptAtEveryStep({
      setup: oneProcess,
      run: ({ registry }) =>
        Effect.gen(function*() {
          yield* registry.client(Echo, "echo")
          seen.channel = Math.max(seen.channel, openChannels())
          yield* registry.target("echo")
          seen.target = Math.max(seen.target, openChannels())
        }).pipe(Effect.scoped),
      check: (_, _exit, step) => Effect.sync(() => assert.strictEqual(openChannels(), 0, `step ${step}`))
    })
    assert.deepStrictEqual(seen, { channel: 1, target: 1 })
    assert.isAbove(count, 50)
  }), { timeout: 60_000 })

it.effect("in a scope that is closed, or closes while it is made, a channel waits for nothing", () =>
  Effect.gen(function*() {
    const { link, registry } = yield* oneProcess
    const scope = yield* Scope.make()
    const make = Effect.forkChild(Scope.provide(registry.channel("echo"), scope), { startImmediately: true })
    yield* link.partition
    const starting = yield* make
    yield* Scope.close(scope, Exit.void)
    const late = yield* make
    yield* TestClock.adjust("1 minute")
    for (const fiber of [starting, late]) {
      const exit = fiber.pollUnsafe()
      assert.isTrue(exit !== undefined && Exit.hasInterrupts(exit))
    }
    assert.strictEqual(openChannels(), 0)
  }))
