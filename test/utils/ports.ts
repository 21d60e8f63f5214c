import * as Effect from "effect/Effect"
import * as Net from "node:net"

const listens = (port: number): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    const server = Net.createServer()
    server.once("error", () => resume(Effect.succeed(false)))
    server.listen(port, "127.0.0.1", () => server.close(() => resume(Effect.succeed(true))))
  })

/** A proxy that refuses connections for a while, or a server that is down, comes back on its port. */
const given = new Set<number>()

/**
 * A free loopback port below the range from which systems take the ports of outgoing connections (32768 or 49152 and
 * up): a server that is killed finds it free again when it comes back. Another process may still be faster, so whoever
 * binds it tries again with another.
 */
export const freePort: Effect.Effect<number> = Effect.suspend(() => {
  const port = 20_000 + Math.floor(Math.random() * 12_000)
  if (given.has(port)) return freePort
  given.add(port)
  return Effect.flatMap(listens(port), (free) => free ? Effect.succeed(port) : freePort)
})
