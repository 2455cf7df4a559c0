/** Every client that is tried, in the order of the table. */
import type { Client } from './client.ts'
import { controlPage26 } from './control-page-2026.2.6.ts'
import { publishedFrames } from './frames.ts'
import { gatewayClient } from './gateway-client.ts'
import { kurultaiClients } from './kurultai/clients.ts'
import { openaiPackage } from './openai.ts'
import { openclaw26 } from './openclaw-2026.2.6.ts'
import { openclaw96 } from './openclaw-2026.9.6.ts'

export const CLIENTS: Client[] = [
  ...[openclaw26, controlPage26, openclaw96, gatewayClient, publishedFrames],
  ...[...kurultaiClients, openaiPackage],
]
