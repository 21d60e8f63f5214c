/** What applications do all day, and what they were told about it. */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { EtcdError, Operation, ServiceInstance } from "../../src/index.ts"
import type { Behind } from "./bench.ts"
import { now } from "./clients.ts"
import type { Chance } from "./random.ts"

export const Value = Schema.Struct({ id: Schema.String, n: Schema.Int })

/** `refused`: any answer but success and "it may have been written". */
export type Outcome = "acknowledged" | "ambiguous" | "refused"

export interface Write {
  /** Part of the value, and of no other. */
  readonly id: string
  readonly key: string
  readonly outcome: Outcome
  /** As the answer said. */
  readonly version?: bigint | undefined
  /** Of a compare-and-set. */
  readonly expected?: bigint | undefined
}

export interface Hold {
  readonly lock: string
  readonly who: string
  readonly token: bigint
  readonly start: number
  end: number
}

export interface Update {
  readonly key: string
  readonly n: number
  readonly outcome: Outcome
}

export interface Log {
  readonly write: (write: Write) => void
  readonly hold: (hold: Hold) => void
  /** A write under the protection of a lock. */
  readonly fenced: (
    fenced: { readonly lock: string; readonly token: bigint; readonly id: string; readonly outcome: Outcome }
  ) => void
  readonly update: (update: Update) => void
  /** What went wrong, by its name. */
  readonly failed: (operation: string, error: string) => void
}

const outcomeOf = <A, E>(exit: Exit.Exit<A, E>): Outcome => {
  if (Exit.isSuccess(exit)) return "acknowledged"
  const error = exit.cause.reasons.find(Cause.isFailReason)?.error
  // An interruption or a defect: nobody knows.
  if (error === undefined) return "ambiguous"
  return error instanceof EtcdError && error.reason._tag === "Ambiguous" ? "ambiguous" : "refused"
}

const nameOf = (cause: Cause.Cause<unknown>): string => {
  const error = cause.reasons.find(Cause.isFailReason)?.error
  if (error instanceof EtcdError) return error.reason._tag
  return typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : Cause.pretty(cause)
}

/** Held for so long that a holder who is cut off loses it. */
export const longLock = "l/long"
export const service = "svc"
export const instancesOf = ({ name }: Behind) => [0, 1, 2].map((i) => `${name}-${i}`)
export const lockTtl = 3000

const instance = (id: string, n: number) =>
  new ServiceInstance({ id, name: service, address: "127.0.0.1", port: 9000, metadata: { n: String(n) } })

