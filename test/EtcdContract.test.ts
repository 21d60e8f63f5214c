import { etcdContract } from "./contract/EtcdContract.ts"
import { layerMemory, layerServer } from "./contract/layers.ts"

etcdContract("the port on memory", layerMemory())
etcdContract("the port on etcd 3.5", layerServer("3.5"))
etcdContract("the port on etcd 3.4", layerServer("3.4"))
