import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { startGateway, TOKEN } from '../support/gateway.ts'

const script = fileURLToPath(new URL('../support/documented-wire.py', import.meta.url))
// Debian's own Python: the websockets package is there, not with another Python that comes first on the path.
const python = '/usr/bin/python3'
const websockets = '/usr/lib/python3/dist-packages/websockets/__init__.py'

describe('the documented wire', () => {
  // Without Debian's python3-websockets there is nothing to run the script with; `npm test` says so.
  it.runIf(existsSync(websockets))('is spoken by twenty lines of Python on every path', async () => {
    await using gateway = await startGateway()
    for (const path of ['/', '/ws']) {
      const url = `ws://127.0.0.1:${gateway.port}${path}`
      const { stdout } = await promisify(execFile)(python, [script, url, TOKEN, 'good morning'])
      expect(stdout).toContain('good morning')
    }
  })
})
