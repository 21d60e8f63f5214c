/**
 * To which etcd, as whom: flags over the environment of `EtcdLive`.
 */
import type * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { EtcdOptions } from "../EtcdOptions.ts"
import { Exit, ExitCode } from "./Exit.ts"
import { duration } from "./flags.ts"

const text = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description), Flag.optional)

/** Of every command. */
export const connectionFlags = {
  endpoints: text("endpoints", "HOST:PORT,...", "Members of the cluster (ETCD_ENDPOINTS, or 127.0.0.1:2379)"),
  user: text("user", "NAME", "Who asks, with the password in ETCD_PASSWORD or --password-file (ETCD_USERNAME)"),
  passwordFile: text("password-file", "FILE", "A file whose first line is the password"),
  caCert: text("cacert", "FILE", "Authorities to trust (ETCD_TLS_CA)"),
  cert: text("cert", "FILE", "The certificate of this client (ETCD_TLS_CERT)"),
  key: text("key", "FILE", "The key of this client (ETCD_TLS_KEY)"),
  serverName: text("server-name", "NAME", "The name to expect in the servers' certificates (ETCD_TLS_SERVER_NAME)"),
  namespace: text("namespace", "PREFIX", "Put before every key (ETCD_NAMESPACE)"),
  timeout: duration("timeout").pipe(
    Flag.withDescription("The bound of one request (ETCD_TIMEOUT, or 5s)"),
    Flag.optional
  )
}

type ConnectionFlags = Command.Command.Config.Infer<typeof connectionFlags>

const defined = <A extends Record<string, unknown>>(options: A): Partial<A> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<A>

const passwordIn = Effect.fnUntraced(function*(path: string) {
  const files = yield* FileSystem.FileSystem
  const content = yield* Effect.mapError(
    files.readFileString(path),
    () => new Exit({ code: ExitCode.usage, message: `--password-file ${path} cannot be read` })
  )
  return Redacted.make(content.split(/\r?\n/, 1)[0] ?? "")
})

/** To which etcd, as whom. Nothing is connected before it is asked for. */
export class Connection extends Context.Service<Connection, {
  readonly options: Effect.Effect<EtcdOptions, Exit | Config.ConfigError, FileSystem.FileSystem>
}>()("effect-coord/cli/Connection") {}

/** The options of the environment, with what the flags say in their place. */
export const optionsOf = Effect.fnUntraced(function*(flags: ConnectionFlags) {
  const env = yield* EtcdOptions.fromEnv
  const said = Option.getOrUndefined
  const user = said(flags.user)
  if (user?.includes(":") === true) {
    return yield* new Exit({
      code: ExitCode.usage,
      message:
        "--user takes the name alone: everybody can see it. The password is read from ETCD_PASSWORD or --password-file"
    })
  }
  const tls = {
    ...env.tls,
    ...defined({
      ca: said(flags.caCert),
      cert: said(flags.cert),
      key: said(flags.key),
      serverName: said(flags.serverName)
    })
  }
  const passwordFile = said(flags.passwordFile)
  return {
    ...env,
    ...defined({
      endpoints: said(flags.endpoints),
      username: user,
      password: passwordFile === undefined ? undefined : yield* passwordIn(passwordFile),
      namespace: said(flags.namespace),
      timeout: said(flags.timeout)
    }),
    // Any option of TLS would switch it on.
    ...Object.keys(tls).length > 0 && { tls }
  } as EtcdOptions
})
