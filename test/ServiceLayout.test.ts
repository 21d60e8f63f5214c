/** What each layout writes, byte for byte, and what it makes of what others write. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Result from "effect/Result"
import * as fc from "fast-check"
import { Etcd, Operation } from "../src/Etcd.ts"
import { EtcdMemory, layerMemory } from "../src/EtcdMemory.ts"
import { decodeInstance, encodeInstance, validateInstance } from "../src/internal/registry/entry.ts"
import { Registry } from "../src/Registry.ts"
import { ServiceInstance } from "../src/ServiceInstance.ts"
import { ServiceLayout } from "../src/ServiceLayout.ts"

const { coord, goEtcd, goZero, kratos, kratosWith } = ServiceLayout

const instance = (fields: Partial<ServiceInstance> = {}): ServiceInstance =>
  new ServiceInstance({ id: "a", name: "orders", address: "10.0.0.7", port: 8080, metadata: {}, ...fields })

const write = (layout: ServiceLayout, of: ServiceInstance): string =>
  new TextDecoder().decode(encodeInstance(layout, of))

const read = (layout: ServiceLayout, value: string | Uint8Array, { id, name } = { id: "a", name: "orders" }) =>
  decodeInstance(layout, { name, path: `${name}/` }, id, {
    key: `${name}/${id}`,
    value: typeof value === "string" ? new TextEncoder().encode(value) : value,
    createRevision: 2n,
    modRevision: 2n,
    version: 1n,
    lease: 0n
  })

/** What is read without a word: `address port`, and metadata. */
const good = (layout: ServiceLayout, value: string) => {
  const { instance, problem } = read(layout, value)
  assert.isUndefined(problem, value)
  return [`${instance?.address} ${instance?.port}`, instance?.metadata]
}

const bad = (layout: ServiceLayout, cases: ReadonlyArray<readonly [string | Uint8Array, RegExp]>) => {
  for (const [value, why] of cases) {
    const { instance, problem } = read(layout, value)
    assert.isUndefined(instance, String(value))
    assert.match(problem ?? "", why)
  }
}

/** As Go joins them. */
const hostPort = ({ address, port }: { readonly address: string; readonly port: number }) =>
  address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`

const notUtf8 = Uint8Array.of(0x31, 0xff, 0x3a, 0x31)

// -----------------------------------------------------------------------------
// Any instance
// -----------------------------------------------------------------------------

const segment = fc.string({ unit: "grapheme", minLength: 1 })
const address = fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6(), fc.constantFrom("localhost", "host_1", "fe80::1%eth0"))
const text = fc.string({ unit: "binary" }).filter((text) => text.isWellFormed())
const record = fc.array(fc.tuple(text, text)).map((entries): Record<string, string> => Object.fromEntries(entries))
const location = fc.record({ id: segment, name: segment, address, port: fc.integer({ min: 1, max: 65535 }) })

const anyInstance = fc.tuple(location, record).map(([fields, metadata]) => new ServiceInstance({ ...fields, metadata }))
const plainInstance = location.map((fields) => new ServiceInstance(fields))
/** With a version, and several endpoints of which `grpc` counts. */
const kratosInstance = fc.tuple(anyInstance, fc.string({ minLength: 1 }), fc.array(fc.constantFrom("http", "https")))
  .map(([of, version, others]) => {
    const endpoints = [...others.map((scheme) => `${scheme}://h:1`), `grpcs://${hostPort(of)}?isSecure=true`]
    return new ServiceInstance({ ...of, metadata: { ...of.metadata, version, endpoints: endpoints.join(" ") } })
  })

/** Every instance that may be registered is read as it was. `inspect` is what the other ecosystem makes of the bytes. */
const roundTrip = (
  layout: ServiceLayout,
  instances: fc.Arbitrary<ServiceInstance>,
  inspect: (value: string, of: ServiceInstance) => void
) => {
  let checked = 0
  fc.assert(fc.property(instances, (of) => {
    if (Result.isFailure(Effect.runSync(Effect.result(validateInstance(layout, of))))) return
    checked++
    const value = write(layout, of)
    const { instance, problem } = read(layout, value, of)
    assert.isUndefined(problem)
    assert.deepStrictEqual({ ...instance, metadata: 0 }, { ...of, metadata: 0 })
    assert.deepStrictEqual(new Map(Object.entries(instance?.metadata ?? {})), new Map(Object.entries(of.metadata)))
    inspect(value, of)
  }))
  return checked
}

