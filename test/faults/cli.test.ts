/** The `coord` command under losses: whether its COMMAND is gone before somebody else holds the lock, and lives on when nothing is lost. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Lock } from "../../src/index.ts"
import { type EtcdServer, makeEtcdServer } from "../utils/EtcdServer.ts"
import type { Running } from "../utils/processes.ts"
import { makeProxy, type Proxy } from "../utils/Proxy.ts"
import { folder, sh, start } from "../utils/running.ts"
import { connect, ms, now, quiet, summary, until } from "./clients.ts"
import { record } from "./report.ts"

/** Ignores SIGTERM, and so does what it starts. All of them hold the pipe open. */
const stubborn = "trap '' TERM; exec 9<>\"$1\"; sleep 600 & sleep 600 & echo up; wait"

interface Way {
  readonly name: string
  readonly lose: (server: EtcdServer, proxy: Proxy, holders: ReadonlyArray<Running>) => Effect.Effect<unknown>
  readonly mend: (server: EtcdServer, proxy: Proxy, holders: ReadonlyArray<Running>) => Effect.Effect<unknown>
}

const all = (signal: NodeJS.Signals) => (_server: EtcdServer, _proxy: Proxy, holders: ReadonlyArray<Running>) =>
  Effect.forEach(holders, (holder) => holder.kill(signal))

const ways: ReadonlyArray<Way> = [
  { name: "the network swallows everything", lose: (_, proxy) => proxy.freeze, mend: (_, proxy) => proxy.thaw },
  {
    name: "connections are cut and refused",
    lose: (_, proxy) => Effect.andThen(proxy.refuse, proxy.cut),
    mend: (_, proxy) => proxy.accept
  },
  {
    name: "answers are lost, its own release is not",
    lose: (_, proxy) => proxy.dropResponses,
    mend: (_, proxy) => proxy.passResponses
  },
  { name: "coord is stopped", lose: all("SIGSTOP"), mend: all("SIGCONT") },
  {
    name: "etcd is away for longer than the TTL",
    lose: (server) => server.kill,
    mend: () => Effect.void
  }
]

/** Whether anything that holds the pipe is alive: the kernel answers, at this moment. */
const isAlive = (pipe: string): boolean => {
  try {
    Fs.closeSync(Fs.openSync(pipe, Fs.constants.O_WRONLY | Fs.constants.O_NONBLOCK))
    return true
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENXIO") return false
    throw error
  }
}

/** Notes when each of them has gone. */
const deaths = (pipes: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const at = new Map<string, number>()
      const timer = setInterval(() => {
        for (const pipe of pipes) if (!at.has(pipe) && !isAlive(pipe)) at.set(pipe, now())
      }, 5)
      return { at, timer }
    }),
    ({ timer }) => Effect.sync(() => clearInterval(timer))
  )

const each = 20

