import { defineConfig } from "vitest/config"

/** Clusters, partitions, restarts: each test has the machine for itself, and takes the time that faults take. */
export default defineConfig({
  test: {
    include: ["test/faults/**/*.test.ts"],
    globalSetup: ["test/utils/globalSetup.ts", "test/faults/report.ts"],
    fileParallelism: false,
    maxWorkers: 1,
    testTimeout: 300_000,
    hookTimeout: 60_000,
    teardownTimeout: 30_000,
    slowTestThreshold: 120_000
  }
})
