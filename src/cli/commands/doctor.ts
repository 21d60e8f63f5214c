/**
 * `coord doctor`: looks at everything that a lock, a registration or a value depends on, and says what to do.
 */
import * as Effect from "effect/Effect"
import { layerEtcdPort } from "../../EtcdLive.ts"
import type { EtcdOptions } from "../../EtcdOptions.ts"
import { Connection } from "../Connection.ts"
import { clock } from "../doctor/clock.ts"
import { type Finding, ok, problem } from "../doctor/Finding.ts"
import { configuration, entries } from "../doctor/keys.ts"
import { members } from "../doctor/members.ts"
import { rights } from "../doctor/rights.ts"
import { ExitCode, silently } from "../Exit.ts"
import { Output, printable } from "../Output.ts"

const colors = { ok: "32", note: "33", problem: "31" }
const marks = { ok: "ok", note: "note", problem: "PROBLEM" }

const print = (output: Output["Service"], finding: Finding) => {
  if (output.json) return output.object({ ...finding })
  const mark = marks[finding.status].padEnd(8)
  const head = output.color ? `\u001b[${colors[finding.status]}m${mark}\u001b[0m` : mark
  const advice = finding.advice === undefined ? "" : `\n         -> ${printable(finding.advice)}`
  return output.text(`${head} ${printable(finding.check)}: ${printable(finding.detail)}${advice}\n`)
}

/** A look that fails is a finding as well, and the others are taken all the same. */
const look = <E extends { readonly message: string }, R>(
  check: string,
  findings: Effect.Effect<ReadonlyArray<Finding>, E, R>
) =>
  Effect.catch(
    findings,
    (error: E) =>
      Effect.succeed([problem(check, error.message, "mend what is above first; if all is in order there, ask again")])
  )

const looks = (options: EtcdOptions) => {
  const prefixes = [
    { service: "locks", prefix: options.lockPrefix ?? "/locks", what: "whoever asks for its lock waits" },
    { service: "elections", prefix: options.electionPrefix ?? "/elections", what: "it leads, or waits to," },
    { service: "semaphores", prefix: options.semaphorePrefix ?? "/semaphores", what: "it keeps its permit" },
    { service: "read-write locks", prefix: options.readWriteLockPrefix ?? "/rwlocks", what: "it keeps its lock" },
    { service: "ids", prefix: options.allocatorPrefix ?? "/allocators", what: "its id is taken" },
    { service: "services", prefix: options.registryPrefix ?? "/services", what: "clients call it" }
  ]
  const namespace = options.namespace ?? ""
  const configPrefix = options.configPrefix ?? "/config"
  return [
    look("members", members),
    look("clock", clock(options.endpoints ?? "127.0.0.1:2379")),
    look(
      "rights",
      rights([...prefixes, { service: "configuration", prefix: configPrefix }], options.username, namespace)
    ),
    ...prefixes.map(({ prefix, service, what }) => look(service, entries(service, prefix, what, namespace))),
    look("configuration", configuration(configPrefix, namespace))
  ]
}

export const doctor = Effect.gen(function*() {
  const output = yield* Output
  const options = yield* Effect.flatMap(Connection, ({ options }) => options)
  let problems = 0
  const tell = (finding: Finding) => {
    if (finding.status === "problem") problems++
    return print(output, finding)
  }
  const connected = Effect.andThen(
    tell(ok("connection", `${String(options.endpoints ?? "127.0.0.1:2379")} answers`)),
    Effect.forEach(looks(options), (findings) => Effect.flatMap(findings, Effect.forEach(tell)), { discard: true })
  )
  yield* Effect.provide(connected, layerEtcdPort(options)).pipe(
    Effect.catch((error) => tell(problem("connection", error.message, "nothing else can be looked at before that")))
  )
  if (problems > 0) return yield* silently(ExitCode.no)
})
