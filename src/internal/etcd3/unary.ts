/**
 * One request and its answer on a channel. As the stubs of grpc-js do it, without what nobody asks for here: interceptors, events, and
 * an error with the stack of its caller.
 */
import { type ChannelInterface, type InterceptingListener, type Metadata, status as Code } from "@grpc/grpc-js"
import { Link } from "../Linked.ts"
import type { Status } from "./status.ts"

export interface Method<Request, Response> {
  readonly path: string
  readonly requestSerialize: (request: Request) => Buffer
  readonly responseDeserialize: (bytes: Buffer) => Response
}

export type Callback<Response> = (failure: Status | undefined, response: Response | undefined) => void

const ignored = (): void => {}

export const words = (error: unknown): string => error instanceof Error ? error.message : String(error)

/** A call on its way. */
export abstract class Call extends Link<Call> {
  abstract end(code: Code, why: string): void
}

export class UnaryCall<Request, Response> extends Call implements InterceptingListener {
  readonly #call: ReturnType<ChannelInterface["createCall"]>
  readonly #method: Method<Request, Response>
  #done: Callback<Response>
  #response: Response | undefined
  /** The answer cannot be read: that is what is told, whatever the server says of it. */
  #unreadable: Status | undefined

  constructor(
    channel: Pick<ChannelInterface, "createCall">,
    method: Method<Request, Response>,
    request: Request,
    metadata: Metadata,
    deadline: number,
    done: Callback<Response>
  ) {
    super()
    this.#method = method
    this.#done = done
    this.#call = channel.createCall(method.path, deadline, null, null, null)
    this.#call.start(metadata, this)
    this.#call.startRead()
    try {
      this.#call.sendMessageWithContext({}, method.requestSerialize(request))
      this.#call.halfClose()
    } catch (error) {
      this.end(Code.INTERNAL, `Request message serialization failure: ${words(error)}`)
    }
  }

  end(code: Code, why: string): void {
    this.#call.cancelWithStatus(code, why)
  }

  onReceiveMetadata(): void {}

  onReceiveMessage(message: Buffer): void {
    try {
      this.#response = this.#method.responseDeserialize(message)
    } catch (error) {
      this.#unreadable = { code: Code.INTERNAL, details: `Response message parsing error: ${words(error)}` }
      this.end(this.#unreadable.code, this.#unreadable.details)
    }
  }

  onReceiveStatus({ code, details }: Status): void {
    const done = this.#done
    const response = this.#response
    // What grpc-js and Node keep of a call they can keep for long (see `Linked`): so without what waited for it.
    this.#done = ignored
    this.#response = undefined
    if (this.#unreadable !== undefined) done(this.#unreadable, undefined)
    else if (code !== Code.OK) done({ code, details }, undefined)
    else done(undefined, response)
  }
}
