/**
 * `coord register`.
 */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { EtcdOptions } from "../../EtcdOptions.ts"
import { validateInstance } from "../../internal/registry/entry.ts"
import type { HostPort } from "../../internal/registry/hostPort.ts"
import { rootOf, validatePlace } from "../../internal/registry/place.ts"
import { isTransient } from "../../internal/session/Patience.ts"
import { validateTtl } from "../../internal/validate.ts"
import { Registry } from "../../Registry.ts"
import { Replaced, ServiceInstance } from "../../ServiceInstance.ts"
import { check } from "../Check.ts"
import { type Child, passOn, spawn } from "../Child.ts"
import { Connection } from "../Connection.ts"
import { asRunner, complain, describe, Exit, ExitCode, silently } from "../Exit.ts"
import { live } from "../services.ts"

interface Input {
  readonly name: string
  readonly id: string
  readonly address: HostPort
  readonly meta: Record<string, string>
  readonly check: Option.Option<string>
  readonly every: Duration.Duration
  readonly drain: Duration.Duration
  readonly ttl: Duration.Duration
  readonly grace: Duration.Duration
  readonly foreground: boolean
  readonly command: ReadonlyArray<string>
}

const say = (message: string) => Effect.sync(() => complain(message))

/** With what the command can be told, and what must be right before it starts. */
const prepare = Effect.fnUntraced(function*(input: Input, options: EtcdOptions) {
  const { layout, prefix } = yield* validatePlace({ prefix: options.registryPrefix, layout: options.registryLayout })
  yield* validateTtl(input.ttl)
  const { id, meta: metadata, name } = input
  const instance = yield* validateInstance(layout, new ServiceInstance({ id, name, ...input.address, metadata }))
  const env = {
    COORD_SERVICE: name,
    COORD_INSTANCE_ID: id,
    // A layout whose keys are made of leases has no key yet.
    ...layout.leaseKey === undefined && {
      COORD_INSTANCE_KEY: `${options.namespace ?? ""}${rootOf(prefix)}${name}/${id}`
    }
  }
  return { instance, env }
})

/** Registered from now on. Ends only with what will not change: somebody else has the id, or etcd refuses it. */
const keep = (registry: Registry["Service"], instance: ServiceInstance, ttl: Duration.Duration) =>
  Effect.scoped(Effect.gen(function*() {
    let said = false
    const registration = yield* registry.register(instance, { ttl }).pipe(
      Effect.tapError((error) => {
        if (said) return Effect.void
        said = true
        return say(`not registered: ${error.message}`)
      }),
      Effect.retry({
        schedule: Schedule.spaced("1 second").pipe(Schedule.jittered),
        while: (error) => error._tag === "EtcdError" && isTransient(error)
      })
    )
    yield* registration.status.changes.pipe(Stream.filter((status) => status === "Replaced"), Stream.runHead)
    const { message } = new Replaced({ name: instance.name, id: instance.id })
    return yield* new Exit({ code: ExitCode.lost, message: `${message}; the command was stopped` })
  }))

/** Runs the effect whenever the check passes, and interrupts it whenever it does not. */
const whilePassing = <E>(
  examine: Effect.Effect<string | undefined>,
  every: Duration.Duration,
  effect: Effect.Effect<never, E>
): Effect.Effect<never, E> => {
  const until = (wanted: (problem: string | undefined) => boolean) =>
    Effect.repeat(examine, { schedule: Schedule.spaced(every), until: wanted })
  return Effect.gen(function*() {
    let problem = yield* examine
    while (true) {
      if (problem !== undefined) {
        yield* say(`not registered until the check passes (${problem})`)
        yield* Effect.sleep(every)
        yield* until((problem) => problem === undefined)
        yield* say("the check passes")
      }
      problem = yield* Effect.raceFirst(
        effect,
        Effect.andThen(Effect.sleep(every), until((problem) => problem !== undefined))
      )
    }
  })
}

/** These end a program. SIGHUP makes many of them read their configuration again. */
const ending: ReadonlySet<NodeJS.Signals> = new Set(["SIGTERM", "SIGINT", "SIGQUIT"])

/** While it is registered the first signal that ends it is kept back; from the end of the registration on all go to the command. */
const makeGate = (passOn: (signal: NodeJS.Signals, child: Child) => void) => {
  const leaving = Deferred.makeUnsafe<NodeJS.Signals>()
  let open = false
  return {
    leaving: Deferred.await(leaving),
    open: () => {
      open = true
    },
    onSignal: (signal: NodeJS.Signals, child: Child): void => {
      if (open || !ending.has(signal)) return passOn(signal, child)
      open = true
      Deferred.doneUnsafe(leaving, Effect.succeed(signal))
    }
  }
}

const run = Effect.fnUntraced(function*<E>(
  input: Input,
  env: Record<string, string>,
  registered: Effect.Effect<never, E>
) {
  const passed = passOn(input.foreground)
  const gate = makeGate(passed)
  const child = yield* spawn({ ...input, env, onSignal: gate.onSignal })
  const drained = Effect.raceFirst(child.ended, Effect.sleep(input.drain))
  const ended = Effect.map(child.ended, (code) => ({ _tag: "Ended", code }) as const)
  const left = Effect.map(gate.leaving, (signal) => ({ _tag: "Left", signal }) as const)
  const failed = Effect.catchCause(registered, (cause) => Effect.succeed({ _tag: "Failed", cause } as const))
  // Whatever comes first, the registration has ended then.
  const first = yield* Effect.raceFirst(ended, Effect.raceFirst(failed, left))
  if (first._tag === "Ended") return yield* silently(first.code)
  gate.open()
  yield* drained
  if (first._tag === "Left") {
    passed(first.signal, child)
    return yield* Effect.flatMap(child.ended, silently)
  }
  yield* child.terminate(input.grace)
  return yield* describe(first.cause)
}, Effect.scoped)

export const register = Effect.fnUntraced(
  function*(input: Input) {
    const options = yield* Effect.flatMap(Connection, ({ options }) => options)
    const { env, instance } = yield* prepare(input, options)
    const registry = yield* Registry
    const kept = keep(registry, instance, input.ttl)
    return yield* run(
      input,
      env,
      Option.match(input.check, {
        onNone: () => kept,
        onSome: (script) => whilePassing(check({ script, env, within: input.every }), input.every, kept)
      })
    )
  },
  Effect.provide(live),
  asRunner
)
