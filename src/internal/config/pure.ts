/**
 * Whether a value means the same to whoever decodes it.
 */
import type * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"

/**
 * By this schema, a document always decodes to the same value: nothing in it transforms, and only transformations (and declarations)
 * can depend on services, time or chance. Where this is not certain the answer is no.
 */
export const isPure = (schema: Schema.Constraint): boolean => {
  const known = answers.get(schema)
  if (known !== undefined) return known
  const answer = isPureAst(schema.ast)
  answers.set(schema, answer)
  return answer
}

const answers = new WeakMap<Schema.Constraint, boolean>()

const isPureAst = (ast: SchemaAST.AST): boolean => {
  if (ast.encoding !== undefined) return false
  switch (ast._tag) {
    case "Declaration":
    case "Suspend":
      return false
    case "Arrays":
      return [...ast.elements, ...ast.rest].every(isPureAst)
    case "Union":
      return ast.types.every(isPureAst)
    case "Objects":
      return ast.propertySignatures.every(({ type }) => isPureAst(type)) &&
        ast.indexSignatures.every(({ parameter, type }) => isPureAst(parameter) && isPureAst(type))
    default:
      return true
  }
}