/** Whatever is in an entry: it is an instance that could have been registered, or there is a reason. */
const robust = (layout: ServiceLayout) => {
  let checked = 0
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array(), fc.json().map((json) => new TextEncoder().encode(json))), (value) => {
      checked++
      const { instance, problem } = read(layout, value)
      assert.isTrue(instance !== undefined || problem !== undefined)
      if (instance !== undefined) Effect.runSync(validateInstance(coord, { ...instance, id: "a", name: "b" }))
    })
  )
  return checked
}

// -----------------------------------------------------------------------------

describe("the layout of Go's etcd client", () => {
  it("writes what endpoints.Manager writes", () => {
    assert.strictEqual(write(goEtcd, instance()), `{"Op":0,"Addr":"10.0.0.7:8080","Metadata":null}`)
    assert.strictEqual(
      write(goEtcd, instance({ address: "::1", metadata: { zone: "<b>", Zone: "a" } })),
      String.raw`{"Op":0,"Addr":"[::1]:8080","Metadata":{"Zone":"a","zone":"\u003cb\u003e"}}`
    )
  })

  it("reads what endpoints.Manager, and the resolvers before it, have written", () => {
    assert.deepStrictEqual(good(goEtcd, `{"Op":0,"Addr":"10.0.0.7:8080","Metadata":null}`), ["10.0.0.7 8080", {}])
    assert.deepStrictEqual(good(goEtcd, `{"Addr":"[::1]:8080"}`), ["::1 8080", {}])
    assert.deepStrictEqual(good(goEtcd, `{"Op":0,"Addr":"h:1","Metadata":{},"More":1}`), ["h 1", {}])
  })

  it("metadata that is no map of strings is kept as JSON text, with every digit", () => {
    const metadata = (json: string) => good(goEtcd, `{"Op":0,"Addr":"h:1","Metadata":${json}}`)[1]
    assert.deepStrictEqual(
      metadata(`{"weight":5,"n":12345678901234567890,"f":1.50,"x":null,"b":true,"t":["a",1.0],"o":{"a":"b"},"s":"5"}`),
      {
        weight: "5",
        n: "12345678901234567890",
        f: "1.50",
        x: "null",
        b: "true",
        t: `["a",1.0]`,
        o: `{"a":"b"}`,
        s: "5"
      }
    )
    assert.deepStrictEqual(metadata(`"v1"`), { metadata: "v1" })
    assert.deepStrictEqual(metadata("7"), { metadata: "7" })
    assert.deepStrictEqual(metadata("[1]"), { metadata: "[1]" })
    assert.deepStrictEqual(metadata("false"), { metadata: "false" })
    assert.deepStrictEqual(Object.keys(metadata(`{"__proto__":1}`) ?? {}), ["__proto__"])
  })

  it("what it cannot read has a reason", () => {
    bad(goEtcd, [
      ["", /not JSON/],
      [notUtf8, /not UTF-8/],
      ["null", /not an endpoint/],
      [`{"Op":0,"Metadata":null}`, /not an endpoint/],
      [`{"Op":0,"Addr":1}`, /not an endpoint/],
      [`{"Op":0,"Addr":"","Metadata":"gone"}`, /not host:port/],
      [`{"Op":0,"Addr":"unix:///run/x"}`, /not host:port/],
      [`{"Op":0,"Addr":"::1:80"}`, /not host:port/],
      [`{"Op":0,"Addr":":80"}`, /not host:port/],
      [`{"Op":0,"Addr":"h:0"}`, /^port must be/],
      [`{"Op":0,"Addr":"a b:1"}`, /^address must not/],
      ["[".repeat(100_000), /not JSON/]
    ])
    assert.isAbove(robust(goEtcd), 50)
  })

  it("is read back as what was written, and by what Go expects", () => {
    const checked = roundTrip(goEtcd, anyInstance, (value, of) => {
      const { Addr, Metadata, Op, ...rest } = JSON.parse(value)
      assert.deepStrictEqual([Op, Addr, rest], [0, hostPort(of), {}])
      assert.deepStrictEqual(Object.entries(Metadata ?? {}).sort(), Object.entries(of.metadata).sort())
    })
    assert.isAbove(checked, 50)
  })
})

