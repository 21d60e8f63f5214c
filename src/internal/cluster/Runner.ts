/**
 * What one runner has in etcd: its entry, its machine id and its shards, all on one lease.
 */
import type { Runner } from "effect/cluster/Runner"
import * as RunnerModel from "effect/cluster/Runner"
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { type Etcd, type KeyValue, Operation } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { IdsExhausted } from "../../InstanceId.ts"
import { claim, numberOf } from "../instanceId/claim.ts"
import { EntryLost } from "../lock/entry.ts"
import type { LeaseSession } from "../session/LeaseSession.ts"
import type { Slot, SlotOwner } from "../session/Slots.ts"
import { addressText, machinesOf, runnerKey } from "./layout.ts"
import { makeRunnerLease, type RunnerLease } from "./RunnerLease.ts"
import { makeShardLocks, removeKey, type ShardLocks } from "./ShardLocks.ts"

// -----------------------------------------------------------------------------
// The entry of a runner
// -----------------------------------------------------------------------------

const Entry = Schema.fromJsonString(Schema.Struct({ runner: RunnerModel.Runner, healthy: Schema.Boolean }))

const decodeEntry = Schema.decodeUnknownOption(Entry)

export const encodeEntry = Schema.encodeEffect(Entry)

export const entryOf = (kv: KeyValue) => decodeEntry(new TextDecoder().decode(kv.value))

// -----------------------------------------------------------------------------
// Machine ids
// -----------------------------------------------------------------------------

/** Effect's snowflakes have ten bits for it. */
const machines = 1024

/**
 * A number that nobody has, from a place on that moves with the store: who has lost one may use it for as long as he does not know, so that
 * the one that was given back last should not be the next to be taken.
 */
const freeMachine = (path: string, taken: ReadonlyArray<KeyValue>, from: number): number | undefined => {
  const numbers = new Set(taken.map((kv) => numberOf(path, kv.key)))
  for (let tries = 0; tries < machines; tries++) {
    const number = (from + tries) % machines
    if (!numbers.has(number)) return number
  }
  return undefined
}

interface Machine {
  readonly slot: Slot
  readonly id: number
}

export type ClaimError = EtcdError | IdsExhausted | Schema.SchemaError

/** Its lease is for this one alone. */
const unpooled: SlotOwner = { gone: () => {}, left: () => {} }

const claimMachine = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  prefix: string,
  address: string,
  session: LeaseSession,
  /** At once, so that an interruption leaves no number that nobody knows of. */
  keep: (machine: Machine) => void,
  /** A number that is given back, which nobody waits for here. */
  leave: (leaving: Fiber.Fiber<void>) => void
): Effect.fn.Return<number | undefined, ClaimError> {
  const path = machinesOf(prefix)
  const first = yield* etcd.range({ prefix: path, keysOnly: true })
  let taken: ReadonlyArray<KeyValue> = first.kvs
  while (true) {
    const id = freeMachine(path, taken, Number(first.revision % BigInt(machines)))
    if (id === undefined) return yield* new IdsExhausted({ service: prefix, min: 0, max: machines })
    const slot = session.open(`${path}${id}`, `${id}`, unpooled)
    const claimed = yield* Effect.onExit(claim(etcd, path, slot, address), (exit) => {
      if (Exit.isSuccess(exit) && typeof exit.value === "bigint") return Effect.sync(() => keep({ slot, id }))
      return Effect.map(Effect.forkIn(slot.giveBack, session.scope), leave)
    })
    if (typeof claimed === "bigint") return id
    // The lease is lost.
    if (claimed === EntryLost) return undefined
    taken = claimed
  }
})

// -----------------------------------------------------------------------------
// The runner
// -----------------------------------------------------------------------------

export interface RunnerOfLease {
  readonly register: (runner: Runner, healthy: boolean) => Effect.Effect<number, ClaimError>
  readonly unregister: Effect.Effect<void, EtcdError>
  /** It was registered, and has lost its lease or its machine id since: Sharding registers it again when it does not find it. */
  readonly isOutdatedUnsafe: () => boolean
  readonly shards: ShardLocks
}

export const makeRunner = (options: {
  readonly etcd: Etcd["Service"]
  readonly prefix: string
  readonly runner: Runner["address"]
  readonly ttl: Duration.Duration
  readonly interval: Duration.Duration
  readonly scope: Scope.Scope
  readonly context: Context.Context<never>
}): RunnerOfLease => {
  const { etcd, interval, prefix, runner, scope } = options
  const address = addressText(runner)
  const key = runnerKey(prefix, runner)
  const lease: RunnerLease = makeRunnerLease({ ...options, slots: machinesOf(prefix) })
  const claiming = Semaphore.makeUnsafe(1)
  let machine: Machine | undefined
  let leaving: Fiber.Fiber<void> | undefined

  // What another claim has put, whoever gave it up, would be taken for one's own, and then be deleted for him: so one at a time.
  const machineOn = (session: LeaseSession): Effect.Effect<number | undefined, ClaimError> =>
    claiming.withPermit(Effect.suspend(() => {
      if (machine?.slot.session === session && machine.slot.lossUnsafe() === undefined) {
        return Effect.succeed(machine.id)
      }
      const claimAnew = claimMachine(etcd, prefix, address, session, (claimed) => {
        machine = claimed
      }, (fiber) => {
        leaving = fiber
      })
      return leaving === undefined ? claimAnew : Effect.andThen(Fiber.await(leaving), claimAnew)
    }))

  const register = (self: Runner, healthy: boolean): Effect.Effect<number, ClaimError> =>
    Effect.gen(function*() {
      const session = yield* lease.session
      const id = yield* machineOn(session)
      // Whoever has this address is the one who came last.
      const put = Operation.put(key, yield* encodeEntry({ runner: self, healthy }), { lease: session.leaseId })
      const lost = yield* Effect.as(etcd.txn({ success: [put] }), false).pipe(
        Effect.catchIf((error) => error.reason._tag === "LeaseNotFound", () =>
          Effect.sync(() => {
            session.revoked()
            return true
          }))
      )
      return lost || id === undefined ? yield* register(self, healthy) : id
    })

  return {
    register,
    // The machine id stays until the lease ends: the last snowflakes of a runner that shuts down are its own.
    unregister: Effect.suspend(() => {
      const session = lease.liveUnsafe()
      return session === undefined ? Effect.void : removeKey(etcd, key, session.leaseId)
    }),
    isOutdatedUnsafe: () => machine !== undefined && machine.slot.lossUnsafe() !== undefined,
    shards: makeShardLocks({ etcd, prefix, address, lease, interval, scope })
  }
}
