/**
 * `with-etcd.ts [command...]`: starts an etcd for as long as the command runs, with `ETCD_ENDPOINTS` set to it; without a
 * command until it is interrupted. Its data is gone afterwards.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as ChildProcess from "node:child_process"
import { makeEtcdServer } from "../test/utils/EtcdServer.ts"
import { findAnyEtcd } from "./etcd.ts"

const ended = (child: ChildProcess.ChildProcess): Effect.Effect<number> =>
  Effect.callback((resume) => {
    const end = () => resume(Effect.succeed(child.exitCode ?? 1))
    if (child.exitCode !== null || child.signalCode !== null) return end()
    child.once("exit", end)
    child.once("error", end)
    return Effect.sync(() => child.off("exit", end))
  })

/** An interrupt of the terminal reaches the command as well: it has ten seconds to tidy up while etcd is still there. */
const run = (command: string, args: ReadonlyArray<string>, endpoint: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() =>
      ChildProcess.spawn(command, args, { stdio: "inherit", env: { ...process.env, ETCD_ENDPOINTS: endpoint } })
    ),
    ended,
    (child) =>
      ended(child).pipe(
        Effect.timeoutOrElse({
          duration: "10 seconds",
          orElse: () => Effect.sync(() => child.kill("SIGKILL"))
        })
      )
  )

const program = Effect.gen(function*() {
  const binary = yield* findAnyEtcd
  const server = yield* makeEtcdServer({ binary })
  const [command, ...args] = process.argv.slice(2)
  yield* Console.log(`etcd ${binary.version} serves at ${server.endpoint}; its data is temporary`)
  if (command === undefined) {
    yield* Console.log(`ETCD_ENDPOINTS=${server.endpoint}; Ctrl-C ends it`)
    return yield* Effect.never
  }
  process.exitCode = yield* run(command, args, server.endpoint)
})

NodeRuntime.runMain(
  Effect.scoped(program).pipe(
    Effect.catchTags({
      EtcdNotFound: (error) => failed(error.message),
      EtcdStartFailed: (error) => failed(error.message)
    })
  )
)

function failed(message: string): Effect.Effect<void> {
  process.exitCode = 1
  return Console.error(message)
}
