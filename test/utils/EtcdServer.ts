/**
 * Real etcd servers for tests, on loopback, with their data in a temporary folder. Waiting is in real time whatever clock
 * the test runs on, and no server outlives the test process, even one that is killed.
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Http from "node:http"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import { type EtcdBinary, type EtcdNotFound, type EtcdVersion, findEtcd } from "../../scripts/etcd.ts"
import { freePort } from "./ports.ts"

export type { EtcdNotFound, EtcdVersion }

export class EtcdStartFailed extends Data.TaggedError("EtcdStartFailed")<{ readonly message: string }> {}

export class EtcdctlError extends Data.TaggedError("EtcdctlError")<{
  readonly message: string
  readonly code: number | undefined
  readonly stdout: string
  readonly stderr: string
}> {}

export interface EtcdServer {
  readonly version: EtcdVersion
  /** `127.0.0.1:port`. */
  readonly endpoint: string
  readonly port: number
  readonly pid: Effect.Effect<number>
  /** SIGKILL, and waits until the process is gone. */
  readonly kill: Effect.Effect<void>
  /** Again, on the same port and data; returns when it is healthy, so members of a cluster without majority start together. */
  readonly start: Effect.Effect<void>
  /** SIGSTOP: connections stay open, nothing answers. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  /** Standard output of `etcdctl`, with `ETCDCTL_ENDPOINTS` set to this server. */
  readonly etcdctl: (...args: ReadonlyArray<string>) => Effect.Effect<string, EtcdctlError>
  readonly etcdctlPath: string
  /**
   * Kills it, puts a snapshot (of `etcdctl snapshot save`) in the place of its data, and starts it again, as an operator would. The
   * flags are those of `etcdutl snapshot restore`, or of `etcdctl` where there is no `etcdutl`.
   */
  readonly restore: (snapshot: string, ...flags: ReadonlyArray<string>) => Effect.Effect<void, EtcdctlError>
  /** What etcd has logged. */
  readonly log: Effect.Effect<string>
}

export interface MemberOptions {
  readonly binary: EtcdBinary
  readonly name: string
  readonly port: number
  readonly peerPort: number
  readonly initialCluster: string
  readonly args: ReadonlyArray<string>
}

/** Another process may take a port between its choice and its use. */
export const retryTakenPort = <A, E, R>(effect: Effect.Effect<A, E | EtcdStartFailed, R>) =>
  Effect.retry(effect, { times: 3, while: (error) => /address already in use/.test(String(error)) })

const realSleep = (millis: number): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

/** On Linux: whether no thread of it runs any more. A busy machine lets some run on for a while after SIGSTOP. */
const isStopped = (pid: number): boolean => {
  try {
    return Fs.readdirSync(`/proc/${pid}/task`).every((thread) =>
      /^\d+ \(.*\) [TtZX]/s.test(Fs.readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8"))
    )
  } catch {
    // It or a thread of it has ended, or this is no Linux.
    return !Fs.existsSync(`/proc/${pid}`)
  }
}

const stopped = (pid: number): Effect.Effect<void> =>
  Effect.suspend(() => isStopped(pid) ? Effect.void : Effect.andThen(realSleep(1), stopped(pid)))

/** The answer to a request over HTTP, or undefined when none came in time. */
export const httpRequest = (options: Http.RequestOptions, body = ""): Effect.Effect<string | undefined> =>
  Effect.callback((resume) => {
    const none = () => resume(Effect.succeed(undefined))
    const request = Http.request({ host: "127.0.0.1", timeout: 1000, agent: false, ...options }, (response) => {
      let text = ""
      response.setEncoding("utf8")
      response.on("data", (chunk: string) => {
        text += chunk
      })
      response.on("end", () => resume(Effect.succeed(response.statusCode === 200 ? text : undefined)))
      response.on("error", none)
    })
    request.on("timeout", () => request.destroy())
    request.on("error", none)
    request.end(body)
    return Effect.sync(() => request.destroy())
  })

/** The variables of etcd's family are flags to the programs that are started here. */
const environment = (extra: Record<string, string> = {}): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^ETCD(CTL)?_/.test(name))),
  ...extra
})

/**
 * A shell that outlives this process by as long as it takes to kill the server and remove its folder. It reads process ids
 * until its input ends, which also happens when this process is killed.
 */
