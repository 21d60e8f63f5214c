/** The `coord` command while it runs another one. */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { coordBin, coordEnv } from "./command.ts"
import { run } from "./processes.ts"

export const start = (endpoints: string, args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}) =>
  run(process.execPath, [coordBin, ...args], coordEnv({ ETCD_ENDPOINTS: endpoints, ...env }))

/** What a shell does, behind `--`. */
export const sh = (script: string, ...args: ReadonlyArray<string>) => ["--", "sh", "-c", script, "sh", ...args]

/** A folder for what a command writes, gone with the scope. */
export const folder = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-cli-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

/** Runs until it is killed, whatever it is sent, and so does what it has started. */
export const stubborn = "trap '' TERM INT HUP; (while :; do sleep 0.02; done) & echo up; while :; do sleep 0.02; done"

/** Runs until the file is there, and ends with a code. */
export const untilFile = (file: string, code: number) =>
  sh("echo up; while [ ! -e \"$1\" ]; do sleep 0.02; done; exit \"$2\"", file, String(code))
