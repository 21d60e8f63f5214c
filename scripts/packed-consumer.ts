/**
 * What somebody who installs the package gets: packs it, installs the tarball with its peers into an empty project, and
 * there imports every public name, compiles with `skipLibCheck: false`, and compiles and runs the quick start; then does the same for
 * the unstable entry points, and for `effect-coord/connect` with the peers that only it needs. The `coord` command runs there too.
 */
import * as Effect from "effect/Effect"
import * as assert from "node:assert/strict"
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { makeEtcdServer } from "../test/utils/EtcdServer.ts"
import { findAnyEtcd } from "./etcd.ts"

const root = Path.join(import.meta.dirname, "..")
const project = Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-consumer-"))
process.once("exit", () => Fs.rmSync(project, { recursive: true, force: true }))

const say = (text: string) => console.log(`- ${text}`)

/** Without what npm tells the scripts it runs about their package. */
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) =>
    !name.startsWith("npm_package_") && name !== "npm_config_local_prefix" && !name.startsWith("ETCD_")
  )
)

const run = (command: string, args: ReadonlyArray<string>, cwd = project): string => {
  console.log(`$ ${command} ${args.join(" ")}`)
  return execFileSync(command, args, { cwd, env, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] })
}

const write = (name: string, content: string | object): void => {
  const text = typeof content === "string" ? content : JSON.stringify(content, null, 2)
  Fs.writeFileSync(Path.join(project, name), text)
}

const compile = (config: string): void => {
  const output = (() => {
    try {
      return run("node_modules/.bin/tsc", ["-p", config])
    } catch (error) {
      console.log(error instanceof Error && "stdout" in error ? error.stdout : error)
      return process.exit(1)
    }
  })()
  assert.equal(output.trim(), "")
}

// The tarball.
Fs.rmSync(Path.join(root, "dist"), { recursive: true, force: true })
const packed: unknown = JSON.parse(
  // The output of `prepack` comes before the list.
  run("npm", ["pack", "--json", "--pack-destination", project], root).replace(/^[^]*?^(?=[[{]$)/m, "")
)
const [tarball] = Array.isArray(packed) ? packed : Object.values(Object(packed))
const files = new Set<string>(tarball.files.map((file: { readonly path: string }) => file.path))
for (
  const file of [
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "src/index.ts",
    "dist/index.js",
    "dist/index.d.ts",
    "dist/index.d.ts.map",
    "dist/Http.js",
    "dist/Http.d.ts",
    "dist/KeyValueStore.js",
    "dist/KeyValueStore.d.ts",
    "dist/Connect.js",
    "dist/Connect.d.ts",
    "dist/cli/bin.js"
  ]
) {
  assert.ok(files.has(file), `${file} is not in the tarball`)
}
for (const file of files) {
  assert.match(file, /^(dist|src)\/|^(README|CHANGELOG)\.md$|^LICENSE$|^package\.json$/, `${file} is in the tarball`)
  if (file.startsWith("src/")) {
    assert.ok(files.has(file.replace(/^src(.*)\.ts$/, "dist$1.js")), `${file} has not been built`)
  }
}
const bin = tarball.files.find((file: { readonly path: string }) => file.path === "dist/cli/bin.js")
assert.equal(bin.mode & 0o111, 0o111, "the coord command is not executable")
say(`${files.size} files, ${Math.round(tarball.size / 1024)} KiB packed`)

// Its consumer, with the versions that are developed against.
const installed = (name: string): string => {
  const file = Path.join(root, "node_modules", name, "package.json")
  return `${name}@${JSON.parse(Fs.readFileSync(file, "utf8")).version}`
}
write("package.json", { name: "consumer", private: true, type: "module" })
const dependencies = ["effect", "@grpc/grpc-js", "@effect/platform-node", "typescript", "@types/node"]
run("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", tarball.filename, ...dependencies.map(installed)])
const problems = run("npm", ["ls", "--all", "--json"])
assert.equal(JSON.parse(problems).problems, undefined, problems)
say("installs with its peers, and nothing is missing or invalid")

// The command, as somebody would try it.
const { version } = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))
assert.match(run("npx", ["coord", "--help"]), /lock +Runs a command while holding a lock/)
assert.match(run("npx", ["coord", "--version"]), new RegExp(`coord v?${version.replaceAll(".", "[.]")}`))
say("npx coord runs")
// A server that is stopped keeps no event loop alive until it has ended.
const alive = setInterval(() => {}, 60_000)
await Effect.runPromise(
  Effect.gen(function*() {
    const { endpoint } = yield* makeEtcdServer({ binary: yield* findAnyEtcd })
    const script = "echo \"token $COORD_FENCING_TOKEN\""
    const said = run("npx", ["coord", "--endpoints", endpoint, "lock", "packed", "--", "sh", "-c", script])
    assert.match(said, /^token [1-9][0-9]*\n$/)
    say("npx coord lock runs a command on a real etcd")
  }).pipe(
    Effect.scoped,
    Effect.catchTag("EtcdNotFound", ({ message }) => Effect.sync(() => say(`npx coord lock was not tried: ${message}`)))
  )
)
clearInterval(alive)

