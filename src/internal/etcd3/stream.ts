/**
 * A gRPC stream in both directions, read at the pace of its consumer. On a channel itself, as `unary.ts`, and without the streams of
 * Node, which hand each message on a step later.
 */
import { type ChannelInterface, type Metadata, status as Code } from "@grpc/grpc-js"
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import type { Status } from "./status.ts"
import { type Method, words } from "./unary.ts"

export interface Duplex<Request, Response> {
  readonly write: (request: Request) => void
  /**
   * What has arrived, at least one message; the status when the stream has ended and everything before was read. Nothing is
   * taken from the stream before the effect is about to succeed, so an interrupted read loses nothing.
   */
  readonly read: Effect.Effect<Arr.NonEmptyReadonlyArray<Response>, Status>
  /** Cancelled on the wire; reads fail with it, once what has arrived is read. */
  readonly end: (code: Code, why: string) => void
  readonly cancel: () => void
}

export interface Listener {
  /** A message has arrived. */
  readonly heard: () => void
  /** It has ended, or nobody wants it any more. */
  readonly ended: () => void
}

/** So many messages arrive before they are read. */
const ahead = 16

export const makeDuplex = <Request, Response>(
  channel: Pick<ChannelInterface, "createCall">,
  method: Method<Request, Response>,
  metadata: Metadata,
  listener: Listener
): Duplex<Request, Response> => {
  const call = channel.createCall(method.path, Infinity, null, null, null)
  let arrived: Array<Response> = []
  let unsent: Array<Buffer> = []
  let sending = false
  let reading = true
  let ended: Status | undefined
  let wake = () => {}

  const end = (code: Code, why: string): void => call.cancelWithStatus(code, why)

  // grpc-js keeps no more than one that it could not send yet.
  const send = () => {
    const message = unsent.shift()
    sending = message !== undefined
    if (message !== undefined) call.sendMessageWithContext({ callback: send }, message)
  }
  const readOn = () => {
    reading = arrived.length < ahead
    if (reading) call.startRead()
  }
  const finish = (status: Status) => {
    ended ??= status
    unsent = []
    listener.ended()
    wake()
  }

  call.start(metadata, {
    onReceiveMetadata: () => {},
    onReceiveMessage: (message: Buffer) => {
      try {
        arrived.push(method.responseDeserialize(message))
      } catch (error) {
        // That is what is told, whatever the server says of it.
        const details = `Response message parsing error: ${words(error)}`
        ended ??= { code: Code.INTERNAL, details }
        return end(Code.INTERNAL, details)
      }
      listener.heard()
      // Whoever waits for it does not wait for that, too.
      wake()
      readOn()
    },
    onReceiveStatus: ({ code, details }) =>
      finish(code === Code.OK ? { code: Code.UNAVAILABLE, details: "the server ended the stream" } : { code, details })
  })
  call.startRead()

  const changed = Effect.callback<void>((resume) => {
    if (ended !== undefined || arrived.length > 0) return resume(Effect.void)
    wake = () => {
      wake = () => {}
      resume(Effect.void)
    }
    return Effect.sync(() => {
      wake = () => {}
    })
  })

  const take: Effect.Effect<Arr.NonEmptyReadonlyArray<Response>, Status> = Effect.suspend(() => {
    const messages = arrived
    if (Arr.isArrayNonEmpty(messages)) {
      arrived = []
      if (!reading) readOn()
      return Effect.succeed(messages)
    }
    return ended === undefined ? waiting : Effect.fail(ended)
  })
  const waiting = Effect.flatMap(changed, () => take)

  return {
    write: (request) => {
      if (ended !== undefined) return
      try {
        unsent.push(method.requestSerialize(request))
      } catch (error) {
        return end(Code.INTERNAL, `Request message serialization failure: ${words(error)}`)
      }
      if (!sending) send()
    },
    read: take,
    end,
    cancel: () => {
      end(Code.CANCELLED, "Cancelled on client")
      // A peer that ended it well says no more, and what it sent last is not read any more.
      listener.ended()
    }
  }
}
