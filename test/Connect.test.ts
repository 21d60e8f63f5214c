/** Connect's clients on a gRPC channel, against a real server of grpc-js. */
import { create } from "@bufbuild/protobuf"
import { anyPack } from "@bufbuild/protobuf/wkt"
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect"
import { assert, describe, it } from "@effect/vitest"
import * as grpc from "@grpc/grpc-js"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { Greeter, GreetReplySchema } from "../examples/greeter/es/greeter_pb.ts"
import { type GreeterServer, GreeterService } from "../examples/greeter/ts-proto/greeter.ts"
import { type GrpcTransportOptions, makeGrpcTransport } from "../src/Connect.ts"
import { bind, shutdown } from "../src/internal/grpc/server.ts"

const instance = "a"
const seen = { cancelled: 0, named: 0, deadlines: new Array<number>() }

/** `google.rpc.Status` with a greeting among its details. */
const statusWithDetails = () => {
  const detail = anyPack(GreetReplySchema, create(GreetReplySchema, { greeting: "sorry" }))
  const url = Buffer.from(detail.typeUrl)
  const any = Buffer.concat([Buffer.from([10, url.length]), url, Buffer.from([18, detail.value.length]), detail.value])
  return Buffer.concat([Buffer.from([8, 9, 18, 1, 120]), Buffer.from([26, any.length]), any])
}

const refusal = (name: string) => {
  const metadata = new grpc.Metadata()
  metadata.set("why", name)
  if (name === "detailed") metadata.set("grpc-status-details-bin", statusWithDetails())
  if (name === "garbled") metadata.set("grpc-status-details-bin", Buffer.from([26, 255, 255]))
  return { code: grpc.status.FAILED_PRECONDITION, details: `not ${name}`, metadata }
}
const refused = new Set(["refused", "detailed", "garbled"])

const handlers: GreeterServer = {
  greet: (call, callback) => {
    const { name } = call.request
    seen.deadlines.push(Number(call.getDeadline()))
    if (refused.has(name)) return callback(refusal(name))
    if (name === "silent") return call.on("cancelled", () => seen.cancelled++)
    const headers = new grpc.Metadata()
    for (const value of call.metadata.get("ask")) headers.add("heard", value)
    for (const value of call.metadata.get("ask-bin")) headers.add("heard-bin", value)
    call.sendMetadata(headers)
    const trailer = new grpc.Metadata()
    trailer.set("last", "word")
    callback(null, { greeting: `hello ${name}`, instance }, trailer)
  },
  greetMany: (call) => {
    const { name } = call.request
    if (name === "silent") {
      call.sendMetadata(new grpc.Metadata())
      call.on("cancelled", () => seen.cancelled++)
      return
    }
    for (let i = 0; i < 3; i++) call.write({ greeting: `${name} ${i}`, instance })
    if (name === "broken") call.emit("error", refusal(name))
    else call.end()
  },
  greetAll: (call, callback) => {
    if (call.metadata.get("read").includes("nothing")) {
      setTimeout(() => callback(null, { greeting: "enough", instance }), 50)
      return
    }
    const names: Array<string> = []
    call.on("cancelled", () => seen.cancelled++)
    call.on("data", ({ name }) => {
      names.push(name)
      seen.named++
      if (name === "enough") callback(null, { greeting: "enough", instance })
    })
    call.once("end", () => callback(null, { greeting: names.join(" and "), instance }))
  },
  chat: (call) => {
    call.on("data", ({ name }) => call.write({ greeting: `hello ${name}`, instance }))
    call.once("end", () => call.end())
  }
}

const connect = Effect.fnUntraced(function*(options?: GrpcTransportOptions) {
  const server = new grpc.Server()
  server.addService(GreeterService, handlers)
  yield* Effect.addFinalizer(() => shutdown(server, Duration.zero))
  const port = yield* bind(server, "127.0.0.1:0", grpc.ServerCredentials.createInsecure())
  const channel = yield* Effect.acquireRelease(
    Effect.sync(() => new grpc.Channel(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {})),
    (channel) => Effect.sync(() => channel.close())
  )
  return createClient(Greeter, makeGrpcTransport(channel, options))
})

const names = async function*(...names: ReadonlyArray<string>) {
  for (const name of names) yield { name }
}

