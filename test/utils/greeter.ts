/** A greeter that says which instance answered, and calls of it. */
import { type ChannelCredentials, credentials, type Server, type ServiceError, status as Code } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import {
  GreeterClient,
  type GreeterServer,
  GreeterService,
  type GreetReply
} from "../../examples/greeter/ts-proto/greeter.ts"

export interface Greeter {
  readonly addTo: (server: Server) => void
  /** Calls that have begun and not ended. */
  readonly inFlight: () => number
  /** Ends the calls of somebody called "held". */
  readonly release: () => void
}

/** Whoever is called "held" waits to be released, "busy" for 50 ms. */
export const makeGreeter = (instance: string): Greeter => {
  const held = new Set<() => void>()
  const reply = (...names: ReadonlyArray<string>): GreetReply => ({
    greeting: `hello ${names.join(" and ")}`,
    instance
  })
  const handlers: GreeterServer = {
    greet: (call, callback) => {
      const answer = () => callback(null, reply(call.request.name))
      if (call.request.name === "busy") {
        setTimeout(answer, 50)
        return
      }
      if (call.request.name !== "held") return answer()
      const end = () => {
        held.delete(end)
        answer()
      }
      held.add(end)
      call.once("cancelled", () => held.delete(end))
    },
    greetMany: (call) => {
      for (const time of ["morning", "evening"]) call.write(reply(call.request.name, time))
      call.end()
    },
    greetAll: (call, callback) => {
      const names: Array<string> = []
      call.on("data", ({ name }) => names.push(name))
      call.once("end", () => callback(null, reply(...names)))
    },
    chat: (call) => {
      call.on("data", ({ name }) => call.write(reply(name)))
      call.once("end", () => call.end())
    }
  }
  return {
    addTo: (server) => server.addService(GreeterService, handlers),
    inFlight: () => held.size,
    release: () => held.forEach((end) => end())
  }
}

export const greeterClient = (port: number, options?: { readonly credentials?: ChannelCredentials }) =>
  Effect.acquireRelease(
    Effect.sync(() => new GreeterClient(`127.0.0.1:${port}`, options?.credentials ?? credentials.createInsecure())),
    (client) => Effect.sync(() => client.close())
  )

/** A call's reply, or the name of the code it ended with. */
export const greet = (client: GreeterClient, name = "world"): Effect.Effect<GreetReply, string> =>
  Effect.callback((resume) => {
    const call = client.greet(
      { name },
      (error: ServiceError | null, reply) =>
        resume(error === null ? Effect.succeed(reply) : Effect.fail(String(Code[error.code])))
    )
    return Effect.sync(() => call.cancel())
  })
