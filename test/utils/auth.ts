/** Servers with authentication switched on. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { type EtcdctlError, type EtcdServer, httpRequest } from "./EtcdServer.ts"

export const password = "secret-of-users"

/** The options of a client. */
export const as = (username: string, secret = password) => ({ username, password: Redacted.make(secret) })

/** `etcdctl` as root. */
export const asRoot = (server: EtcdServer): EtcdServer["etcdctl"] => (...args) =>
  server.etcdctl(`--user=root:${password}`, ...args)

/**
 * Makes `root`, and users each of whom has a role of the same name that reads and writes these prefixes. Switches
 * authentication on, unless told not to.
 */
export const setUpAuth = Effect.fnUntraced(function*(
  server: EtcdServer,
  users: Readonly<Record<string, ReadonlyArray<string>>> = {},
  enable = true
): Effect.fn.Return<void, EtcdctlError> {
  yield* server.etcdctl("user", "add", `root:${password}`)
  // Some versions have it from the start.
  yield* Effect.ignore(server.etcdctl("role", "add", "root"))
  yield* server.etcdctl("user", "grant-role", "root", "root")
  for (const [name, prefixes] of Object.entries(users)) {
    yield* server.etcdctl("user", "add", `${name}:${password}`)
    yield* server.etcdctl("role", "add", name)
    for (const prefix of prefixes) {
      yield* server.etcdctl("role", "grant-permission", "--prefix=true", name, "readwrite", prefix)
    }
    yield* server.etcdctl("user", "grant-role", name, name)
  }
  if (enable) yield* server.etcdctl("auth", "enable")
})

/** How often anybody has authenticated at this server since it was started. */
export const authentications = (server: EtcdServer): Effect.Effect<number> =>
  Effect.map(httpRequest({ port: server.port, path: "/metrics" }), (text = "") => {
    const line = text.split("\n").find((line) =>
      line.startsWith("grpc_server_started_total") && line.includes("grpc_method=\"Authenticate\"")
    )
    return Number(line?.split(" ").at(-1) ?? 0)
  })