const watchdog = (folder: string): { readonly watch: (pid: number | undefined) => void; readonly end: () => void } => {
  const script =
    "while read -r pid; do last=$pid; done; [ -z \"$last\" ] || kill -9 \"$last\" 2>/dev/null; rm -rf -- \"$1\""
  const shell = ChildProcess.spawn("sh", ["-c", script, "sh", folder], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"]
  })
  shell.on("error", () => {})
  shell.stdin.on("error", () => {})
  shell.unref()
  if (shell.stdin instanceof Net.Socket) shell.stdin.unref()
  return { watch: (pid) => shell.stdin.write(`${pid ?? ""}\n`), end: () => shell.stdin.end() }
}

const healthy = (socketPath: string): Effect.Effect<boolean> =>
  Effect.map(httpRequest({ socketPath, path: "/health" }), (text) => /"health":\s*"true"/.test(text ?? ""))

/** One process of a cluster, not yet started. `start` fails when it exits, or is not healthy within 30 seconds. */
export const makeMember = Effect.fnUntraced(function*(options: MemberOptions) {
  const folder = yield* Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-etcd-")))
  const guard = watchdog(folder)
  const log = Path.join(folder, "log")
  const tls = options.args.some((arg) => arg.startsWith("--cert-file"))
  const client = `${tls ? "https" : "http"}://127.0.0.1:${options.port}`
  const peer = `http://127.0.0.1:${options.peerPort}`
  // A socket in the server's own folder: whoever answers there is this server, and not another that was faster on the port.
  const health = "health:1"
  const version: EtcdVersion = options.binary.version.startsWith("3.4.") ? "3.4" : "3.5"
  const settings = {
    "name": options.name,
    "data-dir": Path.join(folder, "data"),
    "listen-client-urls": client,
    "advertise-client-urls": client,
    "listen-peer-urls": peer,
    "initial-advertise-peer-urls": peer,
    "initial-cluster": options.initialCluster,
    "logger": "zap",
    "log-level": "error",
    "auto-compaction-retention": "0",
    "listen-metrics-urls": `unix://${health}`,
    ...(version === "3.5" ? { "unsafe-no-fsync": "true" } : {})
  }
  const args = [...Object.entries(settings).map(([name, value]) => `--${name}=${value}`), ...options.args]
  let current: ChildProcess.ChildProcess | undefined

  const running = () => current !== undefined && current.exitCode === null && current.signalCode === null
  const signal = (name: NodeJS.Signals) =>
    Effect.sync(() => {
      if (!running()) throw new Error(`etcd ${options.name} is not running: nothing to send ${name} to`)
      current?.kill(name)
    })
  const readLog = Effect.sync(() => Fs.existsSync(log) ? Fs.readFileSync(log, "utf8") : "")

  const kill = Effect.callback<void>((resume) => {
    const child = current
    if (child === undefined || !running()) return resume(Effect.void)
    child.once("exit", () => {
      guard.watch(undefined)
      resume(Effect.void)
    })
    // The process may have nothing else to wait for.
    child.ref()
    child.kill("SIGKILL")
  })

  const spawn = Effect.sync(() => {
    if (running()) throw new Error(`etcd ${options.name} is already running`)
    // To a file, not to a pipe: a test that blocks its event loop must not block etcd's logging.
    const output = Fs.openSync(log, "a")
    current = ChildProcess.spawn(options.binary.etcd, args, {
      cwd: folder,
      detached: true,
      env: environment(),
      stdio: ["ignore", output, output]
    })
    Fs.closeSync(output)
    current.on("error", (error) => Fs.appendFileSync(log, `${error}\n`))
    current.unref()
    guard.watch(current.pid)
  })

  const failed = (what: string) =>
    Effect.flatMap(readLog, (text) =>
      new EtcdStartFailed({
        message: `${options.binary.etcd} ${options.binary.version} ${what} (port ${options.port}).\n${
          text.slice(-2000)
        }`
      }))

  const ready: Effect.Effect<void, EtcdStartFailed> = Effect.gen(function*() {
    for (const end = performance.now() + 30_000; performance.now() < end;) {
      if (!running()) return yield* failed("exited while it started")
      if (yield* healthy(Path.join(folder, health))) return
      yield* realSleep(50)
    }
    return yield* failed("is not healthy after 30 seconds")
  })

  const tool = (
    path: string,
    extra: Record<string, string>,
    toolArgs: ReadonlyArray<string>
  ): Effect.Effect<string, EtcdctlError> =>
    Effect.callback((resume) => {
      const child = ChildProcess.execFile(path, toolArgs, { env: environment(extra) }, (error, stdout, stderr) => {
        if (error === null) return resume(Effect.succeed(stdout))
        const message = `${Path.basename(path)} ${toolArgs.join(" ")}: ${stderr.trim() || error.message}`
        const code = typeof error.code === "number" ? error.code : undefined
        resume(Effect.fail(new EtcdctlError({ message, code, stdout, stderr })))
      })
      return Effect.sync(() => child.kill("SIGKILL"))
    })

  const etcdctl = (...ctlArgs: ReadonlyArray<string>) =>
    tool(options.binary.etcdctl, { ETCDCTL_API: "3", ETCDCTL_ENDPOINTS: `127.0.0.1:${options.port}` }, ctlArgs)

  const restore = Effect.fnUntraced(function*(snapshot: string, ...flags: ReadonlyArray<string>) {
    yield* kill
    Fs.rmSync(settings["data-dir"], { recursive: true, force: true })
    const beside = Path.join(Path.dirname(options.binary.etcdctl), "etcdutl")
    const hasEtcdutl = Path.isAbsolute(beside) && Fs.existsSync(beside)
    const member = ["name", "data-dir", "initial-cluster", "initial-advertise-peer-urls"] as const
    yield* tool(hasEtcdutl ? beside : options.binary.etcdctl, hasEtcdutl ? {} : { ETCDCTL_API: "3" }, [
      "snapshot",
      "restore",
      snapshot,
      ...member.map((name) => `--${name}=${settings[name]}`),
      ...flags
    ])
    yield* Effect.orDie(Effect.andThen(spawn, ready))
  })

  yield* Effect.addFinalizer(() =>
    Effect.andThen(
      kill,
      Effect.sync(() => {
        guard.end()
        Fs.rmSync(folder, { recursive: true, force: true })
      })
    )
  )

  const server: EtcdServer = {
    version,
    endpoint: `127.0.0.1:${options.port}`,
    port: options.port,
    pid: Effect.sync(() => {
      if (!running() || current?.pid === undefined) throw new Error(`etcd ${options.name} is not running`)
      return current.pid
    }),
    kill,
    start: Effect.orDie(Effect.andThen(spawn, ready)),
    pause: Effect.andThen(
      signal("SIGSTOP"),
      Effect.suspend(() => stopped(current?.pid ?? 0))
    ),
    resume: signal("SIGCONT"),
    etcdctl,
    etcdctlPath: options.binary.etcdctl,
    restore,
    log: readLog
  }
  return { server, start: Effect.andThen(spawn, ready) }
}, Effect.uninterruptible)

/** A server that is ready to serve. A port that somebody else took in the meantime is left to them. */
export const makeEtcdServer = (
  options: {
    readonly version?: EtcdVersion
    /** Instead of the one found for the version. */
    readonly binary?: EtcdBinary
    /** More flags for etcd; the last of a kind counts. */
    readonly args?: ReadonlyArray<string>
  } = {}
): Effect.Effect<EtcdServer, EtcdNotFound | EtcdStartFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const binary = options.binary ?? (yield* findEtcd(options.version ?? "3.5"))
    const port = yield* freePort
    const peerPort = yield* freePort
    const initialCluster = `test=http://127.0.0.1:${peerPort}`
    const args = options.args ?? []
    const { server, start } = yield* makeMember({ binary, name: "test", port, peerPort, initialCluster, args })
    yield* start
    return server
  }).pipe(retryTakenPort)

/** One server, ready to serve. */
export class TestEtcd extends Context.Service<TestEtcd, EtcdServer>()("test/TestEtcd") {
  static readonly layer = (version: EtcdVersion = "3.5", args: ReadonlyArray<string> = []): Layer.Layer<TestEtcd> =>
    Layer.orDie(Layer.effect(TestEtcd, makeEtcdServer({ version, args })))
}
