/**
 * Tells registrations what happens to their keys, at once: one watch of each folder, and one look-up for each event, however many
 * registrations there are.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as HashMap from "effect/HashMap"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { KeyValue } from "../../Etcd.ts"
import type { Entry, SharedWatch, Snapshot } from "../SharedWatch.ts"

export interface KeyObserver {
  /** What the key was at a revision; `undefined`: it was not there. */
  readonly look: (kv: KeyValue | undefined, revision: bigint) => void
  /** etcd cannot tell what happened to the key. */
  readonly doubt: () => void
}

export interface OwnKeys {
  /** Its present state too, as soon as that is known. Observers are called in the middle of things: they do no more than take note. */
  readonly observeUnsafe: (folder: string, key: string, observer: KeyObserver) => void
  /** The key that is observed is another one from now on. */
  readonly moveUnsafe: (folder: string, from: string, to: string, observer: KeyObserver) => void
  /** Once for each that observes. */
  readonly leaveUnsafe: (folder: string, key: string, observer: KeyObserver) => void
}

/** How long a denied watch waits until it is tried again. */
const watchAgain = "30 seconds"

interface Folder {
  readonly observers: Map<string, KeyObserver>
  users: number
  /** Nothing, while it is not watched. */
  state: Snapshot | undefined
  fiber: Fiber.Fiber<unknown, unknown> | undefined
}

export const makeOwnKeys = Effect.fnUntraced(function*(
  shared: SharedWatch
): Effect.fn.Return<OwnKeys, never, Scope.Scope> {
  // A folder is watched for all: in the context of the layer, not in that of the one who came first.
  const run = yield* FiberSet.makeRuntime()
  const folders = new Map<string, Folder>()

  const watch = (path: string, folder: Folder): Effect.Effect<never> =>
    shared.observe({ prefix: path }, (state) => start(folder, state), (entry) => next(folder, entry)).pipe(
      Effect.catch((error) =>
        Effect.logDebug("own keys are not watched: the beats of their leases look after them", error)
      ),
      Effect.andThen(Effect.suspend(() => {
        folder.state = undefined
        return Effect.sleep(watchAgain)
      })),
      Effect.forever,
      Effect.annotateLogs({ folder: path })
    )

  return {
    observeUnsafe: (path, key, observer) => {
      const found = folders.get(path)
      const folder = found ?? { observers: new Map(), users: 0, state: undefined, fiber: undefined }
      folder.users++
      folder.observers.set(key, observer)
      if (folder.state !== undefined) observer.look(inState(folder.state, key), folder.state.revision)
      if (found !== undefined) return
      folders.set(path, folder)
      folder.fiber = run(watch(path, folder))
    },
    moveUnsafe: (path, from, to, observer) => {
      const folder = folders.get(path)
      if (folder === undefined) return
      // Somebody else can have taken its place on the lease that makes the key.
      if (folder.observers.get(from) === observer) folder.observers.delete(from)
      folder.observers.set(to, observer)
    },
    leaveUnsafe: (path, key, observer) => {
      const folder = folders.get(path)
      if (folder === undefined) return
      if (folder.observers.get(key) === observer) folder.observers.delete(key)
      folder.users--
      if (folder.users > 0) return
      folders.delete(path)
      folder.fiber?.interruptUnsafe()
    }
  }
})

const start = (folder: Folder, state: Snapshot): void => {
  folder.state = state
  for (const [key, observer] of folder.observers) observer.look(inState(state, key), state.revision)
}

const next = (folder: Folder, { changes, state }: Entry): void => {
  folder.state = state
  for (const change of changes) {
    if (change._tag === "Put") folder.observers.get(change.kv.key)?.look(change.kv, change.kv.modRevision)
    else if (change._tag === "Delete") folder.observers.get(change.key)?.look(undefined, change.modRevision)
    // What a restored store no longer knows is in no event.
    else for (const observer of folder.observers.values()) observer.doubt()
  }
}

const inState = (state: Snapshot, key: string): KeyValue | undefined =>
  Option.getOrUndefined(HashMap.get(state.kvs, key))