// Every public name, as a value or as a type.
const index = Fs.readFileSync(Path.join(root, "src/index.ts"), "utf8").replace(/\/\*[^]*?\*\/|\/\/.*$/gm, "")
const listed = [...index.matchAll(/export\s+(type\s+)?\{([^}]*)\}/g)].flatMap(([, allTypes, names]) =>
  String(names).split(",").map((name) => name.trim()).filter((name) => name !== "").map((name) => ({
    name: name.replace(/^type\s+/, "").replace(/^.*\sas\s+/, ""),
    isType: allTypes !== undefined || name.startsWith("type ")
  }))
)
const types = listed.filter(({ isType }) => isType).map(({ name }) => name)
const values = Object.keys(await import(Path.join(root, "src/index.ts"))).toSorted()
assert.ok(values.length > 0, "the package exports nothing")
write(
  "names.ts",
  [
    `import { ${values.join(", ")} } from "effect-coord"`,
    ...types.map((name, position) => `export type { ${name} as T${position} } from "effect-coord"`),
    `export const all: ReadonlyArray<unknown> = [${values.join(", ")}]`,
    ""
  ].join("\n")
)
write(
  "check.mjs",
  `import * as assert from "node:assert/strict"
   import * as coord from "effect-coord"
   assert.deepEqual(Object.keys(coord).toSorted(), ${JSON.stringify(values)})
   for (const path of ["internal/Transport", "internal/Transport.js", "dist/internal/Transport.js", "src/index.ts", "Etcd"]) {
     await assert.rejects(import("effect-coord/" + path), { code: "ERR_PACKAGE_PATH_NOT_EXPORTED" }, path)
   }
`
)
run("node", ["check.mjs"])
say(`${values.length} values are importable, nothing internal is`)

