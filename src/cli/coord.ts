/**
 * The command tree: names, flags and help. What a command does is loaded when it runs, so that help shows at once.
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Connection, connectionFlags, optionsOf } from "./Connection.ts"
import { config } from "./definitions/config.ts"
import { doctor, leader, locks, services } from "./definitions/views.ts"
import { duration, requiredCommand } from "./flags.ts"
import { Output } from "./Output.ts"

/** Of the commands that run another one while something is held. */
const heldFlags = {
  ttl: duration("ttl").pipe(
    Flag.withDescription(
      "For how long it outlives a holder that is cut off; at the least two thirds of it, less the grace period, bridge an outage"
    ),
    Flag.withDefault(Duration.seconds(60))
  ),
  grace: duration("grace").pipe(
    Flag.withDescription("Between SIGTERM and SIGKILL when it is lost: 5s, or a fifth of a short TTL"),
    Flag.optional
  ),
  foreground: Flag.Boolean("foreground").pipe(
    Flag.withDescription(
      "Leaves the terminal to COMMAND, to ask for a password there; signals then reach it alone, not what it has started"
    ),
    Flag.withDefault(false)
  )
}

const lock = Command.make("lock", {
  name: Argument.String("name").pipe(Argument.withDescription("What to lock")),
  command: requiredCommand,
  ...heldFlags,
  wait: duration("wait").pipe(
    Flag.withDescription("Gives up, with exit code 124, when it has waited so long"),
    Flag.optional
  ),
  try: Flag.Boolean("try").pipe(
    Flag.withDescription("Does not wait: exit code 124 when somebody holds it"),
    Flag.withDefault(false)
  ),
  label: Flag.String("label").pipe(Flag.withDescription("What others see in `coord locks`"), Flag.optional)
}, (input) => Effect.flatMap(Effect.promise(() => import("./commands/lock.ts")), ({ lock }) => lock(input))).pipe(
  Command.withDescription(
    "Runs COMMAND while holding a lock, with COORD_LOCK_KEY and COORD_FENCING_TOKEN in its environment. Ends with its exit code; with 123 when the lock was lost, and COMMAND was stopped before somebody else could have it"
  ),
  Command.withShortDescription("Runs a command while holding a lock"),
  Command.withExamples([
    { command: "coord lock nightly-report -- ./report.sh", description: "One at a time, whoever comes first" },
    {
      command: "coord lock --wait 30s deploy -- ./deploy.sh production",
      description: "Waits for half a minute at most"
    },
    {
      command: "coord lock --try cron/backup -- ./backup.sh",
      description: "On each of many machines: only one of them does it"
    }
  ])
)

export const coord = Command.make("coord").pipe(
  Command.withDescription("Locks, services and configuration over etcd"),
  Command.withSharedFlags({
    ...connectionFlags,
    json: Flag.Boolean("json").pipe(
      Flag.withDescription(
        "One JSON object a line, as always when standard output is no terminal; --no-json prints for people there too"
      ),
      Flag.optional
    )
  }),
  Command.withSubcommands([
    { group: "Run a command", commands: [lock] },
    { group: "See what is there", commands: [services, locks, leader, doctor] },
    { group: "Read and write", commands: [config] }
  ]),
  Command.provide(({ json, ...connection }) =>
    Layer.merge(Output.layer(json), Layer.succeed(Connection, { options: optionsOf(connection) }))
  )
)
