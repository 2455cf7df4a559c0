/** Tests by name, as tables elsewhere point to them. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suites } from '../long/suites.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** The names that a file gives its tests, as they stand in its text; not those that are skipped. */
export function namesIn(source: string): string[] {
  const calls =
    /(?:\b(?:it|test|describe)((?:\.\w+)*)|\))\(\s*(?:'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|`((?:\\.|[^`\\])*)`)/g
  return [...source.matchAll(calls)].flatMap(([, how = '', ...forms]) =>
    /\.(skip|todo)\b/.test(how) ? [] : [forms.find((form) => form !== undefined)!.replace(/\\(['"`])/g, '$1')],
  )
}

/** What is wrong with the name of a test, `test/x.test.ts › words of its name`, if anything. */
export function problemOf(name: string): string | undefined {
  const [, suite] = /^npm run test:long -- (\S+)$/.exec(name) ?? []
  if (suite !== undefined) return Object.hasOwn(suites, suite) ? undefined : `there is no long suite ${suite}`
  const [, file, words] = /^(test\/\S+\.test\.ts) › (.+)$/.exec(name) ?? []
  if (file === undefined || words === undefined) return `this names no test: ${name}`
  if (!existsSync(join(root, file))) return `there is no file ${file}`
  const isThere = namesIn(readFileSync(join(root, file), 'utf8')).some((title) => title.includes(words))
  return isThere ? undefined : `no test of ${file} has these words in its name: ${words}`
}