// The quick start, as a reader would copy it.
const quickstart = Path.join(root, "examples/quickstart.ts")
const text = Fs.readFileSync(quickstart, "utf8").replaceAll("\"../src/index.ts\"", "\"effect-coord\"")
assert.doesNotMatch(text, /from "\.\.?\//, "the quick start imports a file that a reader does not have")
write("quickstart.ts", text)
const tsconfig = (files: ReadonlyArray<string>) => ({
  compilerOptions: {
    target: "ES2023",
    module: "NodeNext",
    moduleResolution: "NodeNext",
    types: ["node"],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    declaration: true,
    outDir: "out"
  },
  include: files
})
write("tsconfig.json", tsconfig(["names.ts", "quickstart.ts"]))
compile("tsconfig.json")
say(`${values.length} values and ${types.length} types compile, with the libraries' own typings checked`)
console.log(run("node", ["out/quickstart.js"]).replace(/^/gm, "  | "))
say("the quick start runs")

// The entry point for HTTP. Effect's client is unstable, so nothing else may load it (Schema loads other modules of effect/http).
write(
  "http.ts",
  `import { Effect, Layer } from "effect"
import { EtcdMemory, type Registry } from "effect-coord"
import { layerServiceHttpClient, NoInstances, type ServiceHttpClientOptions } from "effect-coord/http"
import { FetchHttpClient, HttpClient } from "effect/http"
const options: ServiceHttpClientOptions = { others: "fail" }
const live = layerServiceHttpClient(options).pipe(Layer.provide([FetchHttpClient.layer, EtcdMemory.layer]))
const error = await Effect.runPromise(HttpClient.get("http://orders/").pipe(Effect.flip, Effect.provide(live)))
console.log(error.cause instanceof NoInstances && error.cause.service)
export type Needs = Registry
`
)
write("tsconfig.http.json", tsconfig(["http.ts"]))
compile("tsconfig.http.json")
assert.equal(run("node", ["out/http.js"]).trim(), "orders")
say("effect-coord/http compiles and runs")

write(
  "store.ts",
  `import { Effect, Layer } from "effect"
import { EtcdMemory } from "effect-coord"
import { type KeyValueStoreOptions, layerKeyValueStore } from "effect-coord/key-value-store"
import { KeyValueStore } from "effect/persistence"
const options: KeyValueStoreOptions = { prefix: "/kv/test" }
const program = Effect.gen(function*() {
  const store = yield* KeyValueStore.KeyValueStore
  yield* store.set("key", "value")
  return yield* store.get("key")
})
const live = layerKeyValueStore(options).pipe(Layer.provide(EtcdMemory.layer))
console.log(await Effect.runPromise(Effect.provide(program, live)))
`
)
write("tsconfig.store.json", tsconfig(["store.ts"]))
compile("tsconfig.store.json")
assert.equal(run("node", ["out/store.js"]).trim(), "value")
say("effect-coord/key-value-store compiles and runs")

write(
  "cluster.ts",
  `import { Effect, Layer } from "effect"
import { EtcdMemory } from "effect-coord"
import { type EtcdClusterOptions, EtcdRunnerHealth, EtcdRunnerStorage } from "effect-coord/cluster"
import { Runner, RunnerAddress, RunnerHealth, RunnerStorage, ShardingConfig } from "effect/cluster"
const options: EtcdClusterOptions = { prefix: "/test" }
const address = RunnerAddress.make("localhost", 1)
const program = Effect.gen(function*() {
  const storage = yield* RunnerStorage.RunnerStorage
  yield* storage.register(Runner.make({ address, groups: ["default"], weight: 1 }), true)
  return yield* (yield* RunnerHealth.RunnerHealth).isAlive(address)
})
const live = Layer.merge(EtcdRunnerStorage.layer(options), EtcdRunnerHealth.layer(options)).pipe(
  Layer.provide([EtcdMemory.layer, ShardingConfig.layerDefaults])
)
console.log(await Effect.runPromise(Effect.provide(program, live)))
`
)
write("tsconfig.cluster.json", tsconfig(["cluster.ts"]))
compile("tsconfig.cluster.json")
assert.equal(run("node", ["out/cluster.js"]).trim(), "true")
say("effect-coord/cluster compiles and runs")

// What each unstable entry point brings, and nothing else may load.
const unstable = {
  "effect-coord/cluster":
    "effect[/]dist[/](cluster|persistence|rpc|sql)[/]|effect[/]dist[/]http[/]HttpClient|effect-coord[/]dist[/](Cluster[.]|internal[/]cluster[/])",
  "effect-coord/http": "effect[/]dist[/]http[/]HttpClient|effect-coord[/]dist[/](Http[.]|internal[/]http[/])",
  "effect-coord/key-value-store":
    "effect[/]dist[/](persistence|sql)[/]|effect-coord[/]dist[/](KeyValueStore[.]|internal[/]kv[/])"
}
const never = "effect-coord[/]dist[/](testing[.]|cli[/])"
for (const [name, own] of Object.entries(unstable)) {
  write(
    "loaded.mjs",
    `import { registerHooks } from "node:module"
     registerHooks({ load: (url, context, next) => (/${
      Object.values(unstable).join("|")
    }|${never}/.test(url) && console.log(url), next(url, context)) })
     await import("effect-coord")
     console.log("loaded")
     await import("${name}")
`
  )
  const [first, ...rest] = run("node", ["loaded.mjs"]).trim().split("\n")
  assert.equal(first, "loaded", "effect-coord loads what only its other entry points may")
  assert.ok(rest.some((url) => url.includes("effect-coord")), `${name} loads nothing of its own`)
  assert.deepEqual(rest.filter((url) => !new RegExp(own).test(url)), [], `${name} loads what is not its own`)
}
say("the unstable entry points are not loaded by the rest, nor by each other")

// The entry point for tests of applications.
write(
  "testing.ts",
  `import { Effect } from "effect"
import { Lock } from "effect-coord"
import * as CoordTesting from "effect-coord/testing"
const test = Effect.gen(function*() {
  const lock = yield* Lock
  const etcd = yield* CoordTesting.EtcdTest
  return yield* lock.withLock("job")(Effect.andThen(etcd.loseLease, Effect.never)).pipe(Effect.flip)
})
const lost = await Effect.runPromise(test.pipe(Effect.provide(CoordTesting.layer())))
console.log(lost._tag)
`
)
write("tsconfig.testing.json", tsconfig(["testing.ts"]))
compile("tsconfig.testing.json")
assert.equal(run("node", ["out/testing.js"]).trim().split("\n").at(-1), "LockLost")
say("effect-coord/testing compiles and runs")

// The entry point for Connect. Up to here nothing that it needs was installed, so nothing else has loaded it.
write(
  "connect.ts",
  `import { createClient, type Transport } from "@connectrpc/connect"
import { Channel, credentials } from "@grpc/grpc-js"
import { type GrpcTransportOptions, makeGrpcTransport } from "effect-coord/connect"
const options: GrpcTransportOptions = { defaultTimeoutMs: 1000 }
export const transport: Transport = makeGrpcTransport(new Channel("localhost:1", credentials.createInsecure(), {}), options)
console.log(typeof createClient, typeof transport.unary, typeof transport.stream)
`
)
const connectPeers = ["@connectrpc/connect", "@bufbuild/protobuf"]
for (const name of connectPeers) {
  assert.ok(!Fs.existsSync(Path.join(project, "node_modules", name)), `${name} came along`)
}
run("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", ...connectPeers.map(installed)])
assert.equal(JSON.parse(run("npm", ["ls", "--all", "--json"])).problems, undefined)
write("tsconfig.connect.json", tsconfig(["connect.ts"]))
compile("tsconfig.connect.json")
assert.equal(run("node", ["out/connect.js"]).trim(), "function function function")
say("effect-coord/connect compiles and loads with its peers, and is not needed by the rest")
