import { assert } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { Etcd } from "../../src/Etcd.ts"
import { type ContractTests, freshPrefix, put } from "./support.ts"

export const healthContract = (it: ContractTests): void => {
  it.effect("one that serves says where its store is, and who leads", () =>
    Effect.gen(function*() {
      const etcd = yield* Etcd
      const before = yield* put(`${freshPrefix()}a`, "1")
      const { alarms, latency, leader, members, revision } = yield* etcd.health
      assert.isTrue(revision !== undefined && revision >= before)
      assert.deepStrictEqual(alarms, [])
      assert.isTrue(Duration.isGreaterThanOrEqualTo(latency, Duration.zero))
      const [member, ...others] = members
      assert.deepStrictEqual(others, [])
      if (member?._tag !== "Known") return assert.fail("it does not answer")
      assert.strictEqual(member.id, leader)
      assert.strictEqual(member.leader, leader)
      assert.notStrictEqual(member.version, "")
      assert.isFalse(member.isLearner)
      assert.deepStrictEqual(member.errors, [])
      assert.isAtLeast(member.dbSize, member.dbSizeInUse)
    }))
}
