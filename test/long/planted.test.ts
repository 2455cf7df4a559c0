import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { FAULTS } from './planted.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))

describe('a planted fault', () => {
  it.each(FAULTS.map((fault) => [`${fault.guarantee}: ${fault.what}`, fault] as const))(
    '%s has its place',
    (_, fault) => {
      const places = readFileSync(root + fault.file, 'utf8').split(fault.from).length - 1
      expect(places).toBe(1)
      for (const test of fault.tests) expect(existsSync(root + test), test).toBe(true)
    },
  )
})
