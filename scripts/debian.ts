/**
 * Debian's packages, unpacked into the project's cache: without root, and without touching the system. From the mirrors of this
 * machine, where it has apt.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"

export class CommandFailed extends Data.TaggedError("CommandFailed")<{ readonly message: string }> {}

export const run = (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly cwd?: string; readonly timeout?: number; readonly env?: NodeJS.ProcessEnv } = {}
): Effect.Effect<string, CommandFailed> =>
  Effect.callback((resume) => {
    const child = execFile(command, args, { timeout: 10_000, ...options }, (error, stdout, stderr) =>
      resume(
        error === null
          ? Effect.succeed(stdout)
          : Effect.fail(new CommandFailed({ message: `${command}: ${stderr.trim() || error.message}` }))
      ))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** The mirrors of this machine, from both formats of apt's configuration. */
const mirrors = Effect.sync((): ReadonlyArray<string> => {
  const parts = "/etc/apt/sources.list.d"
  const files = Fs.existsSync(parts)
    ? Fs.readdirSync(parts).filter((name) => /\.(sources|list)$/.test(name)).map((name) => Path.join(parts, name))
    : []
  const text = [...files, "/etc/apt/sources.list"].filter((file) => Fs.existsSync(file))
    .map((file) => Fs.readFileSync(file, "utf8")).join("\n")
  const found = text.matchAll(/^(?:URIs:[ \t]*|deb[ \t]+(?:\[[^\]]*\][ \t]*)?)(\S+)/gm)
  return [...new Set(Array.from(found, ([, uri]) => String(uri)))].filter((uri) => !/security/.test(uri))
})

/** What a process that was killed in the middle of fetching has left. */
const sweep = (cache: string) =>
  Effect.sync(() => {
    for (const name of Fs.readdirSync(cache)) {
      const pid = /^\.fetch-(\d+)-/.exec(name)?.[1]
      if (pid !== undefined && !Fs.existsSync(`/proc/${pid}`)) {
        Fs.rmSync(Path.join(cache, name), { recursive: true, force: true })
      }
    }
  })

const unpack = Effect.fnUntraced(function*(
  suite: string,
  packages: ReadonlyArray<string>,
  mirror: string,
  folder: string
) {
  const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
  const signed = Fs.existsSync(keyring) ? `[signed-by=${keyring}] ` : ""
  for (const name of ["lists/partial", "archives/partial", "debs", "root"]) {
    Fs.mkdirSync(Path.join(folder, name), { recursive: true })
  }
  Fs.writeFileSync(Path.join(folder, "sources.list"), `deb ${signed}${mirror} ${suite} main\n`)
  const options = Object.entries({
    "Dir::Etc::sourcelist": Path.join(folder, "sources.list"),
    "Dir::Etc::sourceparts": "-",
    "Dir::State::lists": Path.join(folder, "lists"),
    "Dir::Cache": folder,
    // Root's apt would drop to a user who cannot write here.
    "APT::Sandbox::User": "root",
    "Acquire::Languages": "none",
    "Acquire::Retries": "2",
    "Acquire::http::Timeout": "20"
  }).flatMap(([name, value]) => ["-o", `${name}=${value}`])
  yield* run("apt-get", [...options, "-qq", "update"], { timeout: 120_000 })
  const debs = Path.join(folder, "debs")
  yield* run("apt-get", [...options, "-qq", "download", ...packages], { cwd: debs, timeout: 300_000 })
  for (const deb of Fs.readdirSync(debs)) {
    yield* run("dpkg", ["-x", Path.join(debs, deb), Path.join(folder, "root")], { timeout: 60_000 })
  }
})

/**
 * Unpacks the packages of a suite into `cache/suite`. Nothing appears under its final name before it is whole: two processes at once
 * cost a second download and no more.
 */
export const fetchPackages = Effect.fnUntraced(function*(
  suite: string,
  packages: ReadonlyArray<string>,
  cache: string,
  check: (root: string) => Effect.Effect<unknown, CommandFailed> = () => Effect.void
): Effect.fn.Return<void, CommandFailed> {
  const target = Path.join(cache, suite)
  let failure = new CommandFailed({ message: "no apt sources are configured here" })
  for (const mirror of yield* mirrors) {
    const fetched = yield* Effect.result(Effect.acquireUseRelease(
      Effect.sync(() => {
        Fs.mkdirSync(cache, { recursive: true })
        return Fs.mkdtempSync(Path.join(cache, `.fetch-${process.pid}-`))
      }),
      (folder) =>
        unpack(suite, packages, mirror, folder).pipe(
          Effect.andThen(check(Path.join(folder, "root"))),
          Effect.andThen(
            Effect.try({
              try: () => Fs.renameSync(Path.join(folder, "root"), target),
              catch: (error) => new CommandFailed({ message: String(error) })
            })
          ),
          Effect.catch((error) => Fs.existsSync(target) ? Effect.void : Effect.fail(error))
        ),
      (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
    ))
    yield* sweep(cache)
    if (fetched._tag === "Success") return
    failure = fetched.failure
  }
  return yield* failure
})
