import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import { EtcdError } from "../src/EtcdError.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { interruptAtEveryStep } from "./utils/interruptAtEveryStep.ts"
import { makeRegistryWorld } from "./utils/registryWorld.ts"

const instance = (id: string) => new ServiceInstance({ id, name: "orders", address: "10.0.0.7", port: 8080 })

const json = (id: string, metadata: string) =>
  `{"id":"${id}","name":"orders","address":"10.0.0.7","port":8080,"metadata":${metadata}}`

const key = "/services/orders/a"

const tooBig = { big: "x".repeat(3_000_000) }

const outcome = (exit: Exit.Exit<unknown, { readonly _tag: string }> | undefined): string => {
  if (exit === undefined) return "hangs"
  const error = Exit.findErrorOption(exit)
  if (error._tag === "None") return exit._tag
  return error.value instanceof EtcdError ? error.value.reason._tag : error.value._tag
}

const started = Effect.gen(function*() {
  const world = yield* makeRegistryWorld
  const process = yield* world.process
  const registration = yield* process.registry.register(instance("a"))
  const update = (metadata: Record<string, string>) =>
    Effect.forkChild(Effect.exit(registration.update(metadata)), { startImmediately: true })
  return { ...world, process, registration, update }
})

describe("Registration, two updates", () => {
  it.effect("one that etcd refuses takes none along that came while it was on its way", () =>
    Effect.gen(function*() {
      const { direct, entries, get, process, update } = yield* started
      yield* TestClock.adjust("9900 millis")
      yield* process.link.setFate((operation) => operation === "txn" ? { response: "2 seconds" } : {})
      const refused = yield* update(tooBig)
      yield* process.link.setFate(() => ({}))
      // The beat finds out.
      yield* direct.leaseRevoke((yield* get(key))?.lease ?? 0n)
      yield* TestClock.adjust("500 millis")
      const good = yield* update({ v: "2" })
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(outcome(yield* Fiber.join(refused)), "TooLarge")
      assert.strictEqual(outcome(yield* Fiber.join(good)), "Success")
      assert.strictEqual((yield* entries).get(key), json("a", `{"v":"2"}`))
    }))

  it.effect("nor one that is refused while the registration recovers, and each has its own answer", () =>
    Effect.gen(function*() {
      const { entries, process, update } = yield* started
      yield* process.link.refuse
      yield* TestClock.adjust("2 minutes")
      let sent = 0
      yield* process.link.setFate((operation) => operation === "txn" ? (sent++, { response: "1500 millis" }) : {})
      yield* process.link.accept
      const refused = yield* update(tooBig)
      while (sent === 0) yield* TestClock.adjust("100 millis")
      const good = yield* update({ v: "2" })
      yield* TestClock.adjust("20 seconds")
      yield* process.link.setFate(() => ({}))
      assert.strictEqual(outcome(yield* Fiber.join(refused)), "TooLarge")
      assert.strictEqual(outcome(yield* Fiber.join(good)), "Success")
      assert.strictEqual((yield* entries).get(key), json("a", `{"v":"2"}`))
    }))

  it.effect("one that waits for an end that has come is told so at once", () =>
    Effect.gen(function*() {
      const { process, registration, update } = yield* started
      yield* process.link.refuse
      yield* TestClock.adjust("2 minutes")
      const waiting = yield* update({ v: "2" })
      yield* registration.unregister
      assert.strictEqual(outcome(yield* Fiber.join(waiting)), "Closed")
    }))
})

describe("Registration, interrupted", () => {
  it.effect(
    "at whatever step of an update: who finds that he was replaced says so, if not now then later",
    () =>
      interruptAtEveryStep({
        setup: Effect.gen(function*() {
          const world = yield* makeRegistryWorld
          const process = yield* world.process
          // No event tells it.
          yield* process.link.setFate((operation) => operation === "watch" ? { request: "lost" } : {})
          const registration = yield* process.registry.register(instance("a"))
          yield* world.put(key, json("a", `{"by":"hand"}`))
          return { ...world, registration }
        }),
        run: ({ registration }) => Effect.exit(registration.update({ v: "2" })),
        check: ({ entries, registration }, _, step) =>
          Effect.gen(function*() {
            yield* TestClock.adjust("1 minute")
            assert.strictEqual(yield* registration.status.get, "Replaced", `step ${step}`)
            assert.strictEqual((yield* entries).get(key), json("a", `{"by":"hand"}`))
          }),
        tick: "1 second"
      }),
    120_000
  )
})

describe("Registration, whose scope closes while it begins", () => {
  const fates = [
    ["txn", { request: "2 seconds" }],
    ["txn", { response: "2 seconds" }],
    ["txn", { request: "lost" }],
    ["leaseGrant", { request: "2 seconds" }],
    ["leaseGrant", { response: "2 seconds" }]
  ] as const

  it.effect.each(fates)("it fails, and leaves no key and no lease: %s %j", ([slow, fate]) =>
    Effect.gen(function*() {
      const { entries, process: make } = yield* makeRegistryWorld
      const process = yield* make
      const scope = yield* Scope.make()
      yield* process.link.setFate((operation) => operation === slow ? fate : {})
      const fiber = yield* process.registry.register(instance("a")).pipe(
        Scope.provide(scope),
        Effect.exit,
        Effect.forkChild
      )
      yield* TestClock.adjust("1 second")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("6 seconds")
      yield* process.link.setFate(() => ({}))
      yield* TestClock.adjust("30 seconds")
      assert.isDefined(closing.pollUnsafe())
      assert.strictEqual(outcome(yield* Fiber.join(fiber)), "Closed")
      assert.strictEqual((yield* entries).size, 0)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* entries).size, 0)
      // Nor does it take the key of the next one.
      yield* process.registry.register(instance("a"))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* entries).size, 1)
    }))
})
