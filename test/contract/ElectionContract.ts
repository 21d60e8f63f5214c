/**
 * What elections do on every implementation of the port. The tests share one store: each has a prefix of its own.
 */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Candidate, Election } from "../../src/Election.ts"
import { Etcd, Operation } from "../../src/Etcd.ts"
import type { Operator } from "./Operator.ts"
import { freshPrefix, keys, put, remove } from "./support.ts"

const value = (leader: Option.Option<Candidate>): string =>
  Option.match(leader, { onNone: () => "nobody", onSome: (candidate) => candidate.value })

interface Given {
  readonly election: Election["Service"]
  /** Another process. */
  readonly other: Election["Service"]
  readonly root: string
}

/** Until there are so many in line. */
const inLine = (election: Election["Service"], name: string, count: number) =>
  election.candidates(name).pipe(
    Effect.repeat({ until: (found) => found.length === count }),
    Effect.timeout("20 seconds")
  )

const lead = Effect.fnUntraced(function*(election: Election["Service"], name: string, said: string) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const leadership = yield* Scope.provide(election.campaign(name, said), scope)
  return { leadership, close: Scope.close(scope, Exit.void) }
})

/** On the real clock, also where there is a virtual one. */
export const electionContract = (name: string, port: Layer.Layer<Etcd | Operator, unknown>): void =>
  layer(port, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    const test = (title: string, body: (given: Given) => Effect.Effect<void, unknown, Etcd | Scope.Scope>) =>
      it.effect(title, () =>
        Effect.gen(function*() {
          const root = freshPrefix().slice(0, -1)
          const client = Effect.map(Layer.build(Election.layer({ prefix: root })), (all) => Context.get(all, Election))
          yield* body({ root, election: yield* client, other: yield* client })
        }))

    test("one leads, the next waits; tokens grow; nobody is left", ({ election, other, root }) =>
      Effect.gen(function*() {
        assert.strictEqual(value(yield* election.leader("job")), "nobody")
        const first = yield* lead(election, "job", "a")
        const next = yield* Effect.forkChild(lead(other, "job", "b"))
        yield* inLine(election, "job", 2)
        assert.deepStrictEqual((yield* other.candidates("job")).map((one) => one.value), ["a", "b"])
        assert.strictEqual(value(yield* other.leader("job")), "a")
        assert.strictEqual(next.pollUnsafe(), undefined)
        yield* first.close
        const second = yield* Fiber.join(next)
        assert.isTrue(second.leadership.fencingToken > first.leadership.fencingToken)
        assert.strictEqual(value(yield* election.leader("job")), "b")
        const after = yield* Effect.flip(first.leadership.assertLeading)
        assert.strictEqual(after.why, "Resigned")
        yield* second.close
        assert.deepStrictEqual(yield* keys({ prefix: root }), [])
      }))

    test("the key is that of Go's Election: the lease in hex, with the proclaimed value", ({ election, root }) =>
      Effect.gen(function*() {
        const { leadership } = yield* lead(election, "team/job", "")
        yield* leadership.proclaim("täglich")
        const leader = Option.getOrThrow(yield* election.leader("team/job"))
        assert.strictEqual(leader.entryKey, `${root}/team/job/${leader.leaseId.toString(16)}`)
        assert.strictEqual(leader.value, "täglich")
        assert.strictEqual(leader.fencingToken, leadership.fencingToken)
        const status = yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseTimeToLive(leader.leaseId))
        assert.deepStrictEqual(status.keys, [leader.entryKey])
      }))

    test("elections whose names begin alike are independent", ({ election, other }) =>
      Effect.gen(function*() {
        yield* election.campaign("a/b", "deep")
        yield* other.campaign("a", "flat")
        yield* other.campaign("ab", "long")
        assert.strictEqual(value(yield* election.leader("a")), "flat")
      }))

    test("who observes sees each leader, each proclamation and nobody, once", ({ election, other }) =>
      Effect.gen(function*() {
        const seen = yield* Queue.unbounded<string>()
        yield* Effect.forkScoped(Stream.runForEach(other.observe("job"), (now) => Queue.offer(seen, value(now))))
        const next = Effect.timeout(Queue.take(seen), "20 seconds")
        assert.strictEqual(yield* next, "nobody")
        const first = yield* lead(election, "job", "a")
        assert.strictEqual(yield* next, "a")
        const second = yield* Effect.forkChild(lead(other, "job", "b"))
        yield* inLine(election, "job", 2)
        yield* first.leadership.proclaim("a2")
        yield* first.leadership.proclaim("a3")
        yield* first.close
        yield* (yield* Fiber.join(second)).close
        assert.deepStrictEqual([yield* next, yield* next, yield* next, yield* next], ["a2", "a3", "b", "nobody"])
        const late = yield* other.observe("job").pipe(Stream.take(1), Stream.runCollect)
        assert.deepStrictEqual(late.map(value), ["nobody"])
      }))

    test("fenced writes and proclamations of a former leader are refused", ({ election, other, root }) =>
      Effect.gen(function*() {
        const first = yield* lead(election, "job", "a")
        const write = (text: string) => ({ success: [Operation.put(`${root}-data`, text)] })
        assert.isTrue((yield* first.leadership.fenced(write("1"))).succeeded)
        const [entry] = yield* keys({ prefix: `${root}/` })
        yield* remove(entry ?? "")
        // It does not know of it yet.
        yield* other.campaign("job", "b")
        assert.strictEqual((yield* Effect.flip(first.leadership.fenced(write("2"))))._tag, "LeadershipLost")
        assert.strictEqual((yield* Effect.flip(first.leadership.proclaim("late")))._tag, "LeadershipLost")
        assert.strictEqual((yield* Effect.flip(first.leadership.lost)).why, "Deleted")
        assert.strictEqual(value(yield* election.leader("job")), "b")
        yield* remove({ prefix: `${root}-data` })
      }))

    test("a proclamation finds out that its leadership is gone", ({ election, other, root }) =>
      Effect.gen(function*() {
        const { leadership } = yield* lead(election, "job", "a")
        yield* remove({ prefix: `${root}/job/` })
        const refused = yield* Effect.flip(leadership.proclaim("late"))
        assert.strictEqual(refused._tag === "LeadershipLost" && refused.why, "Deleted")
        assert.strictEqual(value(yield* other.leader("job")), "nobody")
      }))

    test("writes to keys of elections are refused", ({ election, root }) =>
      Effect.gen(function*() {
        const { leadership } = yield* lead(election, "job", "a")
        const refused = yield* Effect.flip(leadership.fenced({ success: [Operation.put(`${root}/job/1`, "")] }))
        assert.strictEqual(refused._tag === "EtcdError" && refused.reason._tag, "InvalidArgument")
      }))

    test("a campaign that is interrupted or timed out leaves no entry", ({ election, other }) =>
      Effect.gen(function*() {
        yield* lead(election, "job", "a")
        for (const wait of [0, 1, 5, 20, 50]) {
          assert.isTrue(Option.isNone(yield* Effect.timeoutOption(other.campaign("job", "b"), wait)))
          assert.strictEqual((yield* election.candidates("job")).length, 1)
        }
      }))

    test("whileLeader answers what its effect answers, and fails as it fails", ({ election, root }) =>
      Effect.gen(function*() {
        const used = yield* election.whileLeader("job", "a")((leadership) =>
          Effect.as(leadership.assertLeading, leadership.fencingToken)
        )
        assert.isTrue(used > 0n)
        assert.strictEqual(yield* Effect.flip(election.whileLeader("job", "a")(Effect.fail("mine" as const))), "mine")
        assert.deepStrictEqual(yield* keys({ prefix: root }), [])
      }))

    test("whileLeader interrupts its effect when somebody revokes the lease, and campaigns again", (given) =>
      Effect.gen(function*() {
        const { election, other } = given
        const terms: Array<bigint> = []
        const over = yield* Deferred.make<void>()
        const again = yield* Deferred.make<void>()
        const fiber = yield* election.whileLeader("job", "a", { ttl: "2 seconds" })(({ fencingToken }) =>
          Effect.gen(function*() {
            terms.push(fencingToken)
            if (terms.length > 1) return yield* Deferred.succeed(again, undefined)
            return yield* Effect.onInterrupt(Effect.never, () => Deferred.succeed(over, undefined))
          })
        ).pipe(Effect.forkChild)
        yield* inLine(other, "job", 1)
        const leader = Option.getOrThrow(yield* other.leader("job"))
        yield* Effect.flatMap(Etcd, (etcd) => etcd.leaseRevoke(leader.leaseId))
        yield* Effect.timeout(Deferred.await(over), "20 seconds")
        yield* Effect.timeout(Deferred.await(again), "20 seconds")
        yield* Fiber.join(fiber)
        assert.strictEqual(terms.length, 2)
        assert.isTrue((terms[0] ?? 0n) < (terms[1] ?? 0n))
      }))

    test("a key without a lease leads until somebody deletes it", ({ election, root }) =>
      Effect.gen(function*() {
        yield* put(`${root}/job/1234`, "by hand")
        const next = yield* Effect.forkChild(lead(election, "job", "a"))
        yield* inLine(election, "job", 2)
        assert.strictEqual(value(yield* election.leader("job")), "by hand")
        yield* remove(`${root}/job/1234`)
        yield* Fiber.join(next)
      }))

    test("bad names, durations and prefixes are refused before anything is sent", ({ election, root }) =>
      Effect.gen(function*() {
        for (const bad of ["", "/job", "job/", "a//b", "..", "a\nb"]) {
          assert.strictEqual((yield* Effect.flip(Effect.scoped(election.campaign(bad, ""))))._tag, "InvalidKey", bad)
          assert.strictEqual((yield* Effect.flip(election.leader(bad)))._tag, "InvalidKey", bad)
          assert.strictEqual((yield* Effect.flip(Stream.runDrain(election.observe(bad))))._tag, "InvalidKey", bad)
        }
        const ttl = yield* Effect.flip(Effect.scoped(election.campaign("job", "", { ttl: "10 millis" })))
        assert.deepInclude(ttl, { _tag: "InvalidOption", option: "ttl" })
        const prefix = yield* Effect.flip(Layer.build(Election.layer({ prefix: "elections" })))
        assert.deepInclude(prefix, { _tag: "InvalidOption", option: "electionPrefix" })
        assert.deepStrictEqual(yield* keys({ prefix: root }), [])
      }))
  })
