/**
 * Whether one decoded value can serve everybody.
 */
import type * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"

/**
 * By this schema, a document always decodes to the same value: nothing in it transforms, and only transformations (and declarations)
 * can depend on services, time or chance. And its type lets nobody change that value under the others. Where this is not certain the
 * answer is no.
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
    case "Any":
    case "Unknown":
    case "ObjectKeyword":
      return false
    case "Arrays":
      return !ast.isMutable && [...ast.elements, ...ast.rest].every(isPureAst)
    case "Union":
      return ast.types.every(isPureAst)
    case "Objects":
      return ast.propertySignatures.every(({ type }) => isPureField(type)) &&
        ast.indexSignatures.every(({ parameter, type }) => isPureAst(parameter) && isPureField(type))
    default:
      return true
  }
}

const isPureField = (type: SchemaAST.AST): boolean => type.context?.isMutable !== true && isPureAst(type)
