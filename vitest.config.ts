import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // One file beside another: most of them wait more than they work.
    maxWorkers: 2,
    // xstate's development build says when an event goes to a stopped actor or an implementation is missing.
    execArgv: ['--conditions=development'],
    testTimeout: 20_000,
    hookTimeout: 20_000,
  },
  resolve: { conditions: ['development', 'module', 'node'] },
})
