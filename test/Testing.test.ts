/** The page about testing an application: its code is run as it stands, under every control. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { readFileSync } from "node:fs"
import { Etcd, Operation } from "../src/Etcd.ts"
import { Lock } from "../src/Lock.ts"
import * as CoordTesting from "../src/testing.ts"

const page = readFileSync(new URL("../docs/testing.md", import.meta.url), "utf8")

describe("docs/testing.md", () => {
  it("what the page shows is what test/testing.example.test.ts runs", () => {
    const [, code] = /^```ts\n([^]*?)^```$/m.exec(page) ?? []
    const own = readFileSync(new URL("testing.example.test.ts", import.meta.url), "utf8")
    const from = (text: string) => text.slice(text.indexOf("/** Sends one invoice"))
    assert.strictEqual(from(own), from(String(code)))
  })
})

describe("EtcdTest", () => {
  it.effect("a paused application notices the end of its lock only when it goes on, and first of all", () =>
    Effect.gen(function*() {
      const lock = yield* Lock
      const etcd = yield* CoordTesting.EtcdTest
      const steps: Array<string> = []
      const working = yield* Effect.forkChild(Effect.flip(
        lock.withLock("job", { ttl: "3 seconds" })(
          Effect.forever(Effect.andThen(Effect.sync(() => steps.push("step")), Effect.sleep("10 seconds")))
        )
      ))
      yield* TestClock.adjust("100 millis")
      yield* etcd.pause("5 seconds")
      yield* TestClock.adjust("4 seconds")
      assert.isUndefined(working.pollUnsafe())
      const taken = yield* Effect.forkChild(
        Effect.provide(Effect.flatMap(Lock, (peer) => peer.withLock("job")(Effect.succeed("taken"))), etcd.peer)
      )
      yield* TestClock.adjust("900 millis")
      assert.strictEqual(yield* Fiber.join(taken), "taken")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(working))._tag, "LockLost")
      assert.deepStrictEqual(steps, ["step"])
    }).pipe(Effect.provide(CoordTesting.layer())))

  it.effect("a write whose answer is dropped is ambiguous, and was applied", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const { dropResponse } = yield* CoordTesting.EtcdTest
      yield* dropResponse("txn")
      const writing = yield* Effect.forkChild(Effect.flip(etcd.txn({ success: [Operation.put("a", "1")] })))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(writing)).reason._tag, "Ambiguous")
      assert.strictEqual((yield* etcd.range({ key: "a" })).count, 1)
    }).pipe(Effect.provide(CoordTesting.layer())))

  it.effect("requests take their time, both ways, and are refused when the connection is", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const { delay, heal, refuse } = yield* CoordTesting.EtcdTest
      yield* delay("1 second")
      const reading = yield* Effect.forkChild(etcd.range({ key: "a" }))
      yield* TestClock.adjust("1900 millis")
      assert.isUndefined(reading.pollUnsafe())
      yield* TestClock.adjust("200 millis")
      yield* Fiber.join(reading)
      yield* refuse
      const refused = yield* Effect.forkChild(Effect.flip(etcd.txn({ success: [Operation.put("a", "1")] })))
      yield* TestClock.adjust("60 seconds")
      assert.strictEqual((yield* Fiber.join(refused)).reason._tag, "Unavailable")
      yield* heal
    }).pipe(Effect.provide(CoordTesting.layer())))

  it.effect("a watch comes back after an expired token, and says when its history was compacted", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const test = yield* CoordTesting.EtcdTest
      const seen: Array<bigint> = []
      const watching = yield* Effect.forkChild(Effect.flip(
        Stream.runForEach(
          etcd.watch({ prefix: "k", startRevision: 2n }),
          (item) => Effect.sync(() => item._tag === "Batch" && seen.push(item.revision))
        )
      ))
      const put = etcd.txn({ success: [Operation.put("k", "1")] })
      yield* put
      yield* TestClock.adjust("1 second")
      yield* test.expireToken
      yield* put
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [2n, 3n])
      yield* test.expireToken
      yield* put
      yield* put
      yield* test.compact
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(watching)).reason._tag, "Compacted")
    }).pipe(Effect.provide(CoordTesting.layer())))
})
