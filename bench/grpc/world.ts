/** An etcd, backends in processes of their own, and two clients of etcd: one that calls, one that changes who is there. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Path from "node:path"
import { Etcd, Operation } from "../../src/Etcd.ts"
import { layerEtcd } from "../../src/EtcdLive.ts"
import { Registry } from "../../src/Registry.ts"
import type { ChannelOptions } from "../../src/ServiceChannel.ts"
import { Echo } from "../../test/grpc/echo.ts"
import { makeEtcdServer } from "../../test/utils/EtcdServer.ts"
import { run } from "../../test/utils/processes.ts"

export const makeWorld = Effect.gen(function*() {
  const server = yield* makeEtcdServer()
  const connect = Effect.suspend(() => Layer.build(Layer.fresh(layerEtcd({ endpoints: server.endpoint }))))
  const registry = Context.get(yield* connect, Registry)
  const operator = Context.get(yield* connect, Etcd)
  let services = 0
  return {
    server,
    registry,
    /** A name that nothing has been under before. */
    newService: Effect.sync(() => {
      const name = `echo-${++services}`
      const key = (id: string) => `/services/${name}/${id}`
      return {
        name,
        put: (id: string, port: number, address = "127.0.0.1") =>
          // Twice does no harm.
          Effect.retry(
            operator.txn({ success: [Operation.put(key(id), JSON.stringify({ id, name, address, port }))] }),
            { times: 5 }
          ),
        delete: (id: string) => Effect.retry(operator.txn({ success: [Operation.delete(key(id))] }), { times: 5 }),
        client: (options: ChannelOptions = {}) => registry.client(Echo, name, options)
      }
    }),
    backendProcess: Effect.fnUntraced(function*(id: string, host = "127.0.0.1") {
      const file = Path.join(import.meta.dirname, "..", "..", "test", "fixtures", "echoBackend.ts")
      const process_ = yield* run(process.execPath, [file, id, host])
      const port = Number((yield* process_.line("port ")).slice("port ".length))
      return { id, port, kill: process_.kill }
    })
  }
})

export type World = Effect.Success<typeof makeWorld>
