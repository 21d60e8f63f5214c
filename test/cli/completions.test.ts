import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as ChildProcess from "node:child_process"
import { coord } from "../utils/command.ts"

it.live(
  "completions are printed without an etcd, and bash completes commands and flags by them",
  () =>
    Effect.gen(function*() {
      for (const shell of ["bash", "zsh", "fish"]) {
        const { code, stderr, text } = yield* coord("127.0.0.1:1", ["--completions", shell])
        assert.deepStrictEqual([code, stderr], [0, ""], shell)
        for (const command of ["lock", "register", "doctor", "config"]) assert.include(text, command, shell)
      }
      const { text } = yield* coord("127.0.0.1:1", ["--completions", "bash"])
      const complete = (...words: ReadonlyArray<string>) => {
        const script = `${text}
COMP_WORDS=(${words.map((word) => JSON.stringify(word)).join(" ")})
COMP_CWORD=${words.length - 1}
COMP_LINE="\${COMP_WORDS[*]}" COMP_POINT=\${#COMP_LINE}
"$(complete -p coord | sed 's/.*-F \\([^ ]*\\).*/\\1/')" coord "\${COMP_WORDS[COMP_CWORD]}" "\${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "\${COMPREPLY[@]}"`
        const { status, stderr, stdout } = ChildProcess.spawnSync("bash", ["--norc"], {
          input: script,
          encoding: "utf8"
        })
        assert.strictEqual(status, 0, stderr)
        return stdout.split("\n").map((word) => word.trim()).filter((word) => word !== "")
      }
      assert.deepStrictEqual(complete("coord", "lo"), ["lock", "locks"])
      assert.deepStrictEqual(complete("coord", "config", "roll"), ["rollback"])
      assert.include(complete("coord", "lock", "--w"), "--wait")
    }),
  { timeout: 30_000 }
)
