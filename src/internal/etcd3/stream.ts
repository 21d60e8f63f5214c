/**
 * A gRPC stream in both directions, read at the pace of its consumer.
 */
import { type ClientDuplexStream, type ServiceError, status as Code } from "@grpc/grpc-js"
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import type { Status } from "./status.ts"

export interface Duplex<Request, Response> {
  readonly write: (request: Request) => void
  /**
   * What has arrived, at least one message; the status when the stream has ended and everything before was read. Nothing is
   * taken from the stream before the effect is about to succeed, so an interrupted read loses nothing.
   */
  readonly read: Effect.Effect<Arr.NonEmptyReadonlyArray<Response>, Status>
  /** Reads fail with it from now on, once what has arrived is read. */
  readonly end: (status: Status) => void
  readonly cancel: () => void
}

export const makeDuplex = <Request, Response>(
  raw: ClientDuplexStream<Request, Response>,
  onEnd: () => void
): Duplex<Request, Response> => {
  let ended: Status | undefined
  let wake = () => {}
  const end = (status: Status) => {
    ended ??= status
    onEnd()
    wake()
  }
  // They stay for the life of the stream: an error without a listener would end the process.
  raw.on("readable", () => wake())
  raw.on(
    "error",
    ({ code, details, message }: ServiceError) => end({ code: code ?? Code.UNKNOWN, details: details ?? message })
  )
  raw.on("end", () => end({ code: Code.UNAVAILABLE, details: "the server ended the stream" }))

  // At most what Node has buffered (16 messages): `read` asks for more only later.
  const take = (): ReadonlyArray<Response> => {
    const messages: Array<Response> = []
    for (let message = raw.read(); message !== null; message = raw.read()) messages.push(message)
    return messages
  }

  const changed = Effect.callback<void>((resume) => {
    if (ended !== undefined || raw.readableLength > 0) return resume(Effect.void)
    wake = () => resume(Effect.void)
    return Effect.sync(() => {
      wake = () => {}
    })
  })

  const read: Effect.Effect<Arr.NonEmptyReadonlyArray<Response>, Status> = Effect.suspend(() => {
    const messages = take()
    if (Arr.isReadonlyArrayNonEmpty(messages)) return Effect.succeed(messages)
    return ended === undefined ? Effect.flatMap(changed, () => read) : Effect.fail(ended)
  })

  return {
    write: (request) => {
      if (ended === undefined) raw.write(request)
    },
    read,
    end,
    cancel: () => {
      raw.cancel()
      // A peer that ended it well says no more, and what it sent last is not read any more.
      onEnd()
    }
  }
}
