/**
 * The instances of a service for HTTP: which one is next.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { isIPv6 } from "node:net"
import type { InvalidKey } from "../../Errors.ts"
import type { EtcdError } from "../../EtcdError.ts"
import type { ServiceInstance } from "../../ServiceInstance.ts"
import { pause } from "../follow.ts"
import { hostOf } from "../grpc/endpoint.ts"

export interface Pool {
  /** How many instances are registered, also those that are not used. */
  readonly seen: () => number
  /** The next `host:port` in turn but for these; those that refused a connection of late come last. */
  readonly next: (now: bigint, but?: ReadonlySet<string>) => string | undefined
  /** It has refused a connection. */
  readonly avoid: (authority: string, now: bigint) => void
}

export interface PoolSettings {
  readonly filter: (instance: ServiceInstance) => boolean
  readonly avoidFor: Duration.Duration
}

/** As a URL has it, if it can have it. */
const authorityOf = ({ address, port }: ServiceInstance): string | undefined => {
  const host = hostOf(address)
  if (host === undefined) return undefined
  const authority = isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
  return URL.canParse(`http://${authority}`) ? authority : undefined
}

interface Member {
  /** None where it is not used. */
  readonly authority: string | undefined
  readonly problem?: string
}

const memberOf = (instance: ServiceInstance, filter: PoolSettings["filter"]): Member => {
  const passes = Result.try(() => Boolean(filter(instance)))
  if (Result.isFailure(passes)) {
    return { authority: undefined, problem: `the filter failed (${String(passes.failure)})` }
  }
  if (!passes.success) return { authority: undefined }
  const authority = authorityOf(instance)
  return authority === undefined ? { authority, problem: "its address is no host of a URL" } : { authority }
}

/** Follows the instances for the scope. It returns when they are known; from then on the last ones are kept through whatever failure. */
export const openPool = Effect.fnUntraced(function*(
  service: string,
  instances: Stream.Stream<ReadonlyArray<ServiceInstance>, InvalidKey | EtcdError>,
  settings: PoolSettings,
  context: Context.Context<never>
): Effect.fn.Return<Pool, InvalidKey | EtcdError, Scope.Scope> {
  const known = yield* Deferred.make<void, InvalidKey | EtcdError>()
  const avoided = new Map<string, bigint>()
  // An instance is the same object from list to list, until it changes: each is asked about, and warned of, once.
  const members = new WeakMap<ServiceInstance, Member>()
  let authorities: ReadonlyArray<string> | undefined
  let seen = 0
  let turn = yield* Random.nextIntBetween(0, 2 ** 30)
  let failures = 0

  const accept = Effect.fnUntraced(function*(list: ReadonlyArray<ServiceInstance>) {
    failures = 0
    const usable = new Set<string>()
    for (const instance of list) {
      const known = members.get(instance) ?? memberOf(instance, settings.filter)
      if (known.authority !== undefined) usable.add(known.authority)
      if (known.problem !== undefined && !members.has(instance)) {
        yield* Effect.logWarning(`instance ${JSON.stringify(instance.id)} is not used: ${known.problem}`)
      }
      members.set(instance, known)
    }
    authorities = [...usable]
    seen = list.length
    for (const authority of avoided.keys()) if (!usable.has(authority)) avoided.delete(authority)
    yield* Deferred.succeed(known, undefined)
  })

  yield* Stream.runForEach(instances, accept).pipe(
    Effect.catchCause((cause) =>
      authorities === undefined || isOver(cause)
        ? Effect.andThen(Deferred.failCause(known, cause), Effect.interrupt)
        : Effect.andThen(Effect.logWarning("discovery failed: the last instances are kept", cause), pause(++failures))
    ),
    Effect.forever,
    Effect.annotateLogs({ service }),
    Effect.setContext(context),
    Effect.forkScoped
  )
  yield* Deferred.await(known)

  return {
    seen: () => seen,
    next: (now, but) => {
      const candidates = (authorities ?? []).filter((authority) => but?.has(authority) !== true)
      const welcoming = candidates.filter((authority) => (avoided.get(authority) ?? now) <= now)
      const chosen = welcoming.length > 0 ? welcoming : candidates
      return chosen[turn++ % chosen.length]
    },
    avoid: (authority, now) => {
      avoided.set(authority, now + Duration.toNanosUnsafe(settings.avoidFor))
    }
  }
})

/** The registry has closed, or this has. */
const isOver = (cause: Cause.Cause<InvalidKey | EtcdError>): boolean =>
  Cause.hasInterruptsOnly(cause) ||
  cause.reasons.some((reason) =>
    Cause.isFailReason(reason) && reason.error._tag === "EtcdError" && reason.error.reason._tag === "Closed"
  )
