import * as SqlRunnerStorage from "effect/cluster/SqlRunnerStorage"
import { EtcdRunnerStorage } from "../src/Cluster.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"
import { runnerStorageContract } from "./contract/RunnerStorageContract.ts"
import { layerSqlite } from "./utils/sqlite.ts"

const onEtcd = (test: number) => EtcdRunnerStorage.make({ prefix: `/clusters/${test}` })

runnerStorageContract(
  "Effect's storage in SQL",
  layerSqlite(":memory:"),
  (test) => SqlRunnerStorage.make({ prefix: `test${test}` })
)
runnerStorageContract("the storage on memory", layerMemory(), onEtcd)
runnerStorageContract("the storage on etcd 3.5", layerServer("3.5"), onEtcd)
runnerStorageContract("the storage on etcd 3.4", layerServer("3.4"), onEtcd)
