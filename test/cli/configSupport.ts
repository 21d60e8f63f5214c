import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { ConfigCenter } from "../../src/ConfigCenter.ts"
import { layerEtcdPort } from "../../src/EtcdLive.ts"
import { coord as command } from "../utils/command.ts"
import { TestEtcd } from "../utils/EtcdServer.ts"

/** Processes take their time where others run as well. */
export const patience = 120_000

/** `coord config`, to its end. */
export const coord = (args: ReadonlyArray<string>, options?: Parameters<typeof command>[2]) =>
  Effect.flatMap(TestEtcd, ({ endpoint }) => command(endpoint, ["config", ...args], options))

/** Another client, in this process. */
export const connect = Effect.flatMap(TestEtcd, ({ endpoint }) =>
  Effect.map(
    Layer.build(ConfigCenter.layer().pipe(Layer.provide(layerEtcdPort({ endpoints: endpoint })))),
    (context) => Context.get(context, ConfigCenter)
  ))

/** Empty, and gone with its scope. */
export const folder = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-cli-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)
