/**
 * Effect's `SqlClient` on Node's own SQLite, as far as its cluster storage needs one: to compare with. Processes share a file.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import { SqlError, UnknownError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Stream from "effect/Stream"
import { DatabaseSync, type SQLInputValue } from "node:sqlite"

const failed = (cause: unknown) => new SqlError({ reason: new UnknownError({ cause, message: "sqlite" }) })

const open = Effect.fnUntraced(function*(file: string) {
  const database = yield* Effect.acquireRelease(
    Effect.sync(() => new DatabaseSync(file)),
    (database) => Effect.sync(() => database.close())
  )
  database.exec("PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL;")
  const statement = (sql: string) => database.prepare(sql)
  const values = (params: ReadonlyArray<unknown>) => params as ReadonlyArray<SQLInputValue>

  const all = (sql: string, params: ReadonlyArray<unknown>) =>
    Effect.try({ try: () => statement(sql).all(...values(params)), catch: failed })
  const arrays = (sql: string, params: ReadonlyArray<unknown>) =>
    Effect.map(all(sql, params), (rows) => rows.map((row) => Object.values(row)))

  const connection: Connection = {
    execute: all,
    executeRaw: all,
    executeStream: (sql, params) => Stream.fromIterableEffect(all(sql, params)),
    executeValues: arrays,
    executeValuesUnprepared: arrays,
    executeUnprepared: all
  }
  const turn = Semaphore.makeUnsafe(1)
  return yield* SqlClient.make({
    acquirer: turn.withPermits(1)(Effect.succeed(connection)),
    // Other statements of this process would take part in it.
    transactionAcquirer: Effect.as(
      Effect.acquireRelease(turn.take(1), () => turn.release(1)),
      connection
    ),
    compiler: Statement.makeCompilerSqlite(),
    driver: "node-sqlite",
    spanAttributes: []
  })
})

export const layerSqlite = (file: string): Layer.Layer<SqlClient.SqlClient> =>
  Layer.effect(SqlClient.SqlClient, open(file)).pipe(Layer.provide(Reactivity.layer))
