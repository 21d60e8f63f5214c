import { assert } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { Compare, Etcd } from "../../src/Etcd.ts"
import { batches, type ContractTests, freshPrefix, get, keys, put, reason, remove, short, txn } from "./support.ts"

const grant = (ttl: Duration.Input) => Effect.flatMap(Etcd, (etcd) => etcd.leaseGrant(Duration.fromInputUnsafe(ttl)))

const status = (id: bigint) => Effect.flatMap(Etcd, (etcd) => etcd.leaseTimeToLive(id))

export const leaseContract = (it: ContractTests): void => {
  it.effect("what is granted is what was asked for, in whole seconds, two at least", () =>
    Effect.gen(function*() {
      const ttls = []
      for (const ttl of ["60 seconds", "2 seconds", "1 second"] as const) ttls.push((yield* grant(ttl)).ttl)
      assert.deepStrictEqual(ttls, [Duration.seconds(60), Duration.seconds(2), Duration.seconds(2)])
      const ids = new Set([(yield* grant("60 seconds")).id, (yield* grant("60 seconds")).id])
      assert.strictEqual(ids.size, 2)
      assert.strictEqual((yield* reason(grant(Duration.seconds(9_000_000_001))))._tag, "InvalidArgument")
    }))

  it.effect("a lease knows its keys: those whose last put named it", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const prefix = freshPrefix()
      const one = yield* grant("100 seconds")
      const two = yield* grant("100 seconds")
      assert.deepStrictEqual((yield* status(one.id)).keys, [])
      for (const name of ["stays", "moves", "leaves", "goes", "\udcff"]) {
        yield* put(prefix + name, "", { lease: one.id })
      }
      yield* put(`${prefix}moves`, "", { lease: two.id })
      yield* put(`${prefix}leaves`, "")
      yield* remove(`${prefix}goes`)
      const now = (yield* etcd.range({ key: prefix })).revision
      const { keys: held, remaining, revision } = yield* status(one.id)
      assert.isTrue(revision >= now)
      assert.deepStrictEqual([...held].sort(), [`${prefix}stays`, `${prefix}\udcff`].sort())
      assert.isTrue(Duration.isLessThanOrEqualTo(remaining, Duration.seconds(100)))
      assert.isTrue(Duration.isGreaterThan(remaining, Duration.seconds(80)))
      assert.deepStrictEqual((yield* status(two.id)).keys, [`${prefix}moves`])
      assert.strictEqual((yield* get(`${prefix}moves`)).lease, two.id)
      assert.isTrue((yield* txn({ compare: [Compare.lease(`${prefix}moves`, "=", two.id)] })).succeeded)

      yield* etcd.leaseRevoke(one.id)
      assert.deepStrictEqual(yield* keys({ prefix }), [`${prefix}leaves`, `${prefix}moves`])
    }))

  it.effect("a revoked lease takes all its keys with it in one revision, and is gone", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const prefix = freshPrefix()
      const { id } = yield* grant("100 seconds")
      yield* put(`${prefix}b`, "", { lease: id })
      const last = yield* put(`${prefix}a`, "", { lease: id })
      yield* etcd.leaseRevoke(id)
      const [batch] = yield* batches({ prefix, startRevision: last + 1n }, 1)
      assert.deepStrictEqual(batch?.events.map(short), [`-${prefix}a`, `-${prefix}b`])
      assert.strictEqual(batch?.revision, last + 1n)
      for (const call of [etcd.leaseRevoke, etcd.leaseKeepAlive, etcd.leaseTimeToLive]) {
        const why = yield* reason<unknown, never>(call(id))
        assert.deepStrictEqual([why._tag, why._tag === "LeaseNotFound" && why.leaseId], ["LeaseNotFound", id])
      }
    }))

  it.effect("a lease without keys ends without a revision", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const prefix = freshPrefix()
      const { id } = yield* grant("100 seconds")
      const before = yield* put(`${prefix}a`, "")
      yield* etcd.leaseRevoke(id)
      assert.strictEqual(yield* put(`${prefix}a`, ""), before + 1n)
    }))

  it.effect("a beat starts the time anew and says how long it is", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const { id } = yield* grant("40 seconds")
      assert.deepStrictEqual(yield* etcd.leaseKeepAlive(id), Duration.seconds(40))
      assert.isTrue(Duration.isGreaterThan((yield* status(id)).remaining, Duration.seconds(35)))
    }))

  it.effect("a lease that is not kept alive ends after its time, not before", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const prefix = freshPrefix()
      const lease = yield* grant("2 seconds")
      const created = yield* put(`${prefix}k`, "", { lease: lease.id })
      const [batch] = yield* batches({ prefix, startRevision: created + 1n }, 1)
      const late = (yield* Effect.clockWith((clock) => clock.monotonicTimeNanos)) - lease.deadline
      assert.deepStrictEqual(batch?.events.map(short), [`-${prefix}k`])
      assert.isAtLeast(Number(late), 0, "the deadline is the earliest that it can end")
      assert.strictEqual((yield* reason(etcd.leaseKeepAlive(lease.id)))._tag, "LeaseNotFound")
    }))
}
