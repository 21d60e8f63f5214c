import { layerMemory, layerServer } from "./contract/layers.ts"
import { layoutContract } from "./contract/LayoutContract.ts"

layoutContract("layouts on memory", layerMemory())
layoutContract("layouts on etcd 3.5", layerServer("3.5"))
layoutContract("layouts on etcd 3.4", layerServer("3.4"))
