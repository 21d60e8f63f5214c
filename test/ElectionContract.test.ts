import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Election } from "../src/Election.ts"
import { layerEtcdPort } from "../src/EtcdLive.ts"
import { electionContract } from "./contract/ElectionContract.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { type EtcdVersion, TestEtcd } from "./utils/EtcdServer.ts"
import { run } from "./utils/processes.ts"

electionContract("elections on memory", layerMemory())
electionContract("elections on etcd 3.5", layerServer("3.5"))
electionContract("elections on etcd 3.4", layerServer("3.4"))

const connect = (endpoints: string) =>
  Layer.build(Layer.fresh(Layer.provide(Election.layer(), layerEtcdPort({ endpoints })))).pipe(
    Effect.map((context) => Context.get(context, Election))
  )

const untilInLine = (election: Election["Service"], name: string, count: number) =>
  election.candidates(name).pipe(
    Effect.repeat({ until: (found) => found.length === count }),
    Effect.timeout("20 seconds")
  )

const suite = (version: EtcdVersion) =>
  layer(TestEtcd.layer(version), { timeout: "60 seconds", excludeTestServices: true })(
    `elections and etcdctl ${version}`,
    (it) => {
      it.effect("etcdctl elect waits for our leader, and we wait for one of etcdctl", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const election = yield* connect(server.endpoint)
          const scope = yield* Scope.make()
          yield* Scope.provide(election.campaign("interop", "ours"), scope)
          const etcdctl = yield* run(server.etcdctlPath, [
            "--endpoints",
            server.endpoint,
            "elect",
            "/elections/interop",
            "theirs"
          ])
          const theirs = yield* Effect.forkChild(etcdctl.line("theirs"))
          yield* untilInLine(election, "interop", 2)
          assert.strictEqual(theirs.pollUnsafe(), undefined)
          yield* Scope.close(scope, Exit.void)
          yield* Fiber.join(theirs)
          const leader = yield* election.leader("interop")
          assert.strictEqual(Option.getOrThrow(leader).value, "theirs")
          const next = yield* Effect.forkChild(election.campaign("interop", "ours again"))
          yield* untilInLine(election, "interop", 2)
          assert.strictEqual(next.pollUnsafe(), undefined)
          yield* etcdctl.kill("SIGINT")
          yield* (yield* Fiber.join(next)).assertLeading
        }))

      it.effect("etcdctl elect --listen sees our leaders and proclamations, and we see those of etcdctl", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const election = yield* connect(server.endpoint)
          const leadership = yield* election.campaign("watched", "first")
          const listener = yield* run(server.etcdctlPath, [
            "--endpoints",
            server.endpoint,
            "elect",
            "--listen",
            "/elections/watched"
          ])
          yield* listener.line("first")
          yield* leadership.proclaim("second")
          yield* listener.line("second")
          const seen = yield* Queue.unbounded<string>()
          yield* election.observe("watched").pipe(
            Stream.runForEach((leader) => Queue.offer(seen, Option.isNone(leader) ? "nobody" : leader.value.value)),
            Effect.forkScoped
          )
          assert.strictEqual(yield* Queue.take(seen), "second")
          const etcdctl = yield* run(server.etcdctlPath, [
            "--endpoints",
            server.endpoint,
            "elect",
            "/elections/watched",
            "theirs"
          ])
          yield* untilInLine(election, "watched", 2)
          yield* leadership.resign
          yield* listener.line("theirs")
          // Interrupted between its election and its report of it, etcdctl leaves its key behind, for the 60 seconds of its lease.
          yield* etcdctl.line("theirs")
          yield* etcdctl.kill("SIGINT")
          assert.deepStrictEqual([yield* Queue.take(seen), yield* Queue.take(seen)], ["theirs", "nobody"])
        }))

      it.effect("kill -9 of the leading etcdctl hands over to us within its TTL", () =>
        Effect.gen(function*() {
          const server = yield* TestEtcd
          const election = yield* connect(server.endpoint)
          // The lease that etcdctl keeps alive, so that its end is quick.
          const etcdctl = yield* run(server.etcdctlPath, [
            "--endpoints",
            server.endpoint,
            "elect",
            "/elections/dead",
            "theirs"
          ])
          yield* etcdctl.line("theirs")
          const next = yield* Effect.forkChild(election.campaign("dead", "ours"))
          yield* untilInLine(election, "dead", 2)
          yield* etcdctl.kill("SIGKILL")
          const [theirs] = yield* election.candidates("dead")
          // Nobody beats for it any more; etcd's own end of it would come after 60 seconds.
          assert.strictEqual(next.pollUnsafe(), undefined)
          yield* server.etcdctl("lease", "revoke", theirs?.leaseId.toString(16) ?? "")
          yield* (yield* Fiber.join(next)).assertLeading
        }))
    }
  )

suite("3.5")
suite("3.4")
