/** The clients of Kurultai at work, each as a program of its own. */
import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Session } from '../clients/client.ts'
import { kurultaiClients } from '../clients/kurultai/clients.ts'

for (const client of kurultaiClients) {
  // Caddy may be missing: then they are let at the gateway itself only.
  const isThere = (client.needs ?? []).every(({ name, file }) => name === 'caddy' || existsSync(file))
  describe.runIf(isThere)(client.name, () => {
    let session: Session
    beforeAll(async () => {
      session = await client.open()
    })
    afterAll(() => session.close())

    it('does all that it does', async () => {
      expect(session.commands.length).toBeGreaterThan(0)
      for (const { name, run } of session.commands)
        await run().catch((error: unknown) => expect.fail(`${name}: ${error instanceof Error ? error.message : error}`))
    }, 60_000)
  })
}
