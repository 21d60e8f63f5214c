/**
 * With what the command ends: exit codes, and errors as one line that says what to do.
 */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import Process from "node:process"
import type { EtcdErrorReason } from "../EtcdError.ts"

/** One line for people, behind what is printed and never in it. */
export const complain = (message: string): void => void Process.stderr.write(`coord: ${message}\n`)

/** The exit codes of the command. `docs/cli.md` explains them to people. */
export const ExitCode = {
  done: 0,
  /** The answer is no: nothing was found, there is a difference, `doctor` has found something. */
  no: 1,
  usage: 2,
  /** Somebody else was there first: another version, another transaction. */
  conflict: 3,
  /** What COMMAND ran under was lost: a lock, a leadership, a permit. */
  lost: 123,
  /** It could not be had in time. */
  notInTime: 124,
  /** etcd could not be reached, or refused; or this program failed. */
  failed: 125,
  /** COMMAND is no program. */
  notExecutable: 126,
  /** There is no COMMAND of that name. */
  notFound: 127
} as const

/** Ends the command with a code, and says why in one line where there is something to say. */
export class Exit extends Data.TaggedError("Exit")<{
  readonly code: number
  readonly message: string
}> {}

/** For commands that run another one: 2 may be its own code, and then there is nothing to say. */
export const asRunner = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, Exit, R> =>
  Effect.catchCause(effect, (cause) => {
    if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
    const exit = describe(cause)
    return Effect.fail(
      exit.code === ExitCode.usage && exit.message !== ""
        ? new Exit({ code: ExitCode.failed, message: exit.message })
        : exit
    )
  })

/** Ends with a code and says nothing: what there was to say has been said. */
export const silently = (code: number): Exit => new Exit({ code, message: "" })

const hints: Partial<Record<(typeof EtcdErrorReason.Type)["_tag"], string>> = {
  Timeout: "`coord doctor` looks for the reason; --timeout waits longer",
  Unauthenticated: "--user and ETCD_PASSWORD or --password-file say who asks",
  PermissionDenied: "`coord doctor` shows the rights of the user",
  Compacted: "etcd keeps only so much of the past: ask for a later one, or for none",
  NoSpace: "`coord doctor` shows the members",
  Ambiguous: "look whether it was written before you try again"
}

const codes: Partial<Record<string, number>> = {
  InvalidKey: ExitCode.usage,
  InvalidOption: ExitCode.usage,
  InvalidInstance: ExitCode.usage,
  ConfigError: ExitCode.usage,
  ConfigNotFound: ExitCode.no,
  InstanceNotFound: ExitCode.no,
  VersionConflict: ExitCode.conflict,
  TransactionConflict: ExitCode.conflict,
  LockHeld: ExitCode.notInTime,
  NoPermit: ExitCode.notInTime,
  LockLost: ExitCode.lost,
  LeadershipLost: ExitCode.lost,
  PermitLost: ExitCode.lost
}

const oneLine = (text: string): string => text.replaceAll(/\s*\n\s*/g, "; ")

const tagOf = (error: object): string => "_tag" in error && typeof error._tag === "string" ? error._tag : ""

const hintOf = (error: object): string | undefined =>
  tagOf(error) === "EtcdError" && "reason" in error && typeof error.reason === "object" && error.reason !== null
    ? hints[tagOf(error.reason) as keyof typeof hints]
    : undefined

/**
 * What a failure says to a person, and the code it ends with.
 *
 * A failed start of the program is never mistaken for one of its COMMAND: whatever is not known ends with `failed`.
 */
export const describe = (cause: Cause.Cause<unknown>): Exit => {
  const error = Cause.squash(cause)
  if (error instanceof Exit) return error
  if (typeof error !== "object" || error === null) return new Exit({ code: ExitCode.failed, message: String(error) })
  const said = error instanceof Error ? error.message : String(error)
  const hint = hintOf(error)
  return new Exit({
    code: codes[tagOf(error)] ?? ExitCode.failed,
    message: oneLine(hint === undefined ? said : `${said} (${hint})`)
  })
}
