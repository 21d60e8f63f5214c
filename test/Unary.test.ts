import { assert, describe, it } from "@effect/vitest"
import { type ChannelInterface, Metadata, status as Code } from "@grpc/grpc-js"
import type { Status } from "../src/internal/etcd3/status.ts"
import { type Method, UnaryCall } from "../src/internal/etcd3/unary.ts"

type Raw = ReturnType<ChannelInterface["createCall"]>

/** A call that does what a test says, and notes what was asked of it. */
const start = (method: Partial<Method<string, string>> = {}) => {
  const asked: Array<string> = []
  const answers: Array<readonly [Status | undefined, string | undefined]> = []
  let listener: Parameters<Raw["start"]>[1] | undefined
  const tell = (code: Code, details: string) => listener?.onReceiveStatus({ code, details, metadata: new Metadata() })
  const raw: Partial<Raw> = {
    start: (_, given) => {
      listener = given
    },
    startRead: () => asked.push("read"),
    sendMessageWithContext: (_, message) => asked.push(`send ${message.toString()}`),
    halfClose: () => asked.push("close"),
    cancelWithStatus: (code, details) => {
      asked.push(`cancel ${code}`)
      tell(code, details)
    }
  }
  const call = new UnaryCall(
    { createCall: () => raw as Raw },
    {
      path: "/etcdserverpb.KV/Range",
      requestSerialize: (request) => Buffer.from(request),
      responseDeserialize: (bytes) => bytes.toString(),
      ...method
    },
    "question",
    new Metadata(),
    Infinity,
    (...answer) => answers.push(answer)
  )
  return { asked, answers, call, tell, message: (text: string) => listener?.onReceiveMessage(Buffer.from(text)) }
}

const fails = () => {
  throw new Error("no such field")
}

describe("a call with one answer", () => {
  it("answers once its status has come", () => {
    const { answers, asked, message, tell } = start()
    assert.deepStrictEqual(asked, ["read", "send question", "close"])
    message("answer")
    assert.deepStrictEqual(answers, [])
    tell(Code.OK, "")
    assert.deepStrictEqual(answers, [[undefined, "answer"]])
  })

  it("fails as the server says, whatever came before", () => {
    const { answers, message, tell } = start()
    message("answer")
    tell(Code.UNAVAILABLE, "etcdserver: no leader")
    assert.deepStrictEqual(answers, [[{ code: Code.UNAVAILABLE, details: "etcdserver: no leader" }, undefined]])
  })

  it("says that an answer cannot be read, and not that it was cancelled for that", () => {
    const { answers, asked, message } = start({ responseDeserialize: fails })
    message("answer")
    assert.include(asked, `cancel ${Code.INTERNAL}`)
    assert.deepStrictEqual(answers, [
      [{ code: Code.INTERNAL, details: "Response message parsing error: no such field" }, undefined]
    ])
  })

  it("sends nothing of a request that cannot be written", () => {
    const { answers, asked } = start({ requestSerialize: fails })
    assert.deepStrictEqual(asked, ["read", `cancel ${Code.INTERNAL}`])
    assert.deepStrictEqual(answers, [
      [{ code: Code.INTERNAL, details: "Request message serialization failure: no such field" }, undefined]
    ])
  })

  it("that is ended is cancelled on the wire", () => {
    const { answers, asked, call } = start()
    call.end(Code.CANCELLED, "Cancelled on client")
    assert.include(asked, `cancel ${Code.CANCELLED}`)
    assert.deepStrictEqual(answers, [[{ code: Code.CANCELLED, details: "Cancelled on client" }, undefined]])
  })
})