describe("the layout of go-kratos", () => {
  it("writes what its registrar writes", () => {
    assert.strictEqual(
      write(kratos, instance()),
      `{"id":"a","name":"orders","version":"","metadata":{},"endpoints":["grpc://10.0.0.7:8080"]}`
    )
    assert.strictEqual(
      write(
        kratos,
        instance({
          address: "::1",
          metadata: { weight: "10", version: "v1", endpoints: "http://h:1  grpcs://[::1]:8080?a=1&b=2" }
        })
      ),
      String.raw`{"id":"a","name":"orders","version":"v1","metadata":{"weight":"10"},` +
        String.raw`"endpoints":["http://h:1","grpcs://[::1]:8080?a=1\u0026b=2"]}`
    )
    assert.include(write(kratosWith({ scheme: "http" }), instance()), `"endpoints":["http://10.0.0.7:8080"]`)
  })

  const entry = (rest: string) => `{"id":"a","name":"orders"${rest}}`

  it("reads what its registrar writes", () => {
    assert.deepStrictEqual(
      good(kratos, entry(`,"version":"v1","metadata":{"zone":"b"},"endpoints":["grpc://10.0.0.7:9000"]`)),
      ["10.0.0.7 9000", { zone: "b", version: "v1" }]
    )
    assert.deepStrictEqual(
      good(kratos, entry(`,"version":"","metadata":null,"endpoints":["grpc://[::1]:9000"]`)),
      ["::1 9000", {}]
    )
  })

  it("of several endpoints grpc counts before http, http before the rest, and none is lost", () => {
    const endpoints = (layout: ServiceLayout, ...urls: Array<string>) =>
      good(layout, entry(`,"endpoints":${JSON.stringify(urls)}`))
    assert.deepStrictEqual(
      endpoints(kratos, "http://h:1?isSecure=false", "grpc://h:2?isSecure=true"),
      ["h 2", { endpoints: "http://h:1?isSecure=false grpc://h:2?isSecure=true" }]
    )
    assert.deepStrictEqual(endpoints(kratos, "tcp://h:1", "https://h:2/x"), ["h 2", {
      endpoints: "tcp://h:1 https://h:2/x"
    }])
    assert.deepStrictEqual(endpoints(kratos, "grpc://h", "tcp://h:3"), ["h 3", { endpoints: "grpc://h tcp://h:3" }])
    assert.deepStrictEqual(endpoints(kratos, "grpcs://h:1"), ["h 1", { endpoints: "grpcs://h:1" }])
    assert.deepStrictEqual(endpoints(kratosWith({ scheme: "http" }), "grpc://h:1", "http://h:2")[0], "h 2")
    assert.deepStrictEqual(endpoints(kratosWith({ scheme: "http" }), "http://h:2"), ["h 2", {}])
    bad(kratosWith({ scheme: "http" }), [[entry(`,"endpoints":["grpc://h:1"]`), /no http endpoint/]])
  })

  it("what cannot be told apart is said", () => {
    const told = (json: string, problem: string) => assert.strictEqual(read(kratos, json).problem, problem)
    told(
      entry(`,"version":"v2","metadata":{"version":"v1"},"endpoints":["grpc://h:1"]`),
      "its metadata has a key version, which its version hides"
    )
    told(entry(`,"endpoints":["grpc://h:1","http://a b:1"]`), "an endpoint with white space is left out")
    told(`{"id":"b","name":"orders","endpoints":["grpc://h:1"]}`, "it calls itself by another id")
    assert.strictEqual(
      read(kratos, entry(`,"version":"v2","metadata":{"version":"v1"},"endpoints":["grpc://h:1"]`))
        .instance?.metadata["version"],
      "v2"
    )
  })

  it("what it cannot read has a reason", () => {
    bad(kratos, [
      ["{", /not JSON/],
      [notUtf8, /not JSON/],
      ["null", /not an instance/],
      [entry(`,"metadata":{"a":1},"endpoints":["grpc://h:1"]`), /not an instance/],
      [`{"id":"a","name":"other","endpoints":["grpc://h:1"]}`, /another name/],
      [entry(`,"endpoints":null`), /no endpoint/],
      [entry(`,"endpoints":[]`), /no endpoint/],
      [entry(`,"endpoints":["grpc://","h:1","://h:1","grpc://u@h","grpc://h:x"]`), /no endpoint/],
      [entry(`,"endpoints":["grpc://h:99999"]`), /^port must be/]
    ])
    assert.isAbove(robust(kratos), 50)
  })

  it.effect("endpoints by which nobody would find address and port are refused", () =>
    Effect.forEach(
      ["", "http://10.0.0.7:8080 grpc://10.0.0.7:1", "x", "grpc://10.0.0.8:8080"],
      (endpoints) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(validateInstance(kratos, instance({ metadata: { endpoints } })))
          assert.strictEqual(error.field, "metadata.endpoints")
          assert.include(error.rule, "grpc://10.0.0.7:8080")
        })
    ))

  it("is read back as what was written, and by what kratos expects", () => {
    const checked = roundTrip(kratos, fc.oneof(anyInstance, kratosInstance), (value, of) => {
      const { endpoints, id, metadata, name, version, ...rest } = JSON.parse(value)
      const { endpoints: _, version: expected = "", ...others } = of.metadata
      assert.deepStrictEqual([id, name, version, rest], [of.id, of.name, expected, {}])
      assert.deepStrictEqual(Object.entries(metadata).sort(), Object.entries(others).sort())
      const urls: ReadonlyArray<string> = endpoints
      assert.strictEqual(
        /^grpcs?:\/\/([^?]*)/.exec(urls.find((url) => url.startsWith("grpc")) ?? "")?.[1],
        hostPort(of)
      )
    })
    assert.isAbove(checked, 50)
  })
})

