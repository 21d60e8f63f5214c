/**
 * What npm etcd3 says of etcd's protocol: the methods of its `rpc.proto`. Read when the first of them is called: with the library that
 * reads it, this takes about as long as all of grpc-js, and only tokens and the states of members need it (see `stubs.ts`).
 */
import type * as ProtoLoader from "@grpc/proto-loader"
import { createRequire } from "node:module"
import type { Method } from "./unary.ts"

const require = createRequire(import.meta.url)

type Methods = Readonly<Record<string, unknown>>

let services: Readonly<Record<string, Methods>> | undefined

const load = () => {
  const { loadSync } = require("@grpc/proto-loader") as typeof ProtoLoader
  // As etcd3 itself loads it, so that its types hold.
  return loadSync(require.resolve("etcd3/proto/rpc.proto"), {
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true
  }) as unknown as Readonly<Record<string, Methods>>
}

/** Made at run time, so its types are those that the caller says. */
export const methodOf = <Request, Response>(service: string, name: string): Method<Request, Response> => {
  services ??= load()
  return services[`etcdserverpb.${service}`]?.[name] as Method<Request, Response>
}
