/**
 * `coord config`: names, flags and help.
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Exit, ExitCode } from "../Exit.ts"
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

const past = Effect.promise(() => import("../commands/config/past.ts"))

const history = Command.make("history", {
  key,
  limit: Flag.Int("limit").pipe(
    Flag.withMetavar("N"),
    Flag.withDescription("So many at the most, 20 unless said otherwise"),
    Flag.withDefault(20),
    Flag.filter((limit) => limit > 0, () => "a number greater than 0")
  ),
  before: version("before").pipe(
    Flag.withDescription("What the key had before this version: with that of a deletion, what was deleted"),
    Flag.optional
  ),
  values: switchedOn("values", "With the values")
}, (input) => Effect.flatMap(past, ({ history }) => history(input))).pipe(
  Command.withDescription("Lists the versions of a key, newest first, as far back as etcd remembers"),
  Command.withShortDescription("Lists the versions of a key"),
  Command.withExamples([
    { command: "coord config history api/limits", description: "When it was written" },
    { command: "coord config history api/limits --values --limit 3", description: "The last three values" }
  ])
)

const rollback = Command.make("rollback", {
  key,
  to: version("to").pipe(Flag.withDescription("The version whose value is written again")),
  ifVersion: ifVersion.pipe(
    Flag.withDescription("Only if it still has this version, 0: only if it does not exist; otherwise exit code 3")
  )
}, (input) => Effect.flatMap(past, ({ rollback }) => rollback(input))).pipe(
  Command.withDescription(
    "Writes what a key had as of an older version, byte for byte, as a new version; also where it has been deleted since"
  ),
  Command.withShortDescription("Brings an older value back"),
  Command.withExamples([
    { command: "coord config rollback api/limits --to 57", description: "`coord config history` shows the versions" }
  ])
)

const folders = Effect.promise(() => import("../commands/config/folders.ts"))

const dir = Argument.String("dir").pipe(Argument.withDescription("A folder with a file for each key"))

const prefix = Flag.String("prefix").pipe(
  Flag.withMetavar("PREFIX"),
  Flag.withDescription("The keys below this folder of keys; names of files are relative to it"),
  Flag.optional
)

const toWithoutFrom = new Exit({
  code: ExitCode.usage,
  message: "--to compares two versions of a key: --from says the other"
})

const diff = Command.make("diff", {
  what: Argument.String("what").pipe(
    Argument.withMetavar("DIR | KEY"),
    Argument.withDescription("A folder of files; with --from a key")
  ),
  prefix,
  values: switchedOn("values", "With what differs in the values of a folder"),
  from: version("from").pipe(Flag.withDescription("Of the key: the older version"), Flag.optional),
  to: version("to").pipe(
    Flag.withDescription("Of the key: the newer version, the present one if not said"),
    Flag.optional
  )
}, ({ from, prefix, to, values, what }) =>
  Option.isSome(to) && Option.isNone(from) ?
    Effect.fail(toWithoutFrom) :
    Option.match(from, {
      onSome: (from) => Effect.flatMap(past, ({ diffVersions }) => diffVersions({ key: what, from, to })),
      onNone: () => Effect.flatMap(folders, ({ diffFolder }) => diffFolder({ dir: what, prefix, values }))
    })).pipe(
    Command.withDescription(
      "Shows what `import --delete` of a folder would write (+ added, ~ changed, - deleted), or what two versions of a key differ in. Exit code 1 when there is a difference"
    ),
    Command.withShortDescription("Compares a folder with etcd, or two versions of a key"),
    Command.withExamples([
      { command: "coord config diff settings/ --values", description: "A folder and etcd, with the values" },
      { command: "coord config diff api/limits --from 57", description: "What has changed since version 57" }
    ])
  )

const exportCommand = Command.make("export", {
  dir,
  prefix,
  delete: switchedOn("delete", "Deletes files that are no keys any more")
}, (input) => Effect.flatMap(folders, ({ exportTo }) => exportTo(input))).pipe(
  Command.withDescription(
    "Writes each value into a file of its own, byte for byte: api/limits as DIR/api/limits. Only what differs is written"
  ),
  Command.withShortDescription("Writes values into a folder of files"),
  Command.withExamples([
    { command: "coord config export settings", description: "All keys" },
    {
      command: "coord config export settings --prefix api --delete",
      description: "The folder becomes what is below api/"
    }
  ])
)

const importCommand = Command.make("import", {
  dir,
  prefix,
  delete: switchedOn("delete", "Deletes keys that have no file"),
  dryRun: switchedOn("dry-run", "Only shows what it would write; exit code 1 when there is something")
}, (input) => Effect.flatMap(folders, ({ importFrom }) => importFrom(input))).pipe(
  Command.withDescription(
    "Writes what differs between a folder of files and etcd, in one transaction where etcd's limits allow, otherwise in several. Exit code 3 when somebody else changes one of the keys meanwhile. Files whose names begin with a dot are left out"
  ),
  Command.withShortDescription("Writes a folder of files into etcd"),
  Command.withExamples([
    { command: "coord config import settings --dry-run", description: "What would be written: + added, ~ changed" },
    {
      command: "coord config import settings --prefix api --delete",
      description: "Below api/ there is then what the folder has"
    }
  ])
)

export const config = Command.make("config").pipe(
  Command.withDescription("Configuration values: bytes under a key"),
  Command.withShortDescription("Reads and writes configuration"),
  Command.withSubcommands([get, set, ls, rm, watch, history, rollback, diff, exportCommand, importCommand])
)
