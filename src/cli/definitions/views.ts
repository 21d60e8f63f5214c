/**
 * `coord services`, `locks`, `leader` and `doctor`: what they are called and take. What they do is loaded when they run.
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"

const watch = Flag.Boolean("watch").pipe(
  Flag.withAlias("w"),
  Flag.withDescription("Goes on, and shows what changes"),
  Flag.withDefault(false)
)

export const services = Command.make(
  "services",
  {
    name: Argument.String("name").pipe(Argument.withDescription("Only this service"), Argument.optional),
    watch
  },
  (input) => Effect.flatMap(Effect.promise(() => import("../commands/services.ts")), ({ services }) => services(input))
)
  .pipe(
    Command.withDescription("Shows the services, or the instances of one"),
    Command.withExamples([
      { command: "coord services", description: "All services" },
      { command: "coord services orders --watch", description: "The instances of one, as they come and go" }
    ])
  )

export const locks = Command.make("locks", {
  prefix: Argument.String("prefix").pipe(
    Argument.withDescription("Only this lock, and those below it as a folder"),
    Argument.optional
  ),
  watch
}, (input) => Effect.flatMap(Effect.promise(() => import("../commands/locks.ts")), ({ locks }) => locks(input))).pipe(
  Command.withDescription(
    "Shows who holds which lock: since when (where the holder says it), with which token, for how long without a renewal, and who waits"
  ),
  Command.withShortDescription("Shows who holds which lock, and who waits"),
  Command.withExamples([
    { command: "coord locks", description: "All locks" },
    { command: "coord locks cron --watch", description: "cron and what is below it, as it changes" }
  ])
)

export const leader = Command.make("leader", {
  name: Argument.String("name").pipe(Argument.withDescription("The election")),
  watch
}, (input) => Effect.flatMap(Effect.promise(() => import("../commands/locks.ts")), ({ leader }) => leader(input))).pipe(
  Command.withDescription("Shows who leads an election, and who waits; exit code 1 when nobody does"),
  Command.withShortDescription("Shows who leads an election"),
  Command.withExamples([{ command: "coord leader scheduler --watch", description: "The leader, as it changes" }])
)

export const doctor = Command.make(
  "doctor",
  {},
  () => Effect.flatMap(Effect.promise(() => import("../commands/doctor.ts")), ({ doctor }) => doctor)
).pipe(
  Command.withDescription(
    "Looks at the members, the clock, the rights of the user, entries that nobody will remove and broken configuration, and says what to do; exit code 1 when there is a problem. Nothing is written"
  ),
  Command.withShortDescription("Looks for what is wrong, and says what to do"),
  Command.withExamples([{ command: "coord doctor", description: "Before you ask somebody else" }])
)
