/**
 * The command tree: names, flags and help. What a command does is loaded when it runs, so that help shows at once.
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Layer from "effect/Layer"
import { Connection, connectionFlags, optionsOf } from "./Connection.ts"
import { config } from "./definitions/config.ts"
import { runners } from "./definitions/run.ts"
import { doctor, leader, locks, services } from "./definitions/views.ts"
import { Output } from "./Output.ts"

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
    { group: "Run a command", commands: runners },
    { group: "See what is there", commands: [services, locks, leader, doctor] },
    { group: "Read and write", commands: [config] }
  ]),
  Command.provide(({ json, ...connection }) =>
    Layer.merge(Output.layer(json), Layer.succeed(Connection, { options: optionsOf(connection) }))
  )
)
