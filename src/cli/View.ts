/**
 * What is there now, as a table or as objects; with `--watch`, as it changes.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import Process from "node:process"
import { Etcd } from "../Etcd.ts"
import type { EtcdError } from "../EtcdError.ts"
import { isTransient } from "../internal/session/Patience.ts"
import { type Column, type Json, Output, table } from "./Output.ts"

type JsonObject = { readonly [key: string]: Json | undefined }

export interface View<A, E, R> {
  /** What is looked at, in a few words: `locks`. */
  readonly title: string
  readonly read: Effect.Effect<ReadonlyArray<A>, E, R>
  /** An item whenever it may have changed. */
  readonly changes: Stream.Stream<unknown, never, R>
  readonly idOf: (row: A) => string
  readonly columns: ReadonlyArray<Column<A>>
  readonly toJson: (row: A) => JsonObject
  /** What of the object changes by itself as time goes by: the table follows it every second, programs are not told. */
  readonly ages?: string | undefined
  /** In the place of a table without rows. */
  readonly none: string
}

/** Whatever happens below a prefix, and each time that the watch begins or ends. */
export const changesBelow = (prefix: string): Stream.Stream<unknown, never, Etcd> =>
  Stream.unwrap(Effect.map(Etcd, (etcd) =>
    etcd.watch({ prefix }).pipe(
      Stream.catch(() => Stream.empty),
      Stream.concat(Stream.succeed(undefined)),
      // A watch from now on ends when it is cut.
      Stream.repeat(Schedule.jittered(Schedule.spaced("500 millis")))
    )))

/** The latest state each time that there may be a new one; or why there is none. */
const states = <A, E extends { readonly _tag: string }, R>(view: View<A, E, R>, everySecond: boolean) =>
  (everySecond ? Stream.merge(view.changes, Stream.tick("1 second")) : view.changes).pipe(
    Stream.buffer({ capacity: 1, strategy: "sliding" }),
    Stream.mapEffect(() =>
      Effect.matchEffect(view.read, {
        onSuccess: (rows) => Effect.succeed(Result.succeed(rows)),
        onFailure: (error) =>
          error._tag === "EtcdError" && isTransient(error as unknown as EtcdError)
            ? Effect.as(Effect.sleep("500 millis"), Result.fail(error))
            : Effect.fail(error)
      })
    )
  )

/** Told once for each outage, beside what is printed. */
const outages = (output: Output["Service"]) => {
  let isOut = false
  return (state: Result.Result<unknown, unknown>) => {
    const was = isOut
    isOut = Result.isFailure(state)
    if (was === isOut) return Effect.void
    return output.aside(isOut ? "etcd does not answer; this goes on when it does" : "etcd answers again")
  }
}

const withoutAge = (view: { readonly ages?: string | undefined }, json: JsonObject): string =>
  JSON.stringify(
    json,
    (key, value: unknown) => key === view.ages ? undefined : typeof value === "bigint" ? String(value) : value
  )

/** What is new, different or gone since the state before. */
const differences = <A, E, R>(view: View<A, E, R>, output: Output["Service"]) => {
  const before = new Map<string, { readonly text: string; readonly json: JsonObject }>()
  let isFirst = true
  return Effect.fnUntraced(function*(rows: ReadonlyArray<A>) {
    const gone = new Set(before.keys())
    for (const row of rows) {
      const id = view.idOf(row)
      const json = view.toJson(row)
      const text = withoutAge(view, json)
      gone.delete(id)
      if (before.get(id)?.text === text) continue
      before.set(id, { text, json })
      yield* output.object({ event: "put", ...json })
    }
    for (const id of gone) {
      const json = before.get(id)?.json
      before.delete(id)
      yield* output.object({ event: "delete", ...json })
    }
    if (isFirst) yield* output.object({ event: "synced" })
    isFirst = false
  })
}

const textOf = <A, E, R>(view: View<A, E, R>, rows: ReadonlyArray<A>, color: boolean): string =>
  rows.length === 0 ? view.none : table(rows, view.columns, color)

/** The cursor hidden, on a screen of its own; what was last seen stays on the terminal afterwards. */
const drawn = <A, E extends { readonly _tag: string }, R>(view: View<A, E, R>, output: Output["Service"]) =>
  Effect.suspend(() => {
    let last = ""
    const draw = (status: string) => {
      const height = Math.max(4, Process.stdout.rows ?? 24)
      const width = Math.max(20, Process.stdout.columns ?? 80)
      const lines = last.split("\n")
      const shown = lines.length > height - 2
        ? [...lines.slice(0, height - 3), `... ${lines.length - height + 3} more`]
        : lines
      const page = [`${view.title}${status}   (Ctrl-C ends)`, ...shown].map((line) => clip(line, width))
      return output.text(`\u001b[H${page.map((line) => `${line}\u001b[K`).join("\r\n")}\u001b[J`)
    }
    return Effect.acquireUseRelease(
      output.text("\u001b[?1049h\u001b[?25l"),
      () =>
        Stream.runForEach(states(view, view.ages !== undefined), (state) => {
          if (Result.isFailure(state)) return draw(": etcd does not answer, this is what was last seen")
          last = textOf(view, state.success, output.color)
          return draw("")
        }),
      () => output.text(`\u001b[?25h\u001b[?1049l${last === "" ? "" : `${last}\n`}`)
    )
  })

/** To so many columns, sequences of colour not counted. */
const clip = (line: string, width: number): string => {
  let columns = 0
  let end = 0
  for (const [part] of line.matchAll(/\p{Cc}\[\d*m|./gsu)) {
    if (!part.startsWith("\u001b") && ++columns > width) return `${line.slice(0, end)}\u001b[0m`
    end += part.length
  }
  return line
}

/** Once, or until it is interrupted. */
export const show = Effect.fnUntraced(function*<A, E extends { readonly _tag: string }, R>(
  view: View<A, E, R>,
  watch: boolean
) {
  const output = yield* Output
  if (!watch) return yield* output.rows(yield* view.read, view.columns, view.toJson, view.none)
  if (output.animate) return yield* drawn(view, output)
  const tellOutage = outages(output)
  const tell = differences(view, output)
  const print = (rows: ReadonlyArray<A>) =>
    output.json ? tell(rows) : output.text(`${textOf(view, rows, output.color)}\n\n`)
  yield* Stream.runForEach(
    states(view, false),
    (state) => Effect.andThen(tellOutage(state), Result.isSuccess(state) ? print(state.success) : Effect.void)
  )
})
