/** Certificates of an authority of the test's own, and servers that show them. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import Forge from "node-forge"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { type EtcdServer, type EtcdVersion, makeEtcdServer } from "./EtcdServer.ts"

/** PEM. */
export interface Identity {
  readonly cert: string
  readonly key: string
}

export interface Subject {
  readonly commonName: string
  readonly dns?: ReadonlyArray<string>
  readonly ip?: ReadonlyArray<string>
  /** In days from now; negative: expired. 1 unless said otherwise. */
  readonly validFor?: number
}

export interface Authority {
  readonly cert: string
  /** For servers and clients alike. */
  readonly issue: (subject: Subject) => Identity
}

const day = 24 * 60 * 60 * 1000

// Names of the fields of X.509's subjectAltName.
const dnsName = 2
const ipAddress = 7

const newKey = (): string => {
  const { privateKey } = Crypto.generateKeyPairSync("rsa", {
    modulusLength: 2048,
    privateKeyEncoding: { type: "pkcs1", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" }
  })
  return privateKey
}

export const makeAuthority = (name = "Test authority"): Authority => {
  const issuer = [{ name: "commonName", value: name }]
  const authorityKey = Forge.pki.privateKeyFromPem(newKey())
  const sign = (
    key: Forge.pki.rsa.PrivateKey,
    subject: ReadonlyArray<Forge.pki.CertificateField>,
    extensions: ReadonlyArray<object>,
    validFor = 1
  ): string => {
    const certificate = Forge.pki.createCertificate()
    certificate.publicKey = Forge.pki.setRsaPublicKey(key.n, key.e)
    certificate.serialNumber = `01${Crypto.randomBytes(8).toString("hex")}`
    const end = Date.now() + validFor * day
    certificate.validity.notBefore = new Date(Math.min(Date.now(), end) - day)
    certificate.validity.notAfter = new Date(end)
    certificate.setSubject([...subject])
    certificate.setIssuer(issuer)
    certificate.setExtensions([...extensions])
    certificate.sign(authorityKey, Forge.md.sha256.create())
    return Forge.pki.certificateToPem(certificate)
  }
  return {
    cert: sign(authorityKey, issuer, [
      { name: "basicConstraints", cA: true, critical: true },
      { name: "keyUsage", keyCertSign: true, cRLSign: true, critical: true }
    ]),
    issue: ({ commonName, dns = [], ip = [], validFor }) => {
      const key = newKey()
      const altNames = [
        ...dns.map((value) => ({ type: dnsName, value })),
        ...ip.map((ip) => ({ type: ipAddress, ip }))
      ]
      const cert = sign(
        Forge.pki.privateKeyFromPem(key),
        [{ name: "commonName", value: commonName }],
        [
          { name: "keyUsage", digitalSignature: true, keyEncipherment: true, critical: true },
          { name: "extKeyUsage", serverAuth: true, clientAuth: true },
          ...(altNames.length === 0 ? [] : [{ name: "subjectAltName", altNames }])
        ],
        validFor
      )
      return { cert, key }
    }
  }
}

/** Files with these texts, by name, for as long as the scope. Answers their paths. */
export const writeFiles = <Name extends string>(
  files: Readonly<Record<Name, string>>
): Effect.Effect<Record<Name, string>, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "effect-coord-files-"))),
    (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
  ).pipe(Effect.map((folder) => {
    const paths: Partial<Record<Name, string>> = {}
    for (const name in files) {
      const path = Path.join(folder, name)
      Fs.writeFileSync(path, files[name])
      paths[name] = path
    }
    return paths as Record<Name, string>
  }))

export interface TlsServer extends EtcdServer {
  /** The files that the server reads. */
  readonly paths: { readonly ca: string; readonly cert: string; readonly key: string }
}

/** Its `etcdctl` speaks TLS as well, as the server itself. */
export const makeTlsServer = Effect.fnUntraced(function*(options: {
  readonly authority: Authority
  readonly identity: Identity
  readonly version?: EtcdVersion
  /** Refuses clients without a certificate of the authority. */
  readonly mutual?: boolean
  readonly args?: ReadonlyArray<string>
}) {
  const { authority, identity } = options
  const paths = yield* writeFiles({ ca: authority.cert, cert: identity.cert, key: identity.key })
  const server = yield* makeEtcdServer({
    version: options.version ?? "3.5",
    args: [
      `--cert-file=${paths.cert}`,
      `--key-file=${paths.key}`,
      ...(options.mutual === true ? ["--client-cert-auth", `--trusted-ca-file=${paths.ca}`] : []),
      ...(options.args ?? [])
    ]
  })
  const files = [`--cacert=${paths.ca}`, `--cert=${paths.cert}`, `--key=${paths.key}`]
  return { ...server, paths, etcdctl: (...args) => server.etcdctl(...files, ...args) } satisfies TlsServer as TlsServer
})
