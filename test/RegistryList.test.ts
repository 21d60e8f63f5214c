import { assert, describe, it } from "@effect/vitest"
import * as HashMap from "effect/HashMap"
import * as fc from "fast-check"
import type { KeyValue } from "../src/Etcd.ts"
import type { Change, Snapshot } from "../src/internal/follow.ts"
import { makeReader } from "../src/internal/registry/entry.ts"
import { makeList } from "../src/internal/registry/list.ts"
import { Viewed } from "../src/internal/view.ts"
import { ServiceLayout } from "../src/ServiceLayout.ts"

const folder = { name: "orders", path: "/services/orders/" }

const entry = (id: string, value: string, modRevision: bigint): KeyValue => ({
  key: folder.path + id,
  value: new TextEncoder().encode(value),
  createRevision: 1n,
  modRevision,
  version: 1n,
  lease: 0n
})

const valueOf = (id: string, port: number): string =>
  port === 0 ? "nonsense" : JSON.stringify({ id, name: folder.name, address: "10.0.0.1", port })

/** A put, of what is no instance where the port is 0; without a port a deletion. */
interface Step {
  readonly id: string
  readonly port: number | undefined
}

const ids = ["", "a", "b", "c", "d/deep", "é", "\u{1f600}", "\uff5e", "10", "9"]
const step: fc.Arbitrary<Step> = fc.record({
  id: fc.constantFrom(...ids, ...Array.from({ length: 100 }, (_, index) => `i${index}`)),
  port: fc.constantFrom(undefined, 0, 1, 2)
})
/** What happens at each revision, and whether somebody looks after it. */
const history = fc.array(fc.record({ steps: fc.array(step, { minLength: 1, maxLength: 4 }), looks: fc.boolean() }))

const world = () => {
  const reader = makeReader(ServiceLayout.coord)
  let state: Snapshot = {
    revision: 1n,
    kvs: HashMap.fromIterable(
      Array.from({ length: 64 }, (_, index) => entry(`i${index}`, valueOf(`i${index}`, 1), 1n)).map((
        kv
      ) => [kv.key, kv])
    )
  }
  const view = makeList(reader, folder)
  const viewed = new Viewed(view, state)
  return {
    viewed,
    /** As it would be if it were made from the start. */
    expected: () => makeList(makeReader(ServiceLayout.coord), folder).start(state),
    happen: (steps: ReadonlyArray<Step>) => {
      const revision = state.revision + 1n
      let { kvs } = state
      const changes: Array<Change> = []
      for (const { id, port } of steps) {
        const key = folder.path + id
        const previous = HashMap.has(kvs, key) ? HashMap.getUnsafe(kvs, key) : undefined
        if (port === undefined) {
          if (previous !== undefined) changes.push({ _tag: "Delete", key, modRevision: revision, previous })
          kvs = HashMap.remove(kvs, key)
        } else {
          const kv = entry(id, valueOf(id, port), revision)
          changes.push({ _tag: "Put", kv, previous })
          kvs = HashMap.set(kvs, key, kv)
        }
      }
      state = { revision, kvs }
      viewed.next({ changes, state, bytes: 0 })
    }
  }
}

describe("a list that is kept up by what changes", () => {
  it("is the one that would be made from the start, whenever somebody looks", () => {
    fc.assert(fc.property(history, (revisions) => {
      const { expected, happen, viewed } = world()
      for (const { looks, steps } of revisions) {
        happen(steps)
        if (looks) assert.deepStrictEqual(viewed.latest.instances, expected().instances)
      }
      assert.deepStrictEqual(viewed.latest.instances, expected().instances)
    }))
  })

  it("is the same one where no instance has changed", () => {
    const { happen, viewed } = world()
    const before = viewed.latest
    happen([{ id: "i7", port: 1 }, { id: "d/deep", port: 1 }, { id: "nobody", port: undefined }])
    assert.strictEqual(viewed.latest, before)
    happen([{ id: "i7", port: 2 }])
    assert.notStrictEqual(viewed.latest.instances, before.instances)
    assert.strictEqual(viewed.latest.instances[0], before.instances[0])
    assert.strictEqual(before.instances.find(({ id }) => id === "i7")?.port, 1)
  })

  it("tells of each odd entry when it is found", () => {
    const { happen, viewed } = world()
    assert.deepStrictEqual(viewed.latest.odd, [])
    happen([{ id: "i7", port: 0 }, { id: "i8", port: 2 }])
    assert.deepStrictEqual(viewed.latest.odd.map(({ key }) => key), [`${folder.path}i7`])
  })
})
