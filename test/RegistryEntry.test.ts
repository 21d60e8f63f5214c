import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fc from "fast-check"
import type { KeyValue } from "../src/Etcd.ts"
import { decodeInstance, encodeInstance, idOf, validateInstance } from "../src/internal/registry/entry.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { ServiceLayout } from "../src/ServiceLayout.ts"

const layout = ServiceLayout.coord
const folder = { name: "orders", path: "/services/orders/" }

const instance = (fields: Partial<ServiceInstance> = {}): ServiceInstance =>
  new ServiceInstance({ id: "a", name: "orders", address: "10.0.0.7", port: 8080, metadata: {}, ...fields })

const encode = (of: ServiceInstance): string => new TextDecoder().decode(encodeInstance(layout, of))

const entry = (value: string | Uint8Array, id = "a"): KeyValue => ({
  key: folder.path + id,
  value: typeof value === "string" ? new TextEncoder().encode(value) : value,
  createRevision: 2n,
  modRevision: 2n,
  version: 1n,
  lease: 0n
})

const decode = (value: string | Uint8Array, id = "a") => decodeInstance(layout, folder, id, entry(value, id))

const text = fc.string({ unit: "binary" })
const metadata = fc.array(fc.tuple(text, text)).map((entries) => Object.fromEntries(entries))

describe("the bytes of an entry", () => {
  it("are those of Go's encoding/json", () => {
    assert.strictEqual(encode(instance()), `{"id":"a","name":"orders","address":"10.0.0.7","port":8080}`)
    assert.strictEqual(
      encode(instance({ metadata: { zone: "b", "": "empty", Zone: "a" } })),
      `{"id":"a","name":"orders","address":"10.0.0.7","port":8080,"metadata":{"":"empty","Zone":"a","zone":"b"}}`
    )
    assert.strictEqual(
      encode(instance({ id: "<&>", metadata: { "\u2028": "\u2029<b>\"\\/\u007f\u0000\b\f\n\r\t\u001f" } })),
      String.raw`{"id":"\u003c\u0026\u003e","name":"orders","address":"10.0.0.7","port":8080,` +
        String.raw`"metadata":{"\u2028":"\u2029\u003cb\u003e\"\\/` + "\u007f" + String.raw`\u0000\b\f\n\r\t\u001f"}}`
    )
  })

  it("have metadata in the order of the keys' bytes, which is not that of JavaScript's strings", () => {
    assert.match(
      encode(instance({ metadata: { "\u{1f600}": "3", "\uff5e": "2", "é": "1", "10": "0", "9": "0" } })),
      /"metadata":\{"10":"0","9":"0","é":"1","～":"2","😀":"3"\}\}$/
    )
  })

  it("are read back as what was written, by us and by JSON.parse", () => {
    fc.assert(fc.property(metadata, (metadata) => {
      const written = encode(instance({ metadata }))
      assert.isFalse(/[<>&\u2028\u2029]/.test(written))
      assert.deepStrictEqual(
        JSON.parse(written),
        JSON.parse(
          JSON.stringify({ ...instance(), metadata: Object.keys(metadata).length === 0 ? undefined : metadata })
        )
      )
      const read = decode(encodeInstance(layout, instance({ metadata })))
      assert.isUndefined(read.problem)
      assert.deepStrictEqual(new Map(Object.entries(read.instance?.metadata ?? {})), new Map(Object.entries(metadata)))
    }))
  })
})

describe("reading entries", () => {
  it("keeps metadata whose keys mean something to JavaScript", () => {
    const metadata = Object.fromEntries([["__proto__", "a"], ["constructor", "b"], ["toString", "c"]])
    const read = decode(encodeInstance(layout, instance({ metadata })))
    assert.deepStrictEqual(Object.entries(read.instance?.metadata ?? {}).sort(), Object.entries(metadata).sort())
  })

  const head = `"id":"a","name":"orders","address":"h","port":1`
  const read = instance({ address: "h", port: 1 })

  it("of other writers: without metadata, with null, with fields that we do not know, in any order", () => {
    for (
      const json of [
        `{${head}}`,
        `{${head},"metadata":null}`,
        `{${head},"metadata":{}}`,
        ` {"weight":3,"port":1,"address":"h","name":"orders","id":"a"}\n`
      ]
    ) assert.deepStrictEqual(decode(json), { instance: read, problem: undefined })
  })

  it("the key decides who it is", () => {
    const { instance, problem } = decode(`{${head}}`, "b")
    assert.strictEqual(instance?.id, "b")
    assert.strictEqual(problem, "it calls itself by another name or id")
  })

  it("what is no instance has a reason", () => {
    const bad: ReadonlyArray<readonly [string | Uint8Array, RegExp]> = [
      ["", /not JSON/],
      ["{", /not JSON/],
      [Uint8Array.of(0x22, 0xff, 0x22), /not JSON/],
      ["[]", /not an instance/],
      ["null", /not an instance/],
      [`{"id":"a","name":"orders","address":"h"}`, /not an instance/],
      [`{"id":"a","name":"orders","address":"h","port":"1"}`, /not an instance/],
      [`{${head},"metadata":{"a":1}}`, /not an instance/],
      [`{"id":"a","name":"orders","address":"h","port":0}`, /^port must be/],
      [`{"id":"a","name":"orders","address":"","port":1}`, /^address must not be empty/]
    ]
    for (const [value, reason] of bad) {
      const { instance, problem } = decode(value)
      assert.isUndefined(instance)
      assert.match(problem ?? "", reason)
    }
  })

  it("deeper keys and the folder itself are no instances", () => {
    assert.strictEqual(idOf(layout, folder, "/services/orders/a"), "a")
    assert.isUndefined(idOf(layout, folder, "/services/orders/a/b"))
    assert.isUndefined(idOf(layout, folder, "/services/orders/"))
  })
})

describe("an instance that cannot be registered", () => {
  const cases: ReadonlyArray<readonly [Partial<ServiceInstance>, field: string, rule: RegExp]> = [
    [{ id: "" }, "id", /not be empty/],
    [{ id: "a/b" }, "id", /"\/"/],
    [{ id: ".." }, "id", /segment/],
    [{ id: "\ud800" }, "id", /Unicode/],
    [{ name: "" }, "name", /not be empty/],
    [{ name: "a\n" }, "name", /control/],
    [{ address: "" }, "address", /not be empty/],
    [{ address: "a b" }, "address", /white space/],
    [{ address: "a\u0085" }, "address", /white space/],
    [{ address: "a\ud800" }, "address", /Unicode/],
    [{ port: 0 }, "port", /1 to 65535/],
    [{ port: 65536 }, "port", /1 to 65535/],
    [{ port: 80.5 }, "port", /1 to 65535/],
    [{ port: Number.NaN }, "port", /1 to 65535/],
    [{ metadata: { zone: "\udc00" } }, "metadata.zone", /Unicode/],
    [{ metadata: { "\udc00": "" } }, "metadata.\udc00", /Unicode/]
  ]

  it.effect("is named by field and rule", () =>
    Effect.forEach(cases, ([fields, field, rule]) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(validateInstance(layout, instance(fields)))
        assert.strictEqual(error.field, field)
        assert.match(error.rule, rule)
      })))

  it.effect("the limits themselves are fine", () =>
    Effect.forEach(
      [1, 65535],
      (port) => validateInstance(layout, instance({ port, address: "[::1]", metadata: { "": "" } }))
    ))
})
