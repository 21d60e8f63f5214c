/** The peers of Node: bare stubs of grpc-js, and npm etcd3 as its README shows it. */
import { Channel, credentials, type Metadata, Metadata as GrpcMetadata, type ServiceError } from "@grpc/grpc-js"
import { Etcd3 } from "etcd3"
import { type Answer, repeat, type Request, serve } from "./protocol.ts"

type Call = (
  request: object,
  metadata: Metadata,
  options: { readonly deadline: number },
  done: (error: ServiceError | null, answer: unknown) => void
) => unknown

interface WatchStream {
  readonly write: (request: object) => void
  readonly on: (event: "data", listener: (answer: { readonly events: ReadonlyArray<unknown> }) => void) => void
}

class Stubs extends Etcd3 {
  stub(service: "KV" | "Watch"): Promise<unknown> {
    return this.pool.withConnection(service, ({ client }) => client)
  }
}

const [, , peer, endpoint = ""] = process.argv

const bare = async (): Promise<(request: Request) => Promise<Answer>> => {
  const channel = new Channel(endpoint, credentials.createInsecure(), {})
  const stubs = new Stubs({ hosts: "unused", grpcOptions: { channelOverride: channel } })
  const kv = await stubs.stub("KV") as Record<"range" | "put" | "txn", Call>
  const watching = await stubs.stub("Watch") as { readonly watch: (metadata: Metadata) => WatchStream }
  const metadata = new GrpcMetadata()
  const call = (name: "range" | "put" | "txn", request: object) =>
    new Promise((resolve, reject) => {
      kv[name](request, metadata, { deadline: Date.now() + 5000 }, (error, answer) =>
        error === null ? resolve(answer) : reject(error))
    })
  const put = (key: string) => call("put", { key: Buffer.from(key), value: Buffer.from("value") })
  return async (request) => {
    const name = (index: number) => `${request.key}/${index}`
    switch (request.scenario) {
      case "get":
        for (let index = 0; index < request.concurrency; index++) await put(name(index))
        return repeat(request, (index) => call("range", { key: Buffer.from(name(index)) }))
      case "set":
        return repeat(request, (index) => put(name(index)))
      case "lock":
        return repeat(request, async (index) => {
          await put(name(index))
          await put(name(index))
        })
      // What a lock sends: an entry and who is before it, and its deletion.
      case "transactions":
        return repeat(request, async (index) => {
          const key = Buffer.from(`${name(index)}/entry`)
          const prefix = { key: Buffer.from(`${name(index)}/`), range_end: Buffer.from(`${name(index)}0`) }
          await call("txn", {
            compare: [{ key, target: "Create", result: "Equal", create_revision: "0" }],
            success: [
              { request_put: { key, value: Buffer.alloc(0) } },
              {
                request_range: { ...prefix, keys_only: true, sort_target: "Create", sort_order: "Descend", limit: "8" }
              }
            ],
            failure: [{ request_range: { key, keys_only: true } }]
          })
          await call("txn", {
            compare: [{ key, target: "Create", result: "Greater", create_revision: "0" }],
            success: [{ request_delete_range: { key } }]
          })
        })
      case "watch": {
        let seen = (): void => {}
        const stream = watching.watch(metadata)
        const opened = new Promise<void>((resolve) => {
          stream.on("data", ({ events }) => events.length > 0 ? seen() : resolve())
        })
        stream.write({ create_request: { key: Buffer.from(request.key) } })
        await opened
        return repeat({ ...request, concurrency: 1 }, () => {
          const event = new Promise<void>((resolve) => {
            seen = resolve
          })
          return Promise.all([put(request.key), event])
        })
      }
      // Reads of many keys at once, in the two ways that a transaction has for it.
      case "ranges":
        return repeat(request, () => call("txn", { success: ranges(request.key) }))
      case "nested":
        return repeat(
          request,
          () => call("txn", { success: ranges(request.key).map((range) => ({ request_txn: { success: [range] } })) })
        )
      default:
        return { error: "no such scenario" }
    }
  }
}

const ranges = (key: string) =>
  Array.from({ length: 64 }, (_, index) => ({ request_range: { key: Buffer.from(`${key}/${index}`) } }))

const etcd3 = async (): Promise<(request: Request) => Promise<Answer>> => {
  const client = new Etcd3({ hosts: endpoint })
  return (request) => {
    const name = (index: number) => `${request.key}/${index}`
    switch (request.scenario) {
      case "get":
        return repeat(request, (index) => client.get(name(index)).string())
      case "set":
        return repeat(request, async (index) => {
          await client.put(name(index)).value("value")
        })
      case "lock":
        return repeat(request, (index) => client.lock(name(index)).do(async () => {}))
      default:
        return Promise.resolve({ error: "no such scenario" })
    }
  }
}

await serve(await (peer === "bare" ? bare() : etcd3()))
