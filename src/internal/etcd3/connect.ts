/**
 * The first word to a cluster: whether it is there, has a leader, and knows the user. What is wrong then is a mistake in the
 * options more often than not, so the error names the endpoints and what to look at.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import { EtcdError, Unauthenticated, Unavailable, Unexpected } from "../../EtcdError.ts"
import type { Transport } from "../Transport.ts"
import { formatEndpoint } from "./channel.ts"
import type { ConnectionSettings } from "./connection.ts"

export const checkConnection = Effect.fnUntraced(function*(
  transport: Transport,
  settings: ConnectionSettings & { readonly retry: Schedule.Schedule<unknown> }
): Effect.fn.Return<void, EtcdError> {
  let last: EtcdError | undefined
  const answered = yield* transport.range({ key: "\0", limit: 1, keysOnly: true }).pipe(
    Effect.tapError((error) =>
      Effect.sync(() => {
        last = error
      })
    ),
    Effect.retry({ schedule: settings.retry, while: (error) => error.reason._tag === "Unavailable" }),
    // Who may not read this key is known all the same.
    Effect.catchReason("EtcdError", "PermissionDenied", () => Effect.void),
    Effect.mapError((error) => explain(error, settings)),
    Effect.timeoutOption(settings.dialTimeout)
  )
  if (Option.isNone(answered)) {
    const detail = `no answer within ${Duration.format(settings.dialTimeout)}`
    return yield* explain(last ?? failure(new Unavailable({ detail, sent: true })), settings)
  }
})

const failure = (reason: EtcdError["reason"]) => new EtcdError({ operation: "connect", reason })

const explain = ({ reason }: EtcdError, { credentials, endpoints, tls }: ConnectionSettings): EtcdError => {
  const where = endpoints.map(formatEndpoint).join(", ")
  switch (reason._tag) {
    case "Unauthenticated": {
      const who = credentials === undefined ? "" : ` (user ${JSON.stringify(credentials.username)})`
      return failure(new Unauthenticated({ detail: `${where}${who}: ${reason.detail}` }))
    }
    case "Unavailable":
    case "Timeout":
      return failure(
        new Unavailable({
          detail: `${reason.detail.includes(where) ? "" : `${where}: `}${reason.detail}. ${
            advice(reason.detail, tls !== undefined)
          }`,
          sent: false
        })
      )
    default:
      return failure(new Unexpected({ detail: `${where}: ${reason.message}` }))
  }
}

const advice = (detail: string, tls: boolean): string => {
  if (/ENOTFOUND|EAI_AGAIN|Name resolution/.test(detail)) {
    return "The host name is not known: check the option endpoints"
  }
  // What the server says of ours. Its other alerts are about the protocol.
  if (/alert (.*certificate|unknown ca)/.test(detail)) {
    return "The server wants a client certificate that it trusts: check the options tls.cert and tls.key"
  }
  if (/has expired|not yet valid/.test(detail)) {
    return "The server's certificate is out of date: renew it, and check the clock of this machine"
  }
  if (/altnames/.test(detail)) {
    return "The server's certificate is for other names: use one of them in the option endpoints, or in tls.serverName"
  }
  if (/certificate|self-signed|unable to verify/i.test(detail)) {
    return "The server's certificate is not trusted: check the option tls.ca"
  }
  if (detail.includes("no leader")) return "The cluster has lost its majority: check its members"
  const question = "Is etcd running there, and may this machine reach it? Check the option endpoints"
  if (detail.includes("ECONNREFUSED")) return question
  return `${question}. ${tls ? "Does it speak TLS, and trust tls.cert?" : "Does it want TLS? Then write https://"}`
}
