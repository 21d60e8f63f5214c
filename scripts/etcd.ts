/**
 * Finds an etcd binary for tests and development: `ETCD_BIN` (`ETCD_34_BIN` where 3.4 is asked for), `etcd` on the PATH,
 * the project's cache, and at last Debian's packages, unpacked into that cache where the machine has apt.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"

export type EtcdVersion = "3.5" | "3.4"

export interface EtcdBinary {
  readonly etcd: string
  readonly etcdctl: string
  /** As the binary itself says, such as `3.5.30`. */
  readonly version: string
}

export class EtcdNotFound extends Data.TaggedError("EtcdNotFound")<{ readonly message: string }> {}

/** The Debian suites that carry a version, the preferred one first: 3.5.30, 3.5.16 and 3.4.23 at the time of writing. */
const suites: Record<EtcdVersion, ReadonlyArray<string>> = { "3.5": ["forky", "trixie"], "3.4": ["bookworm"] }

const cache = Path.join(import.meta.dirname, "..", ".cache", "etcd")

/** `ETCD_BIN` plays the part of 3.5, whatever its version: whoever sets it has decided. */
const variables: Record<EtcdVersion, string> = { "3.5": "ETCD_BIN", "3.4": "ETCD_34_BIN" }

const run = (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly cwd?: string; readonly timeout?: number } = {}
): Effect.Effect<string, EtcdNotFound> =>
  Effect.callback((resume) => {
    const child = execFile(command, args, { timeout: 10_000, ...options }, (error, stdout, stderr) =>
      resume(
        error === null
          ? Effect.succeed(stdout)
          : Effect.fail(new EtcdNotFound({ message: `${command}: ${stderr.trim() || error.message}` }))
      ))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const inspect = (etcd: string): Effect.Effect<EtcdBinary, EtcdNotFound> =>
  Effect.flatMap(run(etcd, ["--version"]), (text) => {
    const version = /^etcd Version: (\S+)/m.exec(text)?.[1]
    const beside = Path.join(Path.dirname(etcd), "etcdctl")
    return version === undefined
      ? Effect.fail(new EtcdNotFound({ message: `${etcd} --version does not answer as etcd does` }))
      : Effect.succeed({ etcd, etcdctl: Path.isAbsolute(etcd) && Fs.existsSync(beside) ? beside : "etcdctl", version })
  })

const onPath = (): string | undefined =>
  (process.env["PATH"] ?? "").split(Path.delimiter).filter((folder) => folder !== "")
    .map((folder) => Path.resolve(folder, "etcd")).find((file) => Fs.existsSync(file))

const cached = (suite: string): string => Path.join(cache, suite, "usr", "bin", "etcd")

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
const sweep = Effect.sync(() => {
  for (const name of Fs.readdirSync(cache)) {
    const pid = /^\.fetch-(\d+)-/.exec(name)?.[1]
    if (pid !== undefined && !Fs.existsSync(`/proc/${pid}`)) {
      Fs.rmSync(Path.join(cache, name), { recursive: true, force: true })
    }
  }
})

const unpack = Effect.fnUntraced(function*(suite: string, mirror: string, folder: string) {
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
  yield* run("apt-get", [...options, "-qq", "download", "etcd-server", "etcd-client"], { cwd: debs, timeout: 120_000 })
  for (const deb of Fs.readdirSync(debs)) yield* run("dpkg", ["-x", Path.join(debs, deb), Path.join(folder, "root")])
  yield* inspect(Path.join(folder, "root", "usr", "bin", "etcd"))
})

/** Nothing appears under its final name before it is whole: two processes at once cost a second download and no more. */
const fetchSuite = (suite: string, mirror: string): Effect.Effect<void, EtcdNotFound> =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      Fs.mkdirSync(cache, { recursive: true })
      return Fs.mkdtempSync(Path.join(cache, `.fetch-${process.pid}-`))
    }),
    (folder) =>
      Effect.andThen(
        unpack(suite, mirror, folder),
        Effect.try({
          try: () => Fs.renameSync(Path.join(folder, "root"), Path.join(cache, suite)),
          catch: (error) => new EtcdNotFound({ message: String(error) })
        }).pipe(Effect.catch((error) => Fs.existsSync(cached(suite)) ? Effect.void : Effect.fail(error)))
      ),
    (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
  ).pipe(Effect.andThen(sweep))

const fetchVersion = Effect.fnUntraced(function*(version: EtcdVersion) {
  let reason = "no apt sources are configured here"
  for (const mirror of yield* mirrors) {
    for (const suite of suites[version]) {
      const failure = yield* Effect.flip(fetchSuite(suite, mirror)).pipe(Effect.orElseSucceed(() => undefined))
      if (failure === undefined) return yield* inspect(cached(suite))
      reason = failure.message
    }
  }
  return yield* new EtcdNotFound({
    message: [
      `no etcd ${version} here, and none could be fetched (${reason}). Any of these helps:`,
      `- install etcd ${version} with your package manager, so that \`etcd\` is on the PATH`,
      `- set ${variables[version]} to the path of an etcd binary, with etcdctl beside it`,
      "- to try the library only: `docker compose up` starts a cluster, and `npm start` runs without any"
    ].join("\n")
  })
})

const lookup = Effect.fnUntraced(function*(version: EtcdVersion) {
  const chosen = process.env[variables[version]]
  if (chosen !== undefined && chosen !== "") {
    return yield* Effect.mapError(
      inspect(Path.resolve(chosen)),
      (error) => new EtcdNotFound({ message: `${variables[version]} does not name an etcd binary: ${error.message}` })
    )
  }
  for (const file of [onPath(), ...suites[version].map(cached)]) {
    if (file === undefined || !Fs.existsSync(file)) continue
    const binary = yield* Effect.option(inspect(file))
    if (Option.isSome(binary) && binary.value.version.startsWith(`${version}.`)) return binary.value
  }
  return yield* fetchVersion(version)
})

const known = new Map<EtcdVersion, EtcdBinary>()

/** An etcd of the version asked for: tests depend on which one it is. */
export const findEtcd = (version: EtcdVersion): Effect.Effect<EtcdBinary, EtcdNotFound> =>
  Effect.suspend(() => {
    const binary = known.get(version)
    return binary === undefined
      ? Effect.tap(lookup(version), (found) => Effect.sync(() => known.set(version, found)))
      : Effect.succeed(binary)
  })

/** For development, where any etcd on the PATH that is not too old will do. */
export const findAnyEtcd: Effect.Effect<EtcdBinary, EtcdNotFound> = Effect.suspend(() => {
  const file = onPath()
  const chosen = process.env["ETCD_BIN"] ?? ""
  if (chosen !== "" || file === undefined) return findEtcd("3.5")
  return Effect.flatMap(
    Effect.option(inspect(file)),
    (found) =>
      Option.isSome(found) && /^3\.([4-9]|\d\d)\./.test(found.value.version)
        ? Effect.succeed(found.value)
        : findEtcd("3.5")
  )
})
