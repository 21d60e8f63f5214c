/** A TCP proxy in this process: what a network does to connections, on command. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Net from "node:net"
import { freePort } from "./ports.ts"

export interface Proxy {
  readonly port: number
  /** `127.0.0.1:port`. */
  readonly endpoint: string
  /** Destroys all connections; new ones are accepted. */
  readonly cut: Effect.Effect<void>
  /** The same after so many bytes more from the server have been passed on, in the middle of whatever they are; returns when it is done. */
  readonly cutAfter: (bytes: number) => Effect.Effect<void>
  /** New connections are refused; those that exist go on. */
  readonly refuse: Effect.Effect<void>
  readonly accept: Effect.Effect<void>
  /** Keeps connections and accepts new ones, and passes nothing on. */
  readonly freeze: Effect.Effect<void>
  /** Passes on what has gathered. */
  readonly thaw: Effect.Effect<void>
  /** What the client sends arrives; what the server answers is swallowed. */
  readonly dropResponses: Effect.Effect<void>
  /** Ends that. Connections that have lost bytes are cut: nothing after a gap makes sense on them. */
  readonly passResponses: Effect.Effect<void>
  /** Every chunk, in both directions, arrives this much later (in real time) and in order. */
  readonly delay: (millis: number) => Effect.Effect<void>
  /** How many connections of clients are open. */
  readonly connections: Effect.Effect<number>
  /** How many were ever accepted. */
  readonly accepted: Effect.Effect<number>
  /** Bytes passed on since the start, from the client (`up`) and from the server (`down`). */
  readonly bytes: Effect.Effect<{ readonly up: number; readonly down: number }>
}

interface Connection {
  readonly client: Net.Socket
  server: Net.Socket | undefined
  lost: boolean
  /** Passes on what is due, in the order in which it came. */
  readonly drains: Array<() => void>
}

const make = (port: number, target: { readonly port: number }) => {
  const connections = new Set<Connection>()
  const bytes = { up: 0, down: 0 }
  let frozen = false
  let dropping = false
  let delay = 0
  let accepted = 0
  let fuse: { left: number; readonly blown: () => void } | undefined
  let listener: Net.Server | undefined

  const destroy = (connection: Connection) => {
    connections.delete(connection)
    connection.client.destroy()
    connection.server?.destroy()
  }

  const pipe = (connection: Connection, from: Net.Socket, to: Net.Socket, direction: "up" | "down") => {
    const queue: Array<{ readonly due: number; readonly act: () => void }> = []
    const drain = () => {
      while (!frozen && queue[0] !== undefined) {
        const wait = queue[0].due - performance.now()
        if (wait > 0) return void setTimeout(drain, wait)
        queue.shift()?.act()
      }
    }
    connection.drains.push(drain)
    const later = (act: () => void) => {
      queue.push({ due: performance.now() + delay, act })
      if (queue.length === 1) drain()
    }
    from.on("data", (chunk: Buffer) => {
      if (direction === "down" && dropping) {
        connection.lost = true
        return
      }
      later(() => {
        if (to.destroyed) return
        const spark = direction === "down" ? fuse : undefined
        if (spark !== undefined && spark.left <= chunk.length) {
          // Nothing passes between the last byte and the end.
          const { left } = spark
          spark.left = 0
          if (left > 0) to.write(chunk.subarray(0, left), spark.blown)
          return
        }
        if (spark !== undefined) spark.left -= chunk.length
        bytes[direction] += chunk.length
        if (!to.write(chunk)) {
          from.pause()
          to.once("drain", () => {
            if (!frozen) from.resume()
          })
        }
      })
    })
    from.on("end", () => later(() => to.end()))
    from.on("error", () => destroy(connection))
    from.on("close", () => later(() => destroy(connection)))
  }

  const connect = (connection: Connection) => {
    const server = Net.connect({ port: target.port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true })
    connection.server = server
    pipe(connection, connection.client, server, "up")
    pipe(connection, server, connection.client, "down")
    connection.client.resume()
  }

  const listen = () =>
    new Promise<void>((resume, reject) => {
      const server = Net.createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => {
        const connection: Connection = { client, server: undefined, lost: false, drains: [] }
        accepted++
        connections.add(connection)
        client.on("error", () => destroy(connection))
        client.on("close", () => {
          if (connection.server === undefined) destroy(connection)
        })
        if (!frozen) connect(connection)
      })
      server.once("error", reject)
      server.listen(port, "127.0.0.1", () => {
        listener = server
        resume()
      })
    })

  const refuse = () => {
    listener?.close()
    listener = undefined
  }
  const cut = () => connections.forEach(destroy)

  const proxy: Proxy = {
    port,
    endpoint: `127.0.0.1:${port}`,
    cut: Effect.sync(cut),
    cutAfter: (left) =>
      Effect.callback((resume) => {
        const blown = () => {
          fuse = undefined
          cut()
          resume(Effect.void)
        }
        if (left <= 0) return blown()
        fuse = { left, blown }
        return Effect.sync(() => {
          fuse = undefined
        })
      }),
    refuse: Effect.sync(refuse),
    accept: Effect.promise(() => listener === undefined ? listen() : Promise.resolve()),
    freeze: Effect.sync(() => {
      frozen = true
      for (const { client, server } of connections) {
        client.pause()
        server?.pause()
      }
    }),
    thaw: Effect.sync(() => {
      frozen = false
      for (const connection of connections) {
        if (connection.server === undefined) connect(connection)
        connection.client.resume()
        connection.server?.resume()
        connection.drains.forEach((drain) => drain())
      }
    }),
    dropResponses: Effect.sync(() => {
      dropping = true
    }),
    passResponses: Effect.sync(() => {
      dropping = false
      for (const connection of connections) if (connection.lost) destroy(connection)
    }),
    delay: (millis) =>
      Effect.sync(() => {
        delay = millis
      }),
    connections: Effect.sync(() => [...connections].filter(({ client }) => !client.destroyed).length),
    accepted: Effect.sync(() => accepted),
    bytes: Effect.sync(() => ({ ...bytes }))
  }
  return { proxy, listen, close: () => (refuse(), cut()) }
}

/** Listens on a free loopback port; everything is closed with the scope. */
export const makeProxy = (target: { readonly port: number }): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.flatMap(freePort, (port) => {
      const made = make(port, target)
      return Effect.as(Effect.tryPromise(made.listen), made)
    }).pipe(Effect.retry({ times: 5 }), Effect.orDie),
    ({ close }) => Effect.sync(close)
  ).pipe(Effect.map(({ proxy }) => proxy))
