/** Backends that die and freeze: three, 500 calls a second of 50 ms. */
import { status } from "@grpc/grpc-js"
import * as Effect from "effect/Effect"
import type { ChannelOptions } from "../../src/ServiceChannel.ts"
import { connected } from "../../test/grpc/echo.ts"
import type { Figure } from "../grpc.ts"
import { openLoop } from "./load.ts"
import type { World } from "./world.ts"

const keepalive = { time: "1 second", timeout: "500 millis" } as const

export const faults = Effect.fnUntraced(function*(world: World) {
  const round = (signal: "SIGKILL" | "SIGSTOP", options: ChannelOptions) =>
    Effect.scoped(Effect.gen(function*() {
      const service = yield* world.newService
      const backends = yield* Effect.forEach(["a", "b", "c"], (id) => world.backendProcess(id), { concurrency: 3 })
      for (const { id, port } of backends) yield* service.put(id, port)
      const client = yield* service.client(options)
      yield* connected(client, ["a", "b", "c"])
      const calls = yield* openLoop(client, 500, 50)
      yield* Effect.sleep("1 second")
      const [victim] = backends
      const at = performance.now()
      yield* victim?.kill(signal) ?? Effect.void
      yield* Effect.sleep("5 seconds")
      yield* victim?.kill("SIGCONT") ?? Effect.void
      yield* Effect.sleep("1 second")
      const peer = `127.0.0.1:${victim?.port}`
      const errors = calls.filter(({ error }) => error !== undefined)
      const noticed = Math.min(...errors.map(({ end }) => end))
      return {
        calls: calls.length,
        failed: errors.length,
        /** Half answered. */
        begun: errors.filter(({ begun }) => begun).length,
        kinds: [...new Set(errors.map(({ error }) => `${status[error?.code ?? 0]}: ${error?.details}`))].join("; "),
        /** Begun when the connection was known to be broken. */
        afterwards: errors.filter(({ start }) => start > noticed).length,
        out: Math.max(
          ...calls.filter((called) => called.peer === peer && called.start < at + 5000).map(({ start }) => start)
        ) - at
      }
    }))
  const killed = yield* round("SIGKILL", {})
  const killedRetry = yield* round("SIGKILL", { retry: {} })
  const frozen = yield* round("SIGSTOP", { keepalive })
  const frozenRetry = yield* round("SIGSTOP", { keepalive, retry: {} })
  return [
    {
      what: "kill -9 of a backend: failed calls",
      measured: `${killed.failed} of ${killed.calls}, ${killed.afterwards} begun later ${killed.kinds}`,
      bar: "only those in flight",
      met: killed.afterwards === 0
    },
    {
      what: "... with retry",
      measured:
        `${killedRetry.failed} of ${killedRetry.calls}, ${killedRetry.begun} half answered ${killedRetry.kinds}`,
      bar: "0",
      met: killedRetry.failed === killedRetry.begun
    },
    {
      what: "frozen backend, keepalive 1 s / 0.5 s: out after",
      measured: `${Math.round(frozen.out)} ms, ${frozen.failed} of ${frozen.calls} failed ${frozen.kinds}`,
      bar: "<= 2000 ms",
      met: frozen.out <= 2000
    },
    {
      what: "... with retry: failed calls",
      measured:
        `${frozenRetry.failed} of ${frozenRetry.calls}, ${frozenRetry.begun} half answered ${frozenRetry.kinds}`,
      bar: "0",
      met: frozenRetry.failed === frozenRetry.begun
    }
  ] satisfies Array<Figure>
})