describe("the layout of go-zero", () => {
  it("is nothing but the address", () => {
    assert.strictEqual(write(goZero, instance()), "10.0.0.7:8080")
    assert.strictEqual(write(goZero, instance({ address: "::1" })), "[::1]:8080")
    assert.strictEqual(goZero.leaseKey?.(7587862094423298819n), "7587862094423298819")
    assert.deepStrictEqual(good(goZero, "10.0.0.7:8080"), ["10.0.0.7 8080", {}])
    assert.deepStrictEqual(good(goZero, "[::1]:8080"), ["::1 8080", {}])
    bad(goZero, [
      ["", /not host:port/],
      [notUtf8, /not UTF-8/],
      ["10.0.0.7", /not host:port/],
      [":8080", /not host:port/],
      ["http://h:1", /not host:port/],
      [" h:1", /^address must not/],
      ["h:70000", /^port must be/]
    ])
    assert.isAbove(robust(goZero), 50)
    assert.isAbove(roundTrip(goZero, plainInstance, (value, of) => assert.strictEqual(value, hostPort(of))), 50)
  })

  it.effect("metadata is refused rather than lost", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(validateInstance(goZero, instance({ metadata: { zone: "a" } })))
      assert.strictEqual(
        error.message,
        `invalid instance "a": metadata must be empty: the layout go-zero has no place for it`
      )
    }))
})

describe("our own layout", () => {
  it("is read back as what was written, and by what Go's coord expects", () => {
    const checked = roundTrip(coord, anyInstance, (value, of) => {
      const { address, id, metadata = {}, name, port, ...rest } = JSON.parse(value)
      assert.deepStrictEqual([id, name, address, port, rest], [of.id, of.name, of.address, of.port, {}])
      assert.deepStrictEqual(Object.entries(metadata).sort(), Object.entries(of.metadata).sort())
    })
    assert.isAbove(checked, 50)
    assert.isAbove(robust(coord), 50)
  })
})

// -----------------------------------------------------------------------------

describe("a layout of one's own", () => {
  const plain: ServiceLayout = {
    name: "plain",
    prefix: "/backends",
    encode: ({ address, port }) => Uint8Array.from([...new TextEncoder().encode(address), port >> 8, port & 0xff]),
    decode: (value) => {
      if (value.length < 3) throw new Error("too short")
      const [high = 0, low = 0] = value.slice(-2)
      return Result.succeed({
        address: new TextDecoder().decode(value.slice(0, -2)),
        port: high * 256 + low,
        metadata: {}
      })
    }
  }

  it.effect("writes and reads bytes; what it throws ends no list", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      yield* Effect.gen(function*() {
        const registry = yield* Registry
        const etcd = yield* Etcd
        yield* registry.register(instance())
        yield* etcd.txn({ success: [Operation.put("/backends/orders/b", "x")] })
        const list = yield* registry.discover("orders")
        assert.deepStrictEqual(list, [instance()])
        const { kvs } = yield* etcd.range({ key: "/backends/orders/a" })
        assert.strictEqual(new TextDecoder().decode(kvs[0]?.value), "10.0.0.7\u001f\ufffd")
      }).pipe(
        Effect.provide(Layer.merge(
          layerMemory(yield* EtcdMemory.make(), { registryLayout: plain }),
          Logger.layer([Logger.make(({ message }) => {
            logs.push(String(message))
          })])
        ))
      )
      assert.deepStrictEqual(logs, ["entry skipped: the layout plain cannot read it"])
    }))
})
