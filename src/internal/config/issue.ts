/**
 * Says what is wrong with a value without saying the value.
 *
 * Effect's own formatters print what checks, transformations and `reportInput` put into an issue, which can be the value.
 * Here only what the author of the schema wrote into it is printed, and the path to the place, property names included.
 */
import * as SchemaIssue from "effect/SchemaIssue"

type Path = ReadonlyArray<PropertyKey>

const identifier = /^[A-Za-z_$][\w$]*$/

/** `servers[0].port`; names that are not identifiers are quoted: `["a b"]`. */
export const formatPath = (path: Path): string =>
  path.reduce<string>((out, key) => {
    if (typeof key !== "string") return `${out}[${String(key)}]`
    if (!identifier.test(key)) return `${out}[${JSON.stringify(key)}]`
    return out === "" ? key : `${out}.${key}`
  }, "")

const at = (message: string, path: Path): string => path.length === 0 ? message : `${message} at ${formatPath(path)}`

/** One line for each thing that is wrong. */
export const formatIssue = (issue: SchemaIssue.Issue): string => [...new Set(lines(issue, [], undefined))].join("\n")

// `fallback` is what the nearest schema says; `override` what a failed check says about everything below it.
const lines = (
  issue: SchemaIssue.Issue,
  path: Path,
  fallback: string | undefined,
  override?: string
): Array<string> => {
  switch (issue._tag) {
    case "Filter":
      return lines(issue.issue, path, fallback, override ?? checkMessage(issue))
    case "Encoding":
      return lines(issue.issue, path, expected(issue), override)
    case "Pointer":
      return lines(issue.issue, [...path, ...issue.path], fallback, override)
    case "Composite":
    case "AnyOf":
      return issue.issues.length === 0
        ? [at(override ?? expected(issue), path)]
        : issue.issues.flatMap((child) => lines(child, path, expected(issue), override))
    case "InvalidType":
      return [at(override ?? expected(issue), path)]
    case "InvalidValue":
    case "Forbidden":
      // Their messages are made at run time, often of the value.
      return [at(override ?? fallback ?? "Expected a valid value", path)]
    case "MissingKey":
      return [at(override ?? "Missing key", path)]
    case "UnexpectedKey":
      return [at(override ?? "Unexpected key", path)]
    case "OneOf":
      return [at(override ?? "Expected exactly one member to match", path)]
  }
}

// A fresh issue carries no input, so that Effect's text is that of the schema alone.
const expected = (issue: { readonly ast: SchemaIssue.InvalidType["ast"] }): string =>
  SchemaIssue.defaultLeafHook(new SchemaIssue.InvalidType(issue.ast))

const checkMessage = ({ filter }: SchemaIssue.Filter): string => {
  const { expected, message } = filter.annotations ?? {}
  if (typeof message === "string") return message
  return typeof expected === "string" ? `Expected ${expected}` : "Expected a value that passes the checks of the schema"
}