/** Each holder has a lock of its own, for which somebody waits. */
const round = Effect.fnUntraced(function*(server: EtcdServer, lock: Lock["Service"], way: Way, number: number) {
  const dir = yield* folder
  const proxy = yield* makeProxy({ port: server.port })
  const names = Array.from({ length: each }, (_, index) => `${number}/${index}`)
  const pipes = names.map((_, index) => Path.join(dir, `pipe-${index}`))
  ChildProcess.execFileSync("mkfifo", pipes)
  const holders = yield* Effect.forEach(
    names,
    (name, index) =>
      Effect.tap(
        start(proxy.endpoint, ["lock", name, "--ttl", "3s", ...sh(stubborn, pipes[index] ?? "")]),
        (holder) => holder.line("up")
      ),
    // All at once they would take each other's time, and some would be lost before their turn.
    { concurrency: 4 }
  )
  const alive = pipes.filter(isAlive).length
  const entering = yield* Effect.forEach(
    names,
    (name, index) =>
      lock.withLock(name, { ttl: "60 seconds" })(Effect.sync(() => ({ alive: isAlive(pipes[index] ?? ""), at: now() })))
        .pipe(Effect.forkChild({ startImmediately: true }))
  )
  yield* until(
    "somebody waits for each",
    Effect.map(
      Effect.forEach(names, lock.waiters),
      (lines) => lines.every(({ length }, index) => length === 2 || entering[index]?.pollUnsafe() !== undefined)
    ),
    20_000
  )
  const { at } = yield* deaths(pipes)
  yield* way.lose(server, proxy, holders)
  if (way.name.startsWith("etcd")) {
    yield* until("all are gone", Effect.sync(() => at.size === each), 20_000)
    yield* server.start
  }
  const entered = yield* Effect.forEach(entering, Fiber.join)
  yield* way.mend(server, proxy, holders)
  const codes = yield* Effect.forEach(holders, (holder) => holder.ended, { concurrency: "unbounded" })
  const gaps = entered.flatMap((entry, index) => {
    const gone = at.get(pipes[index] ?? "")
    return gone === undefined ? [] : [entry.at - gone]
  })
  return { alive, overlaps: entered.filter(({ alive }) => alive).length, gaps, codes }
}, Effect.scoped)

describe("the command under losses", () => {
  it.live(
    "100 losses by expiry: the command and all that it has started are gone before the next holder enters",
    () =>
      Effect.gen(function*() {
        const server = yield* makeEtcdServer()
        const { lock } = yield* connect({ endpoints: server.endpoint })
        for (const [number, way] of ways.entries()) {
          const { alive, codes, gaps, overlaps } = yield* round(server, lock, way, number)
          record({
            what: `${each} losses of \`coord lock\` with TTL 3 s, commands that ignore SIGTERM: ${way.name}`,
            bar: "the command and its group gone before the next holder enters",
            measured: `${overlaps} alive then; gone ${summary(gaps)} before (${ms(5)} steps)`,
            ok: overlaps === 0,
            version: server.version
          })
          assert.strictEqual(overlaps, 0, way.name)
          assert.isAbove(alive, each / 2, "most of them were alive before")
          assert.deepStrictEqual([...new Set(codes)], [123], way.name)
        }
      }).pipe(quiet),
    300_000
  )

  it.live("restarts of etcd, shorter than what is left, end no command", () =>
    Effect.gen(function*() {
      const server = yield* makeEtcdServer()
      const go = Path.join(yield* folder, "go")
      const script = "echo up; while [ ! -e \"$1\" ]; do sleep 0.2; done; exit 3"
      const ttls = ["60s", "60s", "60s", "20s", "20s", "20s"]
      const holders = yield* Effect.forEach(
        ttls,
        (ttl, index) => start(server.endpoint, ["lock", `restart/${index}`, "--ttl", ttl, ...sh(script, go)]),
        { concurrency: "unbounded" }
      )
      yield* Effect.forEach(holders, (holder) => holder.line("up"), { concurrency: "unbounded" })
      const outages: Array<number> = []
      for (const seconds of [3, 4, 5]) {
        const from = now()
        yield* server.kill
        yield* Effect.sleep(seconds * 1000)
        yield* server.start
        outages.push(now() - from)
        yield* Effect.sleep("5 seconds")
      }
      // Past the deadlines that they had when etcd went for the first time.
      yield* Effect.sleep("40 seconds")
      Fs.writeFileSync(go, "")
      const codes = yield* Effect.forEach(holders, (holder) => holder.ended, { concurrency: "unbounded" })
      const killed = codes.filter((code) => code !== 3).length
      record({
        what: `\`coord lock\` with TTL 60 s (3 of them) and 20 s (3): ${outages.length} restarts of etcd`,
        bar: "no command is ended",
        measured: `${killed} of ${holders.length} ended by outages of ${outages.map(ms).join(", ")}`,
        ok: killed === 0,
        version: server.version
      })
      assert.deepStrictEqual(codes, ttls.map(() => 3))
    }).pipe(quiet), 300_000)
})
