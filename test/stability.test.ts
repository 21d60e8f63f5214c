/**
 * What of Effect may change in a minor version is behind entry points of its own: `effect-coord` itself and `effect-coord/testing` and
 * `effect-coord/connect` load and name nothing of it.
 */
import { assert, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"

const root = Path.join(import.meta.dirname, "..")
const effect = Path.join(root, "node_modules", "effect", "src")

/** `effect/Effect` or `effect/http`: where its source is. */
const sourceOf = (module: string): string => {
  const path = Path.join(effect, module.slice("effect/".length))
  return Fs.existsSync(`${path}.ts`) ? `${path}.ts` : Path.join(path, "index.ts")
}

/** Each module is asked for by many files. */
const cached = <A>(make: (key: string) => A) => {
  const made = new Map<string, A>()
  return (key: string): A => {
    const known = made.get(key)
    if (known !== undefined) return known
    const fresh = make(key)
    made.set(key, fresh)
    return fresh
  }
}

const read = cached((module) => Fs.readFileSync(sourceOf(module), "utf8"))

const isUnstable = (comment: string | undefined): boolean => comment?.includes("@stability unstable") === true

/** The exports of a module that are marked so. */
const unstableOf = cached((module) =>
  new Set(
    [
      ...read(module).matchAll(
        /(\/\*\*(?:[^*]|\*(?!\/))*\*\/)\nexport (?:declare )?(?:const|function|class|interface|type|abstract class) (\w+)/g
      )
    ].filter(([, comment]) => isUnstable(comment)).map(([, , name = ""]) => name)
  )
)

interface Import {
  readonly file: string
  readonly module: string
  readonly text: string
  readonly clause: string
}

/** All that an entry point imports from outside, directly or not, types too. */
const importsOf = (entry: string): ReadonlyArray<Import> => {
  const files = new Set<string>()
  const found: Array<Import> = []
  const todo = [Path.join(root, entry)]
  for (let file = todo.pop(); file !== undefined; file = todo.pop()) {
    if (files.has(file)) continue
    files.add(file)
    const text = Fs.readFileSync(file, "utf8")
    // Examples in comments are not part of it.
    const code = text.replace(/^\/\*\*[^]*?\*\//gm, "")
    for (const [, clause = "", module = ""] of code.matchAll(/^(?:import|export)\s([^"';]*?)\s?from "([^"]+)"/gm)) {
      if (module.startsWith(".")) todo.push(Path.resolve(Path.dirname(file), module))
      else found.push({ file: Path.relative(root, file), module, text: code, clause })
    }
  }
  return found
}

const isOfEffect = ({ module }: Import) => module.startsWith("effect/")

const unstableModules = (entry: string): ReadonlyArray<string> =>
  importsOf(entry).filter(isOfEffect).filter(({ module }) => isUnstable(/\/\*\*[^]*?\*\//.exec(read(module))?.[0])).map(
    ({ file, module }) => `${file}: ${module}`
  )

const unstableMembers = (entry: string): ReadonlyArray<string> =>
  importsOf(entry).filter(isOfEffect).flatMap(({ clause, file, module, text }) => {
    const alias = /\* as (\w+)/.exec(clause)?.[1]
    const unstable = unstableOf(module)
    const used = alias === undefined
      ? [...clause.matchAll(/\w+/g)].map(([name]) => name)
      : [...text.matchAll(new RegExp(`(?<![\\w.])${alias}\\.(\\w+)`, "g"))].map(([, name = ""]) => name)
    return used.filter((name) => unstable.has(name)).map((name) => `${file}: ${module} ${name}`)
  })

for (const entry of ["src/index.ts", "src/testing.ts", "src/Connect.ts"]) {
  it(`${entry} stands on what is stable in Effect`, () => {
    const imports = importsOf(entry)
    assert.isAbove(imports.length, 1)
    // The barrel of all modules has the unstable ones, too.
    assert.deepStrictEqual(imports.filter(({ module }) => module === "effect"), [])
    assert.deepStrictEqual(unstableModules(entry), [])
    assert.deepStrictEqual([...new Set(unstableMembers(entry))], [])
  })
}

it("what is marked in Effect is found", () => {
  assert.deepStrictEqual(unstableModules("src/KeyValueStore.ts"), [
    "src/KeyValueStore.ts: effect/persistence/KeyValueStore"
  ])
  assert.isTrue(unstableOf("effect/persistence/KeyValueStore").has("KeyValueStore"))
  assert.isTrue(unstableOf("effect/LayerRef").has("make"))
  assert.isFalse(unstableOf("effect/Effect").has("succeed"))
})

it("what needs more than that is an entry point of its own that says so", () => {
  const { exports } = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8")) as {
    exports: Record<string, string | { readonly types: string }>
  }
  const unstable = Object.entries(exports).flatMap(([name, target]) => {
    const entry = typeof target === "string" ? undefined : target.types.replace(/^\.\/dist\/(.*)\.d\.ts$/, "src/$1.ts")
    return entry !== undefined && unstableModules(entry).length > 0 ? [{ name, entry }] : []
  })
  assert.deepStrictEqual(unstable.map(({ name }) => name), ["./cluster", "./http", "./key-value-store"])
  const changes = Fs.readFileSync(Path.join(root, "CHANGELOG.md"), "utf8")
  for (const { entry, name } of unstable) {
    assert.match(Fs.readFileSync(Path.join(root, entry), "utf8"), /^ \* @stability unstable$/m, entry)
    assert.include(changes, `\`effect-coord${name.slice(1)}\` (unstable)`)
    assert.match(Fs.readFileSync(Path.join(root, "docs", `${name.slice(2)}.md`), "utf8"), /unstable/, name)
  }
})
