/**
 * The endpoints of a service, as its instances come and go.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { InvalidKey } from "../../Errors.ts"
import type { EtcdError } from "../../EtcdError.ts"
import type { ServiceInstance } from "../../ServiceInstance.ts"
import { pause } from "../follow.ts"
import { channelUpdated } from "../Telemetry.ts"
import { isSameEndpoint, parseInstance, type ServiceEndpoint } from "./endpoint.ts"
import { mix } from "./hash.ts"
import type { Resolution, Subscribe } from "./resolver.ts"
import type { DiscoverySettings } from "./settings.ts"

export type Instances = Stream.Stream<ReadonlyArray<ServiceInstance>, InvalidKey | EtcdError>

// A few changes after a quiet time pass at once, as those of a rolling replacement; under constant change lists are conflated.
const burst = 5
const updatesPerSecond = 10

/**
 * Follows the instances for the scope. It returns when they are known, and fails when they cannot be read; from then on the last ones are kept through
 * whatever failure.
 *
 * @param context - What the following runs in: it outlives the span of the caller.
 */
export const openSource = Effect.fnUntraced(function*(
  name: string,
  instances: Instances,
  settings: DiscoverySettings,
  context: Context.Context<never>
): Effect.fn.Return<Subscribe, InvalidKey | EtcdError, Scope.Scope> {
  const resolve = makeResolve(name, settings, yield* Random.nextInt)
  const known = yield* Deferred.make<void, InvalidKey | EtcdError>()
  const listeners = new Set<(resolution: Resolution) => void>()
  let current: Resolution | undefined
  let failures = 0

  const accept = Effect.fnUntraced(function*(list: ReadonlyArray<ServiceInstance>) {
    failures = 0
    const { problems, resolution } = resolve(list)
    yield* Effect.forEach(problems, (problem) => Effect.logWarning(problem), { discard: true })
    if (current !== undefined && isSame(current, resolution)) return
    if (
      settings.keepLast && resolution.endpoints.length === 0 && current !== undefined && current.endpoints.length > 0
    ) {
      yield* Effect.logWarning(`${resolution.note}: the last instances are kept`)
      return
    }
    current = resolution
    for (const listener of listeners) listener(resolution)
    yield* channelUpdated
    yield* Deferred.succeed(known, undefined)
  })

  const follow = Effect.gen(function*() {
    const pace = yield* makePace
    yield* Stream.runForEach(instances, (list) => Effect.andThen(accept(list), pace))
  })

  const following = yield* follow.pipe(
    Effect.catchCause((cause) =>
      current === undefined || isOver(cause)
        ? Effect.andThen(Deferred.failCause(known, cause), Effect.interrupt)
        : Effect.andThen(Effect.logWarning("discovery failed: the last instances are kept", cause), pause(++failures))
    ),
    Effect.forever,
    Effect.annotateLogs({ service: name }),
    Effect.setContext(context),
    Effect.forkScoped
  )
  // With its scope, before it has begun in one that has closed: who waits is told.
  following.addObserver((exit) => Deferred.doneUnsafe(known, exit))
  yield* Deferred.await(known)

  return (listener) => {
    let ended = false
    // Not before this returns, as grpc-js demands, and then the newest.
    queueMicrotask(() => {
      if (ended || current === undefined) return
      listeners.add(listener)
      listener(current)
    })
    return () => {
      ended = true
      listeners.delete(listener)
    }
  }
})

/** The services are closed, or the process ends: nothing comes any more. */
const isOver = (cause: Cause.Cause<InvalidKey | EtcdError>): boolean =>
  Cause.hasInterruptsOnly(cause) ||
  cause.reasons.some((reason) =>
    Cause.isFailReason(reason) && reason.error._tag === "EtcdError" && reason.error.reason._tag === "Closed"
  )

/** Waits when there were more than `burst` lists lately, so that the newest of those to come is taken and the others are not. */
const makePace = Effect.map(Clock.monotonicTimeNanos, (start) => {
  let allowed = burst
  let last = start
  return Effect.flatMap(Clock.monotonicTimeNanos, (now) => {
    allowed = Math.min(burst, allowed + Number(now - last) / 1e9 * updatesPerSecond) - 1
    last = now
    return allowed >= 0 ? Effect.void : Effect.sleep(-allowed / updatesPerSecond * 1000)
  })
})

const isSame = (a: Resolution, b: Resolution): boolean =>
  a.endpoints.length === b.endpoints.length &&
  a.endpoints.every((endpoint, index) => isSameEndpoint(endpoint, b.endpoints[index])) &&
  // What the errors of calls say, while there are no endpoints.
  (a.endpoints.length > 0 || a.note === b.note)

// -----------------------------------------------------------------------------
// Instances to endpoints
// -----------------------------------------------------------------------------

interface Member {
  /** None where the address is unusable. */
  readonly endpoint: ServiceEndpoint | undefined
  readonly passes: boolean
}

/** How many odd instances are remembered, so that each is told once. */
const maxRemembered = 1000

const makeResolve = (name: string, { filter, subset }: DiscoverySettings, seed: number) => {
  // An instance is the same object from list to list, until it changes.
  const members = new WeakMap<ServiceInstance, Member>()
  const told = new Set<string>()
  let problems: Array<string> = []

  const report = (id: string, problem: string) => {
    const text = `instance ${JSON.stringify(id)}: ${problem}`
    if (told.has(text)) return
    if (told.size >= maxRemembered) told.clear()
    told.add(text)
    problems.push(text)
  }

  const memberOf = (instance: ServiceInstance): Member => {
    const known = members.get(instance)
    if (known !== undefined) return known
    const passes = Result.try(() => Boolean(filter(instance)))
    if (Result.isFailure(passes)) report(instance.id, `the filter failed: it is not called (${String(passes.failure)})`)
    const { endpoint, problem } = parseInstance(instance)
    if (problem !== undefined) report(instance.id, problem)
    const member = { endpoint, passes: Result.getOrElse(passes, () => false) }
    members.set(instance, member)
    return member
  }

  return (instances: ReadonlyArray<ServiceInstance>) => {
    problems = []
    const endpoints = new Map<string, ServiceEndpoint>()
    let filtered = 0
    let unusable = 0
    for (const instance of instances) {
      const { endpoint, passes } = memberOf(instance)
      if (!passes) filtered++
      else if (endpoint === undefined) unusable++
      else if (!endpoints.has(endpoint.key)) endpoints.set(endpoint.key, endpoint)
    }
    const chosen = chooseSubset([...endpoints.values()], subset, seed)
    const note = chosen.length > 0
      ? `${instances.length} ${instances.length === 1 ? "instance" : "instances"} of ${JSON.stringify(name)}`
      : `no instance of ${JSON.stringify(name)}: ${instances.length} known${
        filtered > 0 ? `, ${filtered} filtered out` : ""
      }${unusable > 0 ? `, ${unusable} without a usable address` : ""}`
    return { resolution: { endpoints: chosen.sort(byKey), note } satisfies Resolution, problems }
  }
}

const byKey = (a: ServiceEndpoint, b: ServiceEndpoint): number => a.key < b.key ? -1 : a.key > b.key ? 1 : 0

/** Rendezvous hashing: others are chosen only in the place of those that are gone. */
const chooseSubset = (endpoints: Array<ServiceEndpoint>, size: number, seed: number): Array<ServiceEndpoint> =>
  endpoints.length <= size
    ? endpoints
    : endpoints.map((endpoint) => ({ endpoint, score: mix(endpoint.hash ^ seed) }))
      .sort((a, b) => b.score - a.score)
      .slice(0, size)
      .map(({ endpoint }) => endpoint)
