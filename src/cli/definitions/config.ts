/**
 * `coord config`: names, flags and help.
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { command } from "../flags.ts"

const values = Effect.promise(() => import("../commands/config/values.ts"))

/** What etcd counts with. */
const parseVersion = (text: string): Option.Option<bigint> =>
  /^\d{1,18}$/.test(text) ? Option.some(BigInt(text)) : Option.none()

const version = (name: string) =>
  Flag.String(name).pipe(
    Flag.withMetavar("VERSION"),
    Flag.filterMap(parseVersion, () => "a number, as `coord config get` shows it")
  )

const key = Argument.String("key").pipe(Argument.withDescription("As api/limits"))

const switchedOn = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))

const ifVersion = version("if-version").pipe(Flag.optional)

const get = Command.make("get", {
  key,
  value: switchedOn("value", "Only the value, byte for byte, whatever standard output is")
}, (input) => Effect.flatMap(values, ({ get }) => get(input))).pipe(
  Command.withDescription(
    "Prints a value: as it is on a terminal, elsewhere as one object with key, value and version. Exit code 1 when there is none"
  ),
  Command.withShortDescription("Prints a value"),
  Command.withExamples([
    {
      command: "coord config get api/limits",
      description: "For people; in a pipe an object with key, value and version"
    },
    { command: "coord config get --value api/certificate > cert.pem", description: "The bytes alone" }
  ])
)

const set = Command.make("set", {
  key,
  value: Argument.String("value").pipe(
    Argument.withDescription("Written as it is; - reads standard input. One that begins with - goes behind --"),
    Argument.optional
  ),
  file: Flag.String("file").pipe(
    Flag.withAlias("f"),
    Flag.withMetavar("FILE"),
    Flag.withDescription("Writes what is in this file"),
    Flag.optional
  ),
  ifVersion: ifVersion.pipe(
    Flag.withDescription("Only if it still has this version, 0: only if it does not exist; otherwise exit code 3")
  ),
  checkJson: switchedOn("check-json", "Writes nothing when the value is not JSON")
}, (input) => Effect.flatMap(values, ({ set }) => set(input))).pipe(
  Command.withDescription(
    "Writes a value, and says its version. Everybody on this machine can see arguments: give a secret with --file, or on standard input"
  ),
  Command.withShortDescription("Writes a value"),
  Command.withExamples([
    { command: "coord config set api/greeting hello", description: "The text as it is, without quotes" },
    { command: "coord config set api/limits --check-json '{\"perSecond\":100}'", description: "An object" },
    { command: "pass show db | coord config set db/password -", description: "A secret, from standard input" },
    {
      command: "coord config set api/limits --if-version 57 -f limits.json",
      description: "Unless somebody else came first"
    }
  ])
)

const ls = Command.make("ls", {
  prefix: Argument.String("prefix").pipe(Argument.withDescription("Only below this folder"), Argument.optional),
  values: switchedOn("values", "With versions and values")
}, (input) => Effect.flatMap(values, ({ ls }) => ls(input))).pipe(
  Command.withDescription("Lists keys, without their values"),
  Command.withShortDescription("Lists keys"),
  Command.withExamples([
    { command: "coord config ls", description: "All keys" },
    { command: "coord config ls api --values", description: "Below api/, with versions and values" }
  ])
)

const rm = Command.make("rm", {
  key,
  ifVersion: ifVersion.pipe(Flag.withDescription("Only if it still has this version; otherwise exit code 3"))
}, (input) => Effect.flatMap(values, ({ rm }) => rm(input))).pipe(
  Command.withDescription("Deletes a key. Exit code 1 when there is none"),
  Command.withShortDescription("Deletes a key"),
  Command.withExamples([
    { command: "coord config rm api/greeting", description: "`coord config rollback` brings it back" },
    { command: "coord config rm api/greeting --if-version 57", description: "Unless somebody else came first" }
  ])
)

const watch = Command.make("watch", {
  key: Argument.String("key").pipe(
    Argument.withDescription("As api/limits; all below a folder with a / at its end: api/, and / alone for all keys")
  ),
  command: command.pipe(Argument.variadic({ min: 0 })),
  from: version("from").pipe(
    Flag.withDescription("Begins with what came after this version, without what is there now"),
    Flag.optional
  ),
  keepGoing: switchedOn("keep-going", "A COMMAND that fails is no reason to end")
}, (input) => Effect.flatMap(Effect.promise(() => import("../commands/config/watch.ts")), ({ watch }) => watch(input)))
  .pipe(
    Command.withDescription(
      "Shows what there is, then `synced`, then each change, once and in order, over reconnects and restarts. With COMMAND it runs this for each event, one after the other, with the event as JSON on its standard input, and COORD_EVENT (put, delete, synced), COORD_KEY and COORD_VERSION in its environment. When COMMAND fails the watch ends with its exit code"
    ),
    Command.withShortDescription("Follows a key or a folder, and runs a command for each event"),
    Command.withExamples([
      { command: "coord config watch api/", description: "All keys below api/" },
      { command: "coord config watch api/ --from 57", description: "Goes on where another watch ended" },
      { command: "coord config watch api/limits -- ./reload.sh", description: "Runs it now, and at each change" }
    ])
  )

export const config = Command.make("config").pipe(
  Command.withDescription("Configuration values: bytes under a key"),
  Command.withShortDescription("Reads and writes configuration"),
  Command.withSubcommands([get, set, ls, rm, watch])
)
