/**
 * Finds an etcd binary for tests and development: `ETCD_BIN` (`ETCD_34_BIN` where 3.4 is asked for), `etcd` on the PATH,
 * the project's cache, and at last Debian's packages, unpacked into that cache where the machine has apt.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { type CommandFailed, fetchPackages, run } from "./debian.ts"

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

const notFound = ({ message }: CommandFailed) => new EtcdNotFound({ message })

const isEtcd = (root: string) => run(Path.join(root, "usr", "bin", "etcd"), ["--version"])

const inspect = (etcd: string): Effect.Effect<EtcdBinary, EtcdNotFound> =>
  Effect.flatMap(Effect.mapError(run(etcd, ["--version"]), notFound), (text) => {
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

const fetchVersion = Effect.fnUntraced(function*(version: EtcdVersion) {
  let reason = ""
  for (const suite of suites[version]) {
    const fetched = yield* Effect.result(fetchPackages(suite, ["etcd-server", "etcd-client"], cache, isEtcd))
    if (fetched._tag === "Success") return yield* inspect(cached(suite))
    reason = fetched.failure.message
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
