/**
 * Runs the command tree as the main program: arguments, signals, closed pipes, one line for each error, the exit code.
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as CliConfig from "effect/cli/CliConfig"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as Fs from "node:fs"
import * as Os from "node:os"
import Process from "node:process"
import { coord } from "./coord.ts"
import { complain, describe, ExitCode, silently } from "./Exit.ts"
import * as Signals from "./Signals.ts"

/** A mistake is one line, not a page of help with a line below it. */
const presenter: CliOutput.Presenter = {
  present: (event) =>
    event._tag === "InvalidInvocation"
      ? Effect.sync(() =>
        complain(
          `${event.errors.map(({ message }) => message.replaceAll(/\s*\n\s*/g, " ").trim()).join("; ")} (${
            event.commandPath.join(" ")
          } --help)`
        )
      )
      : CliOutput.defaultPresenter.present(event)
}

/** What the library logs, behind what is printed and never in it. */
const logger = Logger.make(({ logLevel, message }) => {
  const text = (Array.isArray(message) ? message : [message]).map(String).join(" ")
  complain(`${logLevel.toLowerCase()}: ${text.replaceAll(/\s*\n\s*/g, "; ")}`)
})

const version = (JSON.parse(
  Fs.readFileSync(new URL("../../package.json", import.meta.url), "utf8")
) as { readonly version: string }).version

const environment = Layer.mergeAll(
  NodeServices.layer,
  CliOutput.layerPresenter(presenter),
  CliConfig.layer({
    builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions, GlobalFlag.LogLevel]
  }),
  Logger.layer([logger]),
  Layer.succeed(References.MinimumLogLevel, "Warn")
)

const runs = new Set(["lock", "elect", "semaphore", "register", "config watch"])

/** A mistake of the user has been explained by then. Where a COMMAND is run, 2 may be its own code. */
const usageCode = ({ commandPath }: { readonly commandPath: ReadonlyArray<string> }) =>
  runs.has(commandPath.slice(1).join(" ")) ? ExitCode.failed : ExitCode.usage

const program = Command.run(coord, { version }).pipe(
  Effect.catchTag("ShowHelp", (error) => Effect.fail(silently(usageCode(error)))),
  Effect.provide(environment)
)

let ending: number | undefined
const fiber = Effect.runFork(program)
const end = (code: number) => {
  if (ending !== undefined) return
  ending = code
  fiber.interruptUnsafe()
}

Signals.listen((signal) => end(128 + Os.constants.signals[signal]))
// Who reads no more, as `head` after its lines, wants no more: as if by SIGPIPE.
Process.stdout.on("error", () => end(128 + Os.constants.signals.SIGPIPE))
Process.stderr.on("error", () => {})

fiber.addObserver((exit) => {
  if (exit._tag === "Success") return Process.exit(ending ?? ExitCode.done)
  if (ending !== undefined && Cause.hasInterruptsOnly(exit.cause)) return Process.exit(ending)
  const { code, message } = describe(exit.cause)
  if (message !== "") complain(message)
  Process.exit(code)
})
