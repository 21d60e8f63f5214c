import { layerMemory, layerServer } from "./contract/layers.ts"
import { lineContract } from "./contract/LineContract.ts"

lineContract("semaphores and read-write locks on memory", layerMemory())
lineContract("semaphores and read-write locks on etcd 3.5", layerServer("3.5"))
lineContract("semaphores and read-write locks on etcd 3.4", layerServer("3.4"))
