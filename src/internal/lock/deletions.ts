/**
 * Waits for the deletion of keys. Whoever waits in a busy queue waits for the same process again and again, whose entries all have the
 * same key: so a watch stays open for a moment after its last user, and the next one misses nothing of what comes after his claim. Not for all whom
 * this process has waited for: each of them who leaves would wake it.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Etcd } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"

export interface Deletions {
  /** Uses the watch of a key, which is opened if need be. */
  readonly watching: <A, E, R>(key: string, use: (watch: KeyWatch) => Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

export interface KeyWatch {
  /** Nothing is missed that comes after this revision. */
  readonly opened: Effect.Effect<bigint, EtcdError | Cut>
  /** Waits until a key that was created with this revision is deleted. */
  readonly deleted: (createRevision: bigint) => Effect.Effect<void, EtcdError | Cut>
  /** It is wrong: the next user gets another one. */
  readonly endUnsafe: () => void
}

/** The watch has ended, as it does with its connection. */
export const Cut = "Cut" as const
export type Cut = typeof Cut

/** Without a user. */
const linger = "1 second"

/** How many deletions in a row are told to nobody before the watch ends: they wake the process, which soon costs more than to open another one. */
const patience = 3

/** Of each queue. A process in which more than one waits has two keys in turn, as it hands over from one lease to the other. */
const kept = 2

interface Watching extends KeyWatch {
  users: number
  uses: number
  /** Deletions since its last use. */
  unheard: number
  lingering: boolean
}

/** By their keys, in the order in which they were last used. */
type Queue = Map<string, Watching>

export const makeDeletions = Effect.fnUntraced(function*(
  etcd: Etcd["Service"]
): Effect.fn.Return<Deletions, never, Scope.Scope> {
  // Shared by many, so not under the annotations and spans of the one who came first.
  const run = yield* FiberSet.makeRuntime()
  const queues = new Map<string, Queue>()

  /** For its first user. */
  const open = (name: string, queue: Queue, key: string): Watching => {
    const opened = Deferred.makeUnsafe<bigint, EtcdError | Cut>()
    // The next deletion, or the end.
    let next = Deferred.makeUnsafe<void, EtcdError | Cut>()
    let revision = 0n
    const forget = () => {
      if (queue.get(key) === watching) queue.delete(key)
      if (queue.size === 0 && queues.get(name) === queue) queues.delete(name)
    }
    const deleted = (createRevision: bigint): Effect.Effect<void, EtcdError | Cut> =>
      Effect.suspend(() =>
        revision > createRevision ? Effect.void : Effect.flatMap(Deferred.await(next), () => deleted(createRevision))
      )
    const watching: Watching = {
      users: 1,
      uses: 0,
      unheard: 0,
      lingering: false,
      opened: Deferred.await(opened),
      deleted,
      endUnsafe: () => {
        forget()
        fiber.interruptUnsafe()
      }
    }
    queue.set(key, watching)
    const fiber = run(Stream.runForEach(etcd.watch({ key, without: "Put" }), (item) =>
      Effect.sync(() => {
        if (item._tag === "Opened") {
          Deferred.doneUnsafe(opened, Exit.succeed(item.revision))
        } else if (item.events.some((event) => event._tag === "Delete")) {
          revision = item.revision
          if (watching.users === 0 && ++watching.unheard === patience) return watching.endUnsafe()
          const told = next
          next = Deferred.makeUnsafe()
          Deferred.doneUnsafe(told, Exit.void)
        }
      })))
    fiber.addObserver((exit) => {
      forget()
      const end = Exit.isFailure(exit) && !Exit.hasInterrupts(exit) ? Exit.failCause(exit.cause) : Exit.fail(Cut)
      Deferred.doneUnsafe(opened, end)
      Deferred.doneUnsafe(next, end)
    })
    return watching
  }

  const lingering = (watching: Watching) =>
    Effect.gen(function*() {
      let seen = -1
      while (watching.users === 0 && watching.uses !== seen) {
        seen = watching.uses
        yield* Effect.sleep(linger)
      }
      // Whoever uses it now begins this anew when he leaves.
      watching.lingering = false
      if (watching.users === 0) watching.endUnsafe()
    })

  const trim = (queue: Queue) => {
    for (const watching of [...queue.values()].slice(0, -kept)) if (watching.users === 0) watching.endUnsafe()
  }

  return {
    watching: (key, use) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          const name = key.slice(0, key.lastIndexOf("/"))
          const queue: Queue = queues.get(name) ?? new Map()
          queues.set(name, queue)
          const known = queue.get(key)
          if (known !== undefined && queue.delete(key)) queue.set(key, known)
          const watching = known ?? open(name, queue, key)
          if (watching === known) watching.users++
          watching.uses++
          watching.unheard = 0
          trim(queue)
          return { queue, watching }
        }),
        ({ watching }) => use(watching),
        ({ queue, watching }) =>
          Effect.sync(() => {
            if (--watching.users > 0) return
            trim(queue)
            if (watching.lingering) return
            watching.lingering = true
            run(lingering(watching))
          })
      )
  }
})
