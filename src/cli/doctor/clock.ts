/**
 * This machine's clock beside a server's, which says its own in each answer over HTTP. Leases do not depend on it; logs, certificates and
 * whoever compares the times of two machines do.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Http from "node:http"
import { type Finding, note, ok } from "./Finding.ts"

/** The header has whole seconds, and the answer takes a moment. */
const tolerated = 3_000

const dateOf = (url: string) =>
  Effect.callback<Option.Option<string>>((resume) => {
    const none = () => resume(Effect.succeed(Option.none()))
    const request = Http.get(url, { timeout: 2_000, agent: false }, (response) => {
      response.resume()
      resume(Effect.succeed(Option.fromUndefinedOr(response.headers.date)))
    })
    request.on("timeout", () => request.destroy())
    request.on("error", none)
    return Effect.sync(() => request.destroy())
  })

/** `endpoints` as in the options; over TLS nothing is compared. */
export const clock = Effect.fnUntraced(function*(endpoints: string | ReadonlyArray<string>) {
  const [first = ""] = typeof endpoints === "string" ? endpoints.split(",") : endpoints
  const url = /^https?:/.test(first) ? first.trim() : `http://${first.trim()}`
  const date = url.startsWith("https:") ? Option.none() : yield* dateOf(`${url.replace(/\/$/, "")}/version`)
  const server = Option.flatMap(date, DateTime.make)
  if (Option.isNone(server)) return [note("clock", "not compared: the server tells its time over plain HTTP only")]
  const apart = (yield* Clock.currentTimeMillis) - DateTime.toEpochMillis(server.value)
  const findings: ReadonlyArray<Finding> = Math.abs(apart) > tolerated
    ? [
      note(
        "clock",
        `${(Math.abs(apart) / 1_000).toFixed(0)} s ${apart > 0 ? "ahead of" : "behind"} ${first}'s`,
        "set both by NTP: leases do not mind, but certificates and logs do"
      )
    ]
    : [ok("clock", `as ${first}'s, within ${tolerated / 1_000} s`)]
  return findings
})
