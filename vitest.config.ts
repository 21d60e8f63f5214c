import { availableParallelism } from "node:os"
import { configDefaults, defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // By `npm run test:faults`.
    exclude: [...configDefaults.exclude, "test/faults/**"],
    globalSetup: ["test/utils/globalSetup.ts"],
    // Files that run real servers need a core for them.
    maxWorkers: Math.max(2, Math.floor(availableParallelism() / 2)),
    testTimeout: 30_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
    slowTestThreshold: 5_000,
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      // Its tests run it as a process of its own, where nothing is counted.
      exclude: ["src/cli/**"],
      reporter: ["text", "html", "lcov", "json-summary"],
      thresholds: { lines: 95 }
    }
  }
})
