/**
 * A server of grpc-js: its socket, its health service, its end.
 */
import type { handleServerStreamingCall, Server, ServerCredentials, ServerWritableStream } from "@grpc/grpc-js"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type { HealthImplementation } from "grpc-health-check"

/** The port that is bound, or why none is. It cannot be interrupted: grpc-js has no way to take back a bind to port 0. */
export const bind = (
  server: Server,
  address: string,
  credentials: ServerCredentials
): Effect.Effect<number, string> =>
  Effect.uninterruptible(
    Effect.callback<number, string>((resume) => {
      const answer = (error: Error | null, port: number) =>
        resume(error === null ? Effect.succeed(port) : Effect.fail(error.message))
      // It throws for an address that it cannot parse, and for a server that was shut down.
      try {
        server.bindAsync(address, credentials, answer)
      } catch (cause) {
        answer(cause instanceof Error ? cause : new Error(String(cause)), 0)
      }
    })
  )

/** How long the sockets of a server that was forced to end may take to close. */
const closing = "1 second"

/**
 * Takes no new calls and lets those in flight end, for as long as `grace`; then it cuts them, and says so. All sockets are closed
 * at the end.
 *
 * @param refusing - Runs once no new calls come.
 */
export const shutdown = (
  server: Server,
  grace: Duration.Duration,
  refusing: () => void = () => {}
): Effect.Effect<"Ended" | "Cut"> =>
  Effect.suspend(() => {
    const closed = Deferred.makeUnsafe<void>()
    server.tryShutdown(() => Deferred.doneUnsafe(closed, Exit.void))
    refusing()
    const within = (time: Duration.Input) => Effect.timeoutOption(Deferred.await(closed), time)
    return Effect.flatMap(within(grace), (ended) => {
      server.forceShutdown()
      return Option.isSome(ended) ? Effect.succeed("Ended") : Effect.as(within(closing), "Cut")
    })
  })

/** What the health service says, and the end of those who listen to it. */
export interface Health {
  readonly set: (serving: boolean) => Effect.Effect<void>
  /** Ends the `Watch` calls: they would otherwise last as long as their clients, and hold up the end of the server. */
  readonly endUnsafe: () => void
}

type Watch = ServerWritableStream<unknown, unknown>

const status = (serving: boolean) => serving ? "SERVING" : "NOT_SERVING"

/** Adds the health service for the server as a whole (`""`) and for the named gRPC services. Serving from the start. */
export const addHealth = (server: Server, services: ReadonlyArray<string>): Effect.Effect<Health, string> =>
  // Who serves nothing does not wait for it to be loaded.
  Effect.flatMap(
    Effect.tryPromise({ try: () => import("grpc-health-check"), catch: messageOf }),
    ({ HealthImplementation }) =>
      Effect.try({
        try: () => {
          const names = ["", ...services]
          const health = new HealthImplementation(Object.fromEntries(names.map((name) => [name, status(true)])))
          return addImplementation(server, names, health)
        },
        catch: messageOf
      })
  )

const messageOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

const addImplementation = (server: Server, names: ReadonlyArray<string>, health: HealthImplementation): Health => {
  const watching = new Set<Watch>()
  health.addToServer({
    addService: (definition, handlers) => {
      // Of the four kinds of handler that the untyped table allows, this is a server stream.
      const watch = handlers["watch"] as handleServerStreamingCall<unknown, unknown>
      server.addService(definition, {
        ...handlers,
        watch: (call: Watch) => {
          watching.add(call)
          call.once("cancelled", () => watching.delete(call))
          watch(call)
        }
      })
    }
  })
  return {
    set: (serving) => Effect.sync(() => names.forEach((name) => health.setStatus(name, status(serving)))),
    endUnsafe: () => {
      watching.forEach((call) => call.end())
      watching.clear()
    }
  }
}
