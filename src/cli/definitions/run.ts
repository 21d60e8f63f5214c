/**
 * The commands that run another one.
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { readHostPort } from "../../internal/registry/hostPort.ts"
import { duration, requiredCommand } from "../flags.ts"

const foreground = Flag.Boolean("foreground").pipe(
  Flag.withDescription(
    "Leaves the terminal to COMMAND, to ask for a password there; signals then reach it alone, not what it has started"
  ),
  Flag.withDefault(false)
)

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
  foreground
}

const lineFlags = {
  ...heldFlags,
  wait: duration("wait").pipe(
    Flag.withDescription("Gives up, with exit code 124, when it has waited so long"),
    Flag.optional
  ),
  try: Flag.Boolean("try").pipe(
    Flag.withDescription("Does not wait: exit code 124 when it is not free"),
    Flag.withDefault(false)
  ),
  label: Flag.String("label").pipe(Flag.withDescription("What others see of it"), Flag.optional)
}

const name = (description: string) => Argument.String("name").pipe(Argument.withDescription(description))

const lock = Command.make(
  "lock",
  { name: name("What to lock"), command: requiredCommand, ...lineFlags },
  (input) => Effect.flatMap(Effect.promise(() => import("../commands/lock.ts")), ({ lock }) => lock(input))
).pipe(
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

const semaphore = Command.make(
  "semaphore",
  {
    name: name("The semaphore"),
    permits: Argument.Int("permits").pipe(Argument.withMetavar("N"), Argument.withDescription("So many at a time")),
    command: requiredCommand,
    ...lineFlags
  },
  (input) =>
    Effect.flatMap(Effect.promise(() => import("../commands/semaphore.ts")), ({ semaphore }) => semaphore(input))
).pipe(
  Command.withDescription(
    "Runs COMMAND while holding one of N permits, with COORD_SEMAPHORE_KEY and COORD_FENCING_TOKEN in its environment. Otherwise like `coord lock`. All who use a semaphore should say the same N"
  ),
  Command.withShortDescription("Runs a command while holding one of several permits"),
  Command.withExamples([
    { command: "coord semaphore exports 3 -- ./export.sh", description: "Three at a time in the whole cluster" }
  ])
)

const elect = Command.make(
  "elect",
  {
    name: name("The election"),
    value: Argument.String("value").pipe(
      Argument.withDescription("What others see of the leader, as its address")
    ),
    command: requiredCommand,
    ...heldFlags
  },
  (input) => Effect.flatMap(Effect.promise(() => import("../commands/elect.ts")), ({ elect }) => elect(input))
).pipe(
  Command.withDescription(
    "Runs COMMAND while leading an election, with COORD_ELECTION_KEY and COORD_FENCING_TOKEN in its environment. When the leadership is lost COMMAND is stopped before somebody else can lead, and runs again when it is won again, through outages of any length. Ends when COMMAND ends by itself, with its exit code"
  ),
  Command.withShortDescription("Runs a command while leading, and again after a loss"),
  Command.withExamples([
    {
      command: "coord elect scheduler \"$(hostname)\" -- ./scheduler",
      description: "On each of several machines: one of them runs it"
    }
  ])
)

const meta = Flag.String("meta").pipe(
  Flag.withMetavar("KEY=VALUE"),
  Flag.withDescription("Something more to know of it; as often as you like"),
  Flag.filterMap(
    (text) => {
      const at = text.indexOf("=")
      return at > 0 ? Option.some([text.slice(0, at), text.slice(at + 1)] as const) : Option.none()
    },
    () => "KEY=VALUE"
  ),
  Flag.atLeast(0),
  Flag.map((entries): Record<string, string> => Object.fromEntries(entries))
)

const register = Command.make(
  "register",
  {
    name: name("The service"),
    command: requiredCommand,
    id: Flag.String("id").pipe(Flag.withDescription("Of the instance; the last to register an id has it")),
    address: Flag.String("address").pipe(
      Flag.withMetavar("HOST:PORT"),
      Flag.withDescription("Where others reach it; [ADDRESS]:PORT for IPv6"),
      Flag.filterMap(
        (text) => Option.fromUndefinedOr(readHostPort(text)),
        () => "HOST:PORT, or [ADDRESS]:PORT for IPv6"
      )
    ),
    meta,
    check: Flag.String("check").pipe(
      Flag.withMetavar("'CMD'"),
      Flag.withDescription("A command of the shell: registered only while it ends with 0"),
      Flag.optional
    ),
    every: duration("every").pipe(
      Flag.withDescription("Between two checks, and how long one may take"),
      Flag.withDefault(Duration.seconds(5))
    ),
    drain: duration("drain").pipe(
      Flag.withDescription(
        "At SIGTERM, SIGINT or SIGQUIT: between the end of the registration and the signal to COMMAND"
      ),
      Flag.withDefault(Duration.zero)
    ),
    ttl: duration("ttl").pipe(
      Flag.withDescription("For how long the entry outlives this process when it is killed or cut off"),
      Flag.withDefault(Duration.seconds(30))
    ),
    grace: duration("grace").pipe(
      Flag.withDescription("Between SIGTERM and SIGKILL when somebody else has registered the id"),
      Flag.withDefault(Duration.seconds(5))
    ),
    foreground
  },
  (input) => Effect.flatMap(Effect.promise(() => import("../commands/register.ts")), ({ register }) => register(input))
).pipe(
  Command.withDescription(
    "Runs COMMAND, and registers it as an instance of a service while it runs and its check passes, with COORD_INSTANCE_KEY in its environment. Outages of etcd do not touch it. At the end the registration ends first. Ends with its exit code; with 123 when somebody else has registered the same id, and COMMAND was stopped"
  ),
  Command.withShortDescription("Registers a service while a command runs"),
  Command.withExamples([
    {
      command: "coord register orders --id orders-1 --address 10.0.0.7:8080 -- ./orders",
      description: "As long as it runs"
    },
    {
      command:
        "coord register orders --id orders-1 --address 10.0.0.7:8080 --meta zone=north --check 'curl -fs localhost:8080/health' --drain 5s -- ./orders",
      description: "As long as it is healthy; calls under way have five seconds at the end"
    }
  ])
)

export const runners = [lock, semaphore, elect, register] as const