/** Runs until the scope that it is given closes, or until it is told to stop: then nothing of it is interrupted in the middle. */
export const startLoad = Effect.fnUntraced(function*(behind: Behind, random: Chance, log: Log, pace = 40) {
  const { client: { config, lock, registry }, name } = behind
  let stopped = false
  const ending = yield* Deferred.make<void>()
  let ids = 0
  const nextId = () => `${name}-${++ids}`
  const rest = Effect.suspend(() => Effect.sleep(random.int(pace / 2, pace * 1.5)))
  const told = <A, E, R>(operation: string, effect: Effect.Effect<A, E, R>) =>
    Effect.tap(Effect.exit(effect), (exit) => {
      if (Exit.isFailure(exit)) log.failed(operation, nameOf(exit.cause))
      return Effect.void
    })
  const loop = <E, R>(step: Effect.Effect<unknown, E, R>) =>
    Effect.repeat(Effect.andThen(step, rest), { until: () => stopped })

  const set = (writer: number) =>
    Effect.suspend(() => {
      const id = nextId()
      const key = `load/${name}/${writer}/${random.int(0, 4)}`
      return Effect.map(told("set", config.set(key, Value, { id, n: ids })), (exit) => {
        log.write({ id, key, outcome: outcomeOf(exit), version: Exit.isSuccess(exit) ? exit.value : undefined })
      })
    })

  const compareAndSet = Effect.gen(function*() {
    const key = `shared/${random.int(0, 2)}`
    const read = yield* told(
      "getVersioned",
      Effect.catchTag(config.getVersioned(key, Value), "ConfigNotFound", () => Effect.succeed({ version: 0n }))
    )
    if (Exit.isFailure(read)) return
    const expected = read.value.version
    const id = nextId()
    const exit = yield* told("compareAndSet", config.compareAndSet(key, Value, { id, n: ids }, expected))
    log.write({ id, key, expected, outcome: outcomeOf(exit), version: Exit.isSuccess(exit) ? exit.value : undefined })
  })

  /** A number that all clients count up. */
  const count = Effect.suspend(() => {
    const tried: Array<string> = []
    return Effect.map(
      told(
        "update",
        config.update("counter", Value, ({ n }) => {
          const id = nextId()
          tried.push(id)
          return { id, n: n + 1 }
        })
      ),
      (exit) => {
        const last = tried.pop()
        for (const id of tried) log.write({ id, key: "counter", outcome: "refused" })
        if (last === undefined) return
        const version = Exit.isSuccess(exit) ? exit.value.version : undefined
        log.write({ id: last, key: "counter", outcome: outcomeOf(exit), version })
      }
    )
  })

  const hold = (key: string, shortest: number, longest: number) =>
    Effect.suspend(() => {
      const length = random.int(shortest, longest)
      return told(
        "withLock",
        lock.withLock(key, { ttl: lockTtl, label: name })((handle) =>
          Effect.suspend(() => {
            const held: Hold = { lock: key, who: name, token: handle.fencingToken, start: now(), end: Number.NaN }
            log.hold(held)
            const fenced = Effect.gen(function*() {
              const id = nextId()
              const exit = yield* told(
                "fenced",
                handle.fenced({ success: [Operation.put(`/fence/${key}`, `${held.token} ${id}`)] })
              )
              log.fenced({ lock: key, token: held.token, id, outcome: outcomeOf(exit) })
            })
            return (random.is(0.5) ? fenced : Effect.void).pipe(
              Effect.andThen(Effect.raceFirst(Effect.sleep(length), Deferred.await(ending))),
              Effect.andThen(random.is(0.3) ? fenced : Effect.void),
              Effect.ensuring(Effect.sync(() => {
                held.end = now()
              }))
            )
          })
        )
      )
    })

  // Known to the end of the load, and gone with it.
  const registered = yield* Scope.fork(yield* Effect.scope)
  const registrations = yield* Effect.forEach(
    instancesOf(behind),
    (id) => registry.register(instance(id, 0), { ttl: "5 seconds" }).pipe(Scope.provide(registered))
  )
  let updates = 0
  const update = Effect.gen(function*() {
    const registration = registrations[random.int(0, registrations.length - 1)] ?? registrations[0]
    if (registration === undefined) return
    const n = ++updates
    const exit = yield* told("Registry.update", registration.update({ n: String(n) }))
    log.update({ key: registration.key, n, outcome: outcomeOf(exit) })
  })

  const churn = told(
    "register",
    registry.register(instance(`${name}-churn`, 0), { ttl: "5 seconds" }).pipe(
      Effect.andThen(Effect.sleep(random.int(0, 100))),
      Effect.scoped
    )
  )

  const fibers = yield* Effect.forEach(
    [
      set(0),
      set(1),
      compareAndSet,
      compareAndSet,
      count,
      hold("l/0", 0, 40),
      hold("l/1", 0, 40),
      hold(longLock, 2 * lockTtl, 5 * lockTtl),
      update,
      churn
    ],
    (step) => Effect.forkScoped(loop(step))
  )
  return {
    registrations,
    /** No more is begun; what was begun is answered. */
    stop: Effect.suspend(() => {
      stopped = true
      return Effect.andThen(Deferred.succeed(ending, undefined), Effect.forEach(fibers, Fiber.join, { discard: true }))
    }),
    unregister: Scope.close(registered, Exit.void)
  }
})
