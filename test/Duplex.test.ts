import { assert, describe, it } from "@effect/vitest"
import { type ChannelInterface, Metadata, status as Code } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { makeDuplex } from "../src/internal/etcd3/stream.ts"
import type { Method } from "../src/internal/etcd3/unary.ts"

type Raw = ReturnType<ChannelInterface["createCall"]>

/** A stream whose other side is the test. */
const start = (method: Partial<Method<string, string>> = {}) => {
  const asked: Array<string> = []
  const written: Array<() => void> = []
  let reads = 0
  let heard = 0
  let ended = 0
  let listener: Parameters<Raw["start"]>[1] | undefined
  const tell = (code: Code, details: string) => listener?.onReceiveStatus({ code, details, metadata: new Metadata() })
  const raw: Partial<Raw> = {
    start: (_, given) => {
      listener = given
    },
    startRead: () => void reads++,
    sendMessageWithContext: ({ callback }, message) => {
      asked.push(`send ${message.toString()}`)
      written.push(() => callback?.(null))
    },
    cancelWithStatus: (code, details) => {
      asked.push(`cancel ${code}`)
      tell(code, details)
    }
  }
  const duplex = makeDuplex(
    { createCall: () => raw as Raw },
    {
      path: "/etcdserverpb.Watch/Watch",
      requestSerialize: (request) => Buffer.from(request),
      responseDeserialize: (bytes) => bytes.toString(),
      ...method
    },
    new Metadata(),
    { heard: () => void heard++, ended: () => void ended++ }
  )
  return {
    duplex,
    asked,
    tell,
    wrote: () => written.shift()?.(),
    message: (text: string) => listener?.onReceiveMessage(Buffer.from(text)),
    counts: () => ({ reads, heard, ended })
  }
}

const fails = () => {
  throw new Error("no such field")
}

const failure = <A, E>(exit: Exit.Exit<A, E>) =>
  Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Fail" ? exit.cause.reasons[0].error : undefined

describe("a stream in both directions", () => {
  it("sends one message after the other, each when the one before has been taken", () => {
    const { asked, duplex, wrote } = start()
    for (const request of ["a", "b", "c"]) duplex.write(request)
    assert.deepStrictEqual(asked, ["send a"])
    wrote()
    assert.deepStrictEqual(asked, ["send a", "send b"])
    wrote()
    wrote()
    duplex.write("d")
    assert.deepStrictEqual(asked, ["send a", "send b", "send c", "send d"])
  })

  it.effect("is read in the step in which a message comes, and all at once where several have come", () =>
    Effect.gen(function*() {
      const { counts, duplex, message } = start()
      const first = yield* Effect.forkChild(duplex.read, { startImmediately: true })
      message("a")
      assert.deepStrictEqual(first.pollUnsafe(), Exit.succeed(["a"] as const))
      message("b")
      message("c")
      assert.deepStrictEqual(yield* duplex.read, ["b", "c"])
      assert.deepStrictEqual(counts(), { reads: 4, heard: 3, ended: 0 })
    }))

  it.effect("does not run ahead of its reader by more than 16 messages", () =>
    Effect.gen(function*() {
      const { counts, duplex, message } = start()
      for (let i = 1; i <= 16; i++) {
        assert.strictEqual(counts().reads, i)
        message(String(i))
      }
      assert.strictEqual(counts().reads, 16)
      assert.strictEqual((yield* duplex.read).length, 16)
      assert.strictEqual(counts().reads, 17)
      message("17")
      assert.deepStrictEqual(yield* duplex.read, ["17"])
    }))

  it.effect("loses nothing when a read is interrupted", () =>
    Effect.gen(function*() {
      const { duplex, message } = start()
      const fiber = yield* Effect.forkChild(duplex.read, { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      message("a")
      assert.deepStrictEqual(yield* duplex.read, ["a"])
    }))

  it.effect("tells what came before its end, then the end", () =>
    Effect.gen(function*() {
      for (
        const [code, details, told] of [
          [Code.UNAVAILABLE, "Connection dropped", { code: Code.UNAVAILABLE, details: "Connection dropped" }],
          [Code.OK, "", { code: Code.UNAVAILABLE, details: "the server ended the stream" }]
        ] as const
      ) {
        const { asked, counts, duplex, message, tell } = start()
        message("a")
        tell(code, details)
        assert.deepStrictEqual(yield* duplex.read, ["a"])
        assert.deepStrictEqual(yield* Effect.flip(duplex.read), told)
        duplex.write("b")
        assert.deepStrictEqual(asked, [])
        assert.strictEqual(counts().ended, 1)
      }
    }))

  it.effect("wakes who waits at its end, and sends nothing any more", () =>
    Effect.gen(function*() {
      const { asked, duplex, tell, wrote } = start()
      const fiber = yield* Effect.forkChild(duplex.read, { startImmediately: true })
      duplex.write("a")
      duplex.write("b")
      tell(Code.CANCELLED, "by the server")
      wrote()
      assert.deepStrictEqual(failure(yield* Fiber.await(fiber)), { code: Code.CANCELLED, details: "by the server" })
      assert.deepStrictEqual(asked, ["send a"])
    }))

  it.effect("says that a message cannot be read, and not that it was cancelled for that", () =>
    Effect.gen(function*() {
      const { asked, duplex, message } = start({ responseDeserialize: fails })
      const fiber = yield* Effect.forkChild(duplex.read, { startImmediately: true })
      message("a")
      assert.deepStrictEqual(asked, [`cancel ${Code.INTERNAL}`])
      assert.deepStrictEqual(failure(yield* Fiber.await(fiber)), {
        code: Code.INTERNAL,
        details: "Response message parsing error: no such field"
      })
    }))

  it("sends nothing of a request that cannot be written, and ends", () => {
    const { asked, duplex } = start({ requestSerialize: fails })
    duplex.write("a")
    assert.deepStrictEqual(asked, [`cancel ${Code.INTERNAL}`])
  })

  it("that nobody wants any more is cancelled on the wire, and told of at once", () => {
    const { asked, counts, duplex } = start()
    duplex.cancel()
    assert.deepStrictEqual(asked, [`cancel ${Code.CANCELLED}`])
    assert.isAtLeast(counts().ended, 1)
  })
})
