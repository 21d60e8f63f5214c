/**
 * What an entry of the command says of itself: who, and since when. etcd itself keeps no times.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Os from "node:os"
import Process from "node:process"

const since = / since=(\S+)$/

/** `who`, or this process, and the time. */
export const makeLabel = (who: Option.Option<string>): Effect.Effect<string> =>
  Effect.map(
    DateTime.now,
    (now) => `${Option.getOrElse(who, () => `${Os.hostname()}:${Process.pid}`)} since=${DateTime.formatIso(now)}`
  )

export interface Label {
  readonly who: string
  /** Absent where the entry does not say. */
  readonly since: DateTime.Utc | undefined
}

export const readLabel = (label: string): Label => {
  const [suffix = "", time = ""] = since.exec(label) ?? []
  return {
    who: label.slice(0, label.length - suffix.length),
    since: Option.getOrUndefined(Option.map(DateTime.make(time), DateTime.toUtc))
  }
}
