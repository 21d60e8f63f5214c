import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Lease } from "../../../src/Etcd.ts"
import { EtcdError, Unavailable } from "../../../src/EtcdError.ts"
import { Lock } from "../../../src/Lock.ts"
import type { Variant } from "../World.ts"

/** A lease counts from when the answer came, not from when the request was sent. */
export const deadlineFromReceipt: Variant = {
  port: (etcd) => ({
    ...etcd,
    leaseGrant: (ttl) =>
      Effect.flatMap(etcd.leaseGrant(ttl), (lease) =>
        Effect.map(Clock.monotonicTimeNanos, (now) => ({
          ...lease,
          deadline: now + Duration.toNanosUnsafe(lease.ttl)
        }))),
    leaseKeepAlive: (id) =>
      Effect.gen(function*() {
        const sent = yield* Clock.monotonicTimeNanos
        const ttl = yield* etcd.leaseKeepAlive(id)
        return Duration.sum(ttl, Duration.nanos((yield* Clock.monotonicTimeNanos) - sent))
      })
  })
}

export const lossAtTwiceTheTtl: Variant = {
  port: (etcd) => ({
    ...etcd,
    leaseGrant: (ttl) =>
      Effect.map(etcd.leaseGrant(ttl), (lease) => ({
        ...lease,
        deadline: lease.deadline + Duration.toNanosUnsafe(lease.ttl)
      })),
    leaseKeepAlive: (id) => Effect.map(etcd.leaseKeepAlive(id), (ttl) => Duration.times(ttl, 2))
  })
}

/** All users of a process share one lease, and so one entry of a lock, without a queue among them. */
export const sharedSession: Variant = {
  port: (etcd) => {
    let granted: Lease | undefined
    return {
      ...etcd,
      // One of two: a lease that is given out for ever would be asked for without a pause once it is lost.
      leaseGrant: (ttl) =>
        Effect.suspend(() => {
          const shared = granted
          granted = undefined
          return shared !== undefined
            ? Effect.succeed(shared)
            : Effect.tap(etcd.leaseGrant(ttl), (lease) =>
              Effect.sync(() => {
                granted = lease
              }))
        })
    }
  },
  lock: Layer.effect(
    Lock,
    Effect.gen(function*() {
      const make = Effect.map(Layer.build(Layer.fresh(Lock.layer())), (context) => Context.get(context, Lock))
      const services = [yield* make, yield* make] as const
      let calls = 0
      const next = () => services[calls++ % 2 === 0 ? 0 : 1]
      return Lock.of({
        acquire: (key, options) => next().acquire(key, options),
        tryAcquire: (key, options) => next().tryAcquire(key, options),
        withLock: (key, options) => next().withLock(key, options),
        waiters: (key) => next().waiters(key)
      })
    })
  )
}

/** That a lease does not exist is taken for an outage: it is given up only when its time is over here as well. */
export const refusalIsAnOutage: Variant = {
  port: (etcd) => ({
    ...etcd,
    leaseKeepAlive: (id) => Effect.mapError(etcd.leaseKeepAlive(id), asOutage),
    leaseTimeToLive: (id) => Effect.mapError(etcd.leaseTimeToLive(id), asOutage)
  })
}

const asOutage = (error: EtcdError): EtcdError =>
  error.reason._tag === "LeaseNotFound"
    ? new EtcdError({ ...error, reason: new Unavailable({ detail: "it was refused", sent: true }) })
    : error

/** Time stands still while the machine is suspended, and so does the lease. */
export const overlooksSuspension: Variant = {
  lock: Layer.effect(
    Lock,
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const currentTimeMillisUnsafe = () => Number(clock.monotonicTimeNanosUnsafe() / 1_000_000n)
      const unaware: Clock.Clock = {
        ...clock,
        currentTimeMillisUnsafe,
        currentTimeMillis: Effect.sync(currentTimeMillisUnsafe)
      }
      const asUnaware = Effect.provideService(Clock.Clock, unaware)
      const service = yield* asUnaware(
        Effect.map(Layer.build(Layer.fresh(Lock.layer())), (context) => Context.get(context, Lock))
      )
      return Lock.of({
        ...service,
        acquire: (key, options) => asUnaware(service.acquire(key, options)),
        tryAcquire: (key, options) => asUnaware(service.tryAcquire(key, options))
      })
    })
  )
}
