/** What reading a configuration brings to light, and the error that ends a start. */

/** Keys and indexes from the file's root. */
export type Path = readonly (string | number)[]

/** Collects, so that everything wrong is told at once. */
export interface Findings {
  /** Each refuses the start. */
  problems: string[]
  /** Each is one line in the log. */
  warnings: string[]
}

/** A configuration the gateway does not start with. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  /** One line each, the config path first where there is one; no line holds a secret. */
  readonly problems: string[]
  /** The file they are in, if they are in one. */
  readonly file: string | undefined
  /** What else was found, one line each. */
  readonly warnings: string[]
  /** `EX_CONFIG` of sysexits. */
  readonly exitCode = 78

  constructor(problems: string[], file?: string, warnings: string[] = []) {
    const head = file === undefined ? 'The configuration is refused:' : `The configuration in ${file} is refused:`
    super([head, ...problems.map((problem) => `  ${problem}`)].join('\n'))
    this.problems = problems
    this.file = file
    this.warnings = warnings
  }
}

/** Writes a path as one would in code: `agents.list[0].id`. */
export function pathText(path: Path): string {
  return path
    .map((part, at) => {
      if (typeof part === 'number') return `[${part}]`
      if (!/^[\w$-]+$/.test(part)) return `[${JSON.stringify(part)}]`
      return at === 0 ? part : `.${part}`
    })
    .join('')
}
