/** The official Go client, built from Debian's packages where the machine has apt. */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { type CommandFailed, fetchPackages, run } from "../../scripts/debian.ts"

const suite = "forky"
const release = "go-1.27"

/** Go, etcd's client, and what that is built from. */
const packages = [
  "golang-1.27-go",
  "golang-1.27-src",
  "golang-etcd-server-dev",
  "golang-github-coreos-go-semver-dev",
  "golang-github-coreos-go-systemd-dev",
  "golang-github-gogo-protobuf-dev",
  "golang-github-golang-protobuf-1-5-dev",
  "golang-github-grpc-ecosystem-go-grpc-prometheus-dev",
  "golang-github-grpc-ecosystem-grpc-gateway-dev",
  "golang-go.uber-zap-dev",
  "golang-go.uber-multierr-dev",
  "golang-go.uber-atomic-dev",
  "golang-golang-x-net-dev",
  "golang-golang-x-sys-dev",
  "golang-golang-x-text-dev",
  "golang-google-genproto-dev",
  "golang-google-grpc-dev",
  "golang-google-protobuf-dev",
  "golang-github-dustin-go-humanize-dev",
  "golang-github-prometheus-client-golang-dev"
]

const cache = Path.join(import.meta.dirname, "..", "..", ".cache", "go")
const source = Path.join(import.meta.dirname, "..", "go")

/** The path of the program. */
export const buildGo: Effect.Effect<string, CommandFailed> = Effect.gen(function*() {
  const program = Path.join(cache, "bench")
  const changed = Fs.statSync(Path.join(source, "main.go")).mtimeMs
  if (Fs.existsSync(program) && Fs.statSync(program).mtimeMs > changed) return program
  const root = Path.join(cache, suite, "usr")
  if (!Fs.existsSync(root)) yield* fetchPackages(suite, packages, cache)
  yield* run(Path.join(root, "lib", release, "bin", "go"), ["build", "-o", program, "."], {
    cwd: source,
    timeout: 600_000,
    env: {
      ...process.env,
      GO111MODULE: "off",
      GOTOOLCHAIN: "local",
      GOROOT: Path.join(root, "lib", release),
      GOPATH: Path.join(root, "share", "gocode"),
      GOCACHE: Path.join(cache, "build")
    }
  })
  return program
})
