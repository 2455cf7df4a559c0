/** What is looked at, one thing after another, and how many were well. */
export interface Checks {
  passed: number
  failed: number
  /** Does it, and says how it went. It fails by throwing. */
  check(name: string, run: () => Promise<void> | void): Promise<void>
}

export function openChecks(): Checks {
  const checks: Checks = {
    passed: 0,
    failed: 0,
    async check(name, run) {
      try {
        await run()
        checks.passed += 1
        console.log(`  ok     ${name}`)
      } catch (error) {
        checks.failed += 1
        console.log(`  FAILED ${name}`)
        console.log(String(error instanceof Error ? error.message : error).replace(/^/gm, '         '))
      }
    },
  }
  return checks
}
