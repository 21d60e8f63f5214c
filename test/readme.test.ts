/** What the README and the comments of `src` show compiles, each block as a file of its own. */
import { assert, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"

const root = Path.join(import.meta.dirname, "..")
// Inside the project, so that its packages are found.
const folder = Path.join(root, ".cache", `snippets-${process.pid}`)

interface Snippet {
  /** `README.md:40` */
  readonly place: string
  readonly code: string
}

const snippetsOf = (file: string): ReadonlyArray<Snippet> => {
  const source = Fs.readFileSync(Path.join(root, file), "utf8")
  const text = file.endsWith(".ts") ? source.replace(/^ *\* ?/gm, "") : source
  return [...text.matchAll(/^```ts\n([^]*?)^```$/gm)].map((match) => ({
    place: `${file}:${text.slice(0, match.index).split("\n").length + 1}`,
    code: String(match[1])
  }))
}

const sources = Fs.readdirSync(Path.join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts")).map((file) => Path.join("src", file))

const documents = Fs.readdirSync(Path.join(root, "docs")).filter((file) => file.endsWith(".md")).map((file) =>
  Path.join("docs", file)
)

const compile = (project: string): Promise<string> =>
  new Promise((resolve) =>
    execFile(
      process.execPath,
      [Path.join(root, "node_modules", "typescript", "bin", "tsc"), "-p", project],
      (error, out, err) => resolve(error === null ? "" : `${out}${err}` || error.message)
    )
  )

it("every code block of the README and of the documentation compiles", { timeout: 60_000 }, async () => {
  const snippets = ["README.md", ...documents, ...sources].flatMap(snippetsOf)
  assert.isAtLeast(snippets.filter(({ place }) => place.startsWith("README.md")).length, 7)
  assert.isAtLeast(snippets.filter(({ place }) => place.startsWith("src")).length, 5)
  Fs.mkdirSync(folder, { recursive: true })
  try {
    snippets.forEach(({ code }, index) =>
      Fs.writeFileSync(Path.join(folder, `snippet-${index}.ts`), `${code}\nexport {}\n`)
    )
    Fs.writeFileSync(
      Path.join(folder, "tsconfig.json"),
      JSON.stringify({
        extends: "../../tsconfig.json",
        compilerOptions: {
          incremental: false,
          noUnusedLocals: false,
          paths: {
            "effect-coord": ["../../src/index.ts"],
            "effect-coord/cluster": ["../../src/Cluster.ts"],
            "effect-coord/connect": ["../../src/Connect.ts"],
            "effect-coord/http": ["../../src/Http.ts"],
            "effect-coord/key-value-store": ["../../src/KeyValueStore.ts"],
            "effect-coord/testing": ["../../src/testing.ts"]
          }
        },
        include: ["*.ts"]
      })
    )
    const output = await compile(folder)
    const named = output.replace(/^.*snippet-(\d+)\.ts/gm, (_, index) => snippets[Number(index)]?.place ?? "?")
    assert.strictEqual(named, "")
  } finally {
    Fs.rmSync(folder, { recursive: true, force: true })
  }
})

it("the README names every error, every reason, every variable and every command", async () => {
  const readme = Fs.readFileSync(Path.join(root, "README.md"), "utf8")
  const { EtcdReason, ...names } = await import("../src/index.ts")
  const errors = Object.entries(names).filter(([, value]) =>
    typeof value === "function" && value.prototype instanceof Error
  ).map(([name]) => name)
  const variables = new Set(Fs.readFileSync(Path.join(root, "src", "EtcdOptions.ts"), "utf8").match(/ETCD_[A-Z_]+/g))
  const { scripts } = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))
  const commands = [...readme.matchAll(/npm run ([a-z:]+)/g)].map(([, name]) => String(name))
  assert.isAtLeast(errors.length, 12)
  const missing = [...errors, ...Object.keys(EtcdReason), ...variables].filter((name) =>
    !readme.includes(`\`${name}\``)
  )
  assert.deepStrictEqual(missing, [])
  assert.deepStrictEqual(commands.filter((name) => scripts[name] === undefined), [])
})
