import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { generated } from '../../tools/contract.ts'

describe('generated files', () => {
  it.each(generated)('$path is what the contract says; else run: npm run contract', ({ path, text }) => {
    const kept = readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8')
    expect(kept === text(), `${path} is stale; run: npm run contract`).toBe(true)
  })
})