const collect = async <A>(messages: AsyncIterable<A>, into: Array<A> = []) => {
  for await (const message of messages) into.push(message)
  return into
}

const failing = (promise: Promise<unknown>): Effect.Effect<ConnectError> =>
  Effect.flip(Effect.tryPromise({ try: () => promise, catch: (cause) => ConnectError.from(cause) })).pipe(Effect.orDie)

const wait = (holds: () => boolean) =>
  Effect.promise(async () => {
    while (!holds()) await new Promise((resume) => setTimeout(resume, 1))
  })

describe("a Connect transport on a gRPC channel", () => {
  it.live("unary, with headers and trailers both ways", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      let header = new Headers()
      let trailer = new Headers()
      const reply = yield* Effect.promise(() =>
        client.greet({ name: "world" }, {
          headers: [["ask", "one"], ["ask-bin", "AAEC"]],
          onHeader: (headers) => header = headers,
          onTrailer: (headers) => trailer = headers
        })
      )
      assert.deepStrictEqual([reply.greeting, reply.instance], ["hello world", "a"])
      assert.strictEqual(header.get("heard"), "one")
      assert.strictEqual(header.get("heard-bin"), "AAEC")
      assert.strictEqual(trailer.get("last"), "word")
    }))

  it.live("a stream of replies, of requests, of both", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      const many = yield* Effect.promise(() => collect(client.greetMany({ name: "hello" })))
      assert.deepStrictEqual(many.map(({ greeting }) => greeting), ["hello 0", "hello 1", "hello 2"])

      const all = yield* Effect.promise(() => client.greetAll(names("ann", "bob")))
      assert.strictEqual(all.greeting, "ann and bob")
      assert.strictEqual((yield* Effect.promise(() => client.greetAll(names()))).greeting, "")

      // Each request waits for the reply before it.
      const replies = new Array<string>()
      let next: (greeting: string) => void = () => {}
      const dialogue = async function*() {
        for (const name of ["ann", "bob", "eve"]) {
          const answered = new Promise<string>((resolve) => next = resolve)
          yield { name }
          replies.push(await answered)
        }
      }
      yield* Effect.promise(async () => {
        for await (const { greeting } of client.chat(dialogue())) next(greeting)
      })
      assert.deepStrictEqual(replies, ["hello ann", "hello bob", "hello eve"])
    }))

  it.live("10,000 messages each way arrive once and in order", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      const sent = Array.from({ length: 10_000 }, (_, index) => String(index))
      const replies = yield* Effect.promise(() => collect(client.chat(names(...sent))))
      assert.deepStrictEqual(replies.map(({ greeting }) => greeting), sent.map((name) => `hello ${name}`))
    }))

  it.live("errors carry code, message, metadata and details", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      const plain = yield* failing(client.greet({ name: "refused" }))
      assert.strictEqual(plain.code, Code.FailedPrecondition)
      assert.strictEqual(plain.rawMessage, "not refused")
      assert.strictEqual(plain.metadata.get("why"), "refused")
      assert.deepStrictEqual(plain.details, [])
      const detailed = yield* failing(client.greet({ name: "detailed" }))
      assert.deepStrictEqual(detailed.findDetails(GreetReplySchema).map(({ greeting }) => greeting), ["sorry"])
      const garbled = yield* failing(client.greet({ name: "garbled" }))
      assert.deepStrictEqual([garbled.code, garbled.details.length], [Code.FailedPrecondition, 0])
    }))

  it.live("an error in mid-stream comes after the messages before it", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      for (let i = 0; i < 20; i++) {
        const before: Array<unknown> = []
        const error = yield* failing(collect(client.greetMany({ name: "broken" }), before))
        assert.strictEqual(error.code, Code.FailedPrecondition)
        assert.strictEqual(before.length, 3)
      }
    }))

  it.live("deadlines: the server knows them, and the call ends with DeadlineExceeded", () =>
    Effect.gen(function*() {
      const client = yield* connect({ defaultTimeoutMs: 60_000 })
      seen.deadlines.length = 0
      const error = yield* failing(client.greet({ name: "silent" }, { timeoutMs: 50 }))
      assert.strictEqual(error.code, Code.DeadlineExceeded)
      yield* Effect.promise(() => client.greet({ name: "world" }))
      yield* Effect.promise(() => client.greet({ name: "world" }, { timeoutMs: 0 }))
      const [short = 0, long = 0, none = 0] = seen.deadlines
      assert.isAbove(long - short, 50_000)
      assert.strictEqual(none, Infinity)
    }))

  it.live("an abort ends the call at the server too", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      seen.cancelled = 0
      const unary = new AbortController()
      const greeting = client.greet({ name: "silent" }, { signal: unary.signal })
      setTimeout(() => unary.abort(), 20)
      assert.strictEqual((yield* failing(greeting)).code, Code.Canceled)
      yield* wait(() => seen.cancelled === 1)

      const streaming = new AbortController()
      const messages = collect(client.greetMany({ name: "silent" }, { signal: streaming.signal }))
      setTimeout(() => streaming.abort(), 20)
      assert.strictEqual((yield* failing(messages)).code, Code.Canceled)
      yield* wait(() => seen.cancelled === 2)

      const late = yield* failing(client.greet({ name: "world" }, { signal: AbortSignal.abort() }))
      assert.strictEqual(late.code, Code.Canceled)
    }))

  it.live("requests that fail to come end the call with their error", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      Object.assign(seen, { cancelled: 0, named: 0 })
      const broken = async function*() {
        yield { name: "ann" }
        await Effect.runPromise(wait(() => seen.named === 1))
        throw new Error("no more names")
      }
      const error = yield* failing(client.greetAll(broken()))
      assert.include(error.message, "no more names")
      yield* wait(() => seen.cancelled === 1)
    }))

  it.live("a reply before the requests have ended ends them", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      let sent = 0
      const endless = async function*() {
        for (;;) yield { name: sent++ === 3 ? "enough" : "ann" }
      }
      const reply = yield* Effect.promise(() => client.greetAll(endless()))
      assert.strictEqual(reply.greeting, "enough")
    }))

  it.live("a reply of a server that reads nothing ends the requests, which wait for it", () =>
    Effect.gen(function*() {
      const client = yield* connect()
      let sent = 0
      let over = false
      const name = "x".repeat(100_000)
      const endless = async function*() {
        try {
          for (;; sent++) yield { name }
        } finally {
          over = true
        }
      }
      const reply = yield* Effect.promise(() => client.greetAll(endless(), { headers: { read: "nothing" } }))
      assert.strictEqual(reply.greeting, "enough")
      yield* wait(() => over)
      assert.isBelow(sent, 1000)
    }))

  it.live("interceptors see the request and may change it", () =>
    Effect.gen(function*() {
      const calls: Array<string> = []
      const interceptor: Interceptor = (next) => (request) => {
        calls.push(`${request.service.typeName}/${request.method.name} ${new URL(request.url).pathname}`)
        request.header.set("ask", "intercepted")
        return next(request)
      }
      const client = yield* connect({ interceptors: [interceptor] })
      let header = new Headers()
      yield* Effect.promise(() => client.greet({ name: "world" }, { onHeader: (headers) => header = headers }))
      assert.strictEqual(header.get("heard"), "intercepted")
      assert.strictEqual(calls.length, 1)
      assert.match(calls[0] ?? "", /^greeter\.Greeter\/Greet .*\/greeter\.Greeter\/Greet$/)
    }))

  it.live("nobody there is Unavailable", () =>
    Effect.gen(function*() {
      const nobody = yield* Effect.acquireRelease(
        Effect.sync(() => new grpc.Channel("127.0.0.1:1", grpc.credentials.createInsecure(), {})),
        (channel) => Effect.sync(() => channel.close())
      )
      const error = yield* failing(createClient(Greeter, makeGrpcTransport(nobody)).greet({ name: "world" }))
      assert.strictEqual(error.code, Code.Unavailable)

      let over = false
      const endless = async function*() {
        try {
          for (;;) yield { name: "ann" }
        } finally {
          over = true
        }
      }
      const stream = createClient(Greeter, makeGrpcTransport(nobody)).greetAll(endless(), { timeoutMs: 5000 })
      assert.strictEqual((yield* failing(stream)).code, Code.Unavailable)
      yield* wait(() => over)
    }))
})
